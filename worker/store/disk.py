"""Which models of the hub are on disk: fetches them, remembers them, and makes room for others.

What was fetched is noted in one small file for each model, so that a worker without the hub knows what it can serve,
which revision that is, and when it was used last. Files that somebody else has put into the cache are used, and never
deleted. Everything here blocks and runs on a thread, one call at a time for each model. Knows no memory, no protocol.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from worker.engines.base import Checkpoint, Engine, HubModel
from worker.engines.registry import Registry
from worker.errors import DiskFull, HubUnavailable, ModelNotFound, UnsupportedModel
from worker.store.hub import Hub, Kind, Repository

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
        is_ours: Whether they came through us; others' files are not ours to delete.
    """

    name: str
    kind: Kind
    revision: str
    patterns: Sequence[str]
    size: int
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A model on disk.

    Attributes:
        model: What the hub said of it.
        pieces: Its own files first, then those of its parts.
    """

    model: HubModel
    pieces: Sequence[Piece] = field(default_factory=tuple)

    @property
    def size(self) -> int:
        """Bytes on disk that are ours to delete."""
        return sum(piece.size for piece in self.pieces if piece.is_ours)


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
        budget: Most bytes that they may take.
        trusted: Models whose code may run.
    """

    def __init__(
        self, hub: Hub, registry: Registry, folder: Path, *, budget: int, trusted: Collection[str] = ()
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._folder = folder.expanduser() / "models"
        self._budget = budget
        self._trusted = trusted
        self._lock = threading.Lock()
        self._coming: dict[str, int] = {}  # Bytes that downloads under way still need, by model.

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
        path = self._path(name)
        return _read(path) if path.exists() else None

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

    def fetch(
        self, found: Found, progress: Progress, on_progress: Callable[[], None], in_use: Collection[str]
    ) -> Fetched:
        """Bring a model to disk, with the other repositories that it needs.

        Args:
            found: Which one.
            progress: Kept true.
            on_progress: Called when it has changed.
            in_use: Models that must not be deleted to make room.

        Raises:
            WorkerError: The hub does not give it, or there is no room.
        """
        if found.record:
            return self._fetched(found.record)
        assert found.repository
        name, model = found.repository.name, found.repository.model

        def count(size: int) -> None:
            with self._lock:
                progress.done = min(progress.done + size, progress.total)
                self._coming[name] = progress.total - progress.done
            on_progress()

        def get(source: Repository, patterns: Sequence[str]) -> Piece:
            wanted = source.select(patterns)
            if not wanted:
                raise UnsupportedModel(f"{source.name!r} has no file like {', '.join(patterns)}", field="model")
            missing = self._hub.missing_bytes(source, patterns)
            progress.total += missing
            on_progress()
            self._make_room(name, missing, in_use)
            self._hub.download(source, patterns, count)
            is_ours = missing > 0 or self._was_ours(source)
            return Piece(source.name, source.kind, source.revision, tuple(patterns), sum(wanted.values()), is_ours)

        try:
            own = get(found.repository, tuple(found.engine.files(model)))
            checkpoint = self._fetched(Record(model, [own])).checkpoint
            parts = found.engine.parts(checkpoint)
            pieces = [get(self._hub.describe(part.name, kind=part.kind), tuple(part.files)) for part in parts]
            record = Record(model, [own, *pieces])
            self._write(name, record)
        finally:
            self._coming.pop(name, None)
        return self._fetched(record)

    def fetch_more(
        self, checkpoint: Checkpoint, patterns: Sequence[str], on_bytes: Callable[[int], None], in_use: Collection[str]
    ) -> None:
        """Bring more files of a model to disk, at the revision that is loaded.

        Raises:
            WorkerError: As `fetch`.
        """
        try:
            repository = self._hub.describe(checkpoint.name, checkpoint.revision)
        except HubUnavailable:
            self._hub.on_disk(checkpoint.name, checkpoint.revision, patterns)
            return
        self._make_room(checkpoint.name, self._hub.missing_bytes(repository, patterns), in_use)
        self._hub.download(repository, patterns, on_bytes)
        record = self.find(checkpoint.name)
        if record:
            own = record.pieces[0]
            merged = tuple(dict.fromkeys([*own.patterns, *patterns]))
            size = sum(repository.select(merged).values())
            self._write(
                checkpoint.name,
                Record(record.model, [dataclasses.replace(own, patterns=merged, size=size), *record.pieces[1:]]),
            )

    def touch(self, name: str) -> None:
        """Note that a model is being used."""
        path = self._path(name)
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
        own, *parts = (
            self._hub.on_disk(piece.name, piece.revision, piece.patterns, piece.kind) for piece in record.pieces
        )
        checkpoint = Checkpoint(
            record.model.name,
            own,
            record.pieces[0].revision,
            {piece.name: folder for piece, folder in zip(record.pieces[1:], parts, strict=True)},
            trusted=record.model.name in self._trusted,
        )
        return Fetched(checkpoint, sum(piece.size for piece in record.pieces))

    def _without_hub(self, name: str, revision: str) -> Record | None:
        """What is on disk of a model, complete; None if it is not, or is another revision."""
        try:
            record = self.find(name) or self._found_in_cache(name, revision)
            self._fetched(record)
        except HubUnavailable:
            return None
        return record if revision in ("", record.pieces[0].revision) else None

    def _found_in_cache(self, name: str, revision: str) -> Record:
        """Make a record of files that another program has put into the cache.

        Raises:
            HubUnavailable: There are none.
        """
        folder = self._hub.on_disk(name, revision or "main", ("config.json",))
        model = _model_in(name, folder)
        engine = self._registry.resolve(model)
        own = Piece(name, "model", folder.name, tuple(engine.files(model)), 0, is_ours=False)
        pieces = [own]
        for part in engine.parts(self._fetched(Record(model, [own])).checkpoint):
            commit = self._hub.on_disk(part.name, "main", part.files, part.kind).name
            pieces.append(Piece(part.name, part.kind, commit, tuple(part.files), 0, is_ours=False))
        return Record(model, pieces)

    def _make_room(self, name: str, size: int, in_use: Collection[str]) -> None:
        """Delete models, the least recently used first, until there is room.

        Raises:
            DiskFull: There is none even so.
        """
        with self._lock:
            _, free = self._hub.space()
            records = list(self)
            taken = sum(record.size for record in records if record.model.name != name)
            taken += sum(coming for other, coming in self._coming.items() if other != name)
            for record in records:
                if size <= free and taken + size <= self._budget:
                    return
                if record.model.name in in_use or record.model.name == name or not record.size:
                    continue
                self._delete(record, records)
                free, taken = self._hub.space()[1], taken - record.size
            if size > free or taken + size > self._budget:
                raise DiskFull(
                    f"{name!r} needs {size:,} bytes of disk; {min(free, self._budget - taken):,} can be had "
                    f"(free: {free:,}; SONORANT_DISK_BUDGET: {self._budget:,}, of which {taken:,} are taken)",
                    field="model",
                )

    def _delete(self, record: Record, others: Sequence[Record]) -> None:
        shared = {(p.name, p.revision) for other in others if other is not record for p in other.pieces}
        for piece in record.pieces:
            if piece.is_ours and (piece.name, piece.revision) not in shared:
                self._hub.delete(piece.name, piece.revision, piece.kind)
        self._path(record.model.name).unlink(missing_ok=True)
        log.info("model removed from disk", model=record.model.name, bytes=record.size)

    def _was_ours(self, source: Repository) -> bool:
        return any(
            piece.is_ours and (piece.name, piece.revision) == (source.name, source.revision)
            for record in self
            for piece in record.pieces
        )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '--')}.json"

    def _write(self, name: str, record: Record) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(dataclasses.asdict(record), indent=1), encoding="utf-8")
        fresh.replace(path)


def _read(path: Path) -> Record:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Record(HubModel(**data["model"]), [Piece(**piece) for piece in data["pieces"]])


def _model_in(name: str, folder: Path) -> HubModel:
    """Tell from the files themselves what the hub would say of a model."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return HubModel(
        name,
        library="transformers" if "architectures" in config else "",
        model_type=str(config.get("model_type", "")),
        architectures=tuple(config.get("architectures") or ()),
        files=tuple(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    )
