"""Rows of different requests in one run of a stage, and the order in which their listeners' clocks put them."""

import asyncio
import threading
from collections.abc import Hashable, Sequence

import numpy as np
import pytest

from tests.worker.test_scheduler import RATE, Gate, block, drain, work
from worker.admission import Admission
from worker.changes import Changes
from worker.engines.stages import Stage
from worker.errors import EngineFailure
from worker.rows import Work
from worker.scheduler import Scheduler
from worker.synthesis import Block, Utterance

LENGTHS = tuple[str, float]
"""What an item is here: who it is for, and the seconds of audio that come of it."""


class Voices(Stage[LENGTHS, np.ndarray]):
    """Makes silence, and notes who was served together. An item of 13 s fails; one of 0 s cannot tell its size."""

    name = "voices"
    is_reentrant = True

    def __init__(self, limit: int = 4, small_under_s: float = 0.0) -> None:
        self.limit = limit
        self.runs: list[list[str]] = []
        self._small_under_s = small_under_s

    def size(self, item: LENGTHS, lead_s: float) -> Hashable:
        if not item[1]:
            raise ValueError("no size")
        return "small" if lead_s < self._small_under_s else "large"

    def run(self, items: Sequence[LENGTHS], size: Hashable) -> Sequence[np.ndarray]:
        self.runs.append([name for name, _ in items])
        if any(seconds == 13 for _, seconds in items):
            raise RuntimeError("thirteen")
        return [np.zeros(int(seconds * RATE), np.float32) for _, seconds in items]


def spoken(stage: Voices, name: str, *lengths: float, **more: object) -> Work:
    def utterance() -> Utterance:
        for seconds in lengths:
            samples = yield from stage((name, seconds))
            yield Block(samples)

    return Work(utterance(), RATE, is_staged=True, **more)


def served(*works: Work) -> list[int | str]:
    """Speak works that come while the device is busy; the blocks of each, or why it failed."""

    async def outcome(row: object) -> int | str:
        try:
            return await drain(row)
        except EngineFailure as failure:
            return failure.message

    async def scenario():
        admission = Admission(lanes=1, capacity=100, queue_s=1000.0, lead_s=1000.0)
        scheduler = Scheduler(admission=admission, changes=Changes(), starts=8)
        scheduler.start()
        try:
            gate = Gate()
            held = scheduler.submit(work(gate.steps()))
            await asyncio.to_thread(gate.reached.wait)
            rows = [scheduler.submit(each) for each in works]
            gate.open.set()
            outcomes = await asyncio.gather(*map(outcome, [held, *rows]))
            return outcomes[1:]
        finally:
            await asyncio.to_thread(scheduler.stop)

    return asyncio.run(scenario())


def test_one_run_of_a_stage_carries_rows_of_several_requests():
    stage = Voices()
    assert served(spoken(stage, "a", 1, 1), spoken(stage, "b", 1, 1), spoken(stage, "c", 1, 1)) == [2, 2, 2]
    assert [sorted(run) for run in stage.runs] == [["a", "b", "c"], ["a", "b", "c"]]


def test_no_run_carries_more_rows_than_the_limit_of_the_stage():
    stage = Voices(limit=2)
    served(*(spoken(stage, name, 1) for name in "abcde"))
    assert [len(run) for run in stage.runs] == [2, 2, 1]


def test_rows_join_and_leave_between_runs():
    stage = Voices()
    served(spoken(stage, "short", 1), spoken(stage, "long", 1, 1, 1), spoken(stage, "middle", 1, 1))
    assert [sorted(run) for run in stage.runs] == [["long", "middle", "short"], ["long", "middle"], ["long"]]


def test_what_is_urgent_goes_before_what_could_go_with_more():
    stage = Voices(small_under_s=2.0)
    # After its first run "dry" has less than 2 s in hand, so its work has another size than that of the others.
    served(spoken(stage, "dry", 1, 1), spoken(stage, "one", 100, 1), spoken(stage, "two", 50, 1))
    assert stage.runs[0] == ["dry", "one", "two"]
    assert stage.runs[1:] == [["dry"], ["two", "one"]]


def test_the_order_of_rows_follows_their_deadlines_as_these_change():
    stage = Voices(limit=1)
    served(spoken(stage, "a", 5, 20, 1), spoken(stage, "b", 10, 1, 1))
    # b has 10 s, a 5 s: a goes on and has 25 s; so b goes on until its end, and a last.
    assert stage.runs == [["a"], ["b"], ["a"], ["b"], ["b"], ["a"]]


def test_what_nobody_listens_to_goes_after_those_who_listen():
    stage = Voices(limit=1)
    served(spoken(stage, "file", 1, 1, is_live=False), spoken(stage, "live", 1, 1, 1))
    assert stage.runs == [["live"], ["live"], ["live"], ["file"], ["file"]]


def test_a_run_that_fails_for_several_fails_for_the_guilty_row_alone():
    stage = Voices()
    outcomes = served(spoken(stage, "good", 1, 1), spoken(stage, "bad", 1, 13), spoken(stage, "fine", 1, 1))
    assert outcomes == [2, "the engine failed: RuntimeError: thirteen", 2]
    assert sorted(stage.runs[1]) == ["bad", "fine", "good"]
    assert sorted(map(tuple, stage.runs[2:])) == [("bad",), ("fine",), ("good",)]


def test_a_stage_that_cannot_tell_a_size_fails_that_row_alone():
    stage = Voices()
    assert served(spoken(stage, "good", 1, 1), spoken(stage, "odd", 0)) == [2, "the engine failed: ValueError: no size"]


def test_what_is_noted_of_a_row_tells_how_often_each_stage_ran_and_for_how_many():
    async def scenario():
        scheduler = Scheduler(
            admission=Admission(lanes=1, capacity=9, queue_s=9.0, lead_s=9.0),
            changes=Changes(),
            starts=8,
            observe=lambda *run: observed.append(run[:3]),
        )
        scheduler.start()
        gate = Gate()
        held = scheduler.submit(work(gate.steps()))
        await asyncio.to_thread(gate.reached.wait)
        rows = [scheduler.submit(spoken(stage, name, 1, 1, model="m")) for name in "ab"]
        gate.open.set()
        await asyncio.gather(*map(drain, [held, *rows]))
        await asyncio.to_thread(scheduler.stop)
        return rows

    stage, observed = Voices(), []
    for row in asyncio.run(scenario()):
        assert list(row.stages) == ["voices"]
        assert (row.stages["voices"].runs, row.stages["voices"].rows, row.batch_size) == (2, 4, 2.0)
    assert [run for run in observed if run[0]] == [("m", "voices", 2), ("m", "voices", 2)]


def test_two_threads_run_a_reentrant_stage_at_the_same_time_and_another_one_never():
    class Meeting(Stage[str, np.ndarray]):
        """Runs only if two are in it at once."""

        name = "meeting"
        is_reentrant = True

        def run(self, items: Sequence[str], size: Hashable) -> Sequence[np.ndarray]:
            names.append(threading.current_thread().name)
            both.wait(60)
            return [block().samples]

    class Alone(Meeting):
        is_reentrant = False

        def run(self, items: Sequence[str], size: Hashable) -> Sequence[np.ndarray]:
            names.append(threading.current_thread().name)
            return [block().samples]

    def utterance(stage: Stage[str, np.ndarray]) -> Utterance:
        yield Block((yield from stage("")))

    async def scenario(stage: Stage[str, np.ndarray]):
        admission = Admission(lanes=2, capacity=9, queue_s=9.0, lead_s=9.0)
        scheduler = Scheduler(admission=admission, changes=Changes(), lanes=2)
        scheduler.start()
        works = [Work(utterance(stage), RATE, is_staged=stage.is_reentrant) for _ in range(2)]
        assert await asyncio.gather(*(drain(scheduler.submit(each)) for each in works)) == [1, 1]
        await asyncio.to_thread(scheduler.stop)

    both, names = threading.Barrier(2), []
    asyncio.run(scenario(Meeting()))
    assert sorted(names) == ["device", "device-1"]
    names.clear()
    asyncio.run(scenario(Alone()))
    assert names == ["device", "device"]


@pytest.mark.parametrize(("lanes", "running", "cores"), [(4, 1, 4), (4, 2, 2), (4, 4, 1), (1, 1, 1)])
def test_the_cores_that_nobody_needs_go_to_whoever_works(lanes, running, cores):
    class Counting(Stage[str, np.ndarray]):
        name = "counting"
        is_reentrant = True

        def run(self, items: Sequence[str], size: Hashable) -> Sequence[np.ndarray]:
            everybody.wait(60)
            return [block().samples]

    def utterance() -> Utterance:
        yield Block((yield from stage("")))

    async def scenario():
        scheduler = Scheduler(
            admission=Admission(lanes=lanes, capacity=9, queue_s=9.0, lead_s=9.0),
            changes=Changes(),
            lanes=lanes,
            use_threads=given.append,
        )
        rows = [scheduler.submit(Work(utterance(), RATE, is_staged=True)) for _ in range(running)]
        scheduler.start()
        await asyncio.gather(*map(drain, rows))
        await asyncio.to_thread(scheduler.stop)

    stage, everybody, given = Counting(), threading.Barrier(running), []
    asyncio.run(scenario())
    assert given[-1] == cores
    assert len(given) == running


def test_who_comes_later_catches_up_with_those_that_he_can_go_with():
    class Reading(Voices):
        name = "reading"

    reading, voices = Reading(), Voices()
    begun = threading.Event()

    def utterance(name: str) -> Utterance:
        yield from reading((name, 1))
        for n in range(6):
            if name == "first" and n == 2:
                begun.set()
                assert come.wait(60)
            yield from voices((name, 1))
        yield block()

    async def scenario():
        admission = Admission(lanes=1, capacity=9, queue_s=9.0, lead_s=9.0)
        scheduler = Scheduler(admission=admission, changes=Changes(), starts=8)
        scheduler.start()
        first = scheduler.submit(Work(utterance("first"), RATE, is_staged=True))
        await asyncio.to_thread(begun.wait)
        second = scheduler.submit(Work(utterance("second"), RATE, is_staged=True))
        come.set()
        await asyncio.gather(drain(first), drain(second))
        await asyncio.to_thread(scheduler.stop)

    come = threading.Event()
    asyncio.run(scenario())
    # Both are silent, and the second is read while the first is in the midst of its work; then they go together.
    assert reading.runs == [["first"], ["second"]]
    assert [len(run) for run in voices.runs] == [1, 1, 2, 2, 2, 2, 1, 1]


def test_a_stage_that_loses_results_fails_and_the_thread_goes_on():
    class Losing(Voices):
        def run(self, items: Sequence[LENGTHS], size: Hashable) -> Sequence[np.ndarray]:
            return super().run(items, size)[: 1 if items[0][0] == "good" else 0]

    losing = Losing()
    outcomes = served(spoken(losing, "good", 1, 1), spoken(losing, "lost", 1), spoken(Voices(), "fine", 1))
    assert outcomes == [2, "the stage 'voices' gave 0 results for 1 items", 1]


def test_an_engine_that_fails_to_end_keeps_nobody_else_waiting():
    stage = Voices()

    def utterance() -> Utterance:
        try:
            yield Block((yield from stage(("bad", 13))))
        finally:
            raise RuntimeError("cannot end")

    outcomes = served(Work(utterance(), RATE, is_staged=True), spoken(stage, "fine", 1, 1))
    assert outcomes == ["the engine failed: RuntimeError: thirteen", 2]


def test_of_a_staged_model_too_what_is_not_reentrant_runs_on_the_device_thread_alone():
    class Noting(Voices):
        def run(self, items: Sequence[LENGTHS], size: Hashable) -> Sequence[np.ndarray]:
            threads.add((self.is_reentrant, threading.current_thread().name))
            return super().run(items, size)

    free, bound, threads = Noting(limit=1), Noting(limit=1), set()
    bound.is_reentrant = False

    def utterance() -> Utterance:
        for stage in (free, bound) * 20:
            yield Block((yield from stage(("", 1))))

    async def scenario():
        admission = Admission(lanes=3, capacity=9, queue_s=9.0, lead_s=1000.0)
        scheduler = Scheduler(admission=admission, changes=Changes(), lanes=3)
        scheduler.start()
        works = [Work(utterance(), RATE, is_staged=True) for _ in range(6)]
        assert await asyncio.gather(*(drain(scheduler.submit(each)) for each in works)) == [40] * 6
        await asyncio.to_thread(scheduler.stop)

    asyncio.run(scenario())
    assert {name for is_free, name in threads if not is_free} == {"device"}
    assert {name for is_free, name in threads if is_free} <= {"device", "device-1", "device-2"}
