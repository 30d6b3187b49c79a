"""Stages: the parts of a model's work that can be done for several utterances at once; knows no model and no thread.

An utterance is a generator. Where it has work for the device it yields a `Call` of a stage and is sent the result, so
its code reads from top to bottom as if it were alone. Whoever drives the generators decides which calls go together:

    latents = yield from self._encode(tokens)
    while start < latents.num_frames:
        window = yield from self._decode(Rest(latents, start))
        ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""float32 [S], mono, in [-1, 1] at the model's `sample_rate_hz`."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made")


class Stage(ABC, Generic[Item, Result]):
    """Work of one kind. Call it with an item, by `yield from`, to get the result.

    Attributes:
        name: For logs and metrics.
        limit: Most items in one run.
        is_reentrant: Whether several threads may run it at the same time. Otherwise the device thread alone runs it.
        takes_threads: Whether it is faster with more cores than one, as torch shares the work out between them.
    """

    name: ClassVar[str]
    limit: int = 1
    is_reentrant: bool = False
    takes_threads: bool = True

    def __call__(self, item: Item) -> Generator[Call[Item, Result], Result, Result]:
        """Have the work done."""
        return (yield Call(self, item))

    def size(self, item: Item, lead_s: float) -> Hashable:
        """Tell what an item would be run as now; items of the same size can go together.

        Args:
            item: What was called with.
            lead_s: Seconds of audio that the listener has in hand: how long the result may take.
        """
        return None

    @abstractmethod
    def run(self, items: Sequence[Item], size: Hashable) -> Sequence[Result]:
        """Do the work. If it raises for several, each is tried again alone, so items are changed at its end only.

        Args:
            items: From 1 to `limit` items, all of that size. None may change the result of another.
            size: What `size` said.

        Returns:
            The result of each item.
        """


@dataclass(frozen=True, slots=True)
class Call(Generic[Item, Result]):
    """Work that an utterance waits for.

    Attributes:
        stage: Who does it.
        item: On what.
    """

    stage: Stage[Item, Result]
    item: Item


Speech = Generator[Samples | Call[Any, Any], Any, None]
"""A segment while it is spoken: its samples as they come, and calls whose results are sent to it."""


class Steps(Stage[Iterator[Samples], "Samples | None"]):
    """The next step of a model that does its work in `speak` itself."""

    name = "step"

    def run(self, items: Sequence[Iterator[Samples]], size: Hashable) -> Sequence[Samples | None]:
        """Take the next samples of each; None at the end."""
        return [next(item, None) for item in items]


STEPS = Steps()


def stepped(speech: Iterator[Samples]) -> Speech:
    """Make every `next()` of a plain iterator a call of a stage."""
    try:
        while (samples := (yield from STEPS(speech))) is not None:
            yield samples
    finally:
        if close := getattr(speech, "close", None):
            close()


def alone(speech: Generator[Made | Call[Any, Any], Any, None], lead_s: float = 0.0) -> Generator[Made]:
    """Drive an utterance that has the device to itself.

    Args:
        speech: The utterance.
        lead_s: What its listener is taken to have in hand.

    Yields:
        What it makes.
    """
    result: Any = None
    try:
        while True:
            made = speech.send(result)
            result = None
            if isinstance(made, Call):
                size = made.stage.size(made.item, lead_s)
                (result,) = made.stage.run([made.item], size)
            else:
                yield made
    except StopIteration:
        return
    finally:
        speech.close()
