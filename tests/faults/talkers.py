"""Fifty who talk at once and go on talking, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.stack import PATIENCE_S


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        kind: `whole`; `cut`, where it began and the connection broke, as it must; `short`, where it ended like a good
            one without being whole; `lost`, where it never began.
        worker: Who spoke.
        why: More about a request that was lost.
        num_bytes: Of the body.
    """

    kind: str
    worker: str = ""
    why: str = ""
    num_bytes: int = 0


class Talkers:
    """Talkers, each asking for the next as soon as it has the last.

    Args:
        url: The gateway.
        body: What they ask for.
        whole_bytes: How long a whole answer is.
        count: How many.
        pause_s: Between two requests of one of them.
    """

    def __init__(
        self, url: str, body: dict[str, object], whole_bytes: int, count: int = 50, pause_s: float = 0.0
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._url = f"{url}/v1/audio/speech"
        self._body = body
        self._whole_bytes = whole_bytes
        self._count = count
        self._pause_s = pause_s
        self._is_over = threading.Event()

    def of(self, kind: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind == kind]

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Let them talk; when it is over, they finish what they have begun."""
        thread = threading.Thread(target=lambda: asyncio.run(self._talk()))
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    async def _talk(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as client, asyncio.TaskGroup() as talkers:
            for _ in range(self._count):
                talkers.create_task(self._one(client))

    async def _one(self, client: httpx.AsyncClient) -> None:
        while not self._is_over.is_set():
            self.outcomes.append(await self._ask(client))
            await asyncio.sleep(self._pause_s)

    async def _ask(self, client: httpx.AsyncClient) -> Outcome:
        received, worker = 0, ""
        try:
            async with client.stream("POST", self._url, json=self._body) as answer:
                if answer.status_code != 200:
                    return Outcome("lost", why=f"{answer.status_code} {(await answer.aread()).decode()}")
                worker = answer.headers["x-sonorant-worker"]
                async for chunk in answer.aiter_bytes():
                    received += len(chunk)
        except httpx.HTTPError as error:
            if received:
                return Outcome("cut", worker, num_bytes=received)
            return Outcome("lost", worker, repr(error))
        return Outcome("whole" if received == self._whole_bytes else "short", worker, num_bytes=received)
