"""What can be spoken with: the workers' models and voices, and OpenAI's names for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import ApiError
from gateway.fleet.link import Fleet
from protos.tts.v1 import models_pb2

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Model names that OpenAI's clients send; all stand for the default model."""

OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
)
"""Voice names that OpenAI's clients send; each stands for a voice of the model, the same one every time."""

_STATES = {
    models_pb2.MODEL_STATE_AVAILABLE: "available",
    models_pb2.MODEL_STATE_LOADING: "loading",
    models_pb2.MODEL_STATE_READY: "ready",
    models_pb2.MODEL_STATE_FAILED: "failed",
}


@dataclass
class Entry:
    """A model, over all workers.

    Attributes:
        model: As one of the workers has it.
        states: State by worker id.
    """

    model: models_pb2.Model
    states: dict[str, str] = field(default_factory=dict)


class Catalogue:
    """Models and voices of a fleet.

    Args:
        fleet: The workers.
        default_model: Model of requests that name none, and of OpenAI's names.
    """

    def __init__(self, fleet: Fleet, default_model: str) -> None:
        self._fleet = fleet
        self._default_model = default_model

    def __iter__(self) -> Iterator[Entry]:
        entries: dict[str, Entry] = {}
        for link in self._fleet:
            for model in link.models:
                entry = entries.setdefault(model.name, Entry(model))
                assert link.status
                entry.states[link.status.worker_id] = _STATES.get(model.state, "unknown")
        return iter(sorted(entries.values(), key=lambda entry: entry.model.name))

    def model_name(self, name: str | None) -> str:
        """Resolve what a request calls a model: nothing and OpenAI's names are the default model."""
        return self._default_model if not name or name in OPENAI_MODELS else name

    def model(self, name: str | None) -> Entry:
        """Look a model up by what a request calls it.

        Raises:
            ApiError: No worker has it, or no worker can be reached.
        """
        wanted = self.model_name(name)
        if not any(link.status for link in self._fleet):
            raise ApiError("NO_WORKER", "no worker can be reached", retry_after_s=1.0)
        for entry in self:
            if entry.model.name == wanted:
                return entry
        there = ", ".join(entry.model.name for entry in self) or "none"
        raise ApiError("MODEL_NOT_FOUND", f"`model` is {wanted!r}; the workers have {there}", param="model")

    def voice_name(self, entry: Entry, name: str) -> str:
        """Resolve what a request calls a voice.

        The model's own voices come first, so a model whose voice is named `fable` speaks with that one. An OpenAI
        name stands for the voice at its place in the list, counted round and round, so distinct names are distinct
        voices wherever the model has enough of them.

        Args:
            entry: The model.
            name: The request's `voice`; empty for the model's default.

        Raises:
            ApiError: The model has no such voice.
        """
        voices = [voice.id for voice in entry.model.voices]
        if not name or name in voices:
            return name
        if name in OPENAI_VOICES:
            return voices[OPENAI_VOICES.index(name) % len(voices)]
        raise ApiError(
            "VOICE_NOT_FOUND",
            f"`voice` is {name!r}; {entry.model.name!r} has {', '.join(voices)}, and takes OpenAI's names "
            f"{', '.join(OPENAI_VOICES)}",
            param="voice",
        )

    def voices(self, name: str | None = None) -> list[dict[str, Any]]:
        """List voices as JSON: of one model, or of all.

        Raises:
            ApiError: The model is not there.
        """
        entries = [self.model(name)] if name else list(self)
        return [
            {
                "id": voice.id,
                "name": voice.name,
                "language": voice.language,
                "gender": voice.gender or None,
                "model": entry.model.name,
            }
            for entry in entries
            for voice in entry.model.voices
        ]
