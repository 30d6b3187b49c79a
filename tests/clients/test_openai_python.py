"""OpenAI's own package for Python against the real stack: nothing of it is told that this is another server."""

import asyncio
import base64
import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import openai
import pytest
import soundfile

from tests.clients.listen import assert_same, decoded, notes, pcm16
from tests.stack import HIBARI, PATIENCE_S, TONE, eventually

TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


@pytest.fixture
def client(stack):
    """As its documentation makes it, but for the address: its own time limits and retries."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none") as client:
        yield client


def samples_of(audio: bytes, form: str) -> tuple[np.ndarray, int]:
    return (pcm16(audio), 24_000) if form == "pcm" else decoded(audio)


@pytest.mark.parametrize("form", TYPES)
def test_the_first_bytes_of_every_format_come_while_the_rest_is_being_made(stack, client, form):
    name = f"python-{form}"
    text = f"<long=0.5> two <hold={name}> four"
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="ash", input=text, response_format=form
    ) as answer:
        assert answer.headers["content-type"] == TYPES[form]
        pieces = answer.iter_bytes()
        audio = next(pieces)
        # More than a header: a worker that waits has been heard.
        while len(audio) < 500:
            audio += next(pieces)
        assert not (stack.signals / name).exists()
        (stack.signals / name).touch()
        audio += b"".join(pieces)
    assert_same(*samples_of(audio, form), stack.speak(input=text, voice="ash", response_format="pcm").content)


@pytest.mark.parametrize("form", TYPES)
def test_speech_is_written_to_a_file(stack, client, tmp_path, form):
    asked = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "one two three", "response_format": form}
    pcm = stack.speak(input="one two three", response_format="pcm").content
    streamed, whole = tmp_path / f"streamed.{form}", tmp_path / f"whole.{form}"
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        answer.stream_to_file(streamed)
    client.audio.speech.create(**asked).write_to_file(whole)
    for path in (streamed, whole):
        assert_same(*samples_of(path.read_bytes(), form), pcm)


def test_events_come_while_the_rest_is_being_made(stack, client):
    text = "<long=0.5> two <hold=python-events> four"
    audio, kinds, usage = b"", [], None
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input=text, response_format="pcm", stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if not line:
                continue
            event = json.loads(line.removeprefix("data: "))
            kinds.append(event["type"])
            usage = event.get("usage")
            audio += base64.b64decode(event.get("audio", ""))
            if len(audio) > 500:
                (stack.signals / "python-events").touch()
    assert kinds[0] == "speech.audio.delta"
    assert set(kinds[:-1]) == {"speech.audio.delta"}
    assert kinds[-1] == "speech.audio.done"
    pcm = stack.speak(input=text, response_format="pcm").content
    assert_same(pcm16(audio), 24_000, pcm)
    spoken = math.ceil(len(pcm) / 48_000 * 20)
    assert usage == {"input_tokens": len(text), "output_tokens": spoken, "total_tokens": len(text) + spoken}


def test_three_speak_at_once_from_the_asynchronous_client(stack):
    async def speak() -> list[bytes]:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client:

            async def one(words: int) -> bytes:
                async with client.audio.speech.with_streaming_response.create(
                    model="tts-1", voice="nova", input="one " * words, response_format="pcm"
                ) as answer:
                    return b"".join([piece async for piece in answer.iter_bytes()])

            return await asyncio.gather(*(one(words) for words in (1, 2, 3)))

    assert [len(pcm) for pcm in asyncio.run(speak())] == [4800, 9600, 14_400]


def test_a_voice_may_be_an_object_and_options_come_as_extra_body(client):
    def pcm(voice: object, **options: object) -> bytes:
        return client.audio.speech.create(
            model="tts-1", voice=voice, input="one two", response_format="pcm", speed=2.0, extra_body=options
        ).content

    assert len(pcm("low")) == 4800
    assert len(pcm({"id": "low"}, word_ms=50)) == 2400
    assert pcm({"id": "high"}, seed=7) == pcm("high", seed=7) != pcm("low", seed=7)


def test_instructions_are_taken_and_the_answer_says_that_they_were_ignored(client):
    answer = client.audio.speech.with_raw_response.create(
        model="tts-1", voice="alloy", input="one", instructions="Whisper."
    )
    assert answer.headers["x-sonorant-ignored"] == "instructions"


def test_errors_are_its_own_classes_with_code_param_and_message(client):
    asked = {"model": "tts-1", "voice": "alloy", "input": "one"}
    with pytest.raises(openai.NotFoundError) as error:
        client.audio.speech.create(**{**asked, "voice": "bob"})
    assert (error.value.code, error.value.param, error.value.type) == (
        "voice_not_found",
        "voice",
        "invalid_request_error",
    )
    assert "'bob'" in error.value.message
    assert error.value.request_id
    for wrong in ({"speed": 9.0}, {"input": ""}, {"response_format": "mp4"}, {"extra_body": {"nonsense": 1}}):
        with pytest.raises(openai.BadRequestError) as error:
            client.audio.speech.create(**{**asked, **wrong})
        (param,) = wrong.get("extra_body", wrong)
        assert error.value.param == param
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/nothing")


def test_a_server_that_is_full_is_asked_again(start):
    """The client's own retries, which a 503 with `Retry-After` steers: no error reaches the program."""
    stack = start(worker_settings={"SONORANT_CAPACITY": "1"})
    asked = {"model": "tts-1", "voice": "alloy", "input": "one", "response_format": "pcm"}
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none") as client,
        ThreadPoolExecutor(1) as pool,
        stack.stream(input="one <hold=full> three") as first,
    ):
        pieces = first.iter_bytes()  # Kept: httpx hangs up when it goes.
        next(pieces)
        with pytest.raises(openai.InternalServerError) as error:
            client.with_options(max_retries=0).audio.speech.create(**asked)
        assert error.value.status_code == 503
        assert float(error.value.response.headers["retry-after"]) > 0
        refused = stack.gateway.output.count('"OVERLOADED"')
        second = pool.submit(client.audio.speech.create, **asked)
        eventually(lambda: stack.gateway.output.count('"OVERLOADED"') > refused, "the server is still full")
        (stack.signals / "full").touch()
        assert len(second.result(PATIENCE_S).content) == 4800


def test_keys_and_limits_are_its_own_classes_too(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"alice {hashlib.sha256(b'sk-alice').hexdigest()} requests=2\n")
    stack = start(SONORANT_API_KEYS_FILE=str(keys))
    asked = {"model": "tts-1", "voice": "alloy", "input": "one", "response_format": "pcm"}
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="sk-mallory", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.audio.speech.create(**asked)
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="sk-alice", max_retries=0) as client:
        for _ in range(2):
            assert len(client.audio.speech.create(**asked).content) == 4800
        with pytest.raises(openai.RateLimitError) as error:
            client.audio.speech.create(**asked)
        assert float(error.value.response.headers["retry-after"]) > 0


def test_a_stream_that_breaks_off_is_an_error_and_not_a_short_file(client):
    with (
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="one <fail>", response_format="mp3"
        ) as answer,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        answer.read()


def test_models_are_listed_and_got(client):
    models = {model.id: model for model in client.models.list()}
    assert {TONE, HIBARI, "tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(models)
    assert client.models.retrieve(TONE) == models[TONE]
    assert client.models.retrieve("tts-1").id == "tts-1"


def test_a_custom_voice_is_made_speaks_and_goes(client, tmp_path):
    sample = tmp_path / "sample.wav"
    soundfile.write(sample, 0.5 * np.sin(2 * np.pi * 600 * np.arange(2 * 24_000) / 24_000), 24_000)
    voice = client.audio.voices.create(name="Whistle", audio_sample=sample, consent="I whistled this myself.")
    assert (voice.object, voice.name, voice.type) == ("audio.voice", "Whistle", "audio_sample")
    asked = {"model": "sonorant/tone-22k", "input": "<long=0.5>", "response_format": "pcm"}
    (note,) = notes(pcm16(client.audio.speech.create(voice={"id": voice.id}, **asked).content), 24_000)
    assert note.pitch_hz == pytest.approx(600, abs=3)
    with pytest.raises(openai.BadRequestError) as error:
        client.audio.speech.create(model=TONE, voice=voice.id, input="one")
    assert TONE in error.value.message
    assert client.audio.voices.delete(voice.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(voice=voice.id, **asked)


def test_hanging_up_ends_the_work(stack, client):
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="one " + "<delay=0.02> " * 300 + "<touch=python-heard-all>"
    ) as answer:
        next(answer.iter_bytes())
    eventually(stack.is_idle, "nothing runs")
    assert not (stack.signals / "python-heard-all").exists()
