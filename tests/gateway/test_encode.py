import gc
import hashlib
import io
import wave
import weakref

import numpy as np
import pytest
import soundfile

from gateway.audio.convert import Converter
from gateway.audio.encode import MEDIA_TYPES, Encoder, encoder, rates_of
from gateway.settings import Settings
from tests.sounds import TAIL_S, decode, longest, phrase, tail_offset

KBPS = {"mp3": 64, "opus": 32, "aac": 64}
LOSSLESS = ("wav", "flac", "pcm")
FILES = [form for form in MEDIA_TYPES if form != "pcm"]


def chunks(pcm: bytes, rate_hz: int) -> list[bytes]:
    """As a worker sends them: 80 ms, then 800 ms each."""
    first, step = 2 * (rate_hz * 80 // 1000), 2 * (rate_hz * 800 // 1000)
    return [pcm[:first], *(pcm[i : i + step] for i in range(first, len(pcm), step))]


def encoded(encoder: Encoder, pieces: list[bytes]) -> bytes:
    return b"".join([*map(encoder.feed, pieces), encoder.flush()])


def heard(form: str, data: bytes, rate_hz: int) -> tuple[int, np.ndarray]:
    return (rate_hz, np.frombuffer(data, "<i2").astype(float)) if form == "pcm" else decode(data)


def resampled(pcm: bytes, from_hz: int, to_hz: int) -> np.ndarray:
    converter = Converter(from_hz, to_hz)
    return np.frombuffer(converter.feed(pcm) + converter.flush(), "<i2").astype(float)


@pytest.mark.parametrize("seconds", [0.1, 2.345])
@pytest.mark.parametrize("rates", [(24_000, 16_000), (24_000, 24_000), (24_000, 48_000), (22_050, None)])
@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_nothing_is_lost(form, rates, seconds):
    from_hz, rate_hz = rates
    pcm = phrase(from_hz, seconds)
    streaming = encoder(form, from_hz, rate_hz=rate_hz, kbps=KBPS)
    rate_hz, samples = heard(form, encoded(streaming, chunks(pcm, from_hz)), streaming.sample_rate_hz)
    assert rate_hz == (48_000 if form == "opus" else streaming.sample_rate_hz)
    original = resampled(pcm, from_hz, streaming.sample_rate_hz)
    if form in LOSSLESS:
        assert np.array_equal(samples, original)
    at_its_rate = original if form != "opus" else resampled(pcm, from_hz, rate_hz)
    assert len(at_its_rate) <= len(samples) <= longest(form, len(at_its_rate))
    late, likeness = tail_offset(samples, at_its_rate, int(TAIL_S * rate_hz))
    assert 0 <= late <= longest(form, 0)
    assert likeness > 0.97
    # No clicks where chunks join: the whole, encoded at once, sounds the same to the last sample.
    at_once = encoder(form, from_hz, rate_hz=streaming.sample_rate_hz, kbps=KBPS)
    assert np.array_equal(heard(form, encoded(at_once, [pcm]), at_once.sample_rate_hz)[1], samples)


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 48_000])
@pytest.mark.parametrize("form", FILES)
def test_audio_leaves_before_the_third_chunk_comes(form, rate_hz):
    streaming = encoder(form, rate_hz, kbps=KBPS)
    first, second, *_ = chunks(phrase(rate_hz, 1.0), rate_hz)
    start = streaming.feed(first)
    decoded_hz, samples = decode(start + streaming.feed(second))
    # Of 480 ms all but what the codec needs to see before it can go on.
    held_s = {"aac": 2048 / streaming.sample_rate_hz, "mp3": 1152 / streaming.sample_rate_hz, "opus": 0.05}
    assert len(samples) / decoded_hz >= 0.48 - held_s.get(form, 0.0)
    assert np.abs(samples).max() > 1000
    if form in ("wav", "flac", "opus"):
        decoded_hz, samples = decode(start)
        assert len(samples) / decoded_hz >= (0.08 if form != "opus" else 0.03)


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus"])
def test_other_readers_accept_what_is_streamed(form):
    pcm = phrase(24_000, 1.0)
    streaming = encoder(form, 24_000, kbps=KBPS)
    data = encoded(streaming, chunks(pcm, 24_000))
    # Of FLAC all but the last block: python-soundfile seeks to where it has read to, and libsndfile to no end that the
    # header does not tell.
    left_out = 480 if form == "flac" else 0
    with soundfile.SoundFile(io.BytesIO(data)) as reader:
        samples, rate_hz = reader.read(len(pcm) // 2 - left_out if left_out else -1, dtype="int16"), reader.samplerate
    assert samples.ndim == 1
    at_its_rate = resampled(pcm, 24_000, rate_hz)
    # Of mp3, libsndfile leaves the decoder's part of the delay out.
    assert len(at_its_rate) <= len(samples) + (529 if form == "mp3" else left_out)
    at_its_rate = at_its_rate[: len(at_its_rate) - left_out]
    assert tail_offset(samples.astype(float), at_its_rate, int(TAIL_S * rate_hz))[1] > 0.97
    if form == "wav":
        with wave.open(io.BytesIO(data)) as reader:
            assert reader.getparams()[:3] == (1, 2, 24_000)
            assert reader.readframes(24_000) == pcm


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_a_file_that_has_ended_can_say_how_long_it_is(form):
    pcm = phrase(22_050, 1.0)
    streaming = encoder(form, 22_050, kbps={})
    data = encoded(streaming, chunks(pcm, 22_050))
    head = streaming.head()
    file = head + data[len(head) :]
    info = soundfile.info(io.BytesIO(file))
    assert (info.frames, info.samplerate) == (len(pcm) // 2, 22_050)
    samples, _ = soundfile.read(io.BytesIO(file), dtype="int16")
    assert samples.tobytes() == pcm
    if form == "flac":
        assert head[26:42] == hashlib.md5(pcm).digest()
        assert data[18:42] == data[18:21] + bytes([data[21]]) + bytes(20)  # While it streams: not known, not wrong.


@pytest.mark.parametrize("form", ["pcm", "mp3", "opus", "aac"])
def test_other_files_have_nothing_to_correct(form):
    streaming = encoder(form, 24_000, kbps=KBPS)
    encoded(streaming, [phrase(24_000, 0.2)])
    assert streaming.head() == b""


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_every_rate_and_bit_rate_that_is_offered_works(form):
    field = Settings.model_fields.get(f"{form}_kbps")
    limits = (
        [getattr(each, name) for each in field.metadata for name in ("ge", "le") if hasattr(each, name)]
        if field
        else [0]
    )
    for rate_hz in rates_of(form):
        for kbps in limits:
            streaming = encoder(form, 24_000, rate_hz=rate_hz, kbps={form: kbps})
            data = encoded(streaming, chunks(phrase(24_000, 0.5), 24_000))
            assert streaming.sample_rate_hz == rate_hz
            decoded_hz, samples = heard(form, data, rate_hz)
            assert decoded_hz == (48_000 if form == "opus" else rate_hz)
            assert len(samples) >= decoded_hz // 2


def test_the_rate_is_the_models_own_or_the_next_that_the_format_has():
    def rate_of(form: str, from_hz: int) -> int:
        return encoder(form, from_hz, kbps=KBPS).sample_rate_hz

    assert [rate_of(form, 22_050) for form in MEDIA_TYPES] == [22_050, 22_050, 24_000, 22_050, 22_050, 24_000]
    assert [rate_of(form, 20_000) for form in MEDIA_TYPES] == [20_000, 22_050, 24_000, 22_050, 20_000, 24_000]
    assert [rate_of(form, 6000) for form in MEDIA_TYPES] == [6000, 8000, 8000, 7350, 6000, 24_000]
    assert [rate_of(form, 192_000) for form in MEDIA_TYPES] == [192_000, 48_000, 48_000, 96_000, 192_000, 24_000]


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_streams_of_next_to_nothing_end_well(form):
    assert len(encoded(encoder(form, 24_000, kbps=KBPS), [])) in range(200)
    samples = heard(form, encoded(encoder(form, 24_000, kbps=KBPS), [b"", b"\1\0", b""]), 24_000)[1]
    assert len(samples) >= 1


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_tempo_applies_to_every_format(form):
    pcm = phrase(24_000, 2.0)
    streaming = encoder(form, 24_000, rate_hz=16_000, tempo=2.0, kbps=KBPS)
    rate_hz, samples = heard(form, encoded(streaming, chunks(pcm, 24_000)), 16_000)
    window = 2048 * rate_hz // 24_000
    assert rate_hz <= len(samples) <= longest(form, rate_hz + window)


@pytest.mark.parametrize("form", ["flac", "mp3", "opus", "aac"])
def test_a_stream_that_is_broken_off_is_freed_at_once(form):
    gc.disable()
    try:
        streaming = encoder(form, 24_000, kbps=KBPS)
        streaming.feed(phrase(24_000, 0.2))
        sink = weakref.ref(streaming._sink)
        del streaming
        assert sink() is None
    finally:
        gc.enable()
