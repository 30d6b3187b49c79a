"""What can be spoken with: the workers' models and voices, the Hub's, and OpenAI's names for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from google.protobuf import json_format

from gateway.errors import ApiError
from gateway.fleet.fleet import Fleet
from gateway.hub import TASK, HubList, Listed
from gateway.settings import Settings
from protos.tts.v1 import models_pb2

STATES = {
    models_pb2.MODEL_STATE_AVAILABLE: "cached",
    models_pb2.MODEL_STATE_DOWNLOADING: "downloading",
    models_pb2.MODEL_STATE_LOADING: "loading",
    models_pb2.MODEL_STATE_READY: "ready",
    models_pb2.MODEL_STATE_FAILED: "failed",
}
"""What the API calls the states of a model on a worker; where a worker does not have it, it is `absent`."""

CLONING = {models_pb2.CLONING_AUDIO: "audio", models_pb2.CLONING_AUDIO_AND_TRANSCRIPT: "audio and transcript"}
"""What the API says a model needs to imitate a voice; nothing where it imitates none."""


@dataclass
class Entry:
    """A model that some worker has.

    Attributes:
        model: As the worker has it that knows most of it.
        workers: How it stands on each worker that has it, by worker id.
    """

    model: models_pb2.Model
    workers: dict[str, models_pb2.Model] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether it has not failed on every worker that tried."""
        return any(model.state != models_pb2.MODEL_STATE_FAILED for model in self.workers.values())


class Catalogue:
    """Models and voices of a fleet and of the Hub.

    Args:
        fleet: The workers.
        hub: The Hub's list.
        settings: The default model, and the aliases.

    Attributes:
        model_aliases: What other names stand for, such as OpenAI's; the default model if that is empty.
        voice_aliases: The same for voices; see `voice`.
    """

    def __init__(self, fleet: Fleet, hub: HubList, settings: Settings) -> None:
        self._fleet = fleet
        self._hub = hub
        self._default_model = settings.default_model
        self.model_aliases = settings.model_aliases
        self.voice_aliases = settings.voice_aliases

    def __iter__(self) -> Iterator[Entry]:
        """The models that some worker has embedded, on disk or in memory, by name."""
        entries: dict[str, Entry] = {}
        for link in self._fleet:
            for model in link.models:
                entry = entries.setdefault(model.name, Entry(model))
                if model.voices and not entry.model.voices:
                    entry.model = model
                assert link.status
                entry.workers[link.status.worker_id] = model
        return iter(sorted(entries.values(), key=lambda entry: entry.model.name))

    def model_name(self, name: str | None) -> str:
        """Resolve what a request calls a model: nothing is the default model, and so are most aliases."""
        return self.model_aliases.get(name or "", name) or self._default_model

    def model(self, name: str | None) -> Entry:
        """Look up a model that some worker has, by what a request calls it.

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

    def voice(self, name: str) -> tuple[str, int | None]:
        """Resolve what a request calls a voice: its name, and its place if that is an alias.

        A model's own voices come first, so a model whose voice is named `fable` speaks with that one. Else an alias
        stands for the voice that it names, and where the model has no such voice, for the one at the alias's place in
        the list, counted round and round: so distinct names are distinct voices wherever the model has enough of them.
        """
        if name not in self.voice_aliases:
            return name, None
        return self.voice_aliases[name] or name, list(self.voice_aliases).index(name)

    def voices(self, name: str | None = None) -> list[dict[str, Any]]:
        """List voices as JSON: of one model, or of all that have been loaded once, those of the default model first.

        Raises:
            ApiError: The model is not there.
        """
        entries = [self.model(name)] if name else sorted(self, key=lambda each: each.model.name != self._default_model)
        return [{**voice, "model": entry.model.name} for entry in entries for voice in _voices(entry.model)]

    def can_imitate(self, name: str, *, has_transcript: bool) -> bool:
        """Whether a model can speak as a custom voice.

        Args:
            name: What a request calls the model.
            has_transcript: Whether it is known what is said in the voice's recording.

        Raises:
            ApiError: The model is not there.
        """
        cloning = self.model(name).model.cloning
        return cloning == models_pb2.CLONING_AUDIO or (cloning in CLONING and has_transcript)

    def options(self) -> dict[str, dict[str, Any]]:
        """JSON Schemas of the options that models of the workers take beside the fields of a request, by name."""
        ways: dict[str, list[dict[str, Any]]] = {}
        takers: dict[str, list[str]] = {}
        for entry in self:
            for name, schema in json_format.MessageToDict(entry.model.options_schema).get("properties", {}).items():
                takers.setdefault(name, []).append(entry.model.name)
                if schema not in ways.setdefault(name, []):
                    ways[name].append(schema)
        return {
            name: {**(each[0] if len(each) == 1 else {"anyOf": each}), "title": f"Option of {', '.join(takers[name])}"}
            for name, each in ways.items()
        }

    async def listing(self, search: str, limit: int) -> dict[str, Any]:
        """List the Hub's models with what the workers know of them, as JSON.

        Models that a worker has and the Hub's list does not name are listed apart, as `local`. Where there is no list
        of the Hub, they are the list.

        Args:
            search: Part of the ids.
            limit: Most models of the Hub.
        """
        listed, is_stale = await self._hub.get(search, limit)
        verdicts = await self._verdicts(listed)
        local = {entry.model.name: entry for entry in self}
        models = [self._describe(each, local.get(each.facts.id), verdicts.get(each.facts.id)) for each in listed]
        named = {model["id"] for model in models}
        others = [
            self._describe(None, entry, None)
            for entry in local.values()
            if entry.model.name not in named and search.lower() in entry.model.name.lower()
        ]
        if not listed:
            models, others = others, []
        return {"count": len(models), "models": models, "local": others, "stale": is_stale}

    async def _verdicts(self, listed: Sequence[Listed]) -> dict[str, models_pb2.Verdict]:
        """Ask the workers which models they can serve; one that can is enough."""
        asked = [
            models_pb2.HubModel(
                name=each.facts.id,
                library=each.facts.library_name or "",
                tags=each.facts.tags,
                model_type=each.model_type,
                architectures=each.architectures,
                files=each.files,
            )
            for each in listed
        ]
        up = [link for link in self._fleet if link.is_up]
        answers = await asyncio.gather(*(link.resolve(asked) for link in up), return_exceptions=True)
        verdicts: dict[str, models_pb2.Verdict] = {}
        for answer in answers:
            for verdict in () if isinstance(answer, BaseException) else answer:
                if not verdicts.get(verdict.name, verdict).engine or verdict.name not in verdicts:
                    verdicts[verdict.name] = verdict
        return verdicts

    def _describe(
        self, listed: Listed | None, entry: Entry | None, verdict: models_pb2.Verdict | None
    ) -> dict[str, Any]:
        model = entry.model if entry else models_pb2.Model()
        engine = model.engine or (verdict.engine if verdict else "")
        reason = "" if engine else verdict.reason if verdict else "no worker can be reached"
        facts = asdict(listed.facts) if listed else {"id": model.name, "pipeline_tag": TASK}
        return {
            **facts,
            "servable": bool(engine),
            "engine": engine or None,
            "reason": reason or None,
            "download_bytes": listed.download_size(verdict.files) if listed and verdict and verdict.files else None,
            "revision": model.revision or None,
            "workers": {
                link.status.worker_id: standing(entry.workers.get(link.status.worker_id) if entry else None)
                for link in self._fleet
                if link.status
            },
            "sample_rate_hz": model.native_format.sample_rate_hz or None,
            "speeds": [round(model.min_speed, 3), round(model.max_speed, 3)] if model.max_speed else None,
            "voices": _voices(model),
            "options": json_format.MessageToDict(model.options_schema).get("properties", {}),
            "takes_instructions": model.takes_instructions,
            "cloning": CLONING.get(model.cloning),
        }


def standing(model: models_pb2.Model | None) -> dict[str, Any]:
    """How a model stands on a worker, as JSON."""
    if not model:
        return {"state": "absent"}
    standing: dict[str, Any] = {"state": STATES.get(model.state, "unknown"), "active": model.active}
    if model.state == models_pb2.MODEL_STATE_DOWNLOADING:
        standing |= {"downloaded_bytes": model.downloaded_bytes, "download_bytes": model.download_bytes}
    if model.memory_bytes:
        standing["memory_bytes"] = model.memory_bytes
    if model.reason:
        standing["reason"] = model.reason
    return standing


def _voices(model: models_pb2.Model) -> list[dict[str, Any]]:
    return [
        {"id": voice.id, "name": voice.name, "language": voice.language, "gender": voice.gender or None}
        for voice in model.voices
    ]
