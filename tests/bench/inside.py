"""Drives a model by the worker's scheduler in this process, without gRPC and HTTP; the listeners' clock is the same."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.bench.listener import Answer
from tests.bench.load import Plan, follow
from worker.admission import Admission
from worker.changes import Changes
from worker.device import Device
from worker.engines.base import Model, Settings
from worker.engines.stages import Call, stepped
from worker.errors import Overloaded
from worker.rows import Work
from worker.scheduler import Scheduler
from worker.server import BATCHED_STARTS, SWITCH_INTERVAL_S
from worker.synthesis import Block, Utterance, synthesize

NO_LIMIT = 1000
"""Lanes that admission is told of where all are to be let in at once, whoever runs dry: to measure throughput."""

Runs = dict[tuple[str, int], list[float]]


class Inside:
    """A model and a scheduler; made on an event loop, closed by `close`.

    Args:
        model: Who speaks.
        where: The device that it is on.
        admits_all: Whether everybody is let in, though some may run dry.

    Attributes:
        runs: Seconds of each run, by the name of the stage and the number of rows in it.
    """

    def __init__(self, model: Model, where: Device, *, admits_all: bool = False) -> None:
        self.runs: Runs = {}
        self._model = model
        self._voice = model.card.voices[0].id
        self._scheduler = Scheduler(
            admission=Admission(
                lanes=NO_LIMIT if admits_all else where.lanes,
                capacity=4096,
                queue_s=3600.0 if admits_all else 1.0,
                lead_s=3600.0 if admits_all else 10.0,
            ),
            changes=Changes(),
            lanes=where.lanes,
            starts=1 if where.id == "cpu" else BATCHED_STARTS,
            use_threads=where.use_threads,
            observe=self._observe,
        )
        self._scheduler.start()
        self._began = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self._began

    async def speak(self, text: str, seed: int, due_s: float | None = None) -> Answer:
        """Speak an utterance as the worker does."""
        return await self.run(synthesize(self._model, text, Settings(self._voice, 1.0, seed)), text, due_s)

    async def speak_segment(self, text: str, seed: int, keep: Callable[[Block], object]) -> Answer:
        """Speak a text as one segment, however long it is."""
        return await self.run(_segment(self._model, text, Settings(self._voice, 1.0, seed)), text, keep=keep)

    async def run(
        self,
        steps: Utterance,
        text: str,
        due_s: float | None = None,
        keep: Callable[[Block], object] = lambda _: None,
    ) -> Answer:
        """Run an utterance to its end, by a reader who takes all at once; `keep` gets its blocks."""
        model = self._model
        sent_s = self.now_s()
        due_s = sent_s if due_s is None else due_s
        rate_hz = model.card.sample_rate_hz
        work = Work(steps, rate_hz, "bench", len(text), model.is_staged, model.slots)
        chunks = []
        try:
            row = self._scheduler.submit(work)
        except Overloaded as refusal:
            return Answer(
                due_s, sent_s, 503, f"{refusal.retry_after_s:g}", self.now_s(), self.now_s(), is_complete=True
            )
        with row:
            async for block in row:
                if len(block.samples):
                    chunks.append((self.now_s(), len(block.samples) / rate_hz))
                    row.first_audio_sent()
                keep(block)
        return Answer(due_s, sent_s, 200, "", sent_s, self.now_s(), is_complete=True, chunks=chunks)

    async def follow(self, plan: Plan) -> list[Answer]:
        """Speak to people who come when they come, or to talkers."""
        return await follow(plan, self.speak, self.now_s)

    def close(self) -> None:
        """End the threads."""
        self._scheduler.stop()

    def _observe(self, model: str, stage: str, rows: int, seconds: float) -> None:
        self.runs.setdefault((stage, rows), []).append(seconds)


def with_inside(
    model: Model, where: Device, work: Callable[[Inside], Coroutine[Any, Any, Any]], *, admits_all: bool = False
) -> Any:
    """Run something with a model in a scheduler, from its start to its end; gives the result."""

    async def main() -> Any:
        inside = Inside(model, where, admits_all=admits_all)
        before_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)  # As the worker has it: else the thread of the device waits longer.
        try:
            return await work(inside)
        finally:
            sys.setswitchinterval(before_s)
            inside.close()

    return asyncio.run(main())


def _segment(model: Model, text: str, settings: Settings) -> Utterance:
    model.check(text, settings.voice)
    speech: Any = model.speak(text, 0, settings)
    speech = speech if model.is_staged else stepped(speech)
    result: Any = None
    try:
        while True:
            made = speech.send(result)
            result = None
            if isinstance(made, Call):
                result = yield made
            else:
                yield Block(made)
    except StopIteration:
        return
