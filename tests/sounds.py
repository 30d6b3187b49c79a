"""Sounds to encode, and real decoders to hear what came of them."""

from __future__ import annotations

import io
import math

import av
import numpy as np

FRAME_SAMPLES = {"mp3": 1152, "aac": 1024, "opus": 960}
"""Longest frame of a codec, at the rate that it is decoded at."""

DELAY_SAMPLES = {"mp3": 1105, "aac": 1024}
"""Silence that a codec puts first and its file has no word for; Opus has one, so players leave it out."""


def longest(form: str, num_samples: int) -> int:
    """Most samples that may come of so many: the codec's delay and two frames more."""
    return num_samples + DELAY_SAMPLES.get(form, 0) + 2 * FRAME_SAMPLES.get(form, 0)


def phrase(rate_hz: int, seconds: float, seed: int = 1) -> bytes:
    """Something like speech: glides, bursts of noise and pauses, with a glide of its own up to the very end.

    Returns:
        s16le [seconds * rate_hz].
    """
    random = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * rate_hz))
    syllable = rate_hz // 5
    for start in range(0, len(samples) - syllable, syllable):
        t = np.arange(int(0.7 * syllable)) / rate_hz
        low_hz, rise_hz = random.uniform(120, 400), random.uniform(-100, 900)
        voiced = sum(np.sin(2 * np.pi * k * (low_hz * t + rise_hz * t**2)) / k for k in (1, 2, 3))
        noise = 0.5 * random.standard_normal(len(t)) * np.exp(-t * 60)
        samples[start : start + len(t)] += (voiced + noise) * np.sin(np.pi * np.arange(len(t)) / len(t))
    t = np.arange(min(len(samples), int(TAIL_S * rate_hz))) / rate_hz
    samples[len(samples) - len(t) :] = np.sin(2 * np.pi * (300 * t + 15_000 * t**2))
    return np.round(10_000 * samples).clip(-32_768, 32_767).astype("<i2").tobytes()


TAIL_S = 0.06


def decode(data: bytes) -> tuple[int, np.ndarray]:
    """Decode a file with FFmpeg, which finds out by itself what it is.

    Returns:
        Its rate in Hz; float64 [S] at the scale of 16 bits.
    """
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams
        frames = [frame.to_ndarray() for frame in container.decode(stream)]
        assert all(len(frame) == 1 for frame in frames), "it is not mono"
        scale = 1 if all(frame.dtype == np.int16 for frame in frames) else 32_768
        return stream.rate, scale * np.concatenate([np.zeros((1, 0)), *frames], axis=1)[0].astype(float)


def tail_offset(samples: np.ndarray, whole: np.ndarray, num_tail: int) -> tuple[int, float]:
    """Find the end of a sound in what was decoded.

    Args:
        samples: float64 [S], decoded.
        whole: float64 [T], what was encoded, at the same rate.
        num_tail: How many samples of its end to look for.

    Returns:
        How many samples later than in `whole` it is, and how alike it is there: 1 is the same but for the volume.
    """
    tail = whole[-num_tail:]
    likeness = np.correlate(samples, tail, "valid")
    energy = np.convolve(samples**2, np.ones(len(tail)), "valid")
    likeness = likeness / np.sqrt(np.maximum(energy, 1.0) * (tail @ tail))
    at = int(np.argmax(likeness))
    return at + len(tail) - len(whole), float(likeness[at])


def pitch_of(samples: np.ndarray, rate_hz: int) -> float:
    """The strongest pitch, in Hz."""
    size = 1 << math.ceil(math.log2(8 * len(samples)))
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size))
    return float(np.argmax(spectrum) * rate_hz / size)
