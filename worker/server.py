"""Life of a worker process: start, preload, serve, drain, end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc
from worker import device, guard, tracing
from worker.admission import Admission
from worker.changes import Changes
from worker.engines.registry import Registry
from worker.errors import WorkerError
from worker.metrics import Metrics
from worker.scheduler import Scheduler
from worker.servicer import ModelServicer, SpeechServicer
from worker.settings import Settings, WrongSetting, amount_bytes
from worker.status import Status
from worker.store.disk import Disk
from worker.store.hub import Hub
from worker.store.residency import Residency

SERVICES = tuple(
    service.full_name
    for file in (speech_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)

# Engines hold the interpreter lock in Python stretches (text to phonemes); at the default of 5 ms every message of
# another stream, the first one too, would wait that long for the event loop to get a turn.
SWITCH_INTERVAL_S = 0.0005

NICENESS = 5
"""How much the threads of a CPU stand back behind the event loops, which send what these make and refuse what is too
much: else, where all cores are busy, everybody would wait for a few milliseconds of their work."""

BATCHED_STARTS = 32
"""Utterances that begin together where the device works in batches."""

CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),  # A second worker at the same address must fail, not take half the calls.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),  # Gateways ping each second to find frozen workers.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

log = structlog.get_logger(__name__)


async def serve(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Raises:
        WrongSetting: A setting cannot be met: no such device, engine or model, or an address that is taken.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _setting("ENGINES", ",".join(settings.engines)):
        registry = Registry.installed(settings.engines or None)
    with _setting("DEVICE", settings.device):
        where = device.find(settings.device)
    changes = Changes()
    metrics = Metrics()
    lanes = (settings.threads or where.lanes) if where.id == "cpu" else where.lanes
    scheduler = Scheduler(
        admission=Admission(lanes=lanes, capacity=settings.capacity, queue_s=settings.queue_s, lead_s=settings.lead_s),
        changes=changes,
        lanes=lanes,
        starts=1 if where.id == "cpu" else BATCHED_STARTS,
        niceness=NICENESS if where.id == "cpu" else 0,
        use_threads=where.use_threads,
        observe=metrics.note_run,
    )
    total, _ = where.memory()
    hub = Hub()
    disk = Disk(
        hub,
        registry,
        settings.cache_dir,
        budget=amount_bytes(settings.disk_budget, hub.space()[0]),
        trusted=settings.trust_remote_code,
        vocoder_dtype=settings.vocoder_dtype,
    )
    models = Residency(
        registry,
        disk,
        where,
        changes,
        budget=amount_bytes(settings.memory_budget, total or sys.maxsize),  # Some devices do not tell.
        idle_ttl_s=settings.idle_ttl_s,
        pinned=settings.stays,
        allow=settings.allow_models,
        deny=settings.deny_models,
        # Less than a caller waits, so that the caller is told that there is no room, and not that it takes long.
        patience_s=0.8 * settings.first_audio_timeout_s,
        on_load=metrics.note_load,
        on_eviction=metrics.note_eviction,
    )
    with _setting("DEFAULT_MODEL" if settings.preload is None else "PRELOAD", ",".join(settings.preloaded)):
        preloaded = [models.find(name) for name in settings.preloaded]
    with _setting("PINNED", ",".join(settings.stays)):
        for name in settings.stays:
            models.find(name)
    status = Status(settings.worker_id, where, registry, models, scheduler, changes)

    token = settings.worker_token.get_secret_value()
    server = grpc.aio.server(interceptors=[guard.TokenGuard(token)] if token else [], options=CHANNEL_OPTIONS)
    speech = SpeechServicer(settings.worker_id, models, scheduler, settings.first_audio_timeout_s, metrics)
    speech_pb2_grpc.add_SpeechServiceServicer_to_server(speech, server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(status), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    for service in ("", *SERVICES):
        await checks.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        if settings.tls:
            server.add_secure_port(settings.listen, guard.server_credentials(settings.tls))
        else:
            server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise WrongSetting(f"SONORANT_LISTEN={settings.listen}: cannot listen there; is the port taken?") from error
    if place := settings.metrics_place:
        try:
            metrics.serve(*place, status)
        except OSError as error:
            raise WrongSetting(
                f"SONORANT_METRICS_LISTEN={settings.metrics_listen}: cannot listen there: {error.strerror or error}"
            ) from error

    ending = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, ending.set)
    scheduler.start()
    await server.start()
    log.info(
        "worker listens", address=settings.listen, device=where.id, name=where.name, engines=list(registry.engines)
    )

    for warning in guard.warnings(settings.listen, settings.tls, token):
        log.warning(warning)

    async def preload() -> None:
        await models.look_on_disk()
        # Already listening: whoever watches the status sees the models come.
        for resident in preloaded:
            try:
                await models.load(resident)
            except WorkerError as error:
                log.error("model not loaded at start", model=resident.name, reason=error.message)
        status.starting = False
        changes.notify()
        for service in ("", *SERVICES):
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)

    threading.Thread(target=hub.sweep, name="sweep", daemon=True).start()
    background = [asyncio.create_task(preload()), asyncio.create_task(models.watch_idle())]
    await ending.wait()
    for task in background:
        task.cancel()
    log.info("worker drains", streams=scheduler.active + scheduler.queued, grace_s=settings.grace_s)
    scheduler.draining = True
    changes.notify()
    await checks.enter_graceful_shutdown()
    try:
        async with asyncio.timeout(settings.grace_s):
            seen = -1
            while any(resident.users for resident in models):
                seen = await changes.after(seen)
    except TimeoutError:
        log.warning("grace is over; streams are cut", streams=scheduler.active + scheduler.queued)
    await server.stop(0.1)
    scheduler.stop(1.0)
    tracing.end()
    log.info("worker ended")
    os._exit(0)  # A step, a load or a download that hangs cannot be stopped, and would keep the process from ending.


@contextmanager
def _setting(name: str, value: str) -> Iterator[None]:
    """Name the setting that a failure is due to."""
    try:
        yield
    except (ValueError, WorkerError) as error:
        raise WrongSetting(f"SONORANT_{name}={value}: {error}") from error
