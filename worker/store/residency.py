"""Which models are in memory, who uses them, and how they get there and out; knows no protocol and no scheduler."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from worker.changes import Changes
from worker.engines.base import Card, Engine, Model, Settings
from worker.engines.registry import Registry
from worker.errors import EngineFailure, ModelNotFound, WrongModelState

log = structlog.get_logger(__name__)

WARMUP_TEXT = "Hello there."


class Stage(enum.Enum):
    """Where a model stands."""

    AVAILABLE = enum.auto()
    LOADING = enum.auto()
    WARMING_UP = enum.auto()
    READY = enum.auto()
    FAILED = enum.auto()


@dataclass(eq=False)
class Resident:
    """A model of this worker, in memory or not.

    Attributes:
        name: Model id.
        engine: Who serves it.
        card: What is known of it.
        stage: Where it stands.
        reason: Why it failed.
        users: Utterances that it is speaking.
    """

    name: str
    engine: type[Engine]
    card: Card
    stage: Stage = Stage.AVAILABLE
    reason: str = ""
    users: int = 0
    model: Model | None = None
    loading: asyncio.Task[Model] | None = None


class Residency:
    """The models of this worker.

    Args:
        registry: The engines.
        device: Where models go: `cpu` or `cuda:N`.
        changes: Notified when a model's stage or number of users changes.
    """

    def __init__(self, registry: Registry, device: str, changes: Changes) -> None:
        self._device = device
        self._changes = changes
        self._registry = registry
        self._residents = {
            name: Resident(name, registry.engine_of(name), card) for name, card in registry.models().items()
        }

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents.values())

    def find(self, name: str, revision: str = "") -> Resident:
        """Look a model up.

        Raises:
            ModelNotFound: It is not here, or not at that revision.
        """
        if name not in self._residents:
            self._registry.engine_of(name)  # Raises with the list of what there is.
        resident = self._residents[name]
        if revision and revision != resident.card.revision:
            raise ModelNotFound(
                f"the model {name!r} is here at revision {resident.card.revision!r}, not at {revision!r}", field="model"
            )
        return resident

    async def acquire(self, resident: Resident, may_load: bool) -> Model:
        """Hold a model in memory until `release`; load it first where that is needed and allowed.

        Raises:
            WrongModelState: It is not loaded and may not be.
            EngineFailure: It cannot be loaded.
        """
        if not may_load and resident.stage is not Stage.READY:
            raise WrongModelState(f"the model {resident.name!r} is not loaded", field="model")
        resident.users += 1
        try:
            return await self.load(resident)
        except BaseException:
            self.release(resident)
            raise

    def release(self, resident: Resident) -> None:
        """Let go of a model that was acquired."""
        resident.users -= 1
        self._changes.notify()

    async def load(self, resident: Resident) -> Model:
        """Bring a model into memory; of several callers one does it and all wait for it.

        Raises:
            EngineFailure: It cannot be loaded. The next call tries again.
        """
        if resident.model:
            return resident.model
        if not resident.loading:
            resident.loading = asyncio.create_task(self._load(resident))
            # If nobody waits any more, a failure is on record all the same: in the log and in `reason`.
            resident.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: a caller that goes away must not undo the load for the others.
        return await asyncio.shield(resident.loading)

    async def unload(self, resident: Resident) -> None:
        """Take a model out of memory.

        Raises:
            WrongModelState: It is being used or loaded.
        """
        if resident.users or resident.loading:
            raise WrongModelState(
                f"the model {resident.name!r} is in use ({resident.users} utterances) or being loaded", field="model"
            )
        model, resident.model = resident.model, None
        self._set(resident, Stage.AVAILABLE)
        if model:
            await asyncio.to_thread(model.close)

    async def _load(self, resident: Resident) -> Model:
        try:
            self._set(resident, Stage.LOADING)
            model = await asyncio.to_thread(resident.engine.load, resident.name, self._device)
            self._set(resident, Stage.WARMING_UP)
            await asyncio.to_thread(_warm_up, model)
        except Exception as error:
            log.exception("model failed to load", model=resident.name)
            reason = f"{type(error).__name__}: {error}"
            self._set(resident, Stage.FAILED, reason)
            raise EngineFailure(f"the model {resident.name!r} could not be loaded: {reason}") from error
        else:
            resident.model = model
            self._set(resident, Stage.READY)
            log.info("model ready", model=resident.name, engine=resident.engine.name)
            return model
        finally:
            resident.loading = None

    def _set(self, resident: Resident, stage: Stage, reason: str = "") -> None:
        resident.stage, resident.reason = stage, reason
        self._changes.notify()


def _warm_up(model: Model) -> None:
    for voice in model.card.voices:
        for _ in model.speak(WARMUP_TEXT, 0, Settings(voice.id, 1.0, 0)):
            pass
