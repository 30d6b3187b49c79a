"""Remembers which models could not be had, so that a hub is not asked for them with every request; knows no model."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

from worker.errors import LoadFailure, WorkerError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MOST = 1000


@dataclass(frozen=True, slots=True)
class _Failure:
    error: WorkerError
    count: int
    retry_at: float


class Failures:
    """The last failure of each model, with a pause after it that doubles from one failure to the next."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def note(self, name: str, error: WorkerError) -> None:
        """Remember a failure."""
        last = self._failures.pop(name, None)
        count = last.count + 1 if last else 1
        pause_s = min(FIRST_PAUSE_S * 2 ** min(count - 1, 16), LONGEST_PAUSE_S)
        if error.retry_after_s is None and isinstance(error, LoadFailure):
            error.retry_after_s = pause_s
        # A copy: the error itself holds on to the frames that it passed through, and so to half a model.
        self._failures[name] = _Failure(copy.copy(error), count, time.monotonic() + pause_s)
        if len(self._failures) > MOST:
            del self._failures[next(iter(self._failures))]

    def forget(self, name: str) -> None:
        """The model is there."""
        self._failures.pop(name, None)

    def recent(self, name: str) -> WorkerError | None:
        """The failure whose pause is not over, with the time that is left of it; None if there is none."""
        failure = self._failures.get(name)
        left_s = failure.retry_at - time.monotonic() if failure else 0.0
        if not failure or left_s <= 0:
            return None
        error = copy.copy(failure.error)
        error.retry_after_s = max(left_s, error.retry_after_s or 0.0)
        return error
