"""RIFF/WAVE (Microsoft, Multimedia Programming Interface 1.0) of 16-bit mono PCM: headers written, files read."""

from __future__ import annotations

import struct

from gateway.errors import ApiError

UNKNOWN = 0xFFFFFFFF
"""Size of a stream whose length is not known beforehand; players read to the end of it."""

RATES_HZ = range(8000, 192_001)
"""Rates that are read."""

PCM = 1
"""Format tag of samples as they are."""

LONGEST_FORMAT = 4096
"""Most bytes of a `fmt ` chunk; it has 16, and up to 40 where somebody says more."""


def wav_header(sample_rate_hz: int, num_samples: int | None = None) -> bytes:
    """Write the header of a mono PCM16 file: `fmt `, then `data`, and no other chunk.

    Args:
        sample_rate_hz: Rate of the samples.
        num_samples: How many follow; None if that is not known.

    Returns:
        44 bytes.
    """
    data_bytes = UNKNOWN if num_samples is None else 2 * num_samples
    riff_bytes = UNKNOWN if num_samples is None else 36 + data_bytes
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16),
        *(b"data", data_bytes),
    )


class WavReader:
    """A file of 16-bit mono PCM, read as it comes; one that was broken off ends where it was.

    Attributes:
        sample_rate_hz: Its rate; 0 before the header is there.
    """

    def __init__(self) -> None:
        self.sample_rate_hz = 0
        self._held = bytearray()
        self._is_riff = False
        self._skip = 0  # What is left of a chunk that nobody needs.
        self._left: int | None = None  # What is left of the samples; None before they begin.

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the file.

        Returns:
            s16le [S]: the samples that are in them.

        Raises:
            ApiError: It is no such file.
        """
        self._held += data
        while self._left is None:
            if not self._read_chunk():
                return b""
        size = min(len(self._held), self._left) // 2 * 2
        pcm = bytes(self._held[:size])
        self._left -= size
        del self._held[: size if self._left > 1 else None]
        return pcm

    def _read_chunk(self) -> bool:
        """Go on to the next chunk; False if it has not come yet."""
        skipped = min(self._skip, len(self._held))
        del self._held[:skipped]
        self._skip -= skipped
        if self._skip or len(self._held) < (8 if self._is_riff else 12):
            return False
        if not self._is_riff:
            if self._held[:4] != b"RIFF" or self._held[8:12] != b"WAVE":
                raise _refused(f"it begins with {bytes(self._held[:4])!r}")
            self._is_riff = True
            del self._held[:12]
            return True
        name, size = struct.unpack_from("<4sI", self._held)
        if name == b"data":
            if not self.sample_rate_hz:
                raise _refused("its samples come before their format")
            self._left = size
            del self._held[:8]
        elif name == b"fmt ":
            if not 16 <= size <= LONGEST_FORMAT:
                raise _refused(f"its format has {size} bytes")
            if len(self._held) < 24:
                return False
            self._read_format(*struct.unpack_from("<HHIIHH", self._held, 8))
            self._skip = 8 + size + size % 2
        else:
            self._skip = 8 + size + size % 2
        return True

    def _read_format(self, tag: int, channels: int, rate_hz: int, _bytes: int, _block: int, bits: int) -> None:
        if (tag, channels, bits) != (PCM, 1, 16):
            what = "PCM" if tag == PCM else f"encoded (format tag {tag})"
            raise _refused(f"it is {what} of {bits} bits with {channels} channel{'' if channels == 1 else 's'}")
        if rate_hz not in RATES_HZ:
            raise _refused(f"it has a rate of {rate_hz} Hz; {RATES_HZ[0]} to {RATES_HZ[-1]} are taken")
        self.sample_rate_hz = rate_hz


def _refused(what: str) -> ApiError:
    return ApiError("INVALID_REQUEST", f"the body must be a WAV file of 16-bit mono PCM; {what}")
