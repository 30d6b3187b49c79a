"""Turns a WAV file into a file of another format as it comes; knows no HTTP, and blocks, so it belongs in a thread."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import IO

from gateway.audio.encode import Encoder, encoder
from gateway.audio.wav import WavReader
from gateway.errors import ApiError

MEMORY_BYTES = 1024 * 1024
"""How much of a result is held in memory; a longer one goes to a file without a name."""


class Transcoder:
    """One recording on its way to another format.

    Args:
        form: Name of the format.
        kbps: Bit rates of the lossy formats.

    Attributes:
        file: What has come of it; a whole file once `finish` has returned, to be read from its beginning.
        size: How many bytes that are.
        num_samples: Samples read so far.
    """

    def __init__(self, form: str, kbps: Mapping[str, int]) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115  # Closed by its owner.
        self.size = 0
        self.num_samples = 0
        self._form = form
        self._kbps = kbps
        self._reader = WavReader()
        self._encoder: Encoder | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the recording.

        Raises:
            ApiError: It is no WAV file of 16-bit mono PCM, or the result cannot be kept.
        """
        if pcm := self._reader.feed(data):
            self._encoder = self._encoder or encoder(self._form, self._reader.sample_rate_hz, kbps=self._kbps)
            self.num_samples += len(pcm) // 2
            self._write(self._encoder.feed(pcm))

    def finish(self) -> Encoder:
        """End the recording; return what has encoded it.

        Raises:
            ApiError: It has no samples, or the result cannot be kept.
        """
        if not self._encoder:
            what = "it has no samples" if self._reader.sample_rate_hz else "it ends before its samples"
            raise ApiError("INVALID_REQUEST", f"the body must be a WAV file of 16-bit mono PCM; {what}")
        self._write(self._encoder.flush())
        self.size = self.file.tell()
        self.file.seek(0)
        self._write(self._encoder.head())
        self.file.seek(0)
        return self._encoder

    @property
    def audio_s(self) -> float:
        """Length of the recording so far, in seconds."""
        return self.num_samples / self._reader.sample_rate_hz if self.num_samples else 0.0

    def _write(self, data: bytes) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            why = error.strerror or error
            raise ApiError("STORAGE_FAILURE", f"the file cannot be kept until it is whole: {why}") from error
