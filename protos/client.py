"""A thin client for internal services that call workers directly: grpc and the stubs, nothing else.

    from protos.client import Client

    with Client("127.0.0.1:50051") as client:
        with client.synthesize("Good morning.", model="maureesewilliams/hibari") as speech:
            for pcm in speech:          # s16le chunks, as they are made
                play(pcm, speech.header.format.sample_rate_hz)

`AsyncClient` is the same for asyncio. Either speaks to one worker or to several: calls go round those that are healthy,
and one whose worker is lost before its first audio is tried once more. Which worker has which model in memory it does
not know; to weigh that is the gateway's work.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypedDict, TypeVar, Unpack

import grpc

from protos.channel import open_aio_channel, open_channel
from protos.tls import Tls
from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc

__all__ = ["AsyncClient", "AsyncSpeech", "Client", "How", "IncompleteSpeech", "Speech", "Tls"]

RETRIES = {
    "name": [{"service": "tts.v1.SpeechService"}, {"service": "tts.v1.ModelService"}],
    "retryPolicy": {
        # Once: input that kills workers must not kill them all.
        "maxAttempts": 2,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}
"""gRPC keeps to it until the first message of the answer, and waits as long as the worker asks it to."""

SPREAD = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # Without it, a worker that loads its first models or that drains would be called, too.
    "healthCheckConfig": {"serviceName": "tts.v1.SpeechService"},
}

M = TypeVar("M")

_Call = grpc.aio.UnaryStreamCall[speech_pb2.SynthesizeRequest, speech_pb2.SynthesizeResponse]


class IncompleteSpeech(Exception):
    """A stream ended without its summary, or with a hole in it."""


class How(TypedDict, total=False):
    """How to speak; all of it may be left out.

    Attributes:
        voice: Voice id; the model's default if empty.
        speed: Pace; the model's own if None.
        seed: Fixes what is random.
        encoding: How samples are written: `AUDIO_ENCODING_PCM_S16LE`, the default, or `AUDIO_ENCODING_PCM_F32LE`.
        options: The model's own options.
        language: BCP 47 tag of the text; the voice's own if empty.
        instructions: How to speak, in words; `header.ignored` tells if the model takes none.
        reference: A recording whose voice is to be imitated; `voice` must be empty then.
        nearest_speed: Speak at the nearest pace that the model takes, as `header.speed` says, rather than fail.
        delivery: `DELIVERY_WHOLE` where nobody listens before all of it is there.
        tenant: Who asks; those who ask are served in turn where there is more work than the device can do.
        request_id: Found again in the worker's logs.
        model_revision: Commit, branch or tag of the model.
        load_policy: `LOAD_POLICY_IF_LOADED` to fail rather than wait for the model.
    """

    voice: str
    speed: float | None
    seed: int | None
    encoding: speech_pb2.AudioEncoding.ValueType
    options: Mapping[str, Any] | None
    language: str
    instructions: str
    reference: speech_pb2.ReferenceAudio | None
    nearest_speed: bool
    delivery: speech_pb2.Delivery.ValueType
    tenant: str
    request_id: str
    model_revision: str
    load_policy: speech_pb2.LoadPolicy.ValueType


class _Received:
    """What has come of an utterance so far; the part of both kinds of speech that does no I/O.

    Attributes:
        header: What to know before the first sample: rate, voice, worker.
        marks: Where parts of the text are spoken, as far as known by now; the last one may be without its end.
        summary: What came of it; set when the iteration has ended.
        num_samples: How many the iteration has given.
    """

    def __init__(self, first: speech_pb2.SynthesizeResponse | None) -> None:
        if first is None or not first.HasField("header"):
            raise IncompleteSpeech("the stream ended before it began")
        self.header = first.header
        self.marks: list[speech_pb2.Mark] = []
        self.summary: speech_pb2.StreamSummary | None = None
        self.num_samples = 0
        is_float = self.header.format.encoding == speech_pb2.AUDIO_ENCODING_PCM_F32LE
        self._sample_bytes = 4 if is_float else 2
        self._first = first
        self._note(first.marks)

    def _take(self, message: speech_pb2.SynthesizeResponse) -> bytes:
        """Note what a message tells, and return its PCM.

        Raises:
            IncompleteSpeech: Samples are missing before it.
        """
        if message is not self._first:
            self._note(message.marks)
        if message.HasField("summary"):
            self.summary = message.summary
        pcm = message.audio.pcm
        if pcm and message.audio.first_sample != self.num_samples:
            raise IncompleteSpeech(f"expected sample {self.num_samples}, got {message.audio.first_sample}")
        self.num_samples += len(pcm) // self._sample_bytes
        return pcm

    def _check_end(self) -> None:
        """See that all of it has come.

        Raises:
            IncompleteSpeech: It has not.
        """
        if not self.summary or self.summary.total_samples != self.num_samples:
            raise IncompleteSpeech("the stream ended before its end")

    def _note(self, marks: Iterable[speech_pb2.Mark]) -> None:
        for mark in marks:
            # A mark comes when its part begins, and again, complete, when it has ended.
            if self.marks and self.marks[-1].text_start == mark.text_start and self.marks[-1].kind == mark.kind:
                self.marks.pop()
            self.marks.append(mark)


class Speech(_Received):
    """An utterance being spoken: iterate over its PCM, once.

    Leaving the context, ending the iteration early, or `cancel` ends the work on the worker.
    """

    def __init__(self, call: grpc._CallIterator[speech_pb2.SynthesizeResponse]) -> None:
        self._call = call
        try:
            super().__init__(next(call, None))
        except BaseException:
            call.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the PCM, mono in the header's format and rate, in chunks of up to 0.8 s.

        Raises:
            grpc.RpcError: The call failed, or its time was over.
            IncompleteSpeech: The stream ended early, or samples are missing.
        """
        try:
            yield self._take(self._first)
            for message in self._call:
                if pcm := self._take(message):
                    yield pcm
            self._check_end()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the work on the worker; nothing happens if it is done."""
        self._call.cancel()


class AsyncSpeech(_Received):
    """`Speech` for asyncio: `async for` its PCM, once."""

    def __init__(self, call: _Call, first: speech_pb2.SynthesizeResponse | None) -> None:
        self._call = call
        super().__init__(first)

    @classmethod
    async def begin(cls, call: _Call) -> Self:
        """Wait for the first audio of a call; raises as `Client.synthesize`."""
        try:
            return cls(call, await _read(call))
        except BaseException:
            call.cancel()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield and raise as `Speech` does."""
        try:
            yield self._take(self._first)
            while message := await _read(self._call):
                if pcm := self._take(message):
                    yield pcm
            self._check_end()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the work on the worker; nothing happens if it is done."""
        self._call.cancel()


class Client:
    """A connection to one worker or several; threads may share it.

    Args:
        *addresses: One gRPC target, such as `127.0.0.1:50051`, `unix:/run/worker.sock`, or `dns:///workers:50051` for
            all workers that the name stands for; or several IP addresses with ports. Where there are several workers,
            each call goes to the next one that is healthy: ask one worker at a time for its models and its status.
        tls: Certificates; plaintext if None. For several addresses it must have a `name`.
        token: The workers' `SONORANT_WORKER_TOKEN`; none if empty.

    Raises:
        ValueError: An address is wrong, or a file of `tls` cannot be used.
    """

    def __init__(self, *addresses: str, tls: Tls | None = None, token: str = "") -> None:
        self._channel = open_channel(_target(addresses), tls, token, _service_config(addresses))
        self._speech: speech_pb2_grpc.SpeechServiceStub = speech_pb2_grpc.SpeechServiceStub(self._channel)
        self._models: models_pb2_grpc.ModelServiceStub = models_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; open calls end."""
        self._channel.close()

    def synthesize(
        self,
        text: str,
        *,
        model: str,
        timeout_s: float | None = None,
        first_audio_timeout_s: float | None = None,
        **how: Unpack[How],
    ) -> Speech:
        """Speak; returns with the first audio.

        Args:
            text: What to say.
            model: Model id.
            timeout_s: How long all of it may take, reading included; it cuts long speech. As long as it takes if None.
            first_audio_timeout_s: How long each worker that is tried may take until the first audio, queueing and
                loading included; its own limit if None.
            **how: See `How`.

        Raises:
            grpc.RpcError: The worker refused or failed, or there is none; `code()` and `details()` say why.
            IncompleteSpeech: The stream ended before the first audio.
            ValueError: There is no such field.
        """
        return Speech(self._speech.Synthesize(_request(text, model, first_audio_timeout_s, how), timeout=timeout_s))

    def models(self, *, timeout_s: float | None = None) -> Sequence[models_pb2.Model]:
        """List the models of a worker, with their voices.

        Raises:
            grpc.RpcError: The worker cannot be reached.
        """
        return self._models.ListModels(models_pb2.ListModelsRequest(), timeout=timeout_s).models

    def load(
        self, model: str, revision: str = "", *, timeout_s: float | None = None
    ) -> Iterator[models_pb2.LoadModelResponse]:
        """Bring a model into the memory of a worker; iterate over its progress, to the end to wait for it.

        Raises:
            grpc.RpcError: It cannot be had, or the time was over; the load itself goes on then.
        """
        request = models_pb2.LoadModelRequest(name=model, revision=revision)
        return _until_dropped(self._models.LoadModel(request, timeout=timeout_s))

    def unload(self, model: str, *, timeout_s: float | None = None) -> None:
        """Take a model out of the memory of a worker.

        Raises:
            grpc.RpcError: It is in use, or the worker cannot be reached.
        """
        self._models.UnloadModel(models_pb2.UnloadModelRequest(name=model), timeout=timeout_s)

    def status(self, *, timeout_s: float | None = None) -> models_pb2.WatchStatusResponse:
        """What a worker is and has, now.

        Raises:
            grpc.RpcError: The worker cannot be reached.
        """
        return next(self.watch_status(timeout_s=timeout_s))

    def watch_status(
        self, min_interval_s: float | None = None, *, timeout_s: float | None = None
    ) -> Iterator[models_pb2.WatchStatusResponse]:
        """Watch a worker: its status now, and whenever it has changed, until the iterator is dropped.

        Args:
            min_interval_s: Least time between two of them, in seconds; 0.1 if None.
            timeout_s: How long to watch, in seconds; for ever if None.

        Raises:
            grpc.RpcError: The worker cannot be reached, or ends, or the time is over.
        """
        return _until_dropped(self._models.WatchStatus(_watch_request(min_interval_s), timeout=timeout_s))


class AsyncClient:
    """`Client` for asyncio: made in a running loop, with the same arguments, methods and errors."""

    def __init__(self, *addresses: str, tls: Tls | None = None, token: str = "") -> None:
        self._channel = open_aio_channel(_target(addresses), tls, token, _service_config(addresses))
        self._speech: speech_pb2_grpc.SpeechServiceAsyncStub = speech_pb2_grpc.SpeechServiceStub(self._channel)
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; open calls end."""
        await self._channel.close()

    async def synthesize(
        self,
        text: str,
        *,
        model: str,
        timeout_s: float | None = None,
        first_audio_timeout_s: float | None = None,
        **how: Unpack[How],
    ) -> AsyncSpeech:
        """Speak; returns with the first audio. Cancelling the task that waits for it ends the call."""
        request = _request(text, model, first_audio_timeout_s, how)
        return await AsyncSpeech.begin(self._speech.Synthesize(request, timeout=timeout_s))

    async def models(self, *, timeout_s: float | None = None) -> Sequence[models_pb2.Model]:
        """List the models of a worker, with their voices."""
        return (await self._models.ListModels(models_pb2.ListModelsRequest(), timeout=timeout_s)).models

    def load(
        self, model: str, revision: str = "", *, timeout_s: float | None = None
    ) -> AsyncIterator[models_pb2.LoadModelResponse]:
        """Bring a model into the memory of a worker; iterate over its progress, to the end to wait for it."""
        request = models_pb2.LoadModelRequest(name=model, revision=revision)
        return _until_dropped_async(self._models.LoadModel(request, timeout=timeout_s))

    async def unload(self, model: str, *, timeout_s: float | None = None) -> None:
        """Take a model out of the memory of a worker."""
        await self._models.UnloadModel(models_pb2.UnloadModelRequest(name=model), timeout=timeout_s)

    async def status(self, *, timeout_s: float | None = None) -> models_pb2.WatchStatusResponse:
        """What a worker is and has, now."""
        watching = self.watch_status(timeout_s=timeout_s)
        try:
            return await anext(watching)
        finally:
            await watching.aclose()

    def watch_status(
        self, min_interval_s: float | None = None, *, timeout_s: float | None = None
    ) -> AsyncGenerator[models_pb2.WatchStatusResponse, None]:
        """Watch a worker: its status now, and whenever it has changed, until the iterator is closed."""
        return _until_dropped_async(self._models.WatchStatus(_watch_request(min_interval_s), timeout=timeout_s))


def _target(addresses: Sequence[str]) -> str:
    """Write addresses as the one target that gRPC takes."""
    if len(addresses) == 1:
        return addresses[0]
    hosts = [_host(address) for address in addresses]
    versions = {host.version for host in hosts}
    if len(versions) != 1:
        raise ValueError(f"{', '.join(addresses) or 'no address'}: give addresses of one family, IPv4 or IPv6")
    return f"ipv{versions.pop()}:{','.join(addresses)}"


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host, _, port = address.rpartition(":")
    try:
        if not port.isdecimal():
            raise ValueError
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(
            f"{address!r}: several workers are named by IP address and port, or by one name, dns:///NAME:PORT"
        ) from None


def _service_config(addresses: Sequence[str]) -> str:
    is_one = len(addresses) == 1 and not addresses[0].startswith("dns:")
    return json.dumps({"methodConfig": [RETRIES]} if is_one else {"methodConfig": [RETRIES], **SPREAD})


def _request(text: str, model: str, first_audio_timeout_s: float | None, how: How) -> speech_pb2.SynthesizeRequest:
    fields: dict[str, Any] = dict(how)
    options = fields.pop("options", None)
    request = speech_pb2.SynthesizeRequest(input=text, model=model, **fields)
    request.options.update(options or {})
    if first_audio_timeout_s is not None:
        request.first_audio_timeout.FromMilliseconds(round(1000 * first_audio_timeout_s))
    return request


def _watch_request(min_interval_s: float | None) -> models_pb2.WatchStatusRequest:
    request = models_pb2.WatchStatusRequest()
    if min_interval_s is not None:
        request.min_interval.FromMilliseconds(round(1000 * min_interval_s))
    return request


async def _read(call: _Call) -> speech_pb2.SynthesizeResponse | None:
    message = await call.read()
    return message if isinstance(message, speech_pb2.SynthesizeResponse) else None


def _until_dropped(call: grpc._CallIterator[M]) -> Iterator[M]:
    """Iterate over a call's messages; dropping the iterator ends the call."""
    try:
        yield from call
    finally:
        call.cancel()


async def _until_dropped_async(call: grpc.aio.UnaryStreamCall[Any, M]) -> AsyncGenerator[M, None]:
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()
