"""Keeps what a model makes of the recordings that it imitates; knows no model family.

To read a recording takes a model's encoder as long as some seconds of speech take, and an utterance needs it for every
segment. So what comes of it is kept for the last few recordings. The reading is a step of its own: other utterances are
served between it and the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

import numpy as np

from worker.audio import resample
from worker.engines.base import Reference, Samples

T = TypeVar("T")

MOST_KEPT = 8


class Recordings(Generic[T]):
    """The last few recordings that a model was given. Used on the device thread alone.

    Args:
        sample_rate_hz: Rate that the model's encoder takes.
        read: Makes of a recording, float32 [S] at that rate, what the model is to be given.
    """

    def __init__(self, sample_rate_hz: int, read: Callable[[Samples], T]) -> None:
        self._sample_rate_hz, self._read = sample_rate_hz, read
        self._kept: dict[str, T] = {}  # The one used last is the last.

    def of(self, reference: Reference | None) -> Generator[Samples, None, T | None]:
        """Look a recording up, or read it in one step.

        Yields:
            No samples, once, if it had to be read.

        Returns:
            What was made of it; None without one.
        """
        if reference is None:
            return None
        if reference.key in self._kept:
            read = self._kept[reference.key] = self._kept.pop(reference.key)
            return read
        read = self._read(resample(reference.samples, reference.sample_rate_hz, self._sample_rate_hz))
        self._kept[reference.key] = read
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        yield np.zeros(0, np.float32)
        return read
