"""Every format through real processes, heard by real decoders."""

import base64
import io
import json
import os
import shutil
import wave

import numpy as np
import pytest

from tests.sounds import decode, longest, pitch_of, tail_offset
from tests.stack import TONE

TONE_22K = "sonorant/tone-22k"
TEXT = "one two three four five six"
WORD_S = 0.2
"""Each word sounds so long, at a pitch that no other has."""

TAIL_S = 0.3
"""How much of the end is looked for: the last word and some of the one before, so that it fits at one place only."""

MEDIA_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "pcm": "audio/pcm",
}
OWN_RATES_HZ = {"opus": 24_000, "pcm": 24_000}
"""Rates that a model of 22.05 kHz comes out at, if not its own."""

WINDOW_SAMPLES = 2048
"""Two windows of the time stretch at 24 kHz."""


def spoken(stack, **body):
    answer = stack.speak(**{"input": TEXT, "model": TONE, "seed": 1, "word_ms": round(1000 * WORD_S), **body})
    assert answer.status_code == 200, answer.text
    return answer


def pcm_of(stack, rate_hz: int, **body) -> np.ndarray:
    """What a format should decode to, at a rate."""
    answer = spoken(stack, response_format="pcm", sample_rate=rate_hz, **body)
    return np.frombuffer(answer.content, "<i2").astype(float)


def heard(form: str, data: bytes, rate_hz: int) -> tuple[int, np.ndarray]:
    return (rate_hz, np.frombuffer(data, "<i2").astype(float)) if form == "pcm" else decode(data)


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 48_000, None])
@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_nothing_is_lost_streamed_or_whole(stack, form, rate_hz):
    model = TONE if rate_hz else TONE_22K
    body = {"model": model, "response_format": form, **({"sample_rate": rate_hz} if rate_hz else {})}
    rate_hz = rate_hz or OWN_RATES_HZ.get(form, 22_050)
    streamed = spoken(stack, **body)
    whole = spoken(stack, **body, stream=False)
    for answer in (streamed, whole):
        assert answer.headers["content-type"] == MEDIA_TYPES[form]
        assert answer.headers["x-sonorant-sample-rate"] == str(rate_hz)
    assert "content-length" not in streamed.headers
    assert int(whole.headers["content-length"]) == len(whole.content)
    decoded_hz, samples = heard(form, streamed.content, rate_hz)
    assert decoded_hz == (48_000 if form == "opus" else rate_hz)
    assert np.array_equal(heard(form, whole.content, rate_hz)[1], samples)
    original = pcm_of(stack, decoded_hz, model=model)
    assert len(original) == pytest.approx(6 * WORD_S * decoded_hz, abs=2)
    assert len(original) <= len(samples) <= longest(form, len(original))
    late, likeness = tail_offset(samples, original, int(TAIL_S * decoded_hz))
    assert 0 <= late <= longest(form, 0)
    assert likeness > 0.97
    if form in ("wav", "flac", "pcm"):
        assert np.array_equal(samples, original)
    if form == "wav":
        with wave.open(io.BytesIO(whole.content)) as reader:
            assert (reader.getnframes(), reader.getframerate()) == (len(original), rate_hz)


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_events_carry_every_format(stack, form):
    answer = spoken(stack, response_format=form, stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [event for event in events if event["type"] == "speech.audio.delta"]
    assert [event["type"] for event in events[len(deltas) :]] == ["speech.audio.done"]
    assert len(deltas) > 2
    audio = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    body = spoken(stack, response_format=form, sample_rate=24_000).content
    assert np.array_equal(heard(form, audio, 24_000)[1], heard(form, body, 24_000)[1])
    assert events[-1]["usage"]["output_tokens"] == 24


@pytest.mark.parametrize(("form", "accepted"), [("opus", "8000, 12000, 16000, 24000, 48000"), ("wav", "8000, 11025")])
def test_a_rate_that_the_format_has_not_is_refused_with_those_that_it_has(stack, form, accepted):
    answer = stack.speak(input=TEXT, response_format=form, sample_rate=23_456)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "sample_rate"
    assert "23456" in error["message"]
    assert accepted in error["message"]


@pytest.mark.parametrize("way", ["audio", "sse"])
@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_encoded_audio_comes_before_the_third_chunk_is_made(stack, form, way):
    """The model waits for a sign that is given only when some audio has been decoded: no clock involved."""
    sign = stack.signals / f"heard-{form}-{way}"
    text = f"<long=0.48> <hold={sign.name}> two three"  # Two chunks, the first of 80 ms, and then nothing.
    body, samples = b"", np.zeros(0)
    with stack.stream(input=text, model=TONE, response_format=form, stream_format=way) as answer:
        for piece in answer.iter_bytes() if way == "audio" else deltas_of(answer):
            body += piece
            if not sign.exists() and len(body) > 1000:
                _, samples = heard(form, body, 24_000)
                if np.abs(samples).max(initial=0) > 5000:
                    sign.touch()
    assert sign.exists()
    assert len(heard(form, body, 24_000)[1]) > len(samples)


def deltas_of(answer):
    """The audio of events as they come."""
    for line in answer.iter_lines():
        if line and (event := json.loads(line.removeprefix("data: ")))["type"] == "speech.audio.delta":
            yield base64.b64decode(event["audio"])


@pytest.mark.parametrize(("speed", "model"), [(0.25, TONE), (4.0, TONE), (4.0, TONE_22K)])
@pytest.mark.parametrize("form", ["pcm", "opus"])
def test_a_speed_beyond_the_models_is_a_stretch_that_keeps_the_pitch(stack, form, speed, model):
    body = {"input": "one", "model": model, "voice": "low", "word_ms": 2000, "response_format": form, "speed": speed}
    rate_hz, samples = heard(form, spoken(stack, **body).content, 24_000)
    assert 0 <= len(samples) - 2.0 / speed * rate_hz <= WINDOW_SAMPLES * rate_hz / 24_000
    assert pitch_of(samples, rate_hz) == pytest.approx(220, abs=2)
    assert np.abs(samples).max() < 20_000


@pytest.fixture(scope="module")
def page(stack):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or "chromium"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(stack.url)
        yield page
        browser.close()


@pytest.mark.more
@pytest.mark.skipif(
    not shutil.which("chromium") and not os.environ.get("CI"),
    reason="there is no `chromium` on this machine; on Debian and Ubuntu: apt-get install chromium",
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("form", [form for form in MEDIA_TYPES if form != "pcm"])
def test_a_browser_decodes_it(stack, page, form, stream):
    body = {"input": TEXT, "model": TONE, "seed": 1, "word_ms": 200, "response_format": form, "stream": stream}
    script = """async body => {
        const answer = await fetch('/v1/audio/speech', {
            method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body)})
        const context = new OfflineAudioContext(1, 1, 24000)
        const audio = await context.decodeAudioData(await answer.arrayBuffer())
        return [audio.numberOfChannels, Array.from(audio.getChannelData(0))]
    }"""
    channels, samples = page.evaluate(script, body)
    assert channels == 1
    original = pcm_of(stack, 24_000)
    # Of mp3 and AAC, Chromium leaves out what the codec puts first.
    assert len(original) <= len(samples) <= longest(form, len(original))
    late, likeness = tail_offset(32_768 * np.array(samples), original, int(TAIL_S * 24_000))
    assert 0 <= late <= longest(form, 0)
    assert likeness > 0.97
