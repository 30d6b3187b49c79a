"""Asks a gateway for speech, at a fixed rate or by talkers, in a process of its own; writes down what came when.

Open loop: requests come as they do from many people who know nothing of each other, by a Poisson process with a fixed
seed, however slow the answers are. Closed loop: so many talkers, each asking for the next when it has the last, or,
where it listens, when it has heard the last to its end.

`with Load(port, ...) as load:` starts the process; `load.answers()` waits for it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

import uvloop

from tests.bench.http_client import Connection, Response
from tests.bench.listener import JITTER_S, Answer
from tests.stack import ROOT, clean_environment

PATIENCE_S = 60.0
"""After which a response that has not ended is given up."""

START_S = 0.1
"""Within which all talkers who do not listen have begun."""

Ask = Callable[[str, int, float], Awaitable[Answer]]


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        port: Of the gateway.
        model: Id of the model.
        texts: Spoken in turn.
        seconds: After these, nothing new is asked for.
        rate: Requests each second, open loop.
        talkers: How many, closed loop.
        listens: Whether a talker hears each response out before the next request.
        seed: Of the arrivals.
    """

    port: int
    model: str
    texts: Sequence[str]
    seconds: float
    rate: float = 0.0
    talkers: int = 0
    listens: bool = False
    seed: int = 0

    def arrivals(self) -> Iterator[float]:
        """When requests are due, in seconds, open loop."""
        draw = random.Random(self.seed)
        at_s = draw.expovariate(self.rate)
        while at_s < self.seconds:
            yield at_s
            at_s += draw.expovariate(self.rate)


class Load:
    """The process; a context manager that ends it."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load"],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._plan = json.dumps(asdict(plan))
        self._answers: list[Answer] | None = None

    def __enter__(self) -> Self:
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"
        self._process.stdin.write(self._plan + "\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def answers(self) -> list[Answer]:
        """Wait for the last of them."""
        if self._answers is None:
            assert self._process.stdout
            self._answers = [Answer(**answer) for answer in json.loads(self._process.stdout.readline())]
        return self._answers


def run(plan: Plan) -> list[Answer]:
    """Run a load to its end."""
    with Load(plan) as load:
        return load.answers()


async def follow(plan: Plan, ask: Ask, now_s: Callable[[], float]) -> list[Answer]:
    """Carry out a plan, whoever is asked.

    Args:
        plan: The plan.
        ask: Called with a text, the number of the request and the time when it is due; gives the answer.
        now_s: The clock, in seconds.
    """
    answers: list[Answer] = []
    began_s = now_s()

    async def ask_next(due_s: float) -> Answer:
        number = next(numbers)
        answers.append(await ask(plan.texts[number % len(plan.texts)], number, due_s))
        return answers[-1]

    async def talk(number: int) -> None:
        # Those who listen are spread over the time that a response lasts: people do not speak in unison.
        spread_s = min(4.0, plan.seconds / 3) if plan.listens else START_S
        await asyncio.sleep(number / plan.talkers * spread_s)
        while (due_s := now_s()) < began_s + plan.seconds:
            answer = await ask_next(due_s)
            if answer.status != 200:
                await asyncio.sleep(float(answer.retry_after or 1))
            elif plan.listens and answer.chunks:
                await asyncio.sleep(answer.chunks[0][0] + JITTER_S + answer.audio_s - now_s())

    numbers = itertools.count()
    async with asyncio.TaskGroup() as tasks:
        for number in range(plan.talkers):
            tasks.create_task(talk(number))
        for at_s in plan.arrivals() if plan.rate else ():
            await asyncio.sleep(began_s + at_s - now_s())
            tasks.create_task(ask_next(began_s + at_s))
    return answers


class Client:
    """Asks by HTTP, and notes what comes when."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._idle: list[Connection] = []
        self._began = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self._began

    async def ask(self, text: str, number: int, due_s: float) -> Answer:
        body = {"model": self._plan.model, "input": text, "response_format": "pcm", "seed": number}
        chunks: list[tuple[float, float]] = []
        answered_s = sent_s = self.now_s()

        def note(response: Response, num_bytes: int) -> None:
            nonlocal answered_s
            now_s = self.now_s()
            if answered_s == sent_s:
                answered_s = now_s
            if num_bytes and response.status == 200:
                rate_hz = int(response.headers["x-sonorant-sample-rate"])
                chunks.append((round(now_s, 5), num_bytes / 2 / rate_hz))

        response, is_complete = Response(), False
        connection: Connection | None = None
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._connection()
                response = await connection.post(json.dumps(body).encode(), note)
                is_complete = response.is_complete
        if connection and is_complete:
            self._idle.append(connection)
        elif connection:
            connection.close()
        return Answer(
            due_s,
            sent_s,
            response.status,
            response.headers.get("retry-after", ""),
            answered_s,
            self.now_s(),
            is_complete,
            chunks,
        )

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._plan.port)
        return connection


def main() -> None:
    """Read a plan, carry it out, write the answers."""
    print("ready", flush=True)
    plan = Plan(**json.loads(sys.stdin.readline()))

    async def load() -> list[Answer]:
        client = Client(plan)
        return await follow(plan, client.ask, client.now_s)

    print(json.dumps([asdict(answer) for answer in uvloop.run(load())]), flush=True)


if __name__ == "__main__":
    main()
