"""The connection to a worker, and calls over it; the only module of the gateway that touches gRPC. Moves no call."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2

from gateway import tracing
from gateway.errors import TABLE, ApiError
from gateway.fleet.routing import Distance
from protos.channel import open_aio_channel
from protos.tls import Tls
from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc

ANSWER_S = 5.0
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
UNLOAD_S = 60.0

COMPLAIN_AFTER_S = 10.0
"""How long a worker may not be reached before the log says why, and how often that is looked at."""

BUSY_WAIT_S = 0.1
"""A worker at which a call would have to wait that long cannot keep up with those that it has."""

SUSPECT_S = 15.0
"""How long a worker that has let a caller wait in vain comes last; then the next caller finds out."""

PAUSE_S = 0.2
"""Pause before the status of a worker that was lost is asked for again."""

_DISTANCES = {
    models_pb2.MODEL_STATE_READY: Distance.READY,
    models_pb2.MODEL_STATE_LOADING: Distance.ON_ITS_WAY,
    models_pb2.MODEL_STATE_DOWNLOADING: Distance.ON_ITS_WAY,
    models_pb2.MODEL_STATE_AVAILABLE: Distance.LOCAL,
    models_pb2.MODEL_STATE_FAILED: Distance.FAILED,
}

log = structlog.get_logger(__name__)


class WorkerLink:
    """One worker: its channel, and its status for as long as the stream of it stands.

    Args:
        address: A gRPC target.
        on_change: Called when a call ends.
        tls: Certificates; plaintext if None.
        token: What workers ask for; none if empty.

    Attributes:
        address: The same.
        status: What the worker last said; None while it cannot be reached.
        trouble: Why it cannot be reached; empty if it can, or if nobody knows yet.
        calls: Calls open there, by model.
        rpcs: What else is open there.
        suspected_until_s: Until when it comes last, on a monotonic clock, since its device seems to hang.
    """

    def __init__(
        self, address: str, on_change: Callable[[], None] = lambda: None, tls: Tls | None = None, token: str = ""
    ) -> None:
        self.address = address
        self.status: models_pb2.WatchStatusResponse | None = None
        self.trouble = ""
        self.calls: Counter[str] = Counter()
        self.rpcs = 0
        self.suspected_until_s = 0.0
        self._worker_id = ""
        self._others = 0
        self._on_change = on_change
        self._channel = open_aio_channel(address, tls, token)
        self._speech: speech_pb2_grpc.SpeechServiceAsyncStub = speech_pb2_grpc.SpeechServiceStub(self._channel)
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(self._channel)

    @property
    def worker_id(self) -> str:
        """Name of the worker, as it said last; its address if it never has been reached."""
        return self._worker_id or self.address

    @property
    def is_up(self) -> bool:
        """Whether its status stream stands and it takes new calls."""
        return self.status is not None and not self.status.draining

    @property
    def is_connected(self) -> bool:
        """Whether a call made now reaches the worker, as far as this side can know."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    @property
    def models(self) -> Sequence[models_pb2.Model]:
        """Its models; none while it cannot be reached."""
        return self.status.models if self.status else ()

    @property
    def is_starting(self) -> bool:
        """Whether it still loads what it loads at start."""
        return self.status is not None and self.status.starting

    @property
    def is_suspect(self) -> bool:
        """Whether it has let a caller wait in vain, and nobody has heard it speak since."""
        return time.monotonic() < self.suspected_until_s

    @property
    def is_idle(self) -> bool:
        """Whether nothing of ours is open there."""
        return not self.outstanding and not self.rpcs

    @property
    def outstanding(self) -> int:
        """Calls open there, of this gateway."""
        return self.calls.total()

    @property
    def num_utterances(self) -> int:
        """Utterances there: our own, which are never counted late, and those of others when it last told."""
        return self.outstanding + self._others

    @property
    def is_full(self) -> bool:
        """Whether it has as many utterances as it takes."""
        return self.status is not None and self.num_utterances >= self.status.capacity

    @property
    def is_busy(self) -> bool:
        """Whether it cannot keep up with the calls that it has."""
        return self.status is not None and (
            self.is_full
            or self.status.queued > 0
            or self.status.expected_wait.ToTimedelta().total_seconds() >= BUSY_WAIT_S
        )

    @property
    def crowd(self) -> int:
        """Models that are in its memory, on their way there, or asked for."""
        held = {model.name for model in self.models if _distance(model) <= Distance.ON_ITS_WAY}
        return len(held | self.calls.keys())

    @property
    def room_bytes(self) -> int:
        """What models may still take of its memory, in bytes; 0 where it does not tell."""
        if not self.status or not self.status.memory_budget_bytes:
            return 0
        return max(0, self.status.memory_budget_bytes - sum(model.memory_bytes for model in self.models))

    def suspect(self) -> None:
        """Note that it has let a caller wait in vain."""
        if not self.is_suspect:
            log.warning("worker seems to hang; it comes last", worker=self.worker_id, address=self.address)
        self.suspected_until_s = time.monotonic() + SUSPECT_S

    def trust(self) -> None:
        """Note that it speaks."""
        self.suspected_until_s = 0.0

    def distance(self, model: str) -> Distance:
        """How far it is from speaking with a model."""
        return next((_distance(each) for each in self.models if each.name == model), Distance.REMOTE)

    def can_serve(self, model: str) -> bool:
        """Whether it serves the model and has not failed to load it."""
        return any(each.name == model and each.state != models_pb2.MODEL_STATE_FAILED for each in self.models)

    def synthesize(self, request: speech_pb2.SynthesizeRequest, moves: int = 0) -> Call:
        """Begin a call; `Call.end` must end it.

        Args:
            request: What to say.
            moves: How many workers have failed it before.
        """
        self.calls[request.model] += 1
        speak = self._speech.Synthesize
        call = tracing.attempt(lambda metadata: speak(request, metadata=metadata), self.address, moves)
        return Call(call, self, lambda: self._ended(request.model))

    def _ended(self, model: str) -> None:
        self.calls[model] -= 1
        self.calls += Counter()  # That leaves out what is zero.
        self._on_change()

    async def resolve(self, models: Sequence[models_pb2.HubModel]) -> Sequence[models_pb2.Verdict]:
        """Ask which engines of the worker would serve models of the hub.

        Raises:
            ApiError: It does not answer.
        """
        with self._counted():
            request = models_pb2.ResolveModelsRequest(models=models)
            return (await self._models.ResolveModels(request, timeout=ANSWER_S)).verdicts

    async def load(self, model: str) -> AsyncIterator[models_pb2.LoadModelResponse]:
        """Bring a model into the worker's memory; iterate over its progress.

        Raises:
            ApiError: It cannot be had, or the worker has ended the call before it was there.
        """
        call = self._models.LoadModel(models_pb2.LoadModelRequest(name=model))
        stage = models_pb2.LOAD_STAGE_UNSPECIFIED
        with self._counted():
            try:
                async for progress in call:
                    stage = progress.stage
                    self._learn(progress.model)
                    yield progress
            finally:
                call.cancel()
        if stage != models_pb2.LOAD_STAGE_READY:
            raise ApiError("ENGINE_FAILURE", f"the worker at {self.address} ended the load before its end")

    def _learn(self, model: models_pb2.Model) -> None:
        """Know at once what the next status would tell: whoever loads a model may ask for it the moment it is there."""
        if self.status:
            others = [each for each in self.status.models if each.name != model.name]
            del self.status.models[:]
            self.status.models.extend([*others, model])

    async def unload(self, model: str) -> None:
        """Take a model out of the worker's memory.

        Raises:
            ApiError: It is in use, or the worker does not answer.
        """
        with self._counted():
            await self._models.UnloadModel(models_pb2.UnloadModelRequest(name=model), timeout=UNLOAD_S)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count an rpc that is no speech, and read why it has failed."""
        self.rpcs += 1
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise _from_rpc(error, self.address) from error
        finally:
            self.rpcs -= 1
            self._on_change()

    async def watch(self) -> None:
        """Keep `status` true, through every loss of the worker, until cancelled."""
        complained_of: str | None = None
        while True:
            asking = asyncio.create_task(self._ask_why_not())
            try:
                # Waits for the connection, so there is no polling; the channel's own back-off paces the attempts.
                async for status in self._models.WatchStatus(models_pb2.WatchStatusRequest(), wait_for_ready=True):
                    if not self.status or self.status.boot_id != status.boot_id:
                        log.info("worker up", worker=status.worker_id, address=self.address, device=status.device.name)
                    asking.cancel()
                    self.status, self.trouble, complained_of = status, "", None
                    self._worker_id = status.worker_id
                    self._others = max(0, status.active + status.queued - self.outstanding)
            except grpc.aio.AioRpcError as error:
                self.trouble = error.details() or error.code().name
                if self.status or self.trouble != complained_of:  # What keeps failing alike is said once.
                    log.warning("worker down", worker=self.worker_id, address=self.address, why=self.trouble)
                complained_of = self.trouble
            finally:
                asking.cancel()
                self.status = None
            await asyncio.sleep(PAUSE_S)

    async def _ask_why_not(self) -> None:
        """Find out why the worker is not reached: a call that waits for the connection is never told, and waits on."""
        # It needs no token, and its messages are empty.
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(HEALTH_CHECK)
        said = ""
        while True:
            await asyncio.sleep(COMPLAIN_AFTER_S)
            try:
                await check(b"", timeout=ANSWER_S)
            except grpc.aio.AioRpcError as error:
                self.trouble = error.details() or error.code().name
                if self.trouble != said:
                    log.warning("worker cannot be reached", address=self.address, why=self.trouble)
                said = self.trouble

    async def close(self) -> None:
        """Close the channel; calls that are open end."""
        await self._channel.close()


class Call:
    """One call of `Synthesize`.

    Args:
        call: What gRPC has of it.
        link: The worker.
        on_end: Called once, when it has ended.
    """

    def __init__(
        self,
        call: grpc.aio.UnaryStreamCall[speech_pb2.SynthesizeRequest, speech_pb2.SynthesizeResponse],
        link: WorkerLink,
        on_end: Callable[[], None],
    ) -> None:
        self._call = call
        self._link = link
        self._on_end: Callable[[], None] | None = on_end

    async def read(self, patience_s: float) -> speech_pb2.SynthesizeResponse | None:
        """Read the next message; None at the end of the stream.

        Args:
            patience_s: How long the worker may be silent, in seconds.

        Raises:
            ApiError: The call has failed, or was silent for too long: then the worker's device seems to hang.
            CancelledError: Another task has ended it, which is neither a failure nor the end.
        """
        try:
            async with asyncio.timeout(patience_s):
                message = await self._call.read()
        except TimeoutError:
            self._link.suspect()
            tracing.note_silent(self._call)
            silent = f"the worker at {self._link.address} was silent for {patience_s:.0f} s"
            raise ApiError("ENGINE_FAILURE", silent) from None
        except grpc.aio.AioRpcError as error:
            failure = _from_rpc(error, self._link.address)
            if failure.reason == "FIRST_AUDIO_TIMEOUT":
                self._link.suspect()
            raise failure from error
        finally:
            if not self._on_end:
                raise asyncio.CancelledError
        self._link.trust()
        return message if isinstance(message, speech_pb2.SynthesizeResponse) else None

    def end(self) -> None:
        """End it, if it has not ended, so that nobody works on it any more."""
        if self._on_end:
            self._call.cancel()
            on_end, self._on_end = self._on_end, None
            on_end()


def _distance(model: models_pb2.Model) -> Distance:
    """How far a worker is from speaking with a model that it tells of; a newer one may know states that we do not."""
    return _DISTANCES.get(model.state, Distance.REMOTE)


def _from_rpc(error: grpc.aio.AioRpcError, worker: str) -> ApiError:
    """Read what a worker said of a failed call.

    Args:
        error: What the call raised.
        worker: Address of the worker, for the message where it said nothing.
    """
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status.ParseFromString(value)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    if info.reason in TABLE:
        retry_after_s = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
        return ApiError(info.reason, status.message, param=info.metadata.get("field"), retry_after_s=retry_after_s)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return ApiError("NO_WORKER", f"the worker at {worker} cannot be reached", retry_after_s=1.0)
    return ApiError("ENGINE_FAILURE", f"the worker at {worker} failed: {error.code().name}: {error.details()}")
