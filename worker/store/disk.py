"""Which models of the hub are on disk: fetches them, remembers them, and makes room for others.

What is fetched is noted in one small file for each model, before the first byte comes. So a worker without the hub
knows what it can serve and which revision that is, a download that was killed is still counted, and files that somebody
else has put into the cache are used but never deleted.

Workers of a host may share all this. A model that is being fetched or is in memory is held by a shared lock on a file
beside its record, and only what can be locked alone is deleted. Everything here blocks and runs on a thread; for one
model there is one call at a time, which its caller sees to. Knows no memory and no protocol.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from worker.engines.base import Checkpoint, Engine, HubModel
from worker.engines.registry import WEIGHTS, Registry
from worker.errors import DiskFull, HubUnavailable, ModelNotFound, UnsupportedModel, WorkerError
from worker.store.hub import Hub, Kind, Repository, matching

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Progress:
    """How far a download is.

    Attributes:
        total: Bytes to fetch, as far as known.
        done: Bytes fetched.
    """

    total: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Files of one repository at one revision.

    Attributes:
        name: Repository id.
        kind: Model or dataset.
        revision: Commit.
        patterns: Which files.
        size: Their size in bytes.
        ours: Sizes of those that came through us, by path; others' files are not ours to delete.
    """

    name: str
    kind: Kind
    revision: str
    patterns: Sequence[str]
    size: int = 0
    ours: Mapping[str, int] = field(default_factory=dict)

    @property
    def at(self) -> tuple[str, str, str]:
        """Where its files are; pieces of several models may be in one place."""
        return self.kind, self.name, self.revision


@dataclass(frozen=True, slots=True)
class Record:
    """A model on disk.

    Attributes:
        model: What the hub said of it.
        pieces: Its own files first, then those of its parts.
        old: Pieces of earlier revisions that could not be deleted yet.
        is_whole: Whether all of it has come.
    """

    model: HubModel
    pieces: Sequence[Piece]
    old: Sequence[Piece] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A model of which it is known that it can be served, and from where.

    Attributes:
        engine: Who serves it.
        revision: Commit.
        record: What is on disk of it, if the hub cannot be asked.
        repository: What the hub says of it otherwise.
    """

    engine: type[Engine]
    revision: str
    record: Record | None = None
    repository: Repository | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model that is ready to be loaded.

    Attributes:
        checkpoint: Its files.
        size: Their size in bytes.
    """

    checkpoint: Checkpoint
    size: int


class Disk:
    """The models on disk.

    Args:
        hub: Where they come from.
        registry: Decides which engine serves one, and so which files it needs.
        folder: Where the records are.
        budget: Most bytes that what was fetched may take.
        trusted: Models whose code may run.
        vocoder_dtype: Numbers that vocoders compute in; those of their weights if empty.
    """

    def __init__(
        self,
        hub: Hub,
        registry: Registry,
        folder: Path,
        *,
        budget: int,
        trusted: Collection[str] = (),
        vocoder_dtype: str = "",
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._folder = folder.expanduser() / "models"
        self._budget = budget
        self._trusted = trusted
        self._vocoder_dtype = vocoder_dtype
        self._holds: dict[str, IO[bytes]] = {}
        self._counting = threading.Lock()

    def __iter__(self) -> Iterator[Record]:
        """The records, the least recently used first."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                found.append((path.stat().st_mtime, _read(path)))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("record of a model ignored", path=str(path), why=f"{type(error).__name__}: {error}")
        return iter(record for _, record in sorted(found, key=lambda each: each[0]))

    def find(self, name: str) -> Record | None:
        """Look a model up; None if it was not fetched."""
        return next((record for record in self if record.model.name == name), None)

    def locate(self, name: str, revision: str) -> Found:
        """Find a model on the hub, or on disk if the hub cannot be asked, and the engine that serves it.

        Args:
            name: Model id.
            revision: Commit, branch or tag; empty for the newest.

        Raises:
            WorkerError: Neither has it, or no engine serves it.
        """
        try:
            repository = self._hub.describe(name, revision)
        except (HubUnavailable, ModelNotFound) as error:
            record = self._without_hub(name, revision) if self._hub.is_silent(error) else None
            if not record:
                raise
            return Found(self._registry.resolve(record.model), record.pieces[0].revision, record=record)
        return Found(self._registry.resolve(repository.model), repository.revision, repository=repository)

    def fetch(self, found: Found, progress: Progress, on_progress: Callable[[], None]) -> Fetched:
        """Bring a model to disk, with the other repositories that it needs, and hold it there until `let_go`.

        Args:
            found: Which one.
            progress: Kept true.
            on_progress: Called when it has changed.

        Raises:
            WorkerError: The hub does not give it, or there is no room.
        """
        if found.record:
            self._hold(found.record.model.name)
            return self._fetched(found.record)
        assert found.repository
        model = found.repository.model
        before = self.find(model.name)
        self._hold(model.name)
        record = Record(model, [], (*before.pieces, *before.old) if before else (), is_whole=False)

        def count(size: int) -> None:
            with self._counting:
                progress.done = min(progress.done + size, progress.total)
            on_progress()

        def get(record: Record, source: Repository, patterns: Sequence[str]) -> Record:
            wanted = source.select(patterns)
            missing = self._hub.missing(source.kind, source.name, source.revision, wanted)
            piece = Piece(source.name, source.kind, source.revision, tuple(patterns), sum(wanted.values()), missing)
            progress.total += sum(missing.values())
            on_progress()
            record = self._reserve(record, piece)
            self._hub.download(source, patterns, count)
            return record

        patterns = tuple(found.engine.files(model))
        if not any(path.endswith(WEIGHTS) for path in found.repository.select(patterns)):
            raise UnsupportedModel(f"{model.name!r} has no weights among {', '.join(patterns)}", field="model")
        record = get(record, found.repository, patterns)
        for part in found.engine.parts(self._fetched(record).checkpoint):
            record = get(record, self._hub.describe(part.name, kind=part.kind), tuple(part.files))
        self._write(dataclasses.replace(record, is_whole=True))
        self._delete_old(model.name)
        return self._fetched(record)

    def fetch_more(self, checkpoint: Checkpoint, patterns: Sequence[str]) -> None:
        """Bring more files of a model that is held to disk, at the revision that is loaded.

        Raises:
            WorkerError: The hub does not give them, or there is no room.
        """
        try:
            self._hub.on_disk(checkpoint.name, checkpoint.revision, patterns)
            return
        except HubUnavailable:
            repository = self._hub.describe(checkpoint.name, checkpoint.revision)
        record = self.find(checkpoint.name)
        wanted = repository.select(patterns)
        missing = self._hub.missing("model", checkpoint.name, checkpoint.revision, wanted)
        piece = Piece(checkpoint.name, "model", checkpoint.revision, tuple(patterns), sum(wanted.values()), missing)
        if record:
            self._reserve(record, piece)
        self._hub.download(repository, patterns, lambda size: None)

    def let_go(self, name: str) -> None:
        """Note that a model is no longer in memory: its files may be deleted, those used long ago first."""
        if hold := self._holds.pop(name, None):
            hold.close()
        path = self._path(name, "json")
        if path.exists():
            os.utime(path)

    def remove_damaged(self, checkpoint: Checkpoint) -> list[str]:
        """Delete the files of a model that came over damaged; return their paths."""
        folders = [checkpoint.folder, *checkpoint.parts.values()]
        return [path for folder in folders for path in self._hub.remove_damaged(folder)]

    def _fetched(self, record: Record) -> Fetched:
        """Find the files of a record.

        Raises:
            HubUnavailable: Not all of them are on disk.
        """
        folders: dict[str, Path] = {}
        for piece in record.pieces:
            folders[piece.name] = self._hub.on_disk(piece.name, piece.revision, piece.patterns, piece.kind)
        own = record.pieces[0]
        folder = folders.pop(own.name)
        trusted = own.name in self._trusted
        checkpoint = Checkpoint(own.name, folder, own.revision, folders, trusted, self._vocoder_dtype)
        return Fetched(checkpoint, sum(piece.size for piece in record.pieces))

    def _without_hub(self, name: str, revision: str) -> Record | None:
        """What is on disk of a model, complete; None if it is not, or is another revision."""
        record = self.find(name)
        try:
            if not record or not record.is_whole:
                record = self._found_in_cache(name, revision)
            self._fetched(record)
        except WorkerError:
            return None
        return record if revision in ("", record.pieces[0].revision) else None

    def _found_in_cache(self, name: str, revision: str) -> Record:
        """Make a record of files that another program has put into the cache.

        Raises:
            WorkerError: There are none, or not all that the engine needs.
        """
        folder = self._hub.on_disk(name, revision or "main", ("config.json",))
        model = _model_in(name, folder)
        engine = self._registry.resolve(model)
        own = Piece(name, "model", folder.name, tuple(engine.files(model)))
        if not any(path.endswith(WEIGHTS) for path in matching(model.files, own.patterns)):
            raise HubUnavailable(f"not all of {name!r} is on disk")
        pieces = [own]
        for part in engine.parts(self._fetched(Record(model, pieces)).checkpoint):
            commit = self._hub.on_disk(part.name, "main", part.files, part.kind).name
            pieces.append(Piece(part.name, part.kind, commit, tuple(part.files)))
        return Record(model, pieces)

    def _reserve(self, record: Record, piece: Piece) -> Record:
        """Note what is about to be fetched, once there is room for it.

        Raises:
            DiskFull: There is none.
        """
        # What came through us stays ours, whichever model it came for first.
        ours = dict(piece.ours)
        theirs = (each for other in self for each in (*other.pieces, *other.old))
        for each in [*record.pieces, *record.old, *theirs]:
            if each.at == piece.at:
                ours |= {path: each.ours[path] for path in matching(each.ours, piece.patterns)}
        piece = dataclasses.replace(piece, ours=ours)
        if same := next((each for each in record.pieces if each.at == piece.at), None):
            patterns = tuple(dict.fromkeys([*same.patterns, *piece.patterns]))
            piece = dataclasses.replace(piece, patterns=patterns, size=same.size + piece.size)
        pieces = [piece if each is same else each for each in record.pieces] if same else [*record.pieces, piece]
        old = [each for each in record.old if each.at != piece.at]
        record = dataclasses.replace(record, pieces=pieces, old=old)
        with self._alone():
            self._make_room(record)
            self._write(record)
        return record

    def _make_room(self, coming: Record) -> None:
        """Delete models, the least recently used first, until there is room for one more.

        Raises:
            DiskFull: There is none even so.
        """
        records = [record for record in self if record.model.name != coming.model.name]
        need = sum(sum(self._hub.missing(*piece.at, piece.ours).values()) for piece in coming.pieces)
        _, free = self._hub.space()
        with ExitStack() as locks:
            idle = [record for record in records if _total([record]) and self._is_idle(record, locks)]
            for count in range(len(idle) + 1):
                left = [record for record in records if not any(record is victim for victim in idle[:count])]
                is_enough = need <= free + _total(records) - _total(left) and _total([*left, coming]) <= self._budget
                if is_enough:
                    for victim in idle[:count]:
                        self._remove(victim, left)
                    return
        stay = [record for record in records if not any(record is each for each in idle)]
        raise DiskFull(
            f"{coming.model.name!r} needs {need:,} bytes more on disk, where {free:,} are free; with it, models that "
            f"are in memory would take {_total([*stay, coming]):,}, and SONORANT_DISK_BUDGET is {self._budget:,}; "
            "unloading one helps",
            field="model",
        )

    def _is_idle(self, record: Record, locks: ExitStack) -> bool:
        """Whether no worker holds a model; none will, until the locks are given back."""
        lock = locks.enter_context(self._path(record.model.name, "lock").open("ab"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _remove(self, record: Record, left: Sequence[Record]) -> None:
        """Delete an idle model, but for what those that are left need of it."""
        self._delete((*record.pieces, *record.old), left)
        self._path(record.model.name, "json").unlink(missing_ok=True)
        log.info("model removed from disk", model=record.model.name, bytes=_total([record]))

    def _delete_old(self, name: str) -> None:
        """Delete earlier revisions of a model, unless another worker has it in memory."""
        with self._alone():
            record, hold = self.find(name), self._holds.get(name)
            if not record or not record.old or not hold:
                return
            try:
                fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._delete(record.old, [each for each in self if each.model.name != name])
                self._write(dataclasses.replace(record, old=()))
            except BlockingIOError:
                pass  # It stays on record, and goes with the model or the next revision.
            finally:
                fcntl.flock(hold, fcntl.LOCK_SH)

    def _delete(self, pieces: Sequence[Piece], others: Sequence[Record]) -> None:
        """Delete our files of some pieces, but for those that another model needs."""
        for piece in pieces:
            needed = [each.patterns for other in others for each in (*other.pieces, *other.old) if each.at == piece.at]
            spared = {path for patterns in needed for path in matching(piece.ours, patterns)}
            self._hub.delete(piece.kind, piece.name, piece.revision, piece.ours.keys() - spared)

    def _hold(self, name: str) -> None:
        """Keep every worker from deleting a model."""
        if name not in self._holds:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = self._path(name, "lock").open("ab")
            fcntl.flock(lock, fcntl.LOCK_SH)
            self._holds[name] = lock

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and workers from making room at the same time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "room.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name.replace('/', '--')}.{suffix}"

    def _write(self, record: Record) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(record.model.name, "json")
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(dataclasses.asdict(record), indent=1), encoding="utf-8")
        fresh.replace(path)


def _total(records: Sequence[Record]) -> int:
    """Size of what is ours in some records, in bytes; what several share counts once."""
    sizes = {
        (*piece.at, path): size
        for record in records
        for piece in (*record.pieces, *record.old)
        for path, size in piece.ours.items()
    }
    return sum(sizes.values())


def _read(path: Path) -> Record:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    pieces, old = ([Piece(**piece) for piece in data[name]] for name in ("pieces", "old"))
    return Record(HubModel(**data["model"]), pieces, old, is_whole=data["is_whole"])


def _model_in(name: str, folder: Path) -> HubModel:
    """Tell from the files themselves what the hub would say of a model."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return HubModel(
        name,
        library="transformers" if "architectures" in config else "",
        model_type=str(config.get("model_type") or ""),
        architectures=tuple(config.get("architectures") or ()),
        files=tuple(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    )
