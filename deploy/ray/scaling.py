"""How many workers there should be, from how busy they are; knows neither Ray nor gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Load:
    """What one worker has to do.

    Attributes:
        active: Utterances that it speaks.
        queued: Utterances that wait there.
    """

    active: int
    queued: int


@dataclass
class Scaler:
    """Follows the queue up, and the demand down.

    One more worker is wanted once more than one utterance has waited at the average worker for `up_after_s`: a burst
    is over sooner. One less is wanted if, for `down_after_s`, the others could have spoken everything.

    Attributes:
        least: Fewest workers.
        most: Most workers.
        streams: How many utterances a worker should speak at once.
        up_after_s: See above, in seconds.
        down_after_s: See above, in seconds; long, since a model takes longer to come than to go.
    """

    least: int
    most: int
    streams: int = 16
    up_after_s: float = 5.0
    down_after_s: float = 300.0
    _busy_since: float | None = field(default=None, init=False)
    _quiet_since: float | None = field(default=None, init=False)

    def wanted(self, now: float, size: int, loads: Sequence[Load]) -> int:
        """Return how many workers there should be.

        Args:
            now: Seconds of a clock that only goes forward.
            size: How many there are, or are on their way.
            loads: Of those that tell.
        """
        if not self.least <= size <= self.most:
            return min(max(size, self.least), self.most)
        queued = sum(load.queued for load in loads)
        demand = queued + sum(load.active for load in loads)
        # While one is on its way it is not known what it will change; but if there is no room for it anywhere, it
        # should not be waited for when nobody needs it any more.
        is_busy = queued > size and len(loads) == size
        is_quiet = bool(loads) and not queued and demand <= self.streams * (size - 1)
        self._busy_since = (self._busy_since if self._busy_since is not None else now) if is_busy else None
        self._quiet_since = (self._quiet_since if self._quiet_since is not None else now) if is_quiet else None
        if self._busy_since is not None and now - self._busy_since >= self.up_after_s and size < self.most:
            self._busy_since = None
            return size + 1
        if self._quiet_since is not None and now - self._quiet_since >= self.down_after_s and size > self.least:
            self._quiet_since = None
            return size - 1
        return size
