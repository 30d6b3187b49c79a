"""Picks the worker for a call; pure: knows no network and no time."""

from __future__ import annotations

import enum
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
        outstanding: Calls that this gateway has open there.
    """

    @property
    def address(self) -> str: ...

    @property
    def is_up(self) -> bool: ...

    @property
    def outstanding(self) -> int: ...

    def distance(self, model: str) -> Distance:
        """How far it is from speaking with a model."""
        ...


C = TypeVar("C", bound=Candidate)


def choose(workers: Iterable[C], model: str, tried: Collection[str] = ()) -> C | None:
    """Pick a worker: the nearest to speaking with the model, then the one with the least outstanding calls.

    Args:
        workers: All of them, in the order that breaks ties.
        model: Model id.
        tried: Addresses that have failed this call.

    Returns:
        The worker; None if none is up that has not been tried.
    """
    able = (worker for worker in workers if worker.is_up and worker.address not in tried)
    return min(able, key=lambda worker: (worker.distance(model), worker.outstanding), default=None)
