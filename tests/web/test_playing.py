"""What is served is what sounds."""

import numpy as np
import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.stack import HIBARI, TONE
from tests.web.console import hear_out, heard, pick_model, served, set_seed, speak

pytestmark = NEEDS_CHROMIUM


@pytest.mark.parametrize(
    ("model", "text"), [(TONE, "one two three. four five six."), (HIBARI, "The boats came in. Nobody saw them.")]
)
def test_every_sample_that_was_served_is_played_without_a_gap(visit, stack, model, text):
    page = visit(stack.url, records=True)
    pick_model(page, model)
    set_seed(page, 7)
    speak(page, text)
    hear_out(page)
    assert np.array_equal(heard(page), served(stack, input=text, model=model, seed=7))
