"""Which models are in memory, who uses them, and how they get there and out; knows no protocol and no scheduler.

A model is found by its id: it is embedded in an engine, on disk, or on the hub. Of several callers who want it one does
the work and all wait. Models are loaded one after the other, so that the memory that each one takes can be measured.
What exceeds the budget leaves: the least recently used first, never one that is speaking.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import importlib
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import ParamSpec, TypeVar, cast

import structlog

from worker.changes import Changes
from worker.device import Device
from worker.engines.base import Card, Checkpoint, Engine, Model, Settings
from worker.engines.registry import Registry
from worker.engines.stages import Speech, alone
from worker.errors import (
    LoadFailure,
    ModelForbidden,
    ModelLoading,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    UnsupportedModel,
    WorkerError,
    WrongModelState,
)
from worker.store.disk import Disk, Progress
from worker.store.failures import Failures
from worker.store.hub import check_name

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)

WARMUP_TEXT = "Hello there."
WARMUP_STEPS = 2

MOST_FETCHES = 64
"""Models that are fetched at the same time, those among them of which everything is here."""

IDLE_S = 10.0
"""After how long without use a model's memory is as good as free for others."""

NOTICE_S = 0.1
"""Progress of a download is told no more often than this."""


class Stage(enum.Enum):
    """Where a model stands."""

    AVAILABLE = enum.auto()
    DOWNLOADING = enum.auto()
    LOADING = enum.auto()
    WARMING_UP = enum.auto()
    READY = enum.auto()
    FAILED = enum.auto()


@dataclass(eq=False)
class Resident:
    """A model that this worker has or is getting.

    Attributes:
        name: Model id.
        engine: Who serves it; None until that is known.
        card: What is known of it; None until it has been loaded once.
        revision: Commit that is served; empty until that is known.
        wanted: Commit, branch or tag that was asked for; empty for the newest.
        stage: Where it stands.
        reason: Why it failed.
        progress: How far its download is.
        users: Utterances that it is speaking or will.
        size: Memory that it holds, in bytes, as measured when it was loaded.
        used_at: When it was used last, on the monotonic clock.
        is_embedded: Whether it needs no hub.
    """

    name: str
    engine: type[Engine] | None = None
    card: Card | None = None
    revision: str = ""
    wanted: str = ""
    stage: Stage = Stage.AVAILABLE
    reason: str = ""
    progress: Progress = field(default_factory=Progress)
    users: int = 0
    size: int = 0
    used_at: float = 0.0
    is_embedded: bool = False
    model: Model | None = None
    checkpoint: Checkpoint | None = None
    loading: asyncio.Task[Model] | None = None
    preparing: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def not_ready(self) -> ModelLoading:
        """Say how far it is, to a caller who cannot wait any longer."""
        done, total = self.progress.done, self.progress.total
        if self.preparing:
            doing = f"here, but the files of the voice {', '.join(self.preparing)} are still on their way"
        elif self.stage is Stage.DOWNLOADING and total:
            doing = f"being downloaded: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB are here"
        else:
            doing = {Stage.LOADING: "being loaded", Stage.WARMING_UP: "being warmed up"}.get(self.stage, "on its way")
        return ModelLoading(f"the model {self.name!r} is {doing}", field="model", retry_after_s=5.0)


OnLoad = Callable[[Resident, float, str], None]
"""Told of every load that is over: the model, seconds, and the reason of its failure if it has failed."""

OnEviction = Callable[[str, str], None]
"""Told of every model that leaves memory: its id, and why: `room` for another one, `idle`, or `asked`."""


class Residency:
    """The models of this worker.

    Args:
        registry: The engines.
        disk: The models of the hub that are on disk, and the way to more.
        device: Where models go.
        changes: Notified when a model's stage, progress or number of users changes.
        budget: Most bytes of memory that models may hold.
        idle_ttl_s: After how long without use a model leaves; 0 for never.
        pinned: Models that stay.
        allow: Patterns of the ids that may be used.
        deny: Patterns of those that may not.
        patience_s: How long a load waits for busy models to make room.
        on_load: Told of every load.
        on_eviction: Told of every model that leaves memory.

    Attributes:
        budget: The same.
    """

    def __init__(
        self,
        registry: Registry,
        disk: Disk,
        device: Device,
        changes: Changes,
        *,
        budget: int,
        idle_ttl_s: float = 0.0,
        pinned: Sequence[str] = (),
        allow: Sequence[str] = ("*",),
        deny: Sequence[str] = (),
        patience_s: float = 30.0,
        on_load: OnLoad = lambda *_: None,
        on_eviction: OnEviction = lambda *_: None,
    ) -> None:
        self._registry = registry
        self._disk = disk
        self._device = device
        self._changes = changes
        self.budget = budget
        self._idle_ttl_s = idle_ttl_s
        self._pinned = frozenset(pinned)
        self._allow = allow
        self._deny = deny
        self._patience_s = patience_s
        self._on_load = on_load
        self._on_eviction = on_eviction
        self._memory = asyncio.Lock()  # Held by whoever brings a model into memory or takes one out.
        self._sizes: dict[str, int] = {}
        self._failures = Failures()
        # Apart from the threads that load and unload: a slow hub must keep no model that is here from coming or going.
        self._asking = ThreadPoolExecutor(8, "ask-hub")
        self._fetching = ThreadPoolExecutor(MOST_FETCHES, "fetch")
        self._residents: dict[str, Resident] = {}
        for name, card in registry.models().items():
            if self._is_allowed(name):
                engine = registry.embedding(name)
                self._residents[name] = Resident(name, engine, card, card.revision, is_embedded=True)

    def __iter__(self) -> Iterator[Resident]:
        """Those of which it is known who serves them, by name."""
        return iter(sorted((each for each in self._residents.values() if each.engine), key=lambda each: each.name))

    @property
    def idle_bytes(self) -> int:
        """Memory of models that may leave and that nobody has used lately, in bytes."""
        lately = time.monotonic() - IDLE_S
        return sum(
            each.size
            for each in self._residents.values()
            if each.model and not each.users and each.used_at <= lately and each.name not in self._pinned
        )

    async def look_on_disk(self) -> None:
        """Learn which models of the hub are on disk, and forget those that no longer are."""
        found = await asyncio.to_thread(list, self._disk)
        records = {record.model.name: record for record in found if record.is_whole}
        for name, record in records.items():
            if name in self._residents or not self._is_allowed(name):
                continue
            try:
                engine = self._registry.resolve(record.model)
            except UnsupportedModel:
                continue
            self._residents[name] = Resident(name, engine, revision=record.pieces[0].revision)
        for resident in list(self._residents.values()):
            is_idle = resident.stage is Stage.AVAILABLE and not (resident.loading or resident.users)
            if resident.engine and is_idle and not resident.is_embedded and resident.name not in records:
                del self._residents[resident.name]
        self._changes.notify()

    def find(self, name: str, revision: str = "") -> Resident:
        """Look a model up; whether the hub has one that is not here, only loading it tells.

        Raises:
            InvalidRequest: That is no model id.
            ModelForbidden: The operator has excluded it.
            ModelNotFound: It cannot exist, or is loaded at another revision.
        """
        resident = self._residents.get(name)
        if not resident:
            if not self._is_allowed(name):
                raise ModelForbidden(f"the operator of this server does not allow the model {name!r}", field="model")
            try:
                check_name(name)
            except ModelNotFound as error:
                raise ModelNotFound(f"{error.message}; {self._what_is_here()}", field="model") from error
            resident = Resident(name)
        is_fixed = resident.is_embedded or resident.model or resident.loading
        if revision and is_fixed and revision not in (resident.revision, resident.wanted):
            here = resident.revision or resident.wanted or "the newest"
            raise ModelNotFound(f"the model {name!r} is here at revision {here!r}, not at {revision!r}", field="model")
        if not is_fixed:
            resident.wanted = revision
        return self._residents.setdefault(name, resident)

    async def acquire(self, resident: Resident, may_load: bool) -> Model:
        """Hold a model in memory until `release`; load it first where that is needed and allowed.

        Raises:
            WrongModelState: It is not loaded and may not be.
            WorkerError: It cannot be had.
        """
        if not may_load and resident.stage is not Stage.READY:
            self._forget(resident)
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
        resident.used_at = time.monotonic()
        self._forget(resident)
        self._changes.notify()

    async def load(self, resident: Resident, *, at_once: bool = False) -> Model:
        """Bring a model into memory; of several callers one does it and all wait for it.

        Args:
            resident: Which one.
            at_once: Try even if it has failed a moment ago.

        Raises:
            WorkerError: It cannot be had. For a while later callers are told the same, then it is tried again.
        """
        # Whoever found it before it was forgotten and found anew holds another object.
        resident = self._residents.setdefault(resident.name, resident)
        if resident.model:
            return resident.model
        if not resident.loading:
            if not at_once and (failure := self._failures.recent(resident.name)):
                self._forget(resident)
                raise failure
            resident.loading = asyncio.create_task(self._load(resident))
            # If nobody waits any more, a failure is on record all the same: in the log and in `reason`.
            resident.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: a caller that goes away must not undo the load for the others.
        return await asyncio.shield(resident.loading)

    async def prepare(self, resident: Resident, voice: str) -> None:
        """Bring a voice of a loaded model into memory whose files come one by one.

        Raises:
            WorkerError: Its files cannot be had.
        """
        model = resident.model
        assert model
        if not model.lacks(voice):
            return
        task = resident.preparing.get(voice)
        if not task:
            task = asyncio.create_task(self._prepare(resident, model, voice))
            resident.preparing[voice] = task
            task.add_done_callback(lambda _: resident.preparing.pop(voice, None))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(task)

    async def unload(self, resident: Resident, why: str = "asked") -> None:
        """Take a model out of memory.

        Args:
            resident: Which one.
            why: As `OnEviction` is told.

        Raises:
            WrongModelState: It is being used or loaded.
        """
        self._insist_idle(resident)
        async with self._memory:
            self._insist_idle(resident)  # Somebody may have come meanwhile.
            await self._take_out(resident, why)
        self._forget(resident)

    async def watch_idle(self) -> None:
        """Take models out of memory that nobody has used for long, until cancelled."""
        while self._idle_ttl_s:
            await asyncio.sleep(min(self._idle_ttl_s / 4, 5.0))
            for resident in self._idle():
                if resident.used_at <= time.monotonic() - self._idle_ttl_s and not resident.users:
                    log.info("model was idle", model=resident.name)
                    with contextlib.suppress(WrongModelState):
                        await self.unload(resident, "idle")

    def refusal(self, name: str) -> str:
        """Say why a model may not be used here; empty if it may."""
        return "" if self._is_allowed(name) else "excluded by the operator of this server"

    def _insist_idle(self, resident: Resident) -> None:
        if resident.users or resident.loading:
            raise WrongModelState(
                f"the model {resident.name!r} is in use ({resident.users} utterances) or being loaded", field="model"
            )

    async def _load(self, resident: Resident) -> Model:
        began_at = time.monotonic()
        try:
            model = await self._bring_in(resident)
        except Exception as error:
            failure = await self._explain(resident, error)
            self._note_failure(resident, failure)
            self._on_load(resident, time.monotonic() - began_at, failure.reason)
            await asyncio.to_thread(self._disk.let_go, resident.name)
            # What the frames of a failed load hold is as large as the model.
            traceback.clear_frames(error.__traceback__)
            await asyncio.to_thread(self._device.give_back)
            raise failure from None
        else:
            self._failures.forget(resident.name)
            self._on_load(resident, time.monotonic() - began_at, "")
            return model
        finally:
            resident.loading = None
            self._forget(resident)

    async def _bring_in(self, resident: Resident) -> Model:
        log.info("model is being brought in", model=resident.name)
        files = 0
        if resident.is_embedded:
            assert resident.engine
            build = functools.partial(resident.engine.load_embedded, resident.name, self._device.id)
        else:
            found = await self._in(self._asking, self._disk.locate, resident.name, resident.wanted)
            resident.engine, resident.revision, resident.progress = found.engine, found.revision, Progress()
            self._set(resident, Stage.DOWNLOADING)
            fetched = await self._in(self._fetching, self._disk.fetch, found, resident.progress, self._teller())
            resident.checkpoint = fetched.checkpoint
            files = fetched.size
            build = functools.partial(found.engine.load, fetched.checkpoint, self._device.id)
        assert resident.engine
        engine = resident.engine
        expected = self._sizes.get(resident.name, files)
        self._set(resident, Stage.LOADING)
        async with self._room(resident, files, expected):
            await asyncio.to_thread(_import, engine.requires)
            model, held = await asyncio.to_thread(_build, engine, build, self._device)
            self._set(resident, Stage.WARMING_UP)
            await asyncio.to_thread(_warm_up, model)
            # What the load needed for a moment must not count as held.
            await asyncio.to_thread(self._device.give_back)
            resident.size = self._sizes[resident.name] = self._measured(resident, held, files)
            resident.model, resident.card = model, model.card
            resident.used_at = time.monotonic()
            self._set(resident, Stage.READY)
            await self._shrink(keep=resident)
        log.info("model ready", model=resident.name, engine=engine.name, bytes=resident.size)
        if not resident.is_embedded:
            await self.look_on_disk()  # Others may have left the disk to make room.
        return model

    def _measured(self, resident: Resident, held: int, files: int) -> int:
        """How much memory a model has taken, in bytes.

        On a CPU that is what the process has grown by, so others who speak or load meanwhile may add to it: the least
        of several loads is the nearest. And its allocator may have met the need from what it still held: a model takes
        no less than its files.
        """
        grown = max(0, self._device.used() - held)
        if self._device.id != "cpu":
            return grown
        return max(files, min(grown, self._sizes.get(resident.name, grown)))

    async def _prepare(self, resident: Resident, model: Model, voice: str) -> None:
        assert resident.checkpoint
        await self._in(self._fetching, self._disk.fetch_more, resident.checkpoint, model.lacks(voice))
        async with self._memory:
            held = self._device.used()
            try:
                await asyncio.to_thread(model.prepare, voice)
            except WorkerError:
                raise
            except Exception as error:
                raise LoadFailure(
                    f"the voice {voice!r} of {resident.name!r} could not be loaded: {type(error).__name__}: {error}",
                    field="voice",
                ) from error
            resident.size += max(0, self._device.used() - held)
            await self._shrink(keep=resident)

    @contextlib.asynccontextmanager
    async def _room(self, resident: Resident, files: int, size: int) -> AsyncIterator[None]:
        """Make room for a model, and keep others from loading or leaving inside the context.

        Idle models leave, the least recently used first; busy ones are waited for, and meanwhile others may load,
        leave or be prepared.

        Raises:
            OutOfMemory: Its files alone are larger than the budget.
            Overloaded: The busy ones have not ended in time.
        """
        if files > self.budget:
            raise OutOfMemory(
                f"the model {resident.name!r} takes {files:,} bytes of memory; SONORANT_MEMORY_BUDGET is "
                f"{self.budget:,}",
                field="model",
            )
        staying = sum(each.size for each in self._residents.values() if each.name in self._pinned)
        if staying and staying + files > self.budget:
            raise OutOfMemory(
                f"the model {resident.name!r} takes {files:,} bytes of memory beside {staying:,} of models that stay "
                f"(SONORANT_PINNED); SONORANT_MEMORY_BUDGET is {self.budget:,}",
                field="model",
            )
        try:
            async with asyncio.timeout(self._patience_s) as waiting:
                while True:
                    seen = self._changes.count
                    async with self._memory:
                        while self._held + size > self.budget and await self._take_out_one(resident):
                            pass
                        # A model that has measured more than the whole budget gets it for itself.
                        if self._held + size <= self.budget or not self._held:
                            waiting.reschedule(None)
                            yield
                            return
                    await self._changes.after(seen)
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise Overloaded(
                f"there is no memory for the model {resident.name!r}: all that are loaded are speaking or pinned",
                retry_after_s=5.0,
            ) from error

    async def _shrink(self, keep: Resident) -> None:
        """Take idle models out of memory if one took more than was expected."""
        while self._held > self.budget and await self._take_out_one(keep):
            pass

    async def _take_out_one(self, keep: Resident) -> bool:
        """Take the least recently used idle model out of memory; say whether there was one."""
        victim = next((each for each in self._idle() if each is not keep), None)
        if not victim:
            return False
        log.info("model makes room", model=victim.name, bytes=victim.size)
        await self._take_out(victim, "room")
        return True

    async def _take_out(self, resident: Resident, why: str) -> None:
        model, resident.model, resident.size = resident.model, None, 0
        self._set(resident, Stage.AVAILABLE)
        if model:
            self._on_eviction(resident.name, why)
            await asyncio.to_thread(model.close)
            del model
            await asyncio.to_thread(self._device.give_back)
            if not resident.is_embedded:
                await asyncio.to_thread(self._disk.let_go, resident.name)

    async def _explain(self, resident: Resident, error: Exception) -> WorkerError:
        """Turn whatever went wrong into what callers are told."""
        if isinstance(error, ModelNotFound):
            return ModelNotFound(f"{error.message}; {self._what_is_here()}", field="model")
        if isinstance(error, WorkerError):
            return error
        log.exception("model failed to load", model=resident.name)
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            async with self._memory:
                while await self._take_out_one(resident):
                    pass
            return OutOfMemory(
                f"there is not enough memory for the model {resident.name!r}; idle models have been unloaded",
                field="model",
                retry_after_s=5.0,
            )
        reason = f"{type(error).__name__}: {error}"
        if resident.checkpoint and (damaged := await asyncio.to_thread(self._disk.remove_damaged, resident.checkpoint)):
            reason = f"damaged in transfer and removed: {', '.join(damaged)}; the next try fetches them again"
        return LoadFailure(f"the model {resident.name!r} could not be loaded: {reason}", field="model")

    def _note_failure(self, resident: Resident, failure: WorkerError) -> None:
        self._set(resident, Stage.FAILED, failure.message)
        self._failures.note(resident.name, failure)
        log.warning("model not available", model=resident.name, reason=failure.message)

    def _forget(self, resident: Resident) -> None:
        """Drop a name that turned out to be no model of ours, once nobody asks for it."""
        if not (resident.engine or resident.loading or resident.users):
            self._residents.pop(resident.name, None)

    def _what_is_here(self) -> str:
        names = [each.name for each in self if each.stage is not Stage.FAILED]
        return f"here are {', '.join(names) or 'none'}"

    def _idle(self) -> list[Resident]:
        """Models in memory that may leave it, the least recently used first."""
        idle = [
            each
            for each in self._residents.values()
            if each.model and not each.users and not each.loading and each.name not in self._pinned
        ]
        return sorted(idle, key=lambda each: each.used_at)

    @property
    def _held(self) -> int:
        return sum(each.size for each in self._residents.values())

    def _is_allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._allow) and not any(
            fnmatchcase(name, pattern) for pattern in self._deny
        )

    @staticmethod
    async def _in(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks on one of some threads."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    def _set(self, resident: Resident, stage: Stage, reason: str = "") -> None:
        resident.stage, resident.reason = stage, reason
        self._changes.notify()

    def _teller(self) -> Callable[[], None]:
        """What a download calls, from its threads, when it has got further."""
        loop = asyncio.get_running_loop()
        is_due = threading.Event()

        def notify() -> None:
            is_due.clear()
            self._changes.notify()

        def tell() -> None:
            if not is_due.is_set():
                is_due.set()
                loop.call_soon_threadsafe(loop.call_later, NOTICE_S, notify)

        return tell


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _build(engine: type[Engine], build: functools.partial[Model], device: Device) -> tuple[Model, int]:
    """Load a model; return it, and the memory that was held before, in bytes."""
    with engine.loading():
        held = device.used()
        return build(), held


def _warm_up(model: Model) -> None:
    voice = model.card.voices[0]
    steps = alone(cast("Speech", model.speak(WARMUP_TEXT, 0, Settings(voice.id, 1.0, 0))))
    try:
        for _ in islice(steps, WARMUP_STEPS):
            pass
    finally:
        steps.close()
