"""Keeps what a model makes of the recordings that it imitates; knows no model family.

To read a recording takes a model's encoder as long as some seconds of speech take, and an utterance needs it for every
segment. So what comes of it is kept for the last few recordings. The reading is a stage: other utterances are served
between it and the first frame.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.audio import resample
from worker.engines.base import Reference, Samples, Settings
from worker.engines.stages import Stage

T = TypeVar("T")

MOST_KEPT = 8


class Recordings(Generic[T]):
    """The last few recordings that a model was given. Used on the device thread alone.

    Args:
        sample_rate_hz: Rate that the model's encoder takes.
        encode: Makes of a recording, float32 [S] at that rate, what the model is to be given.
    """

    def __init__(self, sample_rate_hz: int, encode: Callable[[Samples], T]) -> None:
        self._sample_rate_hz, self._encode = sample_rate_hz, encode
        self._kept: dict[str, T] = {}  # The one used last is the last.

    def read(self, reference: Reference) -> T:
        """Look a recording up, or read it."""
        if reference.key in self._kept:
            read = self._kept.pop(reference.key)
        else:
            read = self._encode(resample(reference.samples, reference.sample_rate_hz, self._sample_rate_hz))
        self._kept[reference.key] = read
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return read


@dataclass(frozen=True, slots=True)
class Request:
    """What one segment is to be made of.

    Attributes:
        text: The segment.
        settings: How to speak.
    """

    text: str
    settings: Settings


class Reading(Stage[Request, T]):
    """Makes a model's prompts of texts, and of the recordings that are to be imitated.

    A stage, though the text takes no time, since neither a tokenizer nor what is kept of recordings bears two threads.
    """

    name = "read"

    def run(self, items: Sequence[Request], size: Hashable) -> list[T]:
        """Make prompts."""
        return [self.prompt(item.text, item.settings) for item in items]

    @abstractmethod
    def prompt(self, text: str, settings: Settings) -> T:
        """Make the prompt of one segment.

        Raises:
            WorkerError: It cannot be spoken so.
        """
