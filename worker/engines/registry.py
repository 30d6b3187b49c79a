"""Finds the installed engines and which of them serves a model; the single source of truth for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

import structlog

from worker.engines.base import Card, Engine, HubModel
from worker.errors import UnsupportedModel

GROUP = "sonorant.engines"

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".ckpt", ".gguf", ".msgpack", ".nemo", ".tflite")
"""Ends of the names of files that hold weights."""

log = structlog.get_logger(__name__)


class Registry:
    """The engines of this worker.

    Args:
        engines: The classes, in order of preference.

    Raises:
        ValueError: Two engines have one name or embed the same model, or a model has no voice.
    """

    def __init__(self, engines: Iterable[type[Engine]]) -> None:
        self.engines: dict[str, type[Engine]] = {}
        self._embedded: dict[str, tuple[type[Engine], Card]] = {}
        for engine in engines:
            if (other := self.engines.setdefault(engine.name, engine)) is not engine:
                raise ValueError(f"two engines are named {engine.name!r}: {other!r} and {engine!r}")
            for name, card in engine.embedded().items():
                if not card.voices:
                    raise ValueError(f"the engine {engine.name} gives {name!r} no voice")
                if name in self._embedded:
                    raise ValueError(f"two engines embed {name!r}: {self._embedded[name][0].name} and {engine.name}")
                self._embedded[name] = (engine, card)

    @classmethod
    def installed(cls, names: Iterable[str] | None = None) -> Registry:
        """Load the engines of the entry-point group.

        Args:
            names: Entry-point names of the engines to take; None for all that are not for tests.

        Raises:
            ValueError: A named engine is not installed or its libraries are missing, or names clash.
        """
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=GROUP):
            if found.setdefault(point.name, point).value != point.value:
                raise ValueError(f"two packages install an engine {point.name!r}: {found[point.name]} and {point}")
        if names is None:
            loaded = (_load_or_skip(point) for point in found.values())
            return cls(engine for engine in loaded if engine and not engine.test_only)
        wanted = list(names)
        if unknown := [name for name in wanted if name not in found]:
            raise ValueError(f"no engine {', '.join(unknown)} is installed; there are {', '.join(sorted(found))}")
        return cls(_load(found[name]) for name in wanted)

    def models(self) -> Mapping[str, Card]:
        """Models that need no hub, by id."""
        return {name: card for name, (_, card) in sorted(self._embedded.items())}

    def embedding(self, name: str) -> type[Engine] | None:
        """Find the engine that embeds a model; None if none does."""
        return self._embedded[name][0] if name in self._embedded else None

    def resolve(self, model: HubModel) -> type[Engine]:
        """Find the engine that serves a model of the hub.

        Raises:
            UnsupportedModel: None does; the message is the reason alone, for a list to show.
        """
        if model.files and not any(path.endswith(WEIGHTS) for path in model.files):
            raise UnsupportedModel("not a model: its repository holds no weights", field="model")
        if embedding := self.embedding(model.name):
            return embedding
        for engine in self.engines.values():
            if engine.claims(model):
                if missing := [module for module in engine.requires if not find_spec(module)]:
                    raise UnsupportedModel(f"needs the extra {engine.extra or missing[0]}", field="model")
                if reason := engine.refuse(model):
                    raise UnsupportedModel(reason, field="model")
                return engine
        kind = f", model type {model.model_type!r}" if model.model_type else ""
        raise UnsupportedModel(f"no engine for library {model.library or 'unknown'!r}{kind}", field="model")


def _load(point: EntryPoint) -> type[Engine]:
    try:
        engine = point.load()
    except ImportError as error:
        raise ValueError(f"the engine {point.name!r} cannot be used: {error}") from error
    if not (isinstance(engine, type) and issubclass(engine, Engine)):
        raise ValueError(f"the engine {point.name!r} ({point.value}) is not a subclass of worker.engines.base.Engine")
    return engine


def _load_or_skip(point: EntryPoint) -> type[Engine] | None:
    # A missing optional library costs only the engine that needs it.
    try:
        return _load(point)
    except ValueError as error:
        log.warning("engine left out", engine=point.name, reason=str(error))
        return None
