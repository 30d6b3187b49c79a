"""What a worker counts, and how it answers Prometheus: by a thread of its own, of what the event loop knows."""

import asyncio
import socket

import numpy as np
import pytest

from tests.scrape import Scrape
from tests.stack import free_port
from worker.admission import Admission
from worker.changes import Changes
from worker.device import Device
from worker.engines.registry import Registry
from worker.engines.stages import STEPS
from worker.engines.stages import Call as StageCall
from worker.errors import EngineFailure
from worker.metrics import Call, Metrics
from worker.rows import Row, Work
from worker.scheduler import Scheduler
from worker.status import Status
from worker.store.disk import Disk
from worker.store.hub import Hub
from worker.store.residency import Residency, Resident
from worker.synthesis import Block, Utterance

TONE = "sonorant/tone"
RATE_HZ = 1000


class Bench:
    """A worker without a network but for its metrics."""

    def __init__(self, folder) -> None:
        self.metrics = Metrics()
        changes = Changes()
        admission = Admission(lanes=1, capacity=7, queue_s=1000.0, lead_s=1000.0)
        self.scheduler = Scheduler(admission=admission, changes=changes, observe=self.metrics.note_run)
        registry = Registry.installed(["tone"])
        device = Device("cpu", "a processor")
        self.models = Residency(
            registry, Disk(Hub(), registry, folder, budget=1 << 40), device, changes, budget=1 << 40
        )
        self.status = Status("w", device, registry, self.models, self.scheduler, changes)
        self.port = free_port()

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(Scrape.of, f"http://127.0.0.1:{self.port}")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def work(*blocks_s: float, is_live: bool = True) -> Work:
    def utterance() -> Utterance:
        for seconds in blocks_s:
            yield StageCall(STEPS, iter(()))
            yield Block(np.zeros(round(seconds * RATE_HZ), np.float32))

    return Work(utterance(), RATE_HZ, model=TONE, is_live=is_live)


async def heard(row: Row) -> Row:
    with row:
        async for _ in row:
            row.first_audio_sent()
    return row


def test_what_runs_and_ends_is_counted_and_read_while_the_event_loop_runs(bench):
    async def run() -> Scrape:
        bench.metrics.serve("127.0.0.1", bench.port, bench.status)
        bench.scheduler.start()
        resident = bench.models.find(TONE)
        await bench.models.load(resident)
        for is_live in (True, False):
            row = await heard(bench.scheduler.submit(work(1.0, 0.5, is_live=is_live)))
            bench.metrics.note_end(Call(resident, row, 0.04), "OK", "")
        found = await bench.scrape()
        bench.scheduler.stop()
        return found

    found = asyncio.run(run())
    assert found("sonorant_worker_requests_total", model=TONE, code="OK", reason="") == 2
    assert found("sonorant_worker_audio_seconds_total", model=TONE) == 3.0
    assert found("sonorant_worker_stage_seconds_count", model=TONE, stage="step") == 4
    assert found("sonorant_worker_stage_batch_size_bucket", model=TONE, stage="step", le="1.0") == 4
    assert found("sonorant_worker_real_time_factor_count", model=TONE) == 2
    for delivery in ("live", "whole"):
        assert found("sonorant_worker_queue_seconds_count", model=TONE, delivery=delivery) == 1
        assert found("sonorant_worker_time_to_first_audio_seconds_sum", model=TONE, delivery=delivery) == 0.04
    assert found("sonorant_worker_capacity") == 7
    assert found("sonorant_worker_models") == 1
    assert found.labels("sonorant_worker_model_memory_bytes") == [{"model": TONE}]
    assert found("sonorant_worker_device_memory_bytes", state="free") > 0
    assert {labels["state"] for labels in found.labels("sonorant_worker_utterances")} == {"active", "queued"}


def test_models_that_nobody_has_are_not_named(bench):
    async def run() -> Scrape:
        bench.metrics.serve("127.0.0.1", bench.port, bench.status)
        bench.metrics.note_end(Call(), "INVALID_ARGUMENT", "INVALID_REQUEST")
        bench.metrics.note_end(Call(Resident("org/made-up")), "NOT_FOUND", "MODEL_NOT_FOUND")
        return await bench.scrape()

    found = asyncio.run(run())
    assert found("sonorant_worker_requests_total", code="INVALID_ARGUMENT", reason="INVALID_REQUEST") == 1
    assert found("sonorant_worker_requests_total", code="NOT_FOUND", reason="MODEL_NOT_FOUND") == 1
    assert {labels["model"] for labels in found.labels("sonorant_worker_requests_total")} == {""}


def test_an_utterance_that_failed_counts_what_it_made_but_no_real_time_factor(bench):
    def failing() -> Utterance:
        yield Block(np.zeros(RATE_HZ, np.float32))
        yield StageCall(STEPS, iter(()))
        raise RuntimeError("broken")

    async def run() -> Scrape:
        bench.metrics.serve("127.0.0.1", bench.port, bench.status)
        bench.scheduler.start()
        row = bench.scheduler.submit(Work(failing(), RATE_HZ, model=TONE))
        with pytest.raises(EngineFailure):
            await heard(row)
        bench.metrics.note_end(Call(bench.models.find(TONE), row), "INTERNAL", "ENGINE_FAILURE")
        found = await bench.scrape()
        bench.scheduler.stop()
        return found

    found = asyncio.run(run())
    assert found("sonorant_worker_audio_seconds_total", model=TONE) == 1.0
    assert not found.labels("sonorant_worker_real_time_factor_count")
    assert not found.labels("sonorant_worker_time_to_first_audio_seconds_count")


def test_an_address_that_is_taken_is_an_error(bench):
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            bench.metrics.serve("127.0.0.1", taken.getsockname()[1], bench.status)

    with pytest.raises(OSError, match="in use"):
        asyncio.run(run())
