"""A thin client for internal services that call a worker directly: grpc and the stubs, nothing else.

    from protos.client import Client

    with Client("127.0.0.1:50051") as client:
        with client.synthesize("Good morning.", model="maureesewilliams/hibari") as speech:
            for pcm in speech:          # s16le chunks, as they are made
                play(pcm, speech.header.format.sample_rate_hz)

It speaks to one worker; choosing among many is the gateway's work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    # One channel is one worker, and what a failed call may do is decided above the channel.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # By default flow control grows its windows to the bandwidth, and a worker runs minutes of audio ahead of a reader
    # that has stopped. So: no probing, and windows of a second: a chunk that does not fit costs another round trip.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 48 * 1024),
    # A frozen worker is noticed within 4 s. Without the ping timeout of HTTP/2 itself that takes a minute.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 2500),
    # A worker that comes back is found again in a moment.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class IncompleteSpeech(Exception):
    """A stream ended without its summary, or with a hole in it."""


class Speech:
    """An utterance being spoken: iterate over its PCM, once.

    Leaving the context, or `cancel`, ends the work on the worker.

    Attributes:
        header: What to know before the first sample: rate, voice, worker.
        marks: Where parts of the text are spoken, as far as known by now; the last one may be without its end.
        summary: What came of it; set when the iteration has ended.
    """

    def __init__(self, call: grpc._CallIterator[speech_pb2.SynthesizeResponse]) -> None:
        self._call = call
        first = next(call, None)
        if first is None:
            raise IncompleteSpeech("the stream ended before it began")
        self._first = first
        self.header = self._first.header
        self.marks: list[speech_pb2.Mark] = []
        self._note(self._first.marks)
        self.summary: speech_pb2.StreamSummary | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the PCM in the header's format, in chunks of up to 0.8 s.

        Raises:
            grpc.RpcError: The call failed.
            IncompleteSpeech: The stream ended early, or samples are missing.
        """
        sample_bytes = 4 if self.header.format.encoding == speech_pb2.AUDIO_ENCODING_PCM_F32LE else 2
        num_samples = len(self._first.audio.pcm) // sample_bytes
        yield self._first.audio.pcm
        for message in self._call:
            self._note(message.marks)
            if message.HasField("summary"):
                self.summary = message.summary
            if not message.audio.pcm:
                continue
            if message.audio.first_sample != num_samples:
                raise IncompleteSpeech(f"expected sample {num_samples}, got {message.audio.first_sample}")
            num_samples += len(message.audio.pcm) // sample_bytes
            yield message.audio.pcm
        if not self.summary or self.summary.total_samples != num_samples:
            raise IncompleteSpeech("the stream ended before its end")

    def _note(self, marks: Iterable[speech_pb2.Mark]) -> None:
        for mark in marks:
            # A mark comes when its part begins, and again, complete, when it has ended.
            if self.marks and self.marks[-1].text_start == mark.text_start and self.marks[-1].kind == mark.kind:
                self.marks.pop()
            self.marks.append(mark)

    def cancel(self) -> None:
        """End the work on the worker; nothing happens if it is done."""
        self._call.cancel()


class Client:
    """A connection to one worker.

    Args:
        address: gRPC target, such as `127.0.0.1:50051` or `unix:/run/worker.sock`.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        self._speech: speech_pb2_grpc.SpeechServiceStub = speech_pb2_grpc.SpeechServiceStub(self._channel)
        self._models: models_pb2_grpc.ModelServiceStub = models_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; open calls end."""
        self._channel.close()

    def models(self) -> Sequence[models_pb2.Model]:
        """List the models of the worker, with their voices.

        Raises:
            grpc.RpcError: The worker cannot be reached.
        """
        return self._models.ListModels(models_pb2.ListModelsRequest()).models

    def synthesize(
        self,
        text: str,
        *,
        model: str,
        voice: str = "",
        speed: float | None = None,
        seed: int | None = None,
        encoding: speech_pb2.AudioEncoding.ValueType = speech_pb2.AUDIO_ENCODING_PCM_S16LE,
        options: Mapping[str, Any] | None = None,
        language: str = "",
        instructions: str = "",
        reference: speech_pb2.ReferenceAudio | None = None,
        nearest_speed: bool = False,
        request_id: str = "",
        first_audio_timeout_s: float | None = None,
    ) -> Speech:
        """Speak; returns with the first audio.

        Args:
            text: What to say.
            model: Model id.
            voice: Voice id; the model's default if empty.
            speed: Pace; the model's own if None.
            seed: Fixes what is random.
            encoding: How samples are written.
            options: The model's own options.
            language: BCP 47 tag of the text; the voice's own if empty.
            instructions: How to speak, in words; `header.ignored` tells if the model takes none.
            reference: A recording whose voice is to be imitated; `voice` must be empty then.
            nearest_speed: Speak at the nearest pace that the model takes, as `header.speed` says, rather than fail.
            request_id: Found again in the worker's logs.
            first_audio_timeout_s: How long to wait for the first audio, in seconds; the worker's own limit if None.

        Raises:
            grpc.RpcError: The worker refused or failed; `details()` says why.
        """
        request = speech_pb2.SynthesizeRequest(
            request_id=request_id,
            model=model,
            voice=voice,
            input=text,
            speed=speed,
            seed=seed,
            encoding=encoding,
            language=language,
            instructions=instructions,
            reference=reference,
            nearest_speed=nearest_speed,
        )
        request.options.update(options or {})
        if first_audio_timeout_s is not None:
            request.first_audio_timeout.FromMilliseconds(round(1000 * first_audio_timeout_s))
        return Speech(self._speech.Synthesize(request))
