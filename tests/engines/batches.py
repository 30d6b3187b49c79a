"""Drives utterances of a staged model together, as the scheduler does, with rows that join and leave when told."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.engines.stages import Call, Stage


@dataclass
class Row:
    """An utterance.

    Attributes:
        speech: Its generator.
        joins: Run of the device before which it comes.
        leaves: Run before which it is closed.
        lead_s: What its listener is taken to have in hand.
    """

    speech: Generator[Any, Any, None]
    joins: int = 0
    leaves: int = 10**9
    lead_s: float = 0.0
    parts: list[np.ndarray] = field(default_factory=list)
    call: Call | None = None
    is_over: bool = False

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate([*self.parts, np.zeros(0, np.float32)])

    def advance(self, result: object = None) -> None:
        try:
            while not isinstance(made := self.speech.send(result), Call):
                self.parts.append(made)
                result = None
            self.call = made
        except StopIteration:
            self.call, self.is_over = None, True


@dataclass(frozen=True)
class Run:
    """What a stage did at once."""

    stage: str
    rows: Sequence[int]


def together(rows: Sequence[Row], after: Callable[[Stage, Mapping[int, Any]], None] = lambda *_: None) -> Sequence[Run]:
    """Speak all rows to their ends; whoever has made least is served first.

    Args:
        rows: They keep what they make in `parts`.
        after: Told after each run: the stage, and its items by the numbers of their rows.
    """
    runs: list[Run] = []
    while not all(row.is_over for row in rows):
        for row in rows:
            if not row.is_over and row.leaves <= len(runs):
                row.speech.close()
                row.call, row.is_over = None, True
            elif not row.is_over and row.call is None and row.joins <= len(runs):
                row.advance()
        waiting = sorted((row for row in rows if row.call), key=lambda row: len(row.samples))
        if not waiting:
            if not all(row.is_over for row in rows):
                runs.append(Run("", []))  # Nobody is there yet.
            continue
        calls = {rows.index(row): row.call for row in waiting if row.call}
        stage = next(iter(calls.values())).stage
        sizes = {
            number: stage.size(call.item, rows[number].lead_s) for number, call in calls.items() if call.stage is stage
        }
        size = next(iter(sizes.values()))
        numbers = [number for number in sizes if sizes[number] == size][: stage.limit]
        items = {number: calls[number].item for number in numbers}
        results = stage.run(list(items.values()), size)
        runs.append(Run(stage.name, numbers))
        after(stage, items)
        for number, result in zip(numbers, results, strict=True):
            rows[number].call = None
            rows[number].advance(result)
    return runs
