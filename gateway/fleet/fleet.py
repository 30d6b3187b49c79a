"""All workers: who they are by now, which one gets a call, and which models are on several of them. Knows no gRPC."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

import structlog

from gateway.errors import ApiError
from gateway.fleet.attempts import Attempts
from gateway.fleet.discovery import Discovery
from gateway.fleet.link import WorkerLink
from gateway.fleet.replicas import Replicas
from gateway.fleet.routing import choose
from gateway.fleet.speech import Speech
from protos.tts.v1 import models_pb2, speech_pb2

LOOK_S = 1.0
"""How often it is looked for models that are crowded."""

Progress = tuple[str, models_pb2.LoadModelResponse]
"""The name of the worker that loads, and what it says of it."""

log = structlog.get_logger(__name__)


class Fleet:
    """All workers.

    Args:
        sources: Where they are; see `gateway.fleet.discovery`.
        chunk_timeout_s: How long a worker may be silent within a stream, in seconds.
        connect: Makes the link to an address, and calls what it is given when a call ends there.

    Attributes:
        on_replica: Called when a model was brought to one more worker, with its id and `ok` or `failed`.

    Raises:
        ValueError: A source is none.
    """

    def __init__(
        self,
        sources: Sequence[str],
        chunk_timeout_s: float = 60.0,
        connect: Callable[[str, Callable[[], None]], WorkerLink] = WorkerLink,
    ) -> None:
        self.on_replica: Callable[[str, str], None] = lambda model, outcome: None
        self._discovery = Discovery(sources, self.update)
        self._chunk_timeout_s = chunk_timeout_s
        self._connect = connect
        self._changed = asyncio.Event()
        self._links: dict[str, WorkerLink] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[WorkerLink]:
        return iter(self._links.values())

    async def start(self) -> None:
        """Connect; returns at once, the workers come when they come."""
        self._tasks = [asyncio.create_task(self._discovery.run()), asyncio.create_task(self._replicate())]
        await asyncio.sleep(0)  # Addresses that are given are known from the first request on.

    async def stop(self) -> None:
        """Close every connection."""
        tasks = [*self._tasks, *self._watches.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self))

    def update(self, addresses: Sequence[str]) -> None:
        """Take these for all workers there are: new ones are connected to, and others get no more calls."""
        for address in self._links.keys() - set(addresses):
            log.info("worker is gone from the list", address=address)
            self._watches.pop(address).cancel()
            leaving = asyncio.create_task(self._let_go(self._links.pop(address)))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for address in addresses:
            if address in self._links:
                continue
            try:
                link = self._connect(address, self._changed.set)
            except ValueError as error:  # A certificate that has been replaced by something else.
                log.error("worker cannot be connected to", address=address, why=str(error))
                continue
            self._links[address] = link
            self._watches[address] = asyncio.create_task(link.watch())
        self._links = {address: self._links[address] for address in addresses if address in self._links}

    @property
    def outstanding(self) -> int:
        """Calls open on all workers."""
        return sum(link.outstanding for link in self)

    async def idle(self) -> None:
        """Wait until no call is open, also none on workers that have left the list."""
        await self._until(lambda: not self.outstanding)
        await asyncio.gather(*self._leaving)

    async def load(self, model: str, worker_id: str = "") -> AsyncIterator[Progress]:
        """Bring a model into the memory of some worker, or of the one of that name; iterate over its progress.

        Raises:
            ApiError: It cannot be had.
        """
        attempts = Attempts(functools.partial(self.choose, model, worker_id), model)
        has_begun = False
        while True:
            link = attempts.next()
            name = link.worker_id
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
        attempts = Attempts(functools.partial(self.choose, request.model, ""), request.model)
        return Speech(request, attempts, self._chunk_timeout_s)

    async def _let_go(self, link: WorkerLink) -> None:
        """Close the connection to a worker that has left the list, once its streams have ended."""
        try:
            await self._until(lambda: not link.outstanding)
        finally:
            await link.close()

    async def _replicate(self) -> None:
        replicas = Replicas()
        loads: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(LOOK_S)
            for model, link in replicas.wanted(list(self), asyncio.get_running_loop().time()).items():
                log.info("model is crowded; it goes to one more worker", model=model, worker=link.worker_id)
                loads.add(task := asyncio.create_task(self._bring(model, link)))
                task.add_done_callback(loads.discard)

    async def _bring(self, model: str, link: WorkerLink) -> None:
        try:
            async for _ in link.load(model):
                pass
        except ApiError as failure:
            self.on_replica(model, "failed")
            log.warning("model did not come to one more worker", model=model, worker=link.worker_id, why=str(failure))
        else:
            self.on_replica(model, "ok")

    async def _until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            await self._changed.wait()
            self._changed.clear()
