"""LiveKit's plugin for OpenAI, from its package: it parses by the Content-Type and takes 24 kHz mono for granted."""

import math

import pytest

from tests.clients.listen import assert_same, pcm16
from tests.clients.programs import run

pytestmark = pytest.mark.more

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")

DROPPED_S = {"opus": 0.02, "flac": 0.02}
"""What the plugin's decoder loses of every file, FFmpeg's own too: the packet by which it finds out what it is."""


@pytest.mark.parametrize("model", ["gpt-4o-mini-tts", "tts-1"])
def test_it_hears_everything_and_the_beginning_while_the_rest_is_being_made(stack, tmp_path, model):
    """In events from the first model, as it is from the second one.

    The worker goes on only when the client has heard something: one that is kept waiting for the whole never ends.
    """
    names = [f"livekit-{model}-{each}" for each in FORMATS]
    texts = [f"<long=2> two <hold={name}> four <long=0.5>" for name in names]
    defaults = [{} if each == "mp3" else {"response_format": each} for each in FORMATS]
    runs = [
        {"text": text, "out": str(tmp_path / name), "first": str(stack.signals / name), "model": model, **options}
        for name, text, options in zip(names, texts, defaults, strict=True)
    ]
    told = run("livekit_say.py", url=f"{stack.url}/v1", runs=runs)
    for form, name, text, each in zip(FORMATS, names, texts, told, strict=True):
        assert each["formats"] == [[24_000, 1]], form
        pcm = stack.speak(input=text, voice="ash", response_format="pcm").content
        assert_same(pcm16((tmp_path / name).read_bytes()), 24_000, pcm, dropped_s=DROPPED_S.get(form, 0.0))
        if model == "gpt-4o-mini-tts":
            assert each["tokens"] == [len(text), math.ceil(len(pcm) / 48_000 * 20)]
