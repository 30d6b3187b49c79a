"""An engine whose model cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping

from worker.engines.base import Card, Engine, Model, Voice


class BrokenEngine(Engine):
    name = "broken"
    test_only = True

    @classmethod
    def embedded(cls) -> Mapping[str, Card]:
        return {"tests/broken": Card(24_000, [Voice("nobody", "Nobody", "en")])}

    @classmethod
    def load_embedded(cls, name: str, device: str) -> Model:
        raise OSError("no luck with the weights")
