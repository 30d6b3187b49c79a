"""The canonical 44-byte RIFF/WAVE header (Microsoft, Multimedia Programming Interface 1.0) for 16-bit PCM."""

from __future__ import annotations

import struct

UNKNOWN = 0xFFFFFFFF
"""Size of a stream whose length is not known beforehand; players read to the end of it."""


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
