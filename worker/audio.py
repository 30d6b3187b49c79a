"""Small operations on mono PCM: trimming silence, writing samples as bytes; knows no engine and no protocol."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SILENCE = 10 ** (-46 / 20)
"""Amplitude under which a stretch counts as silence: -46 dB full scale."""


def trim_silence(
    samples: npt.NDArray[np.float32], sample_rate_hz: int, *, keep_before_s: float = 0.02, keep_after_s: float = 0.06
) -> npt.NDArray[np.float32]:
    """Cut the silence at both ends, but for a margin that protects soft onsets and decays.

    Args:
        samples: float32 [S] in [-1, 1].
        sample_rate_hz: Their rate.
        keep_before_s: Margin kept before the first sound, in seconds.
        keep_after_s: Margin kept after the last one.

    Returns:
        float32 [T], T <= S, faded over its first and last 5 ms; empty if all of `samples` is silence.
    """
    loud = np.flatnonzero(np.abs(samples) > SILENCE)
    if not loud.size:
        return samples[:0]
    start = max(0, int(loud[0]) - int(keep_before_s * sample_rate_hz))
    stop = min(len(samples), int(loud[-1]) + 1 + int(keep_after_s * sample_rate_hz))
    trimmed = samples[start:stop].copy()
    fade = min(int(0.005 * sample_rate_hz), len(trimmed) // 2)
    ramp = np.linspace(0.0, 1.0, fade, endpoint=False, dtype=np.float32)
    trimmed[:fade] *= ramp
    trimmed[len(trimmed) - fade :] *= ramp[::-1]
    return trimmed


def to_s16le(samples: npt.NDArray[np.float32]) -> bytes:
    """Write samples as signed 16-bit little-endian integers; what exceeds full scale is clipped.

    Args:
        samples: float32 [S], nominally in [-1, 1].

    Returns:
        2 * S bytes.
    """
    return bytes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").data)


def to_f32le(samples: npt.NDArray[np.float32]) -> bytes:
    """Write samples as 32-bit little-endian floats.

    Args:
        samples: float32 [S].

    Returns:
        4 * S bytes.
    """
    return samples.astype("<f4", copy=False).tobytes()
