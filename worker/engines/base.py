"""The contract between the worker and an engine; knows nothing of gRPC, scheduling or the hub.

An **engine** runs one model family. It is a class that says which models of a hub it claims and which of their files
it needs; `Engine.load` turns these files into a `Model`, which speaks segments. A package adds an engine by naming its
class in the entry-point group `sonorant.engines`; the built-in engines come through the same door.

An engine's module imports its heavy libraries inside its functions: the worker reads every module to know what it can
serve, and a library that is missing costs only the engine that needs it.

Threads: a model is loaded, warmed up and closed on threads of their own, and in between used by the device thread
alone; never by two at a time, so an engine needs no locks. The exception is a model that does its work in stages
(`Model.is_staged`, see `worker.engines.stages`): it speaks several utterances together and, on a CPU, on several
threads.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from worker.engines.stages import Samples as Samples  # Engines find it here.
from worker.engines.stages import Speech


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
class Reference:
    """A recording whose voice is to be imitated.

    Attributes:
        voice: Id of the voice.
        samples: float32 [S] in [-1, 1], mono, from 1 to 30 s.
        sample_rate_hz: Their rate.
        transcript: What is said in it; empty if nobody has told.
        key: The same for the same recording and transcript, so that what a model makes of them can be kept.
    """

    voice: str
    samples: Samples
    sample_rate_hz: int
    transcript: str
    key: str


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """How an engine wants its text cut, in characters.

    Attributes:
        first: A first segment longer than this is cut at a clause, so that the first audio comes early.
        longest: No segment is longer than this.
        joins: Whether short sentences are given together, up to `longest`: for models that draw a voice anew for every
            segment, or that speak poorly what is short.
        patience_s: A segment that sounds longer than this and `patience_s_per_char` for each of its characters has run
            away: it is cut there, and the listener is told.
        patience_s_per_char: See above.
    """

    first: int = 80
    longest: int = 400
    joins: bool = False
    patience_s: float = 4.0
    patience_s_per_char: float = 0.25

    def longest_s(self, text: str, speed: float = 1.0) -> float:
        """How long a segment may sound, in seconds; three times as long as slow speech is."""
        return (self.patience_s + self.patience_s_per_char * len(text)) / min(speed, 1.0)

    def bound_s(self, text: str, speed: float = 1.0) -> float:
        """How much of a segment is made at most, in seconds: a little more than may be heard, so that a cut shows."""
        return self.longest_s(text, speed) + 1.0


@dataclass(frozen=True, slots=True)
class HubModel:
    """What a hub tells about a model; what an engine decides by whether it serves it.

    Attributes:
        name: Model id, `org/name`.
        library: Library that it is made for, such as `transformers`.
        tags: The hub's tags.
        model_type: `model_type` of its config.json.
        architectures: `architectures` of its config.json.
        files: Paths of its files.
    """

    name: str
    library: str = ""
    tags: Sequence[str] = ()
    model_type: str = ""
    architectures: Sequence[str] = ()
    files: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Another repository that a model needs beside its own: a vocoder, a codec, speaker embeddings.

    Attributes:
        name: Repository id, `org/name`.
        files: Glob patterns of the files needed.
        kind: What the hub calls that kind of repository.
    """

    name: str
    files: Sequence[str] = ("*",)
    kind: Literal["model", "dataset"] = "model"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, at one revision.

    Attributes:
        name: Model id.
        folder: Where the files are that `Engine.files` asked for.
        revision: Commit of the hub.
        parts: Folders of the other repositories that `Engine.parts` asked for, by their names.
        trusted: Whether the operator lets code of this repository run (`trust_remote_code`).
        vocoder_dtype: Numbers that the operator wants vocoders to compute in, by torch's name for them; empty for those
            of the weights.
    """

    name: str
    folder: Path
    revision: str = ""
    parts: Mapping[str, Path] = field(default_factory=dict)
    trusted: bool = False
    vocoder_dtype: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What can be said of a model without loading it.

    Attributes:
        sample_rate_hz: Rate of the PCM that it makes.
        voices: Its voices, the default one first.
        revision: Revision that is served.
        speeds: Slowest and fastest `speed` that it takes.
        options: JSON Schema properties of the options that it takes, by name.
        takes_instructions: Whether it takes instructions in words.
        cloning: What it needs to imitate a voice; empty if it imitates none.
    """

    sample_rate_hz: int
    voices: Sequence[Voice]
    revision: str = ""
    speeds: tuple[float, float] = (1.0, 1.0)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    takes_instructions: bool = False
    cloning: Literal["", "audio", "audio and transcript"] = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one utterance is to be spoken; the same for all its segments.

    Attributes:
        voice: Id of one of the model's voices.
        speed: Pace, within the card's `speeds`.
        seed: Fixes everything random. Always set: a request without one gets a fresh one.
        options: Values of the card's options.
        instructions: How to speak, in words; empty unless the card takes instructions.
        reference: A voice to imitate instead of `voice`; None unless the card has `cloning`.
    """

    voice: str
    speed: float
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    instructions: str = ""
    reference: Reference | None = None

    @property
    def speaker(self) -> str:
        """Id of the voice that is heard."""
        return self.reference.voice if self.reference else self.voice


class Model(ABC):
    """A model in memory. The worker calls `close` once, when nobody speaks with it any more.

    Attributes:
        card: What can be said of it.
        limits: How its text is to be cut.
        languages: BCP 47 tags of languages that every voice speaks beside its own.
        is_staged: Whether `speak` leaves the work for the device to stages, of which it yields calls. What it does
            itself is short then, and any thread may do it, so `check` and `speak` share nothing that can change.
        slots: Most utterances that it speaks at once; None for any number.
    """

    card: Card
    limits: SegmentLimits = SegmentLimits()
    languages: Sequence[str] = ()
    is_staged: bool = False
    slots: int | None = None

    def find_voice(self, voice: str) -> Voice | None:
        """Look a voice up. Override where more can be said than the card lists, such as blends of voices."""
        return next((each for each in self.card.voices if each.id == voice), None)

    def voice_in(self, voice: Voice, language: str) -> Voice | None:
        """Tell which voice it is when it speaks a language; None if it does not speak it.

        Override where it is another voice then.

        Args:
            voice: One that `find_voice` knows.
            language: BCP 47 tag.
        """
        spoken = (voice.language, *self.languages)
        return voice if any(is_same_language(each, language) for each in spoken) else None

    def lacks(self, voice: str) -> Sequence[str]:
        """Glob patterns of files of the model's repository that the voice needs and that are not there yet.

        For repositories with many large voices: `Engine.files` asks for what all of them share.
        """
        return ()

    def prepare(self, voice: str) -> None:
        """Bring a voice into memory whose files `lacks` asked for, now that they are in the checkpoint's folder.

        Runs on a thread of its own while other voices may be speaking; it must not touch what they use.
        """

    def check(self, text: str, voice: str) -> None:
        """Refuse text that the voice cannot say, before any of it is spoken.

        Raises:
            UnspeakableText: Nothing, or not all, of `text` can be said; the message names the characters.
        """

    @abstractmethod
    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples] | Speech:
        """Speak one segment.

        Every `next()` on the result is one step of the device, or, of a staged model, leads to the next call of a
        stage; other utterances are served between two of them, and a cancelled one ends there. The samples must not
        depend on what else is being spoken.

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
        requires: Modules that `load` imports and a lean install may lack. The worker imports them before it measures
            how much memory a model takes.
        extra: The extra of this package that brings them.
    """

    name: ClassVar[str]
    test_only: ClassVar[bool] = False
    requires: ClassVar[Sequence[str]] = ()
    extra: ClassVar[str] = ""

    @classmethod
    def embedded(cls) -> Mapping[str, Card]:
        """Models that come with the engine and need no hub, by id."""
        return {}

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Whether a model of the hub is of this family."""
        return False

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        """Say why a model that it claims cannot be served even so; empty if it can."""
        return ""

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """Glob patterns of the files that a claimed model is loaded from; no more than are needed."""
        return transformers_files(model)

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> Sequence[Part]:
        """Other repositories that a model needs; asked when its own files are on disk."""
        return ()

    @classmethod
    def loading(cls) -> AbstractContextManager[object]:
        """Context that the worker enters around a load, on the thread that loads."""
        return nullcontext()

    @classmethod
    def load_embedded(cls, name: str, device: str) -> Model:
        """Bring one of the embedded models into memory.

        Args:
            name: A key of `embedded`.
            device: `cpu` or `cuda:N`.

        Raises:
            Exception: Anything; the worker reports it as an engine failure and keeps running.
        """
        raise NotImplementedError

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> Model:
        """Bring a model of the hub into memory, from disk alone.

        Args:
            checkpoint: Its files.
            device: `cpu` or `cuda:N`.

        Raises:
            UnsupportedModel: It is of the family, but not of a kind that can be served; the message says why.
            Exception: Anything else; the worker reports it as an engine failure and keeps running.
        """
        raise NotImplementedError


def is_same_language(spoken: str, asked: str) -> bool:
    """Whether a voice of one language can read text in another: regions and scripts do not matter.

    Args:
        spoken: BCP 47 tag; `und` or `mul` for a voice of no certain language, which is trusted to know any.
        asked: BCP 47 tag.
    """
    primary = spoken.lower().partition("-")[0]
    return primary in ("und", "mul", asked.lower().partition("-")[0])


def transformers_files(model: HubModel) -> Sequence[str]:
    """Glob patterns of what `from_pretrained` reads: weights, configuration, tokenizers.

    Weights are safetensors; pickles only where there are none (torch loads them with `weights_only`). Those of adapters
    and of a trainer's checkpoints, which lie in folders, are left alone.
    """
    has_safetensors = any(re.fullmatch(r"model[^/]*\.safetensors", path) for path in model.files)
    weights = "model*.safetensors" if has_safetensors else "pytorch_model*.bin"
    return ("*.json", weights, "*.model", "*.txt", "*.jinja")
