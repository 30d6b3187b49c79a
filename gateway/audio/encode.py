"""Turns a stream of PCM into the bytes of a file format, chunk by chunk; one encoder a response."""

from __future__ import annotations

from typing import ClassVar, Protocol

from gateway.audio.resample import Resampler
from gateway.audio.wav import wav_header

PCM_RATE_HZ = 24_000
"""Rate of the headerless format, which every client takes for granted."""


class Encoder(Protocol):
    """One stream of mono PCM16 on its way to a file format.

    Attributes:
        media_type: Content type of the result.
        sample_rate_hz: Rate of the result.
    """

    media_type: ClassVar[str]
    sample_rate_hz: int

    def feed(self, pcm: bytes) -> bytes:
        """Take the next samples, s16le [S] at the model's rate; return what can be sent by now."""
        ...

    def flush(self) -> bytes:
        """End the stream; return the rest."""
        ...


class WavEncoder:
    """WAV at the model's own rate.

    Args:
        sample_rate_hz: The model's rate.
        num_samples: Length of the whole, where it is known; the header of a stream says that it is not.
    """

    media_type: ClassVar[str] = "audio/wav"

    def __init__(self, sample_rate_hz: int, num_samples: int | None = None) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._header = wav_header(sample_rate_hz, num_samples)

    def feed(self, pcm: bytes) -> bytes:
        """Return the samples; before the first ones, the header."""
        header, self._header = self._header, b""
        return header + pcm

    def flush(self) -> bytes:
        """There is no trailer."""
        return b""


class PcmEncoder:
    """Headerless s16le at 24 kHz.

    Args:
        sample_rate_hz: The model's rate.
        num_samples: Not needed.
    """

    media_type: ClassVar[str] = "audio/pcm"

    def __init__(self, sample_rate_hz: int, num_samples: int | None = None) -> None:
        self.sample_rate_hz = PCM_RATE_HZ
        self._resampler = Resampler(sample_rate_hz, PCM_RATE_HZ) if sample_rate_hz != PCM_RATE_HZ else None

    def feed(self, pcm: bytes) -> bytes:
        """Return the samples at 24 kHz."""
        return self._resampler.feed(pcm) if self._resampler else pcm

    def flush(self) -> bytes:
        """Return what the resampler holds."""
        return self._resampler.flush() if self._resampler else b""


ENCODERS: dict[str, type[WavEncoder] | type[PcmEncoder]] = {"wav": WavEncoder, "pcm": PcmEncoder}
