"""Recordings of voices that nobody has: harmonics of a wandering pitch, with syllables."""

import numpy as np

from worker.engines.base import Reference


def recording(number: int, *, seconds: float = 1.5, rate_hz: int = 24_000, transcript: str = "Just so.") -> Reference:
    """Make one of many voices; the same number sounds the same at every rate."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    chance = np.random.default_rng(number)
    pitch_hz = 90 + 40 * number + 10 * np.sin(2 * np.pi * chance.uniform(1, 3) * t)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    voice = sum(chance.uniform(0.2, 1.0) / n * np.sin(n * phase) for n in range(1, 12))
    syllables = np.sin(np.pi * (2 + number % 3) * t) ** 2
    samples = (0.2 * syllables * voice).astype(np.float32)
    return Reference(f"voice-{number}", samples, rate_hz, transcript, f"{number} {seconds} {rate_hz} {transcript}")
