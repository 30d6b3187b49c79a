"""The contract between the worker and an engine; knows nothing of gRPC, scheduling or the hub.

An **engine** runs one model family. It is a class: `Engine.load` turns a model id into a `Model`, which speaks
segments. A package adds an engine by naming its class in the entry-point group `sonorant.engines`; the built-in
engines come through the same door.

Threads: a model is loaded, warmed up and closed on threads of their own, and in between used by the device thread
alone; never by two at a time, so an engine needs no locks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""float32 [S], mono, in [-1, 1] at the model's `sample_rate_hz`."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker that a model offers.

    Attributes:
        id: What a request names.
        name: For people to read.
        language: BCP 47 tag.
        gender: `female`, `male` or empty.
    """

    id: str
    name: str
    language: str
    gender: str = ""


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """How an engine wants its text cut, in characters.

    Attributes:
        first: A first segment longer than this is cut at a clause, so that the first audio comes early.
        longest: No segment is longer than this.
    """

    first: int = 80
    longest: int = 400


@dataclass(frozen=True, slots=True)
class HubModel:
    """What a hub tells about a model; what an engine decides by whether it serves it."""

    name: str
    library: str = ""
    tags: Sequence[str] = ()
    model_type: str = ""
    architectures: Sequence[str] = ()
    files: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """What can be said of a model without loading it.

    Attributes:
        sample_rate_hz: Rate of the PCM that it makes.
        voices: Its voices, the default one first.
        revision: Revision that is served.
        speeds: Slowest and fastest `speed` that it takes.
        options: JSON Schema properties of the options that it takes, by name.
    """

    sample_rate_hz: int
    voices: Sequence[Voice]
    revision: str = ""
    speeds: tuple[float, float] = (1.0, 1.0)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """How one utterance is to be spoken; the same for all its segments.

    Attributes:
        voice: Id of one of the model's voices.
        speed: Pace, within the card's `speeds`.
        seed: Fixes everything random. Always set: a request without one gets a fresh one.
        options: Values of the card's options.
    """

    voice: str
    speed: float
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)


class Model(ABC):
    """A model in memory. The worker calls `close` once, when nobody speaks with it any more."""

    card: Card
    limits: SegmentLimits = SegmentLimits()

    def check(self, text: str, voice: str) -> None:
        """Refuse text that the voice cannot say, before any of it is spoken.

        Raises:
            UnspeakableText: Nothing, or not all, of `text` can be said; the message names the characters.
        """

    @abstractmethod
    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment.

        Every `next()` on the result is one step of the device; other utterances are served between two steps, and a
        cancelled one ends there. The samples must not depend on what else is being spoken.

        Args:
            text: The segment, as cut by `limits`.
            index: Its number in the utterance, from 0.
            settings: Voice, speed, seed and options.

        Yields:
            The next samples. Silence before and after the speech is left out: the worker sets the pauses.
        """

    def close(self) -> None:
        """Give back what the model holds."""


class Engine(ABC):
    """Code that runs one model family.

    Attributes:
        name: Short, lower case; unique among the installed engines.
        test_only: Left out unless the operator names it.
    """

    name: ClassVar[str]
    test_only: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def embedded(cls) -> Mapping[str, Card]:
        """Models that come with the engine and need no hub, by id."""

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        """Say why the engine does not serve a model of the hub; empty if it does."""
        return "" if model.name in cls.embedded() else f"the engine {cls.name} has only {', '.join(cls.embedded())}"

    @classmethod
    @abstractmethod
    def load(cls, name: str, device: str) -> Model:
        """Bring a model into memory.

        Args:
            name: Model id.
            device: `cpu` or `cuda:N`.

        Raises:
            Exception: Anything; the worker reports it as an engine failure and keeps running.
        """
