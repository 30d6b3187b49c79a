import asyncio
import contextlib
import threading
from collections.abc import Generator, Iterable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from worker.admission import Admission
from worker.changes import Changes
from worker.engines.stages import STEPS, Call
from worker.errors import Draining, EngineFailure, Overloaded
from worker.rows import Row, Work
from worker.scheduler import Scheduler
from worker.synthesis import Block, Utterance

RATE = 1000


def block(seconds: float = 1.0) -> Block:
    return Block(np.zeros(int(seconds * RATE), np.float32))


def work(steps: Iterable[Block], **more: object) -> Work:
    """An utterance whose every block is a step of the device."""

    def utterance() -> Utterance:
        blocks = iter(steps)
        try:
            while (made := (yield Call(STEPS, blocks))) is not None:
                yield made
        finally:
            if close := getattr(blocks, "close", None):
                close()

    return Work(utterance(), RATE, **more)


@asynccontextmanager
async def scheduling(capacity: int = 10, lead_s: float = 1000.0):
    admission = Admission(lanes=1, capacity=capacity, queue_s=1000.0, lead_s=lead_s)
    scheduler = Scheduler(admission=admission, changes=Changes())
    scheduler.start()
    try:
        yield scheduler
    finally:
        await asyncio.to_thread(scheduler.stop)


class Gate:
    """Holds the device thread in one step until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def steps(self) -> Generator[Block]:
        self.reached.set()
        assert self.open.wait(60)
        yield block()


async def drain(row: Row) -> int:
    with row:
        return len([each async for each in row])


def test_a_row_gives_its_blocks_in_order_and_ends():
    async def scenario():
        async with scheduling() as scheduler:
            with scheduler.submit(work(block(n) for n in (1, 2, 3))) as row:
                return [len(each.samples) async for each in row]

    assert asyncio.run(scenario()) == [1000, 2000, 3000]


def test_a_row_that_has_made_nothing_goes_before_one_whose_listener_has_audio():
    order: list[str] = []

    def named(name: str, count: int) -> Generator[Block]:
        for _ in range(count):
            order.append(name)
            yield block()

    async def scenario():
        async with scheduling() as scheduler:
            gate = Gate()
            first = scheduler.submit(work(gate.steps()))
            await asyncio.to_thread(gate.reached.wait)
            rows = [scheduler.submit(work(named("old", 3))), scheduler.submit(work(named("new", 3)))]
            gate.open.set()
            await asyncio.gather(*map(drain, [first, *rows]))

    asyncio.run(scenario())
    # Both get their first audio before either gets a second; then the one that began first runs dry first.
    assert order[:2] == ["old", "new"]
    assert order == ["old", "new"] * 3


def test_the_listener_who_runs_dry_first_is_served_first():
    order: list[str] = []

    def named(name: str, *lengths: float) -> Generator[Block]:
        for length in lengths:
            order.append(name)
            yield block(length)

    async def scenario():
        async with scheduling() as scheduler:
            gate = Gate()
            first = scheduler.submit(work(gate.steps()))
            await asyncio.to_thread(gate.reached.wait)
            rows = [
                scheduler.submit(work(named("long", 100, 100))),
                scheduler.submit(work(named("short", 10, 10, 10))),
            ]
            gate.open.set()
            await asyncio.gather(*map(drain, [first, *rows]))

    asyncio.run(scenario())
    assert order == ["long", "short", "short", "short", "long"]


def test_a_row_rests_when_its_reader_is_behind_and_others_go_on():
    made = 0

    def endless() -> Generator[Block]:
        nonlocal made
        while True:
            made += 1
            yield block(1.0)

    async def scenario():
        async with scheduling(lead_s=3.0) as scheduler, contextlib.AsyncExitStack() as rows:
            unread = rows.enter_context(scheduler.submit(work(endless())))
            # A whole other row is served while nobody reads the first one.
            assert await drain(scheduler.submit(work(block() for _ in range(50)))) == 50
            ahead = made
            async for _ in unread:
                if made > ahead:
                    break
            return ahead, made

    ahead, after_reading = asyncio.run(scenario())
    assert ahead == 3
    assert after_reading > ahead


def test_a_cancelled_row_ends_at_the_next_turn_and_its_generator_is_closed():
    closed = threading.Event()
    made = 0

    def endless() -> Generator[Block]:
        nonlocal made
        try:
            while True:
                made += 1
                yield block()
        finally:
            closed.set()

    async def scenario():
        async with scheduling(lead_s=2.0) as scheduler:
            ended = asyncio.Event()
            with scheduler.submit(work(endless()), ended.set) as row:
                async for _ in row:
                    break
            await ended.wait()
            return closed.is_set(), scheduler.active + scheduler.queued

    assert asyncio.run(scenario()) == (True, 0)
    assert made <= 3


def test_a_cancelled_row_that_has_not_begun_goes_at_once_though_the_device_is_busy():
    async def scenario():
        async with scheduling(capacity=2) as scheduler:
            gate, ended = Gate(), []
            first = scheduler.submit(work(gate.steps()))
            await asyncio.to_thread(gate.reached.wait)
            with scheduler.submit(work(block() for _ in range(3)), lambda: ended.append("queued")):
                assert scheduler.queued == 1
            assert (scheduler.queued, ended) == (0, ["queued"])
            # Its place is free again, while the device is still in the step of the other one.
            with scheduler.submit(work(block() for _ in range(3))):
                pass
            gate.open.set()
            return await drain(first)

    assert asyncio.run(scenario()) == 1


def test_the_end_of_a_hanging_step_is_not_waited_for_for_ever():
    async def scenario():
        scheduler = Scheduler(admission=Admission(lanes=1, capacity=1, queue_s=1.0, lead_s=1.0), changes=Changes())
        scheduler.start()
        gate = Gate()
        row = scheduler.submit(work(gate.steps()))
        await asyncio.to_thread(gate.reached.wait)
        with row:
            pass
        ended = await asyncio.to_thread(scheduler.stop, 0.01)
        gate.open.set()
        return ended, await asyncio.to_thread(scheduler.stop)

    assert asyncio.run(scenario()) == (False, True)


def test_over_capacity_is_refused_with_a_time_to_come_back():
    async def scenario():
        async with scheduling(capacity=2) as scheduler:
            gates = [Gate(), Gate()]
            rows = [scheduler.submit(work(gate.steps())) for gate in gates]
            await asyncio.to_thread(gates[0].reached.wait)
            assert (scheduler.active, scheduler.queued) == (1, 1)
            with pytest.raises(Overloaded) as caught:
                scheduler.submit(work(iter(())))
            for gate in gates:
                gate.open.set()
            await asyncio.gather(*map(drain, rows))
            assert await drain(scheduler.submit(work(block() for _ in range(1)))) == 1
            return caught.value

    error = asyncio.run(scenario())
    assert "2 places" in error.message
    assert error.retry_after_s >= 1


def test_a_draining_scheduler_takes_nothing_new_and_finishes_the_rest():
    async def scenario():
        async with scheduling() as scheduler:
            row = scheduler.submit(work(block() for _ in range(3)))
            scheduler.draining = True
            with pytest.raises(Draining):
                scheduler.submit(work(iter(())))
            return await drain(row)

    assert asyncio.run(scenario()) == 3


def test_a_step_that_raises_fails_its_row_alone():
    def failing() -> Generator[Block]:
        yield block()
        raise RuntimeError("out of luck")

    async def scenario():
        async with scheduling() as scheduler:
            bad, good = scheduler.submit(work(failing())), scheduler.submit(work(block() for _ in range(3)))
            with pytest.raises(EngineFailure, match="RuntimeError: out of luck"):
                await drain(bad)
            return await drain(good)

    assert asyncio.run(scenario()) == 3
