"""Pipecat's OpenAI service, from its package, in a pipeline: it asks for PCM and reads it as 24 kHz."""

import pytest

from tests.clients.listen import assert_same, pcm16
from tests.clients.programs import run

pytestmark = pytest.mark.more


def test_it_hears_everything_and_the_beginning_while_the_rest_is_being_made(stack, tmp_path):
    text = "<long=2> two <hold=pipecat> four <long=0.5>"
    told = run(
        "pipecat_say.py",
        url=f"{stack.url}/v1",
        text=text,
        out=str(tmp_path / "pcm"),
        first=str(stack.signals / "pipecat"),
    )
    assert told == {"formats": [[24_000, 1]], "errors": []}
    heard = (tmp_path / "pcm").read_bytes()
    pcm = stack.speak(input=text, voice="alloy", response_format="pcm").content
    assert len(heard) == len(pcm)
    assert_same(pcm16(heard), 24_000, pcm)


def test_it_is_told_in_words_what_is_wrong(stack, tmp_path):
    told = run(
        "pipecat_say.py",
        url=f"{stack.url}/v1",
        text="one",
        out=str(tmp_path / "pcm"),
        first=str(tmp_path / "first"),
        speed=9.0,
    )
    assert "`speed` is 9.0" in told["errors"][0]
    assert not (tmp_path / "first").exists()
