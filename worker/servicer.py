"""The services: check the request, call the domain, write what it makes (`wire.py`) or why it failed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import grpc
import structlog

from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc
from worker import tracing
from worker.engines.base import HubModel, Model, Settings
from worker.errors import (
    EngineFailure,
    FirstAudioTimeout,
    InvalidRequest,
    UnsupportedModel,
    WorkerError,
)
from worker.metrics import Call, Metrics
from worker.requests import check, required, seconds_of, settings_of
from worker.rows import Row, Timeline, Work
from worker.scheduler import Scheduler
from worker.status import Status
from worker.store.residency import Residency, Resident
from worker.synthesis import synthesize
from worker.wire import (
    LOAD_STAGES,
    StreamWriter,
    duration,
    error_message,
    model_message,
    status_message,
    summary_message,
    trailing_metadata,
)

MAX_RESOLVED = 1000

log = structlog.get_logger(__name__)


class SpeechServicer(speech_pb2_grpc.SpeechServiceServicer):
    """`SpeechService` over a residency and a scheduler.

    Args:
        worker_id: Name of this worker.
        models: The models.
        scheduler: The device.
        first_audio_timeout_s: How long to wait for the first audio where the request does not say.
        metrics: Told what comes of every call.
    """

    def __init__(
        self,
        worker_id: str,
        models: Residency,
        scheduler: Scheduler,
        first_audio_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._worker_id = worker_id
        self._models = models
        self._scheduler = scheduler
        self._first_audio_timeout_s = first_audio_timeout_s
        self._metrics = metrics

    # The generated types know only generators; `write` is what gets an error at the line where the call is cancelled.
    async def Synthesize(  # type: ignore[override]  # noqa: N802
        self, request: speech_pb2.SynthesizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Speak one utterance; see the contract."""
        arrived_at = time.monotonic()
        call = Call()
        traced = tracing.begin(context.invocation_metadata() or (), request) if tracing.is_on() else None
        async with _reporting(context, partial(self._note_end, call, traced)):
            check(request)
            call.resident = resident = self._models.find(required(request.model, "model"), request.model_revision)
            timeout_s = self._first_audio_timeout_s
            if request.HasField("first_audio_timeout"):
                timeout_s = seconds_of(request.first_audio_timeout, "first_audio_timeout")
            may_load = request.load_policy != speech_pb2.LOAD_POLICY_IF_LOADED
            async with _first_audio_within(timeout_s, resident) as waiting:
                with traced.waiting("load") if traced and not resident.model else nullcontext():
                    model = await self._models.acquire(resident, may_load)
                loaded_at = time.monotonic()
                row, settings = await self._submit(request, resident, model, traced.timeline if traced else None)
                call.row = row
                writer = StreamWriter(model.card.sample_rate_hz, request.encoding)
                with row:
                    async for block in row:
                        for message in writer.messages(block):
                            if not message.audio.first_sample:
                                waiting.reschedule(None)
                                call.first_audio_s = time.monotonic() - arrived_at
                                header = self._header(request, resident, settings, writer.format)
                                header.queue_time.CopyFrom(duration(row.queue_s))
                                header.load_time.CopyFrom(duration(loaded_at - arrived_at))
                                message.header.CopyFrom(header)
                                if traced:
                                    traced.first_audio(call.first_audio_s)
                            await context.write(message)
                            row.first_audio_sent()
                        if traced:
                            traced.stages()
                    summary = summary_message(writer, row, call.first_audio_s)
                    await context.write(speech_pb2.SynthesizeResponse(marks=writer.last_marks, summary=summary))
                    log.log(
                        logging.WARNING if writer.is_cut else logging.DEBUG,
                        "spoken, but cut where the model ran away" if writer.is_cut else "spoken",
                        request_id=request.request_id,
                        model=resident.name,
                        voice=settings.speaker,
                        audio_s=round(row.made_s, 3),
                        ttfa_ms=round(1000 * call.first_audio_s, 1),
                        queue_ms=round(1000 * row.queue_s, 1),
                        busy_ms=round(1000 * row.busy_s, 1),
                        rtf=round(row.rtf, 4),
                        underruns=row.playback.underruns,
                        batch=round(row.batch_size, 1),
                    )

    async def _submit(
        self,
        request: speech_pb2.SynthesizeRequest,
        resident: Resident,
        model: Model,
        timeline: Timeline | None = None,
    ) -> tuple[Row, Settings]:
        """Queue an utterance; the model is held until the device has let go of it."""
        release = partial(self._models.release, resident)
        try:
            settings = settings_of(request, resident.name, model)
            await self._models.prepare(resident, settings.voice)
            work = Work(
                synthesize(
                    model,
                    request.input,
                    settings,
                    request.segments_before,
                    timeline.begin if timeline else lambda _: None,
                ),
                model.card.sample_rate_hz,
                model=resident.name,
                num_chars=len(request.input),
                is_staged=model.is_staged,
                slots=model.slots,
                tenant=request.tenant,
                is_live=request.delivery != speech_pb2.DELIVERY_WHOLE,
                goes_on=request.segments_before > 0,
                timeline=timeline,
            )
            return self._scheduler.submit(work, release), settings
        except BaseException:
            release()
            raise

    def _note_end(self, call: Call, traced: tracing.Traced | None, code: str, error: WorkerError | None) -> None:
        reason = error.reason if error else ""
        self._metrics.note_end(call, code, reason)
        if traced:
            traced.end(call, code, grpc.StatusCode[code].value[0], reason, error.message if error else "")

    def _header(
        self,
        request: speech_pb2.SynthesizeRequest,
        resident: Resident,
        settings: Settings,
        form: speech_pb2.AudioFormat,
    ) -> speech_pb2.StreamHeader:
        return speech_pb2.StreamHeader(
            request_id=request.request_id,
            worker_id=self._worker_id,
            model=resident.name,
            model_revision=resident.revision,
            voice=settings.speaker,
            format=form,
            speed=settings.speed,
            ignored=["instructions"] if request.instructions and not settings.instructions else [],
        )


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """`ModelService` over the worker's status.

    Args:
        status: What the worker is and has.
    """

    def __init__(self, status: Status) -> None:
        self._status = status

    async def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> models_pb2.ListModelsResponse:
        """List what the worker has; see the contract."""
        return models_pb2.ListModelsResponse(models=map(model_message, self._status.models))

    async def ResolveModels(  # noqa: N802
        self, request: models_pb2.ResolveModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> models_pb2.ResolveModelsResponse:
        """Judge models of a hub; see the contract."""
        async with _reporting(context):
            if len(request.models) > MAX_RESOLVED:
                raise InvalidRequest(
                    f"`models` has {len(request.models)} entries; at most {MAX_RESOLVED} are taken", field="models"
                )
            verdicts = [self._verdict(model) for model in request.models]
            return models_pb2.ResolveModelsResponse(verdicts=verdicts)

    def _verdict(self, asked: models_pb2.HubModel) -> models_pb2.Verdict:
        model = HubModel(
            asked.name,
            library=asked.library,
            tags=tuple(asked.tags),
            model_type=asked.model_type,
            architectures=tuple(asked.architectures),
            files=tuple(asked.files),
        )
        if refusal := self._status.models.refusal(asked.name):
            return models_pb2.Verdict(name=asked.name, reason=refusal)
        try:
            engine = self._status.registry.resolve(model)
        except UnsupportedModel as refused:
            return models_pb2.Verdict(name=asked.name, reason=refused.message)
        return models_pb2.Verdict(name=asked.name, engine=engine.name, files=engine.files(model))

    async def LoadModel(  # type: ignore[override]  # noqa: N802
        self, request: models_pb2.LoadModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Load a model and stream the progress; see the contract."""
        async with _reporting(context):
            resident = self._status.models.find(required(request.name, "name"), request.revision)
            loading = asyncio.ensure_future(self._status.models.load(resident, at_once=True))
            told: object = None
            while True:
                seen = self._status.changes.count
                now = (resident.stage, resident.progress.done, resident.progress.total)
                if resident.stage in LOAD_STAGES and resident.engine and now != told:
                    told = now
                    await context.write(
                        models_pb2.LoadModelResponse(stage=LOAD_STAGES[resident.stage], model=model_message(resident))
                    )
                if loading.done():
                    break
                changed = asyncio.ensure_future(self._status.changes.after(seen))
                try:
                    await asyncio.wait({loading, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
            await loading

    async def UnloadModel(  # noqa: N802
        self, request: models_pb2.UnloadModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> models_pb2.UnloadModelResponse:
        """Take a model out of memory; see the contract."""
        async with _reporting(context):
            await self._status.models.unload(self._status.models.find(required(request.name, "name")))
            return models_pb2.UnloadModelResponse()

    async def WatchStatus(  # type: ignore[override]  # noqa: N802
        self, request: models_pb2.WatchStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Stream the worker's status; see the contract."""
        async with _reporting(context):
            pause_s = 0.1
            if request.HasField("min_interval"):
                pause_s = seconds_of(request.min_interval, "min_interval")
            while True:
                seen = self._status.changes.count
                await context.write(status_message(self._status, seen + 1))
                await asyncio.sleep(pause_s)
                await self._status.changes.after(seen)


@asynccontextmanager
async def _reporting(
    context: grpc.aio.ServicerContext[Any, Any],
    on_end: Callable[[str, WorkerError | None], None] = lambda *_: None,
) -> AsyncIterator[None]:
    """End the call with the error's code and details, as `errors.proto` says.

    Args:
        context: Of the call.
        on_end: Told the name of the code, and the error if there is one.
    """
    code: str = "CANCELLED"
    failure: WorkerError | None = None
    try:
        try:
            yield
            code = "OK"
        except (WorkerError, grpc.aio.AbortError):
            raise
        except grpc.aio.InternalError as error:
            # What gRPC says of a message to a caller that has gone, where it is not quick enough to cancel this task.
            raise asyncio.CancelledError from error
        except Exception as error:
            log.exception("call failed")
            raise EngineFailure(f"the worker made a mistake: {type(error).__name__}: {error}") from error
    except WorkerError as error:
        code, failure = error.code, error
        status = error_message(error, grpc.StatusCode[code].value[0])
        await context.abort(grpc.StatusCode[code], status.message, trailing_metadata(error, status))
    finally:
        on_end(code, failure)


@asynccontextmanager
async def _first_audio_within(seconds: float, resident: Resident) -> AsyncIterator[asyncio.Timeout]:
    """Bound the wait for the first audio, loading included; the caller lifts the bound once it has come."""
    try:
        async with asyncio.timeout(seconds) as waiting:
            yield waiting
    except TimeoutError as error:
        if not resident.model or resident.preparing:
            raise resident.not_ready() from error
        raise FirstAudioTimeout(f"no audio came within {seconds:g} s") from error
