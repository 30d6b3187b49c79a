"""Connections to the workers; the only module of the gateway that touches gRPC, and the only one that moves a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2

from gateway import tracing
from gateway.errors import TABLE, ApiError
from gateway.fleet.routing import Distance, choose
from protos.client import CHANNEL_OPTIONS
from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc

MOVES = 2
"""How many times a call that has not begun may move to another worker."""

POISON_MOVES = 1
"""How many times where the worker broke under it: input that kills workers must not kill them all."""

MOVING = frozenset(
    {"NO_WORKER", "DRAINING", "OVERLOADED", "ENGINE_FAILURE", "LOAD_FAILURE", "UNSUPPORTED_MODEL"}
    | {"HUB_UNAVAILABLE", "DISK_FULL", "OUT_OF_MEMORY"}
)
"""Failures that another worker may not have."""

ANSWER_S = 5.0
UNLOAD_S = 60.0

COMPLAIN_AFTER_S = 10.0
"""How long a worker may take to answer for the first time before the log says so."""

PAUSE_S = 0.2
"""Pause before the status of a worker that was lost is asked for again."""

_DISTANCES = {
    models_pb2.MODEL_STATE_READY: Distance.READY,
    models_pb2.MODEL_STATE_LOADING: Distance.ON_ITS_WAY,
    models_pb2.MODEL_STATE_DOWNLOADING: Distance.ON_ITS_WAY,
    models_pb2.MODEL_STATE_AVAILABLE: Distance.LOCAL,
    models_pb2.MODEL_STATE_FAILED: Distance.FAILED,
}

Progress = tuple[str, models_pb2.LoadModelResponse]
"""The name of the worker that loads, and what it says of it."""

log = structlog.get_logger(__name__)


class WorkerLink:
    """One worker: its channel, and its status for as long as the stream of it stands.

    Args:
        address: A gRPC target.

    Attributes:
        address: The same.
        status: What the worker last said; None while it cannot be reached.
        outstanding: Calls open there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.status: models_pb2.WatchStatusResponse | None = None
        self.outstanding = 0
        self._channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        self.speech: speech_pb2_grpc.SpeechServiceAsyncStub = speech_pb2_grpc.SpeechServiceStub(self._channel)
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(self._channel)

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

    def distance(self, model: str) -> Distance:
        """How far it is from speaking with a model."""
        return next((_DISTANCES[each.state] for each in self.models if each.name == model), Distance.REMOTE)

    def can_serve(self, model: str) -> bool:
        """Whether it serves the model and has not failed to load it."""
        return any(each.name == model and each.state != models_pb2.MODEL_STATE_FAILED for each in self.models)

    async def resolve(self, models: Sequence[models_pb2.HubModel]) -> Sequence[models_pb2.Verdict]:
        """Ask which engines of the worker would serve models of the hub.

        Raises:
            ApiError: It does not answer.
        """
        try:
            request = models_pb2.ResolveModelsRequest(models=models)
            return (await self._models.ResolveModels(request, timeout=ANSWER_S)).verdicts
        except grpc.aio.AioRpcError as error:
            raise _from_rpc(error, self.address) from error

    async def load(self, model: str) -> AsyncIterator[models_pb2.LoadModelResponse]:
        """Bring a model into the worker's memory; iterate over its progress.

        Raises:
            ApiError: It cannot be had, or the worker has ended the call before it was there.
        """
        call = self._models.LoadModel(models_pb2.LoadModelRequest(name=model))
        stage = models_pb2.LOAD_STAGE_UNSPECIFIED
        try:
            async for progress in call:
                stage = progress.stage
                self._learn(progress.model)
                yield progress
        except grpc.aio.AioRpcError as error:
            raise _from_rpc(error, self.address) from error
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
        try:
            await self._models.UnloadModel(models_pb2.UnloadModelRequest(name=model), timeout=UNLOAD_S)
        except grpc.aio.AioRpcError as error:
            raise _from_rpc(error, self.address) from error

    async def watch(self) -> None:
        """Keep `status` true, through every loss of the worker, until cancelled."""
        was_reached, complained_of = False, None
        while True:
            if not was_reached:
                complaint = asyncio.get_running_loop().call_later(
                    COMPLAIN_AFTER_S, log.warning, f"no worker has answered at {self.address} yet"
                )
            try:
                # Waits for the connection, so there is no polling; the channel's own back-off paces the attempts.
                async for status in self._models.WatchStatus(models_pb2.WatchStatusRequest(), wait_for_ready=True):
                    if not self.status or self.status.boot_id != status.boot_id:
                        log.info("worker up", worker=status.worker_id, address=self.address, device=status.device.name)
                    self.status, was_reached = status, True
                    complaint.cancel()
            except grpc.aio.AioRpcError as error:
                why = error.details()
                if self.status or why != complained_of:  # What keeps failing alike is said once.
                    name = self.status.worker_id if self.status else "?"
                    log.warning("worker down", worker=name, address=self.address, why=why)
                complained_of = why
            self.status = None
            complaint.cancel()
            await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Close the channel; calls that are open end."""
        await self._channel.close()


class Speech:
    """One utterance: a call to a worker, moved to another one while it has not begun.

    Args:
        fleet: The workers.
        request: What to say.

    Attributes:
        header: What the worker says of the stream; set by `open`.
        summary: What came of it; set when the iteration has ended well.
        num_samples: How many the iteration has given.
        marks: Where parts of the text are spoken, as far as known by now: each when it begins, and again when it ends.
        moves: How many workers failed it before it began.
    """

    header: speech_pb2.StreamHeader

    def __init__(self, fleet: Fleet, request: speech_pb2.SynthesizeRequest) -> None:
        self.summary: speech_pb2.StreamSummary | None = None
        self.num_samples = 0
        self.marks: list[speech_pb2.Mark] = []
        self.moves = 0
        self._fleet = fleet
        self._request = request
        self._link: WorkerLink | None = None
        self._call: grpc.aio.UnaryStreamCall[speech_pb2.SynthesizeRequest, speech_pb2.SynthesizeResponse] | None = None
        self._first: speech_pb2.SynthesizeResponse | None = None

    async def open(self) -> None:
        """Find a worker and wait for the first audio.

        Raises:
            ApiError: No worker could begin.
        """
        attempts = Attempts(self._fleet, self._request.model)
        while True:
            link = attempts.next()
            self._begin(link)
            try:
                self._first = await self._read()
            except grpc.aio.AioRpcError as error:
                self.cancel()
                failure = _from_rpc(error, link.address)
                attempts.note(failure)
                self.moves += 1
                continue
            if self._first is None or not self._first.HasField("header"):
                self.cancel()
                raise ApiError("ENGINE_FAILURE", f"the worker at {link.address} ended the call without audio")
            self.header = self._first.header
            return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the PCM, s16le at the header's rate.

        Raises:
            ApiError: The stream broke, lost samples, or ended without its summary.
        """
        assert self._link
        message = self._first
        try:
            while message is not None:
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
                message = await self._read()
        except grpc.aio.AioRpcError as error:
            raise _from_rpc(error, self._link.address) from error
        if not self.summary or self.summary.total_samples != self.num_samples:
            raise ApiError("ENGINE_FAILURE", f"the worker at {self._link.address} ended the stream before its end")

    @property
    def was_cut(self) -> bool:
        """Whether the model ran away in some segment, which was cut there."""
        return bool(self.summary and self.summary.finish_reason == speech_pb2.FINISH_REASON_LENGTH)

    def cancel(self) -> None:
        """End the call if it has not ended, so that nobody works on it any more."""
        if self._call:
            self._call.cancel()
            self._call = None
        if self._link:
            self._link.outstanding -= 1
            self._link = None
            self._fleet.changed.set()

    def _begin(self, link: WorkerLink) -> None:
        self._link = link
        link.outstanding += 1
        speak = link.speech.Synthesize
        self._call = tracing.attempt(lambda more: speak(self._request, metadata=more), link.address, self.moves)

    async def _read(self) -> speech_pb2.SynthesizeResponse | None:
        call = self._call
        try:
            message = await call.read() if call else None
        finally:
            if not self._call:  # Another task has cancelled it, which is neither a failure nor the end.
                raise asyncio.CancelledError
        return message if isinstance(message, speech_pb2.SynthesizeResponse) else None


class Fleet:
    """All workers.

    Args:
        addresses: Their gRPC targets.

    Attributes:
        changed: Set when a call ends.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.changed = asyncio.Event()
        self._addresses = addresses
        self._links: list[WorkerLink] = []
        self._watches: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[WorkerLink]:
        return iter(self._links)

    async def start(self) -> None:
        """Connect; returns at once, the workers come when they come."""
        self._links = [WorkerLink(address) for address in self._addresses]
        self._watches = [asyncio.create_task(link.watch()) for link in self._links]

    async def stop(self) -> None:
        """Close every connection."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links))

    @property
    def outstanding(self) -> int:
        """Calls open on all workers."""
        return sum(link.outstanding for link in self._links)

    async def idle(self) -> None:
        """Wait until no call is open."""
        while self.outstanding:
            self.changed.clear()
            await self.changed.wait()

    async def load(self, model: str, worker_id: str = "") -> AsyncIterator[Progress]:
        """Bring a model into the memory of some worker, or of the one of that name; iterate over its progress.

        Raises:
            ApiError: It cannot be had.
        """
        attempts = Attempts(self, model, worker_id)
        has_begun = False
        while True:
            link = attempts.next()
            name = link.status.worker_id if link.status else link.address
            try:
                async for progress in link.load(model):
                    has_begun = True
                    yield name, progress
            except ApiError as failure:
                if has_begun:
                    raise
                attempts.note(failure)
            else:
                return

    def choose(self, model: str, worker_id: str = "", tried: Collection[str] = ()) -> WorkerLink:
        """Pick the worker for a model, or the one of that name.

        Raises:
            ApiError: There is none, or it cannot be reached.
        """
        here = [link.status.worker_id for link in self if link.status]
        if worker_id and worker_id not in here:
            raise ApiError("NOT_FOUND", f"there is no worker {worker_id!r}; there are {', '.join(here) or 'none'}")
        named = [link for link in self if not worker_id or (link.status and link.status.worker_id == worker_id)]
        link = choose(named, model, tried)
        if not link:
            which = f"the worker {worker_id!r}" if worker_id else "no worker"
            raise ApiError("NO_WORKER", f"{which} can{'not' if worker_id else ''} be reached", retry_after_s=1.0)
        return link

    def speech(self, request: speech_pb2.SynthesizeRequest) -> Speech:
        """Prepare an utterance; `Speech.open` begins it, `Speech.cancel` must end it."""
        return Speech(self, request)


class Attempts:
    """The workers that a call is tried on until it begins, and the one rule by which it moves.

    Args:
        fleet: The workers.
        model: What it is to speak with, or to load.
        worker_id: The only worker that will do, if one is named.
    """

    def __init__(self, fleet: Fleet, model: str, worker_id: str = "") -> None:
        self._fleet = fleet
        self._model = model
        self._worker_id = worker_id
        self._tried: list[str] = []
        self._moves_left = MOVES
        self._was_connected = False
        self._failure: ApiError | None = None
        self._last: ApiError | None = None

    def next(self) -> WorkerLink:
        """Pick the next worker.

        Raises:
            ApiError: There is none left; the first failure that tells more than that an engine is missing.
        """
        try:
            link = self._fleet.choose(self._model, self._worker_id, self._tried)
        except ApiError as nobody:
            raise self._failure or nobody from None
        if self._tried:
            log.warning("call moves", model=self._model, away_from=self._tried[-1], why=str(self._last))
        self._tried.append(link.address)
        self._was_connected = link.is_connected
        return link

    def note(self, failure: ApiError) -> None:
        """Note why the worker has failed.

        Raises:
            ApiError: The call may not move.
        """
        self._last = failure
        if failure.reason not in MOVING:
            raise failure
        if not self._failure or self._failure.reason == "UNSUPPORTED_MODEL":
            self._failure = failure
        if failure.reason == "UNSUPPORTED_MODEL":  # That costs nothing, and the next one may have the engine.
            return
        if failure.reason == "ENGINE_FAILURE" or (failure.reason == "NO_WORKER" and self._was_connected):
            self._moves_left = min(self._moves_left, POISON_MOVES)
        if not self._moves_left:
            raise self._failure
        self._moves_left -= 1


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
