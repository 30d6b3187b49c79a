"""An engine of somebody else's package: the embedded voice, but every segment past the first waits for a file.

It comes through the entry-point group like any third-party engine, so it proves that door too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from worker.engines.base import Card, Engine, Samples, Settings
from worker.engines.hibari import MODEL, HibariEngine, HibariModel

HELD = "tests/held"


class HeldEngine(Engine):
    name = "held"
    test_only = True

    @classmethod
    def embedded(cls) -> Mapping[str, Card]:
        return {HELD: HibariEngine.embedded()[MODEL]}

    @classmethod
    def load_embedded(cls, name: str, device: str) -> HeldModel:
        return HeldModel(cls.embedded()[name])


class HeldModel(HibariModel):
    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        while index and not Path(os.environ["HELD_UNTIL"]).exists():
            time.sleep(0.005)
        yield from super().speak(text, index, settings)
