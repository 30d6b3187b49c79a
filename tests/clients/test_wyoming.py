"""wyoming-openai, the bridge from Home Assistant's voice assistants, from its package, as a process of its own."""

import os
import signal
import socket
import subprocess

import pytest

from tests.clients.listen import assert_same, pcm16
from tests.clients.programs import environment, program, run, started, told
from tests.stack import eventually, free_port

pytestmark = pytest.mark.more

VOICES = [
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
]


@pytest.fixture(scope="module")
def bridge(stack, tmp_path_factory):
    """Its port, and what it logs."""
    port = free_port()
    log = tmp_path_factory.mktemp("wyoming") / "log"
    command = [
        *(program("python"), "-m", "wyoming_openai", "--uri", f"tcp://127.0.0.1:{port}", "--log-level", "DEBUG"),
        *("--tts-openai-url", f"{stack.url}/v1", "--tts-streaming-models", "gpt-4o-mini-tts"),
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(), stdout=out, stderr=out)

    def is_listening() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(is_listening, "the bridge listens")
        yield port, log
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_it_takes_the_server_for_openais_and_offers_openais_voices(stack, bridge, tmp_path):
    """Were there anything at `/v1/readyz`, it would name a voice after the model, and be refused."""
    port, log = bridge
    said = run(
        "wyoming_say.py", port=port, voice="nova", pieces=["one two"], out=str(tmp_path / "pcm"), first=os.devnull
    )
    assert "Detected TTS backend: OpenAIBackend.OPENAI" in log.read_text()
    assert sorted(said["voices"]) == VOICES


def test_it_hears_everything_and_the_beginning_while_the_rest_is_being_made(stack, bridge, tmp_path):
    text = "<long=2> two <hold=wyoming> four <long=0.5>"
    said = run(
        "wyoming_say.py",
        port=bridge[0],
        voice="ash",
        pieces=[text],
        out=str(tmp_path / "pcm"),
        first=str(stack.signals / "wyoming"),
    )
    assert said["formats"] == [[24_000, 1, 2]]
    heard = (tmp_path / "pcm").read_bytes()
    pcm = stack.speak(input=text, voice="ash", response_format="pcm").content
    assert len(heard) == len(pcm)
    assert_same(pcm16(heard), 24_000, pcm)


def test_three_sentences_are_asked_for_at_once_and_heard_in_order(stack, bridge, tmp_path):
    """Text that is streamed in is cut by the bridge, which asks ahead while it plays."""
    sentences = ["One <hold=three> three.", "One two three four.", "One two.", "One two three."]
    with started(
        "wyoming_say.py",
        port=bridge[0],
        voice="alloy",
        pieces=[" ".join(sentences[:3]) + " One", " two three."],
        out=str(tmp_path / "pcm"),
        first=os.devnull,
    ) as process:
        eventually(lambda: stack.gateway.outstanding == 3, "three requests at once")
        (stack.signals / "three").touch()
        told(process)
    answers = [stack.speak(input=each, voice="alloy", response_format="pcm").content for each in sentences]
    heard = (tmp_path / "pcm").read_bytes()
    assert len(heard) == len(b"".join(answers))
    assert_same(pcm16(heard), 24_000, b"".join(answers))
