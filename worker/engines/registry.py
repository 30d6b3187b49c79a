"""Finds the installed engines and which of them serves a model; the single source of truth for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

import structlog

from worker.engines.base import Card, Engine, HubModel
from worker.errors import ModelNotFound

GROUP = "sonorant.engines"

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

    def engine_of(self, name: str) -> type[Engine]:
        """Find the engine that serves a model.

        Raises:
            ModelNotFound: None does.
        """
        if name not in self._embedded:
            raise ModelNotFound(
                f"no engine here serves the model {name!r}; there are {', '.join(self.models()) or 'none'}",
                field="model",
            )
        return self._embedded[name][0]

    def resolve(self, model: HubModel) -> tuple[str, str]:
        """Say which engine would serve a model of the hub.

        Returns:
            Name of the engine and an empty string, or an empty string and the reason why none does.
        """
        for engine in self.engines.values():
            if not engine.refuse(model):
                return engine.name, ""
        return "", f"no engine for library {model.library or 'unknown'!r}, model type {model.model_type or 'unknown'!r}"


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
