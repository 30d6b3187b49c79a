import io
import math
import wave

import numpy as np
import pytest
import soundfile

from gateway.audio.convert import TEMPOS, Converter
from gateway.audio.wav import wav_header

WINDOW_S = 2048 / 24_000
"""Two windows of the time stretch at 24 kHz."""


def sine(rate_hz: int, seconds: float, pitch_hz: float = 440.0, amplitude: float = 16_000) -> bytes:
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    return np.round(amplitude * np.sin(2 * np.pi * pitch_hz * t)).astype("<i2").tobytes()


def noise(num_samples: int, seed: int = 1) -> bytes:
    return (
        (6000 * np.random.default_rng(seed).standard_normal(num_samples)).clip(-32_000, 32_000).astype("<i2").tobytes()
    )


def converted(pcm: bytes, *how: float, step: int = 0) -> np.ndarray:
    """All at once, or in steps of so many samples."""
    converter = Converter(*how)
    size = 2 * step or max(2, len(pcm))
    out = b"".join(converter.feed(pcm[i : i + size]) for i in range(0, len(pcm), size)) + converter.flush()
    return np.frombuffer(out, "<i2")


def split(samples: np.ndarray, pitch_hz: float, rate_hz: int) -> tuple[float, float]:
    """Amplitude of a sine, and what is there beside it in dB of it; the ends are left out."""
    y = samples[len(samples) // 8 : -len(samples) // 8].astype(float)
    t = 2 * np.pi * pitch_hz * np.arange(len(y)) / rate_hz
    waves = np.stack([np.sin(t), np.cos(t)], axis=1)
    weights, *_ = np.linalg.lstsq(waves, y, rcond=None)
    amplitude = float(np.hypot(*weights))
    rest = y - waves @ weights
    return amplitude, 10 * math.log10(2 * rest.var() / amplitude**2)


def pitch_of(samples: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return float(np.argmax(spectrum) * rate_hz / (8 * len(samples)))


def test_a_header_with_a_known_length_is_what_other_readers_expect():
    pcm = sine(24_000, 0.5)
    file = wav_header(24_000, len(pcm) // 2) + pcm
    with wave.open(io.BytesIO(file)) as reader:
        assert reader.getparams()[:4] == (1, 2, 24_000, len(pcm) // 2)
        assert reader.readframes(10**6) == pcm
    samples, rate_hz = soundfile.read(io.BytesIO(file), dtype="int16")
    assert (rate_hz, samples.tobytes()) == (24_000, pcm)


def test_a_header_of_a_stream_is_44_bytes_with_sizes_that_say_unknown():
    header = wav_header(22_050)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"
    assert header[36:40] == b"data"


def test_what_needs_no_change_is_not_touched():
    pcm = noise(1001)
    converter = Converter(24_000, 24_000)
    assert converter.feed(pcm) is pcm
    assert converter.flush() == b""


@pytest.mark.parametrize(
    "rates", [(16_000, 24_000), (22_050, 24_000), (24_000, 48_000), (44_100, 16_000), (24_000, 7350)]
)
def test_a_change_of_rate_loses_nothing_at_either_end(rates):
    from_hz, to_hz = rates
    pcm = sine(from_hz, 1.0)
    samples = converted(pcm, from_hz, to_hz).astype(float)
    assert len(samples) == math.ceil(len(pcm) // 2 * to_hz / from_hz)
    t = np.arange(len(samples)) / to_hz
    rest = samples - 16_000 * np.sin(2 * np.pi * 440 * t)
    # No delay and no fade: sample for sample the same sine, but for the ends, where the sine stops short.
    margin = to_hz // 200
    assert np.abs(rest[margin:-margin]).max() < 2
    assert np.abs(rest).max() < 1600


@pytest.mark.parametrize("num_samples", [0, 1, 2, 95, 97, 3001])
@pytest.mark.parametrize("how", [(24_000, 48_000), (48_000, 8000), (22_050, 24_000, 1.7), (24_000, 24_000, 0.3)])
def test_streams_of_any_length_come_out_whole(how, num_samples):
    samples = converted(noise(num_samples), *how)
    from_hz, to_hz, tempo = (*how, 1.0)[:3]
    expected = math.ceil(num_samples * to_hz / from_hz / tempo)
    assert expected <= len(samples) <= expected + (WINDOW_S * to_hz if tempo != 1.0 and num_samples else 0)


@pytest.mark.parametrize("how", [(22_050, 24_000), (48_000, 16_000, 2.5), (24_000, 24_000, 0.25), (8000, 48_000, 0.5)])
def test_where_a_stream_is_cut_leaves_no_trace(how):
    pcm = noise(30_000)
    at_once = converted(pcm, *how)
    assert np.array_equal(converted(pcm, *how, step=37), at_once)
    random = np.random.default_rng(7)
    converter, out, at = Converter(*how), b"", 0
    while at < len(pcm):
        size = 2 * int(random.choice([0, 1, 2, 333, 1920, 9600]))
        out, at = out + converter.feed(pcm[at : at + size]), at + size
    assert out + converter.flush() == at_once.tobytes()


@pytest.mark.parametrize("rates", [(24_000, 48_000), (48_000, 24_000), (22_050, 24_000), (44_100, 16_000)])
def test_a_change_of_rate_adds_nothing_that_16_bits_could_hold(rates):
    from_hz, to_hz = rates
    edge_hz = min(rates) / 2
    for pitch_hz in (200, 1000, 0.4 * edge_hz, 0.7 * edge_hz, 0.85 * edge_hz):
        amplitude, rest_db = split(converted(sine(from_hz, 1.0, pitch_hz, 30_000), from_hz, to_hz), pitch_hz, to_hz)
        assert amplitude == pytest.approx(30_000, rel=0.002)
        assert rest_db < -90
    for pitch_hz in (x * edge_hz for x in (1.03, 1.1, 1.3, 1.7) if x * edge_hz < from_hz / 2):
        alias = converted(sine(from_hz, 1.0, pitch_hz, 30_000), from_hz, to_hz)[500:-500]
        assert np.abs(alias).max() <= 1


@pytest.mark.parametrize("tempo", [TEMPOS[0], 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, TEMPOS[1]])
def test_another_tempo_keeps_the_pitch_and_the_tail(tempo):
    rate_hz = 24_000
    tail = sine(rate_hz, 0.25 * max(1.0, tempo), 1320.0)
    pcm = sine(rate_hz, 4.0) + tail
    converter = Converter(rate_hz, rate_hz, tempo)
    step = 2 * 1920
    before_the_end = [converter.feed(pcm[i : i + step]) for i in range(0, len(pcm), step)]
    samples = np.frombuffer(b"".join(before_the_end) + converter.flush(), "<i2")
    expected = len(pcm) / 2 / tempo
    assert expected <= len(samples) <= expected + WINDOW_S * rate_hz
    assert sum(map(len, before_the_end)) / 2 > expected - 2 * WINDOW_S * rate_hz * max(1.0, 1 / tempo)
    middle = samples[len(samples) // 8 : len(samples) // 2]
    assert pitch_of(middle, rate_hz) == pytest.approx(440, rel=0.01)
    assert np.abs(middle).max() < 17_000
    # The tail sounds for as long as it should, to within a window, and up to the end.
    tail_samples = len(tail) / 2 / tempo
    last = samples[-int(tail_samples / 2) :]
    assert pitch_of(last[: len(last) // 2], rate_hz) == pytest.approx(1320, rel=0.02)
    spectrum = np.abs(np.fft.rfft(samples))
    share = (spectrum[int(1200 / rate_hz * len(samples)) : int(1440 / rate_hz * len(samples))] ** 2).sum()
    assert 2 * share / len(samples) / 16_000**2 * 2 == pytest.approx(tail_samples, abs=WINDOW_S * rate_hz)
