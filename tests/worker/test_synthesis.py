from collections.abc import Iterator

import numpy as np
import pytest

from worker.engines.base import Card, Model, Samples, SegmentLimits, Settings, Voice
from worker.engines.stages import alone
from worker.errors import EngineFailure
from worker.synthesis import synthesize

RATE = 1000


class Endless(Model):
    """Speaks every segment for ever, in pieces of a tenth of a second."""

    limits = SegmentLimits(patience_s=1.0, patience_s_per_char=0.1)
    card = Card(RATE, [Voice("one", "One", "en")])

    def __init__(self, piece: int = 100) -> None:
        self.steps = 0
        self.closed = 0
        self.piece = piece

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        try:
            while True:
                self.steps += 1
                yield np.full(self.piece, 0.5, np.float32)
        finally:
            self.closed += 1


def test_a_segment_that_runs_away_is_cut_at_its_bound_and_the_next_one_is_spoken():
    model = Endless()
    blocks = list(alone(synthesize(model, "Ten chars. Ten chars.", Settings("one", 1.0, 0))))
    marks = [mark for block in blocks for mark in block.marks if mark.end_sample is not None]
    bound = RATE * (1 + 10 * 0.1)
    assert [mark.end_sample - mark.first_sample for mark in marks] == [bound, bound]
    assert [block.is_cut for block in blocks] == [False] * (len(blocks) - 1) + [True]
    assert model.closed == 2
    assert model.steps == 2 * 21  # It sees that it is cut at the first piece beyond the bound.


def test_a_slower_voice_has_more_time():
    blocks = list(alone(synthesize(Endless(), "Ten chars.", Settings("one", 0.5, 0))))
    assert sum(len(block.samples) for block in blocks) == 2 * RATE * (1 + 10 * 0.1)


def test_a_piece_that_reaches_beyond_the_bound_is_cut_in_its_midst():
    blocks = list(alone(synthesize(Endless(piece=30_000), "Ten chars.", Settings("one", 1.0, 0))))
    assert sum(len(block.samples) for block in blocks) == RATE * (1 + 10 * 0.1)
    assert blocks[-1].is_cut


@pytest.mark.parametrize(
    "samples",
    [np.zeros(3), np.zeros((1, 3), np.float32), np.array([np.nan], np.float32), np.array([np.inf], np.float32)],
)
def test_what_are_no_samples_is_a_failure_of_the_engine(samples):
    class Wrong(Endless):
        def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
            yield samples

    with pytest.raises(EngineFailure, match="float32"):
        list(alone(synthesize(Wrong(), "Text.", Settings("one", 1.0, 0))))
