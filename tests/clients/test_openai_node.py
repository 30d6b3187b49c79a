"""OpenAI's own package for Node, from its registry, against the real stack."""

import math

import numpy as np
import pytest
import soundfile

from tests.clients.listen import assert_same, decoded, notes, pcm16
from tests.clients.programs import HERE, run
from tests.stack import HIBARI, TONE

pytestmark = pytest.mark.more

TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


@pytest.fixture
def do(stack, tmp_path):
    """Do something with the package; what it tells and what it has received."""
    assert (HERE / "node/node_modules/openai").exists(), "openai is missing; `make test-clients` installs it"

    def do(does: str, **more: object) -> tuple[dict, bytes]:
        out = tmp_path / "out"
        told = run("node/say.mjs", does=does, url=f"{stack.url}/v1", out=str(out), **more)
        return told, out.read_bytes() if out.exists() else b""

    return do


def samples_of(audio: bytes, form: str) -> tuple[np.ndarray, int]:
    return (pcm16(audio), 24_000) if form == "pcm" else decoded(audio)


@pytest.mark.parametrize("form", TYPES)
def test_it_hears_everything_and_the_beginning_while_the_rest_is_being_made(stack, do, form):
    name = f"node-{form}"
    text = f"<long=1> two <hold={name}> four <long=0.5>"
    body = {"model": "tts-1", "voice": "ash", "input": text, "response_format": form}
    told, audio = do("stream", body=body, first=str(stack.signals / name))
    pcm = stack.speak(input=text, voice="ash", response_format="pcm").content
    assert told["type"] == TYPES[form]
    assert_same(*samples_of(audio, form), pcm)
    told, whole = do("whole", body=body)
    assert_same(*samples_of(whole, form), pcm)


def test_events_come_while_the_rest_is_being_made(stack, do):
    text = "<long=1> two <hold=node-events> four"
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": text, "response_format": "pcm"}
    told, audio = do("events", body=body, first=str(stack.signals / "node-events"))
    assert told["type"].startswith("text/event-stream")
    assert told["kinds"] == ["speech.audio.delta"] * (len(told["kinds"]) - 1) + ["speech.audio.done"]
    assert told["rest"] == ""
    pcm = stack.speak(input=text, response_format="pcm").content
    assert_same(pcm16(audio), 24_000, pcm)
    spoken = math.ceil(len(pcm) / 48_000 * 20)
    assert told["usage"] == {
        "input_tokens": len(text),
        "output_tokens": spoken,
        "total_tokens": len(text) + spoken,
    }


def test_errors_are_its_own_classes_with_code_param_and_message(do):
    told, _ = do("fails", body={"model": "tts-1", "voice": "bob", "input": "one"})
    assert (told["kind"], told["status"], told["code"], told["param"]) == (
        "NotFoundError",
        404,
        "voice_not_found",
        "voice",
    )
    assert "'bob'" in told["message"]
    assert told["request"]
    told, _ = do("fails", body={"model": "tts-1", "voice": "alloy", "input": "one", "speed": 9})
    assert (told["kind"], told["status"], told["param"]) == ("BadRequestError", 400, "speed")


def test_models_are_listed_and_got(do):
    told, _ = do("models")
    assert {TONE, HIBARI, "tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(told["listed"])
    assert told["one"]["id"] == told["listed"][0]


def test_a_custom_voice_speaks(do, tmp_path):
    sample = tmp_path / "sample.wav"
    soundfile.write(sample, 0.5 * np.sin(2 * np.pi * 600 * np.arange(2 * 24_000) / 24_000), 24_000)
    body = {"model": "sonorant/tone-22k", "input": "<long=0.5>", "response_format": "pcm"}
    told, audio = do("clones", body=body, sample=str(sample))
    assert told["voice"]["object"] == "audio.voice"
    assert told["voice"]["name"] == "Whistle"
    (note,) = notes(pcm16(audio), 24_000)
    assert note.pitch_hz == pytest.approx(600, abs=3)
