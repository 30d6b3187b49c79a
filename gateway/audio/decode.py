"""Reads a recording that somebody uploads, in any file format of libsndfile's; knows neither HTTP nor where it is kept.

Nothing that the file says of itself is trusted: samples are read block by block and counted, and no more of them than a
recording may have, so a small file that unpacks to hours costs no more than a good one.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import av
import soundfile

from gateway.errors import ApiError

LEAST_S, MOST_S = 1.0, 30.0
LEAST_RATE_HZ, MOST_RATE_HZ = 8000, 48_000
"""Rates that are kept; a recording beyond them is converted to the nearer one."""

READABLE_RATES_HZ = range(4000, 192_001)
MOST_CHANNELS = 2
LEAST_SWING = 66
"""Between the lowest and the highest of the 16-bit samples: a sound at -60 dB of full scale."""

BLOCK_FRAMES = 16_384


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording of a voice.

    Attributes:
        pcm: s16le [S], mono, from 1 to 30 s.
        sample_rate_hz: Its rate, 8000 to 48000 Hz.
    """

    pcm: bytes
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """How long it lasts, in seconds."""
        return len(self.pcm) / 2 / self.sample_rate_hz


def decode(file: bytes, field: str) -> Recording:
    """Read a recording; blocks, so call it in a thread.

    Args:
        file: Whole, in a format that libsndfile reads: WAV, FLAC, Ogg, MP3 and others.
        field: What the client calls it.

    Raises:
        ApiError: It is no recording, too short, too long, silent or damaged.
    """

    def refused(what: str) -> ApiError:
        return ApiError("INVALID_REQUEST", f"`{field}` {what}", param=field)

    pieces: list[bytes] = []
    num_frames = 0
    try:
        with soundfile.SoundFile(io.BytesIO(file)) as sound:
            rate_hz, channels = sound.samplerate, sound.channels
            if rate_hz not in READABLE_RATES_HZ:
                least_hz, most_hz = READABLE_RATES_HZ[0], READABLE_RATES_HZ[-1]
                raise refused(f"has a rate of {rate_hz} Hz; it must be {least_hz} to {most_hz}")
            if channels > MOST_CHANNELS:
                raise refused(f"has {channels} channels; it must have 1 or {MOST_CHANNELS}")
            to_hz = min(max(rate_hz, LEAST_RATE_HZ), MOST_RATE_HZ)
            # Mixes, rounds and converts at once.
            converter = av.AudioResampler(format="s16", layout="mono", rate=to_hz)
            block = memoryview(bytearray(4 * channels * BLOCK_FRAMES))
            while read := sound.buffer_read_into(block, "float32"):
                num_frames += read
                if num_frames > MOST_S * rate_hz:
                    by_header_s = sound.frames / rate_hz
                    raise refused(
                        f"lasts over {MOST_S:g} s ({by_header_s:.1f} s by its header); it must last {LEAST_S:g} to "
                        f"{MOST_S:g} s"
                    )
                samples = block[: 4 * channels * read]
                if not math.isfinite(sum(samples.cast("f"))):
                    raise refused("has samples that are no numbers, or infinite; it must have finite ones")
                frame = av.AudioFrame("flt", "stereo" if channels == 2 else "mono", read)
                frame.sample_rate = rate_hz
                frame.planes[0].update(bytes(samples))
                pieces += map(_bytes, converter.resample(frame))
    except soundfile.LibsndfileError as error:
        raise refused(f"cannot be read: {error.error_string} Send a whole WAV, FLAC, Ogg or MP3 file") from error
    if num_frames < LEAST_S * rate_hz:
        raise refused(f"lasts {num_frames / rate_hz:.3f} s; it must last {LEAST_S:g} to {MOST_S:g} s")
    pieces += map(_bytes, converter.resample(None))
    # The converter may round the length either way.
    pcm_bytes = 2 * (num_frames * to_hz // rate_hz)
    pcm = b"".join(pieces)[:pcm_bytes].ljust(pcm_bytes, b"\0")
    with memoryview(pcm).cast("h") as levels:
        if max(levels) - min(levels) < LEAST_SWING:
            raise refused("is silent; it must be a recording of a voice")
    return Recording(pcm, to_hz)


def _bytes(frame: av.AudioFrame) -> bytes:
    # A plane is padded to its alignment; only the samples count.
    return bytes(frame.planes[0])[: 2 * frame.samples]
