"""Picks the worker for a call, and the one that a crowded model should go to besides; pure: no network and no time."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar


class Distance(enum.IntEnum):
    """How far a worker is from speaking with a model."""

    READY = 0
    ON_ITS_WAY = 1
    LOCAL = 2
    """Embedded or on disk."""
    REMOTE = 3
    """It would have to ask the hub, and may turn out to have no engine for it."""
    FAILED = 4


class Candidate(Protocol):
    """What the choice depends on.

    Attributes:
        address: Where the worker is.
        is_up: Its status stream stands and it takes new calls.
        is_full: It has as many utterances as it takes.
        num_utterances: Utterances there, by its own count and by ours.
        crowd: Models there, ready or on their way.
        room_bytes: What models may still take of its memory; 0 where it does not tell.
    """

    @property
    def address(self) -> str: ...

    @property
    def is_up(self) -> bool: ...

    @property
    def is_full(self) -> bool: ...

    @property
    def num_utterances(self) -> int: ...

    @property
    def crowd(self) -> int: ...

    @property
    def room_bytes(self) -> int: ...

    def distance(self, model: str) -> Distance:
        """How far it is from speaking with a model."""
        ...


C = TypeVar("C", bound=Candidate)


def choose(workers: Iterable[C], model: str, tried: Collection[str] = ()) -> C | None:
    """Pick a worker: the nearest to speaking with the model.

    Among those that are ready or getting there the least loaded, full ones last; among the others the one with the
    most room, so that models spread and stay where they are.

    Args:
        workers: All of them, in the order that breaks ties; where gateways have the same order, they choose alike.
        model: Model id.
        tried: Addresses that have failed this call.

    Returns:
        The worker; None if none is up that has not been tried.
    """

    def rank(worker: C) -> tuple[int, ...]:
        distance = worker.distance(model)
        if distance <= Distance.ON_ITS_WAY:
            return distance, worker.is_full, worker.num_utterances
        # In steps of a fifth: what is about the same is decided by what else there is, and not by a few bytes.
        room = int(4 * math.log2(1 + worker.room_bytes))
        return distance, worker.is_full, -room, worker.crowd, worker.num_utterances

    return min((worker for worker in workers if worker.is_up and worker.address not in tried), key=rank, default=None)
