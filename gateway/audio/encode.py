"""Turns a stream of PCM into the bytes of a file format, chunk by chunk; knows no HTTP and no model.

    PCM at the model's rate → `Converter` (rate, tempo) → WAV, PCM, FLAC, MP3, AAC or Opus

One encoder a response. What it gives after each chunk is all that the codec has by then: muxers are told to hold
nothing back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import av
from av.container import OutputContainer

from gateway.audio.convert import Converter, pcm_frame
from gateway.audio.wav import wav_header

PCM_RATE_HZ = 24_000
"""Rate of the headerless format, which every client takes for granted."""

BLOCK_MS = 20
"""Length of a block of FLAC and of a frame and page of Opus."""

MEDIA_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "pcm": "audio/pcm",
}

LOSSLESS_RATES_HZ = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)


class Codec(NamedTuple):
    """How FFmpeg is told to write a format.

    Attributes:
        name: Its encoder.
        container: Its muxer.
        sample_format: What the encoder takes.
        rates_hz: Rates that the format carries.
        options: Of the encoder.
        container_options: Of the muxer.
    """

    name: Literal["libmp3lame", "libopus", "aac", "flac"]
    container: str
    sample_format: str
    rates_hz: tuple[int, ...]
    options: dict[str, str]
    container_options: dict[str, str]


CODECS = {
    "mp3": Codec(
        name="libmp3lame",
        container="mp3",
        sample_format="s16p",
        rates_hz=(8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
        # A frame that borrows room from the one before it could not leave until that was full.
        options={"compression_level": "5", "reservoir": "0"},
        container_options={"id3v2_version": "0"},
    ),
    "opus": Codec(
        name="libopus",
        container="ogg",
        sample_format="s16",
        rates_hz=(8000, 12_000, 16_000, 24_000, 48_000),
        options={"compression_level": "5", "frame_duration": str(BLOCK_MS)},
        # A page is held back until the next one is there, as the last has to say that it is; so pages are short.
        container_options={"page_duration": str(1000 * BLOCK_MS)},
    ),
    "aac": Codec(
        name="aac",
        container="adts",
        sample_format="fltp",
        rates_hz=(7350, 8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000),
        options={"aac_coder": "fast"},  # A third of the cost, and as good at the bit rates that speech gets.
        container_options={},
    ),
    "flac": Codec(
        name="flac",
        container="flac",
        sample_format="s16",
        rates_hz=LOSSLESS_RATES_HZ,
        options={"compression_level": "5"},
        # Room for tags would be 8 KiB before the first audio.
        container_options={"metadata_header_padding": "0"},
    ),
}


class Encoder(Protocol):
    """One stream of mono PCM16 on its way to a file format.

    Attributes:
        media_type: Content type of the result.
        sample_rate_hz: Rate of the result.
    """

    media_type: str
    sample_rate_hz: int

    def feed(self, pcm: bytes) -> bytes:
        """Take the next samples, s16le [S] at the model's rate; return what can be sent by now."""
        ...

    def flush(self) -> bytes:
        """End the stream; return the rest."""
        ...

    def head(self) -> bytes:
        """Write the first bytes of the file anew, once the stream has ended: as long as they were, with true sizes."""
        ...


class PcmEncoder:
    """The samples themselves.

    Args:
        converter: What the samples pass first.
        sample_rate_hz: Rate of the result.
    """

    media_type = MEDIA_TYPES["pcm"]

    def __init__(self, converter: Converter, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._converter = converter

    def feed(self, pcm: bytes) -> bytes:
        return self._converter.feed(pcm)

    def flush(self) -> bytes:
        return self._converter.flush()

    def head(self) -> bytes:
        """There is no header."""
        return b""


class WavEncoder:
    """A header of unknown sizes, then the samples; no trailer.

    Args:
        converter: What the samples pass first.
        sample_rate_hz: Rate of the result.
    """

    media_type = MEDIA_TYPES["wav"]

    def __init__(self, converter: Converter, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._converter = converter
        self._header = wav_header(sample_rate_hz)
        self._num_samples = 0

    def feed(self, pcm: bytes) -> bytes:
        return self._write(self._converter.feed(pcm))

    def flush(self) -> bytes:
        return self._write(self._converter.flush())

    def head(self) -> bytes:
        return wav_header(self.sample_rate_hz, self._num_samples)

    def _write(self, pcm: bytes) -> bytes:
        self._num_samples += len(pcm) // 2
        header, self._header = self._header, b""
        return header + pcm


class CodecEncoder:
    """A codec and a muxer of FFmpeg.

    Args:
        form: Name of the format, a key of `CODECS`.
        converter: What the samples pass first.
        sample_rate_hz: Rate of the result.
        kbps: Bit rate, in kbit/s, of a lossy format.
    """

    def __init__(self, form: str, converter: Converter, sample_rate_hz: int, kbps: int | None) -> None:
        codec = CODECS[form]
        self.media_type = MEDIA_TYPES[form]
        self.sample_rate_hz = sample_rate_hz
        self._converter = converter
        self._num_samples = 0
        self._sink = Sink()
        self._container: OutputContainer = av.open(
            self._sink,
            "w",
            format=codec.container,
            container_options={"flush_packets": "1", **codec.container_options},
        )
        options = dict(codec.options)
        if form == "flac":
            options["frame_size"] = str(sample_rate_hz * BLOCK_MS // 1000)
        self._stream = self._container.add_stream(
            codec.name,
            rate=sample_rate_hz,
            options=options,
            layout="mono",
            format=codec.sample_format,
            bit_rate=1000 * (kbps or 0),
            thread_count=1,
        )
        self._md5 = hashlib.md5(usedforsecurity=False) if form == "flac" else None
        self._head = b""

    def feed(self, pcm: bytes) -> bytes:
        self._encode(self._converter.feed(pcm))
        return self._drain()

    def flush(self) -> bytes:
        self._encode(self._converter.flush())
        self._container.mux(self._stream.encode(None))
        self._container.start_encoding()  # Without it, a stream of no samples would lack its header.
        self._container.close()
        return self._drain()

    def head(self) -> bytes:
        """Only FLAC has sizes: how many samples there are, and their MD5 (RFC 9639, section 8.2)."""
        if not self._md5:
            return b""
        packed = int.from_bytes(self._head[18:26]) | self._num_samples
        return self._head[:18] + packed.to_bytes(8) + self._md5.digest()

    def __del__(self) -> None:
        # FFmpeg's objects hold each other: a stream that was broken off would keep a megabyte until they are collected.
        if hasattr(self, "_container"):
            self._container.close()

    def _encode(self, pcm: bytes) -> None:
        if not pcm:
            return
        if self._md5:
            self._md5.update(pcm)
        frame = pcm_frame(pcm, self.sample_rate_hz, self._num_samples)
        self._num_samples += frame.samples
        self._container.mux(self._stream.encode(frame))

    def _drain(self) -> bytes:
        data = self._sink.drain()
        if self._md5 and not self._head:
            self._head = data[:42]
        return data


class Sink:
    """A file that can only be written, for FFmpeg; without `seek`, no muxer goes back to correct what has been sent."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(data)
        return len(data)

    def drain(self) -> bytes:
        """Take what has been written since the last time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def rates_of(form: str) -> tuple[int, ...]:
    """Rates that a format can carry, in Hz."""
    return CODECS[form].rates_hz if form in CODECS else LOSSLESS_RATES_HZ


def encoder(
    form: str,
    from_hz: int,
    *,
    rate_hz: int | None = None,
    tempo: float = 1.0,
    kbps: Mapping[str, int],
) -> Encoder:
    """Make the encoder of one response.

    Args:
        form: Name of the format, a key of `MEDIA_TYPES`.
        from_hz: Rate of the PCM that will come.
        rate_hz: Rate of the result; left open, `from_hz`, or what the format has next to it.
        tempo: How much faster the result is than what comes; the pitch stays.
        kbps: Bit rates of the lossy formats.
    """
    to_hz = rate_hz or _own_rate_hz(form, from_hz)
    converter = Converter(from_hz, to_hz, tempo)
    if form == "pcm":
        return PcmEncoder(converter, to_hz)
    if form == "wav":
        return WavEncoder(converter, to_hz)
    return CodecEncoder(form, converter, to_hz, kbps.get(form))


def _own_rate_hz(form: str, from_hz: int) -> int:
    """The rate that a format is written at if nobody asks for one."""
    match form:
        case "pcm":
            return PCM_RATE_HZ
        case "wav" | "flac":
            return from_hz
        case _:
            rates = rates_of(form)
            return min((rate for rate in rates if rate >= from_hz), default=max(rates))
