"""Picks the worker for a call; pure: knows no network and no time."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar


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

    def has(self, model: str) -> bool:
        """Whether it serves the model, loaded or not."""
        ...

    def is_ready(self, model: str) -> bool:
        """Whether it has the model in memory."""
        ...


C = TypeVar("C", bound=Candidate)


def choose(workers: Iterable[C], model: str, tried: Collection[str] = ()) -> C | None:
    """Pick a worker: one that has the model in memory before one that must load it, then the least outstanding calls.

    Args:
        workers: All of them, in the order that breaks ties.
        model: Model id.
        tried: Addresses that have failed this call.

    Returns:
        The worker; None if none is up that serves the model and has not been tried.
    """
    able = (worker for worker in workers if worker.is_up and worker.has(model) and worker.address not in tried)
    return min(able, key=lambda worker: (not worker.is_ready(model), worker.outstanding), default=None)
