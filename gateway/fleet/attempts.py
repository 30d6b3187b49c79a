"""The one rule by which a call moves to another worker before it has begun; knows no network."""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from gateway.errors import ApiError
from gateway.fleet.link import WorkerLink

MOVES = 2
"""How many times a call that has not begun may move to another worker."""

POISON_MOVES = 1
"""How many times where the worker broke under it: input that kills workers must not kill them all."""

MOVING = frozenset(
    {"NO_WORKER", "DRAINING", "OVERLOADED", "ENGINE_FAILURE", "LOAD_FAILURE", "UNSUPPORTED_MODEL"}
    | {"HUB_UNAVAILABLE", "DISK_FULL", "OUT_OF_MEMORY", "WRONG_TOKEN"}
)
"""Failures that another worker may not have."""

log = structlog.get_logger(__name__)


class Attempts:
    """The workers that a call is tried on until it begins.

    Args:
        choose: Picks a worker that is none of those that have been tried.
        model: What it is to speak with, or to load.
    """

    def __init__(self, choose: Callable[[Collection[str]], WorkerLink], model: str) -> None:
        self._choose = choose
        self._model = model
        self._tried: list[str] = []
        self._moves_left = MOVES
        self._was_connected = False
        self._failure: ApiError | None = None
        self._last: ApiError | None = None

    def next(self) -> WorkerLink:
        """Pick the next worker.

        Raises:
            ApiError: There is none left; the first failure that tells more than that an engine is missing.
        """
        try:
            link = self._choose(self._tried)
        except ApiError as nobody:
            raise self._failure or nobody from None
        if self._tried:
            log.warning("call moves", model=self._model, away_from=self._tried[-1], why=str(self._last))
        self._tried.append(link.address)
        self._was_connected = link.is_connected
        return link

    def note(self, failure: ApiError) -> None:
        """Note why the worker has failed.

        Raises:
            ApiError: The call may not move.
        """
        self._last = failure
        if failure.reason not in MOVING:
            raise failure
        if not self._failure or self._failure.reason == "UNSUPPORTED_MODEL":
            self._failure = failure
        if failure.reason == "UNSUPPORTED_MODEL":  # That costs nothing, and the next one may have the engine.
            return
        if failure.reason == "ENGINE_FAILURE" or (failure.reason == "NO_WORKER" and self._was_connected):
            self._moves_left = min(self._moves_left, POISON_MOVES)
        if not self._moves_left:
            raise self._failure
        self._moves_left -= 1
