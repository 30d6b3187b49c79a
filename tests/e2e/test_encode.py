"""`POST /api/encode`: what somebody has heard, as a file of another format."""

import contextlib
import io
import struct
import wave

import httpx
import numpy as np
import pytest
import soundfile

from gateway.audio.wav import wav_header
from tests.sounds import decode, longest, phrase, tail_offset
from tests.stack import PATIENCE_S

MEDIA_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "pcm": "audio/pcm",
}


def encode(stack, form: str, content, content_type: str = "audio/wav") -> httpx.Response:
    url, headers = f"{stack.url}/api/encode", {"content-type": content_type}
    return httpx.post(url, params={"format": form}, content=content, headers=headers, timeout=PATIENCE_S)


def wav(pcm: bytes, rate_hz: int = 24_000) -> bytes:
    return wav_header(rate_hz, len(pcm) // 2) + pcm


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000])
@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_recording_comes_back_whole_in_every_format(stack, form, rate_hz):
    pcm = phrase(rate_hz, 3.0)
    answer = encode(stack, form, wav(pcm, rate_hz))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPES[form]
    assert int(answer.headers["content-length"]) == len(answer.content)
    told_hz = int(answer.headers["x-sonorant-sample-rate"])
    if form == "pcm":
        decoded_hz, samples = 24_000, np.frombuffer(answer.content, "<i2").astype(float)
    else:
        decoded_hz, samples = decode(answer.content)
    assert told_hz == (decoded_hz if form != "opus" else {16_000: 16_000}.get(rate_hz, 24_000))
    seconds = len(samples) / decoded_hz
    assert 3.0 - 1e-3 <= seconds <= longest(form, 3 * decoded_hz) / decoded_hz
    if decoded_hz == rate_hz:
        original = np.frombuffer(pcm, "<i2").astype(float)
        if form in ("wav", "flac", "pcm"):
            assert np.array_equal(samples, original)
        else:
            assert tail_offset(samples, original, rate_hz // 2)[1] > 0.9


def test_files_of_known_length_say_it(stack):
    pcm = phrase(24_000, 1.0)
    for form in ("wav", "flac"):
        content = encode(stack, form, wav(pcm)).content
        assert soundfile.info(io.BytesIO(content)).frames == 24_000
    with wave.open(io.BytesIO(encode(stack, "wav", wav(pcm)).content)) as reader:
        assert reader.readframes(reader.getnframes()) == pcm


def test_a_stream_of_ours_is_taken_as_it_is_also_in_part(stack):
    with stack.stream(input="one two three") as answer:
        streamed = b"".join(answer.iter_bytes())
    assert streamed[40:44] == b"\xff" * 4
    assert encode(stack, "pcm", streamed).content == streamed[44:]
    assert encode(stack, "pcm", streamed[:3001]).content == streamed[44:3000]


def test_chunks_of_a_file_that_nobody_needs_are_passed_over(stack):
    pcm = phrase(16_000, 0.5)
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    head = wav_header(16_000, len(pcm) // 2)
    longer = head[:12] + odd + b"fmt " + struct.pack("<I", 18) + head[20:36] + b"\0\0" + odd + head[36:] + pcm + odd
    plain, other = encode(stack, "wav", wav(pcm, 16_000)), encode(stack, "wav", longer)
    assert other.content == plain.content


def test_a_body_may_come_in_chunks_of_any_length(stack):
    whole = wav(phrase(24_000, 2.0))

    def chunks():
        for start in range(100):
            yield whole[start : start + 1]
        for start in range(100, len(whole), 10_007):
            yield whole[start : start + 10_007]

    assert encode(stack, "flac", chunks()).content == encode(stack, "flac", whole).content


def test_a_long_recording_leaves_one_line(stack):
    whole = wav(phrase(24_000, 120.0))
    answer = encode(stack, "mp3", whole)
    assert answer.status_code == 200
    assert len(answer.content) == pytest.approx(120 * 8000, rel=0.02)
    line = stack.gateway.line_of(answer.headers["x-request-id"])
    assert (line["outcome"], line["format"], line["audio_s"]) == ("ok", "mp3", 120.0)


GOOD = wav(bytes(4800))


@pytest.mark.parametrize(
    ("form", "content", "content_type", "status", "words"),
    [
        ("", GOOD, "audio/wav", 400, ["format", "''", "wav, mp3, opus, aac, flac, pcm"]),
        ("midi", GOOD, "audio/wav", 400, ["format", "'midi'", "flac"]),
        ("mp3", GOOD, "audio/mpeg", 415, ["'audio/mpeg'", "'audio/wav'"]),
        ("mp3", GOOD, "", 415, ["''", "'audio/wav'"]),
        ("mp3", b"", "audio/wav", 400, ["WAV", "ends before its samples"]),
        ("mp3", GOOD[:11], "audio/wav", 400, ["ends before its samples"]),
        ("mp3", b"ID3" + bytes(1000), "audio/wav", 400, ["WAV", "ID3"]),
        ("mp3", b"x" * 3_000_000, "audio/wav", 400, ["WAV", "xxxx"]),
        ("mp3", wav_header(24_000, 0), "audio/wav", 400, ["no samples"]),
        ("mp3", wav_header(24_000) + b"\0", "audio/wav", 400, ["no samples"]),
        ("mp3", GOOD[:12] + GOOD[36:], "audio/wav", 400, ["before their format"]),
        ("mp3", GOOD[:22] + b"\2" + GOOD[23:], "audio/wav", 400, ["2 channels", "mono"]),
        ("mp3", GOOD[:34] + b"\x08" + GOOD[35:], "audio/wav", 400, ["8 bits", "16-bit"]),
        ("mp3", GOOD[:20] + b"\3" + GOOD[21:], "audio/wav", 400, ["tag 3"]),
        ("mp3", GOOD[:16] + b"\2" + GOOD[17:], "audio/wav", 400, ["2 bytes"]),
        ("mp3", wav(bytes(4800), 4000), "audio/wav", 400, ["4000 Hz", "8000 to 192000"]),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(stack, form, content, content_type, status, words):
    answer = encode(stack, form, content, content_type)
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    for word in words:
        assert word in message


def test_a_recording_beyond_the_limit_is_refused_whether_or_not_its_length_is_declared(stack):
    mebibyte = bytes(1024 * 1024)

    def endless():
        yield wav_header(24_000)
        for _ in range(257):
            yield mebibyte

    for headers in ({}, {"content-length": str(44 + 257 * len(mebibyte))}):
        answer = httpx.post(
            f"{stack.url}/api/encode?format=pcm",
            content=endless(),
            headers={"content-type": "audio/wav", **headers},
            timeout=PATIENCE_S,
        )
        assert answer.status_code == 413
        assert str(256 * len(mebibyte)) in answer.json()["error"]["message"]


def test_it_is_no_request_for_speech(start):
    stack = start(SONORANT_RATE_REQUESTS="1")
    for _ in range(3):
        assert encode(stack, "mp3", GOOD).status_code == 200
    assert stack.speak(input="one").status_code == 200
    assert stack.speak(input="one").status_code == 429
    assert encode(stack, "mp3", GOOD).status_code == 200


def test_a_client_that_hangs_up_midway_leaves_nothing_behind(stack):
    def broken():
        yield GOOD
        raise RuntimeError("gone")

    with contextlib.suppress(RuntimeError):
        httpx.post(
            f"{stack.url}/api/encode?format=mp3",
            content=broken(),
            headers={"content-type": "audio/wav", "x-request-id": "encode-gone"},
            timeout=PATIENCE_S,
        )
    assert stack.gateway.line_of("encode-gone")["outcome"] == "client_gone"
