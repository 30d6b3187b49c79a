"""One utterance on its way from a worker: found a worker, begun, read to its end. Knows no gRPC and no HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from gateway.errors import ApiError
from gateway.fleet.attempts import Attempts
from gateway.fleet.link import Call
from protos.tts.v1 import speech_pb2

SLACK_S = 15.0
"""How much longer than the worker itself the gateway waits for a first audio: the worker says better why it is late."""


class Speech:
    """One utterance: a call to a worker, moved to another one while it has not begun.

    Args:
        request: What to say.
        attempts: Whom to ask.
        chunk_timeout_s: How long a worker may be silent once it has begun, in seconds.

    Attributes:
        header: What the worker says of the stream; set by `open`.
        summary: What came of it; set when the iteration has ended well.
        num_samples: How many the iteration has given.
        marks: Where parts of the text are spoken, as far as known by now: each when it begins, and again when it ends.
        moves: How many workers failed it before it began.
    """

    header: speech_pb2.StreamHeader

    def __init__(self, request: speech_pb2.SynthesizeRequest, attempts: Attempts, chunk_timeout_s: float) -> None:
        self.summary: speech_pb2.StreamSummary | None = None
        self.num_samples = 0
        self.marks: list[speech_pb2.Mark] = []
        self.moves = 0
        self._request = request
        self._attempts = attempts
        self._chunk_timeout_s = chunk_timeout_s
        self._begun_s = 0.0
        self._address = ""
        self._call: Call | None = None
        self._first: speech_pb2.SynthesizeResponse | None = None

    async def open(self) -> None:
        """Find a worker and wait for the first audio.

        Raises:
            ApiError: No worker could begin.
        """
        patience_s = self._request.first_audio_timeout.ToTimedelta().total_seconds() + SLACK_S
        while True:
            link = self._attempts.next()
            self._address = link.address
            self._call = link.synthesize(self._request, self.moves)
            try:
                self._first = await self._call.read(patience_s)
            except ApiError as failure:
                self.cancel()
                self._attempts.note(failure)
                self.moves += 1
                continue
            if self._first is None or not self._first.HasField("header"):
                self.cancel()
                raise ApiError("ENGINE_FAILURE", f"the worker at {self._address} ended the call without audio")
            self.header = self._first.header
            self._begun_s = time.monotonic()
            return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the PCM, s16le at the header's rate.

        Raises:
            ApiError: The stream broke, lost samples, fell silent, or ended without its summary.
        """
        call, message = self._call, self._first
        while message is not None and call:
            self.marks.extend(message.marks)
            audio = message.audio
            if pcm := audio.pcm:  # Taken once: each access makes a copy.
                if audio.first_sample != self.num_samples:
                    lost = f"expected sample {self.num_samples}, got {audio.first_sample}"
                    raise ApiError("ENGINE_FAILURE", f"audio was lost on the way: {lost}")
                self.num_samples += len(pcm) // 2
                yield pcm
            if message.HasField("summary"):
                self.summary = message.summary
            message = await call.read(self._chunk_timeout_s + self._lead_s())
        if not self.summary or self.summary.total_samples != self.num_samples:
            raise ApiError("ENGINE_FAILURE", f"the worker at {self._address} ended the stream before its end")

    def _lead_s(self) -> float:
        """How far the audio that has come is ahead of a listener: for so long others may rightly go first."""
        heard_s = self.num_samples / self.header.format.sample_rate_hz
        return max(0.0, heard_s - (time.monotonic() - self._begun_s))

    @property
    def was_cut(self) -> bool:
        """Whether the model ran away in some segment, which was cut there."""
        return bool(self.summary and self.summary.finish_reason == speech_pb2.FINISH_REASON_LENGTH)

    def cancel(self) -> None:
        """End the call if it has not ended, so that nobody works on it any more."""
        if self._call:
            self._call.end()
            self._call = None
