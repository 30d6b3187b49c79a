"""Decides which models should be on one more worker, before callers are turned away; pure: knows no network.

A model is crowded when every worker that is ready with it cannot keep up, and has been for a while. It goes to the
worker that has its engine, keeps up, and has room: what is free, and what models hold that nobody has asked for lately.
Extra ones leave as every model does, when they have not been used for long or others need the room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.fleet.link import WorkerLink
from gateway.fleet.routing import Distance, choose

CROWDED_S = 2.0
"""How long a model must have been crowded, in seconds."""

REST_S = 20.0
"""How long a model that was brought to one more worker, in vain or not, is not brought to another, in seconds."""

IDLE_S = 10.0
"""After how long without a call a model's memory counts as room, in seconds."""


class Replicas:
    """Watches models over time."""

    def __init__(self) -> None:
        self._crowded_since: dict[str, float] = {}
        self._rests_until: dict[str, float] = {}
        self._called_at: dict[tuple[str, str], float] = {}

    def wanted(self, links: Sequence[WorkerLink], now_s: float) -> dict[str, WorkerLink]:
        """Say which models should be loaded where; to be asked about once a second.

        Args:
            links: All workers.
            now_s: Now, on a monotonic clock.
        """
        for link in links:
            for model in link.calls:
                self._called_at[link.address, model] = now_s
        crowded = {model for model in _called(links) if self._is_crowded(model, links)}
        self._crowded_since = {model: self._crowded_since.get(model, now_s) for model in crowded}
        found = {}
        for model, since_s in self._crowded_since.items():
            if now_s - since_s >= CROWDED_S and now_s >= self._rests_until.get(model, 0.0):
                self._rests_until[model] = now_s + REST_S
                if place := self._place(model, links, now_s):
                    found[model] = place
        return found

    @staticmethod
    def _is_crowded(model: str, links: Iterable[WorkerLink]) -> bool:
        up = [link for link in links if link.is_up]
        ready = [link for link in up if link.distance(model) is Distance.READY]
        is_coming = any(link.distance(model) is Distance.ON_ITS_WAY for link in up)
        return bool(ready) and not is_coming and all(link.is_busy for link in ready)

    def _place(self, model: str, links: Sequence[WorkerLink], now_s: float) -> WorkerLink | None:
        here = [each for link in links for each in link.models if each.name == model and each.memory_bytes]
        size = max((each.memory_bytes for each in here), default=0)
        engines = {each.engine for each in here}
        able = [
            link
            for link in links
            if link.is_up
            and not link.is_starting
            and not link.is_busy
            and Distance.READY < link.distance(model) < Distance.FAILED
            and link.status
            and engines & set(link.status.engines)
            and (not link.status.memory_budget_bytes or link.room_bytes + self._idle_bytes(link, now_s) >= size)
        ]
        return choose(able, model)

    def _idle_bytes(self, link: WorkerLink, now_s: float) -> int:
        return sum(
            model.memory_bytes
            for model in link.models
            if not model.active and now_s - self._called_at.get((link.address, model.name), -IDLE_S) >= IDLE_S
        )


def _called(links: Iterable[WorkerLink]) -> set[str]:
    return {model for link in links for model in link.calls}
