"""What a request can say beside its text: options of the engine, language, instructions, aliases, events."""

import base64
import json
import re
import socket

import httpx
import numpy as np
import pytest

from tests.stack import HIBARI, PATIENCE_S, TONE, eventually

GIFTED = "sonorant/tone-22k"
"""The test model that takes instructions."""

TEXT = "one two three"
WORD_SAMPLES = 2400


def events(answer: httpx.Response) -> list[dict]:
    """Read server-sent events whose data are JSON."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in answer.text.strip().split("\n\n")]


def audio_of(some: list[dict]) -> bytes:
    return b"".join(base64.b64decode(event["audio"]) for event in some if event["type"] == "speech.audio.delta")


def test_an_option_of_the_model_stands_beside_the_fields(stack):
    answer = stack.speak(input=TEXT, word_ms=50, response_format="pcm")
    assert answer.status_code == 200
    assert len(answer.content) == 2 * 3 * WORD_SAMPLES // 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"pitch": 2}, ["'pitch'", "word_ms", "response_format"]),
        ({"word_ms": 5}, ["word_ms", "5", "10"]),
        ({"word_ms": "long"}, ["word_ms", "'long'", "integer"]),
        ({"temperature": {"a": [1, None]}}, ["'temperature'", "word_ms"]),
    ],
)
def test_an_option_that_the_model_does_not_take_is_refused_by_name(stack, option, words):
    answer = stack.speak(input=TEXT, **option)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_value", next(iter(option)))
    assert all(word in error["message"] for word in words), error["message"]


def test_a_language_is_taken_by_a_voice_that_speaks_it(stack):
    assert stack.speak(input="Hello.", model=HIBARI, language="en-GB").status_code == 200
    answer = stack.speak(input="Bonjour.", model=HIBARI, language="fr")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "language")
    assert "'fr'" in error["message"]
    assert "en-US" in error["message"]


def test_instructions_reach_a_model_that_takes_them(stack):
    answer = stack.speak(input=TEXT, model=GIFTED, instructions="<long=0.2>", response_format="wav")
    assert "x-sonorant-ignored" not in answer.headers
    assert len(answer.content) == 44 + 2 * 3 * 22_050 // 5


def test_aliases_are_the_operators(start):
    stack = start(SONORANT_MODEL_ALIASES=f"fast={GIFTED}, tts-1", SONORANT_VOICE_ALIASES="bob, alice=high,carol=nobody")
    models = httpx.get(f"{stack.url}/v1/models").json()["data"]
    assert {model["id"]: model["root"] for model in models if "root" in model} == {"fast": GIFTED, "tts-1": TONE}
    assert stack.speak(input=TEXT, model="fast").headers["x-sonorant-model"] == "sonorant/tone-22k"
    spoken_by = {name: stack.speak(input=TEXT, voice=name).headers.get("x-sonorant-voice") for name in ("bob", "alice")}
    assert spoken_by == {"bob": "low", "alice": "high"}
    # The voice that an alias names is not there: the one at its place speaks, which is the third of two.
    assert stack.speak(input=TEXT, voice="carol").headers["x-sonorant-voice"] == "low"
    refused = stack.speak(input=TEXT, voice="alloy")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "voice_not_found")
    assert "bob" in refused.json()["error"]["message"]


def test_events_hold_the_same_audio_as_a_body(stack):
    body = stack.speak(input=TEXT, seed=1, response_format="pcm").content
    some = events(stack.speak(input=TEXT, seed=1, response_format="pcm", stream_format="sse"))
    assert audio_of(some) == body
    assert [event["type"] for event in some[:-1]] == ["speech.audio.delta"] * (len(some) - 1)
    assert some[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": len(TEXT), "output_tokens": 6, "total_tokens": len(TEXT) + 6},
    }


def test_verbose_events_tell_where_the_text_is_and_what_it_cost(stack):
    text = "one two. three"
    answer = stack.speak(input=text, response_format="pcm", stream_format="sse", verbose=True)
    some = events(answer)
    fields = ("kind", "text_start", "text_end", "start_ms", "end_ms")
    marks = [tuple(event[field] for field in fields) for event in some if event["type"] == "speech.mark"]
    pauses_ms = some[-1]["audio_ms"] - 300
    assert marks == [
        *(("segment", 0, 8, 0, None), ("segment", 0, 8, 0, 200)),
        *(("segment", 9, 14, 200 + pauses_ms, None), ("segment", 9, 14, 200 + pauses_ms, 300 + pauses_ms)),
    ]
    audio = audio_of(some)
    assert pauses_ms > 0
    assert len(audio) / 2 == pytest.approx(24 * some[-1]["audio_ms"], abs=24)
    done, line = some[-1], stack.gateway.line_of(answer.headers["x-request-id"])
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["input_tokens"] == len(text)
    told = ("ttfa_ms", "rtf", "queue_ms", "underruns", "batch", "worker")
    assert done["figures"] == {name: line[name] for name in told}
    assert done["figures"]["worker"] == "w0"


@pytest.mark.parametrize("form", ["pcm", "mp3"])
def test_marks_come_before_their_audio_and_in_time_as_it_is_heard(stack, form):
    # The model goes to half its pace; the rest is stretched, so each word lasts 0.4 s.
    body = {"input": "one two", "speed": 0.25, "response_format": form, "stream_format": "sse", "verbose": True}
    some = events(stack.speak(**body))
    begins, ends = (event for event in some if event["type"] == "speech.mark")
    assert some[0] is begins
    assert some[1]["type"] == "speech.audio.delta"
    assert (begins["start_ms"], begins["end_ms"], ends["start_ms"], ends["end_ms"]) == (0, None, 0, 800)
    assert some[-1]["audio_ms"] == 800


def test_verbose_events_of_a_failure_midway_end_in_the_error(stack):
    some = events(stack.speak(input="one two <fail>", stream_format="sse", verbose=True))
    assert some[0]["type"] == "speech.mark"
    assert some[-1]["type"] == "speech.audio.error"
    assert "figures" not in some[-1]


@pytest.mark.parametrize("more", [{}, {"stream_format": "sse"}, {"stream_format": "sse", "verbose": True}])
def test_a_stream_says_in_its_headers_when_its_first_audio_was_there(stack, more):
    answer = stack.speak(input="<delay=0.05> one", **more)
    (dur,) = re.fullmatch(r"ttfa;dur=([\d.]+)", answer.headers["server-timing"]).groups()
    assert 50 <= float(dur) <= stack.gateway.line_of(answer.headers["x-request-id"])["ttfa_ms"]


def test_usage_counts_the_audio_that_is_heard(stack):
    # The model goes to half its pace; the rest is stretched, so 3 words of 0.1 s last 1.2 s.
    (*_, done) = events(stack.speak(input=TEXT, speed=0.25, stream_format="sse"))
    assert done["usage"]["output_tokens"] == 24


def test_events_are_at_24_khz_unless_the_client_says_otherwise(stack):
    answer = stack.speak(input=TEXT, model=GIFTED, response_format="pcm", stream_format="sse")
    assert answer.headers["x-sonorant-sample-rate"] == "24000"
    assert len(audio_of(events(answer))) == pytest.approx(2 * 0.3 * 24_000, rel=0.01)
    answer = stack.speak(input=TEXT, model=GIFTED, response_format="pcm", stream_format="sse", sample_rate=16_000)
    assert answer.headers["x-sonorant-sample-rate"] == "16000"


def test_events_come_while_the_speech_is_being_made(stack):
    with stack.stream(input="one <hold=events> two", stream_format="sse") as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["type"] == "speech.audio.delta"
        (stack.signals / "events").touch()
        rest = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert rest[-1]["type"] == "speech.audio.done"


def test_a_failure_midway_is_an_event(stack):
    answer = stack.speak(input="one two <fail>", stream_format="sse", response_format="pcm")
    *deltas, last = events(answer)
    assert len(audio_of(deltas)) == 2 * 2 * WORD_SAMPLES
    assert last["type"] == "speech.audio.error"
    assert last["error"]["code"] == "engine_failure"
    assert stack.gateway.line_of(answer.headers["x-request-id"])["outcome"] == "cut"
    eventually(stack.is_idle, "nothing is left counted as running")


def test_a_failure_before_the_first_audio_is_an_ordinary_error(stack):
    answer = stack.speak(input="<fail> one", stream_format="sse")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failure")


@pytest.mark.parametrize("speed", [0.25, 4.0])
def test_a_pace_beyond_the_model_keeps_the_pitch(stack, speed):
    answer = stack.speak(input="<long=2>", speed=speed, response_format="pcm", voice="high")
    samples = np.frombuffer(answer.content, "<i2")
    # The order fixes the length of the word, whatever the model's own pace: what remains is the stretch.
    assert len(samples) / 24_000 == pytest.approx(2 * (2 if speed < 1 else 0.5), rel=0.05)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * 24_000 / len(samples) == pytest.approx(440, abs=2)


def test_over_http_1_0_events_still_stream(stack):
    body = json.dumps({"input": "one <hold=old-events> two", "stream_format": "sse"}).encode()
    with socket.create_connection(("127.0.0.1", stack.gateway.port), PATIENCE_S) as client:
        head = b"POST /v1/audio/speech HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        client.sendall(head % len(body) + body)
        received = b""
        while b"speech.audio.delta" not in received:
            received += client.recv(4096)
        (stack.signals / "old-events").touch()
        while chunk := client.recv(4096):
            received += chunk
    assert b"speech.audio.done" in received
