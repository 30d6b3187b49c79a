"""Small operations on mono PCM: trimming silence, changing the rate of a recording, writing samples as bytes.

It knows no engine and no protocol.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SILENCE = 10 ** (-46 / 20)
"""Amplitude under which a stretch counts as silence: -46 dB full scale."""


class Trimmer:
    """Cuts the silence at both ends of a segment while it is being made, but for a margin at either.

    The margins protect soft onsets and decays; the ends are faded over 5 ms. What comes out does not depend on how the
    samples were cut when they came in.

    Args:
        sample_rate_hz: Rate of the samples.
        keep_before_s: Margin kept before the first sound, in seconds.
        keep_after_s: Margin kept after the last one.
    """

    def __init__(self, sample_rate_hz: int, *, keep_before_s: float = 0.02, keep_after_s: float = 0.06) -> None:
        self._before = int(keep_before_s * sample_rate_hz)
        self._after = int(keep_after_s * sample_rate_hz)
        self._fade = int(0.005 * sample_rate_hz)
        self._held = np.zeros(0, np.float32)
        self._sure = 0  # How many of the held samples are speech or its margin.
        self._has_sounded = False
        self._has_given = False

    def feed(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Take the next samples and give those that are sure to be kept.

        Args:
            samples: float32 [S]; what exceeds [-1, 1] is clipped.

        Returns:
            float32 [T] in [-1, 1].

        Raises:
            ValueError: Some sample is not finite; it would pass for silence here.
        """
        if not np.isfinite(samples).all():
            raise ValueError("some samples are not finite")
        offset = len(self._held)
        self._held = np.concatenate([self._held, np.clip(samples, -1.0, 1.0)])
        is_loud = np.abs(self._held[offset:]) > SILENCE
        # Of the first and the last: what lies between is not looked at.
        if len(is_loud) and is_loud[first := int(is_loud.argmax())]:
            if not self._has_sounded:
                self._has_sounded = True
                start = max(0, offset + first - self._before)
                self._held, offset = self._held[start:], offset - start
            self._sure = offset + len(is_loud) - int(is_loud[::-1].argmax()) + self._after
        if not self._has_sounded:
            self._held = self._held[len(self._held) - min(self._before, len(self._held)) :]
            return self._held[:0]
        # The last 5 ms wait: they are faded if nothing follows. A fade must not meet the other end's.
        ready = min(self._sure, len(self._held)) - self._fade
        if ready < self._fade:
            return self._held[:0]
        return self._give(ready)

    def flush(self) -> npt.NDArray[np.float32]:
        """Give what is left, faded out; empty if there never was a sound."""
        if not self._has_sounded:
            return np.zeros(0, np.float32)
        self._held = self._held[: self._sure]
        fade = min(self._fade, len(self._held) if self._has_given else len(self._held) // 2)
        last = self._give(len(self._held), fade)
        last[len(last) - fade :] *= _ramp(fade)[::-1]
        return last

    def _give(self, count: int, fade_in: int | None = None) -> npt.NDArray[np.float32]:
        given, self._held = self._held[:count].copy(), self._held[count:]
        self._sure -= count
        if not self._has_given:
            fade = self._fade if fade_in is None else fade_in
            given[:fade] *= _ramp(fade)
            self._has_given = True
        return given


def trim_silence(samples: npt.NDArray[np.float32], sample_rate_hz: int) -> npt.NDArray[np.float32]:
    """Cut the silence at both ends of a whole segment, as `Trimmer` does.

    Args:
        samples: float32 [S].
        sample_rate_hz: Their rate.

    Returns:
        float32 [T] in [-1, 1], T <= S; empty if all of `samples` is silence.
    """
    trimmer = Trimmer(sample_rate_hz)
    return np.concatenate([trimmer.feed(samples), trimmer.flush()])


def _ramp(count: int) -> npt.NDArray[np.float32]:
    return np.linspace(0.0, 1.0, count, endpoint=False, dtype=np.float32)


def resample(samples: npt.NDArray[np.float32], rate_hz: int, to_hz: int) -> npt.NDArray[np.float32]:
    """Change the rate of a whole recording, in its spectrum: what is below both Nyquist frequencies stays as it is.

    The upper twentieth of that band is faded out, since a sharp edge would ring for longer than a consonant lasts.

    Args:
        samples: float32 [S].
        rate_hz: Their rate.
        to_hz: The rate wanted.

    Returns:
        float32 [ceil(S * to_hz / rate_hz)]; peaks may exceed those of `samples` a little.
    """
    if rate_hz == to_hz:
        return samples
    common = math.gcd(rate_hz, to_hz)
    up, down = to_hz // common, rate_hz // common
    # A spectrum is of a sound that goes round and round: 50 ms of silence keep its end from being heard in its start.
    rounds = math.ceil((len(samples) + rate_hz // 20) / down)
    spectrum = np.fft.rfft(samples, rounds * down)[: rounds * min(up, down) // 2 + 1]
    faded = len(spectrum) // 20
    spectrum[len(spectrum) - faded :] *= 0.5 + 0.5 * np.cos(np.linspace(0.0, np.pi, faded))
    resampled = np.fft.irfft(spectrum, rounds * up) * (up / down)
    return resampled[: math.ceil(len(samples) * up / down)].astype(np.float32)


def to_s16le(samples: npt.NDArray[np.float32]) -> bytes:
    """Write samples as signed 16-bit little-endian integers; what exceeds full scale is clipped.

    Args:
        samples: float32 [S], nominally in [-1, 1].

    Returns:
        2 * S bytes.
    """
    return bytes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").data)


def from_s16le(pcm: bytes) -> npt.NDArray[np.float32]:
    """Read samples written as signed 16-bit little-endian integers.

    Args:
        pcm: 2 * S bytes.

    Returns:
        float32 [S] in [-1, 1].
    """
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768.0)


def to_f32le(samples: npt.NDArray[np.float32]) -> bytes:
    """Write samples as 32-bit little-endian floats.

    Args:
        samples: float32 [S].

    Returns:
        4 * S bytes.
    """
    return samples.astype("<f4", copy=False).tobytes()
