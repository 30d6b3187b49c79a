"""What Prometheus is told of a worker: what came of calls and runs, and how the worker stands when it is asked.

It counts what others tell it, and decides nothing. Models have series only if they exist: what a caller makes up has
none of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.rows import Row
from worker.status import Status
from worker.store.residency import Resident, Stage

FIRST_AUDIO_S = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
LOADS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
QUEUES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
RUNS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
FACTORS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
BATCHES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0)

ANSWER_S = 5.0
"""How long the event loop may take to say how the worker stands, in seconds; then the scrape fails."""

# When a series began is in no query of ours, and would be told for each of them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # The library says no types here.


@dataclass(slots=True)
class Call:
    """A call while it is served: what is known of it by now.

    Attributes:
        resident: The model.
        row: The utterance.
        first_audio_s: From the call's arrival to its first audio, in seconds; 0 before that.
    """

    resident: Resident | None = None
    row: Row | None = None
    first_audio_s: float = 0.0


class Metrics:
    """The counts of one worker."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "requests", "Calls of Synthesize that have ended, by gRPC code and ErrorReason.", "model", "code", "reason"
        )
        self._first_audio = self._histogram(
            "time_to_first_audio_seconds",
            "From a call's arrival to its first audio, loading included.",
            FIRST_AUDIO_S,
            *("model", "delivery"),
        )
        self._queue = self._histogram(
            "queue_seconds",
            "From a call's arrival until the engine took it up, loading excluded.",
            QUEUES_S,
            *("model", "delivery"),
        )
        self._factor = self._histogram(
            "real_time_factor", "Work for each second of audio, of utterances spoken to their end.", FACTORS, "model"
        )
        self._audio = self._counter("audio_seconds", "Audio made.", "model")
        self._underruns = self._counter("underruns", "Times that a listener at real time has run dry.", "model")
        self._underrun = self._counter("underrun_seconds", "For how long listeners were dry.", "model")
        self._stage = self._histogram("stage_seconds", "Time of a run of a stage.", RUNS_S, "model", "stage")
        self._batch = self._histogram("stage_batch_size", "Utterances in a run of a stage.", BATCHES, "model", "stage")
        self._loads = self._histogram(
            "load_seconds", "Time of loads that have succeeded, download and warm-up included.", LOADS_S, "model"
        )
        self._load_failures = self._counter(
            "load_failures", "Loads that have failed, by ErrorReason.", "model", "reason"
        )
        self._evictions = self._counter("evictions", "Models that have left memory, by why.", "model", "reason")

    def note_run(self, model: str, stage: str, rows: int, seconds: float) -> None:
        """Note a run of a stage; called after every run on the threads of the device, so it must cost nothing."""
        self._stage.labels(model, stage).observe(seconds)
        self._batch.labels(model, stage).observe(rows)

    def note_end(self, call: Call, code: str, reason: str) -> None:
        """Note a call that has ended.

        Args:
            call: What is known of it.
            code: Name of its gRPC code.
            reason: Why it failed, as the contract names it; empty if it did not.
        """
        # Until an engine is known, nobody knows whether there is such a model.
        model = call.resident.name if call.resident and call.resident.engine else ""
        self._requests.labels(model, code, reason).inc()
        row = call.row
        if not row or not row.is_begun:
            return
        delivery = "live" if row.work.is_live else "whole"
        self._queue.labels(model, delivery).observe(row.queue_s)
        if call.first_audio_s:
            self._first_audio.labels(model, delivery).observe(call.first_audio_s)
        self._audio.labels(model).inc(row.made_s)
        self._underruns.labels(model).inc(row.playback.underruns)
        self._underrun.labels(model).inc(row.playback.underrun_s)
        if code == "OK":
            self._factor.labels(model).observe(row.rtf)

    def note_load(self, resident: Resident, seconds: float, reason: str) -> None:
        """Note a load that is over.

        Args:
            resident: The model.
            seconds: How long it took.
            reason: Why it failed, as the contract names it; empty if it did not.
        """
        if reason:
            self._load_failures.labels(resident.name if resident.engine else "", reason).inc()
        else:
            self._loads.labels(resident.name).observe(seconds)

    def note_eviction(self, model: str, why: str) -> None:
        """Note a model that leaves memory."""
        self._evictions.labels(model, why).inc()

    def serve(self, host: str, port: int, status: Status) -> None:
        """Answer Prometheus, on threads of its own; called on the event loop.

        Args:
            host: Where to listen.
            port: Where to listen.
            status: The worker.

        Raises:
            OSError: Nobody can listen there.
        """
        start_http_server(port, host, self._registry)
        self._registry.register(Standing(status, asyncio.get_running_loop()))

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"sonorant_worker_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"sonorant_worker_{name}", what, labels, registry=self._registry, buckets=buckets)


class Standing(Collector):
    """How a worker stands when Prometheus asks; read on its event loop, where all that is changed.

    Args:
        status: The worker.
        loop: Its event loop.
    """

    def __init__(self, status: Status, loop: asyncio.AbstractEventLoop) -> None:
        self._status = status
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """Read it; on the thread of a scrape.

        Raises:
            TimeoutError: The event loop does not answer.
        """
        yield from asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(ANSWER_S)

    async def _read(self) -> list[Metric]:
        scheduler = self._status.scheduler
        total, free = self._status.device.memory()
        sizes = {each.name: each.size for each in self._status.models if each.model}
        stages = Counts(each.stage for each in self._status.models)
        states = {stage.name.lower(): stages[stage] for stage in Stage}
        return [
            _gauges("utterances", "Utterances here.", "state", active=scheduler.active, queued=scheduler.queued),
            _gauge("capacity", "Most utterances at once.", scheduler.capacity),
            _gauge("expected_wait_seconds", "How long one more would wait for the device.", scheduler.expected_wait_s),
            _gauge("models", "Models in memory.", len(sizes)),
            _gauges("model_states", "Models that are known here, by how they stand.", "state", **states),
            _gauges("model_memory_bytes", "Memory that a model in memory holds.", "model", **sizes),
            _gauges("device_memory_bytes", "Memory of the device.", "state", used=total - free, free=free),
        ]


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sonorant_worker_{name}", what, value)


def _gauges(name: str, what: str, label: str, /, **values: float) -> Metric:
    gauge = GaugeMetricFamily(f"sonorant_worker_{name}", what, labels=[label])
    for each, value in values.items():
        gauge.add_metric([each], value)
    return gauge
