"""Asks the Hugging Face Hub about models and downloads their files; says in our terms what goes wrong with it.

Everything here blocks and runs on a thread. Knows no engine and no memory. The library reads HF_ENDPOINT, HF_HUB_CACHE,
HF_HUB_OFFLINE and its other variables when it is imported.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from huggingface_hub import HfApi, constants, errors, snapshot_download
from huggingface_hub.utils import HFValidationError, filter_repo_objects, validate_repo_id
from huggingface_hub.utils import tqdm as progress_bar

from worker.engines.base import HubModel
from worker.errors import DiskFull, HubUnavailable, InvalidRequest, ModelForbidden, ModelNotFound, WorkerError

Kind = Literal["model", "dataset"]

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
"""Variables that hold the token, the first one that is set; the library itself does not know the last one."""

TIMEOUT_S = 10.0

WORTH_WAITING_S = 2.0
"""A hub that wants to be asked again so soon is asked again at once, and nobody is told."""

ABANDONED_S = 600.0
"""A partial file that has not grown for so long belongs to a download that was killed."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Repository:
    """What the hub says of a repository, at one revision.

    Attributes:
        name: Its id, `org/name`.
        kind: Model or dataset.
        revision: Commit.
        sizes: Size of every file in bytes, by path.
        model: What engines decide by.
    """

    name: str
    kind: Kind
    revision: str
    sizes: Mapping[str, int]
    model: HubModel

    def select(self, patterns: Sequence[str]) -> dict[str, int]:
        """Sizes of the files that match some pattern."""
        return {path: self.sizes[path] for path in matching(self.sizes, patterns)}


def matching(paths: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those paths that match some glob pattern, by the library's own rules."""
    return list(filter_repo_objects(paths, allow_patterns=list(patterns)))


def check_name(name: str) -> None:
    """Refuse what is no model id, before it gets into a path or a URL.

    Raises:
        InvalidRequest: It is of the wrong form.
        ModelNotFound: It has no organisation, as no model of the hub that speaks is named.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InvalidRequest(
            f"`model` is {name[:100]!r}; it must be a model id, such as 'org/name'", field="model"
        ) from error
    if "/" not in name:
        raise ModelNotFound(f"there is no model {name!r}; ids of the hub have the form 'org/name'", field="model")


class Hub:
    """The hub, with the token of this process's environment."""

    def __init__(self) -> None:
        logging.getLogger("huggingface_hub").handlers.clear()  # It would write everything once more, in its own form.
        self._token = next(filter(None, map(os.environ.get, TOKENS)), None)
        self._api = HfApi(token=self._token)
        self.cache = Path(constants.HF_HUB_CACHE).expanduser()

    def space(self) -> tuple[int, int]:
        """Size of the disk that the files go to, and what is free of it, in bytes."""
        folder = self.cache
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        return usage.total, usage.free

    def describe(self, name: str, revision: str = "", kind: Kind = "model") -> Repository:
        """Ask what a repository is and holds.

        Raises:
            WorkerError: By the table `_failure`.
        """
        ask = self._api.model_info if kind == "model" else self._api.dataset_info
        try:
            with _translated(name, kind):
                info: Any = ask(name, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S)
        except HubUnavailable as error:
            if error.retry_after_s is None or error.retry_after_s > WORTH_WAITING_S:
                raise
            time.sleep(error.retry_after_s)
            with _translated(name, kind):
                info = ask(name, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S)
        if getattr(info, "disabled", False):
            raise ModelForbidden(f"the hub has disabled {name!r}", field="model")
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        config = getattr(info, "config", None) or {}
        model = HubModel(
            name,
            library=getattr(info, "library_name", "") or "",
            tags=tuple(info.tags or ()),
            model_type=str(config.get("model_type") or ""),
            architectures=tuple(config.get("architectures") or ()),
            files=tuple(sizes),
        )
        return Repository(name, kind, info.sha or "", sizes, model)

    def download(self, repository: Repository, patterns: Sequence[str], on_bytes: Callable[[int], None]) -> Path:
        """Bring files to disk; those that are there are not fetched again.

        Args:
            repository: Whose files.
            patterns: Glob patterns of their paths.
            on_bytes: Told of every piece that has come, in bytes; from several threads.

        Returns:
            Folder of the revision, with the files in it.

        Raises:
            WorkerError: By the table `_failure`.
        """
        with _translated(repository.name, repository.kind):
            return Path(
                snapshot_download(
                    repository.name,
                    repo_type=repository.kind,
                    revision=repository.revision,
                    allow_patterns=list(patterns),
                    token=self._token,
                    tqdm_class=_counting(on_bytes),
                )
            )

    def on_disk(self, name: str, revision: str, patterns: Sequence[str], kind: Kind = "model") -> Path:
        """Find files without asking the hub.

        Args:
            name: Repository id.
            revision: Commit, or the name of a branch.
            patterns: Files that must be there.
            kind: Model or dataset.

        Raises:
            HubUnavailable: Not all of them are there.
        """
        with _translated(name, kind):
            return Path(
                snapshot_download(
                    name, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_files_only=True
                )
            )

    def missing(self, kind: str, name: str, revision: str, sizes: Mapping[str, int]) -> dict[str, int]:
        """Those of some files that are not on disk, with their sizes in bytes, by path."""
        folder = self._snapshot(kind, name, revision)
        return {path: size for path, size in sizes.items() if not (folder / path).exists()}

    def delete(self, kind: str, name: str, revision: str, paths: Collection[str]) -> None:
        """Remove files of a revision from disk, with what no other revision shares, and folders that become empty."""
        if not paths:
            return
        snapshot = self._snapshot(kind, name, revision)
        for path in paths:
            (snapshot / path).unlink(missing_ok=True)
        repository = snapshot.parent.parent
        for folder in sorted((path for path in repository.rglob("*") if path.is_dir()), reverse=True):
            if folder.is_relative_to(repository / "snapshots") and not any(folder.iterdir()):
                folder.rmdir()
        used = {path.resolve() for path in repository.glob("snapshots/**/*") if path.is_symlink()}
        for blob in repository.glob("blobs/*"):
            if blob not in used and blob.resolve() not in used and not blob.name.endswith(".incomplete"):
                blob.unlink(missing_ok=True)
        if not used and not any(repository.glob("blobs/*")):  # A download under way has its partial files there.
            shutil.rmtree(repository, ignore_errors=True)

    def remove_damaged(self, folder: Path) -> list[str]:
        """Delete the files of a snapshot whose contents are not what the hub has, so that the next try fetches them.

        The library does not check what it has downloaded. Its blobs are named after their SHA-256, small ones after
        their git object id; of one that is named otherwise, nothing can be said.

        Returns:
            Their paths in the repository.
        """
        damaged = []
        for path in sorted(path for path in folder.rglob("*") if path.is_symlink()):
            blob = path.resolve()
            if blob.exists() and _DIGEST.fullmatch(blob.name) and _digest(blob, len(blob.name)) != blob.name:
                damaged.append(str(path.relative_to(folder)))
                path.unlink()
                blob.unlink(missing_ok=True)
        return damaged

    def sweep(self) -> int:
        """Delete what killed downloads left behind; return how many bytes that was."""
        swept = 0
        for path in self.cache.glob("*/blobs/*.incomplete"):
            try:
                about = path.stat()
                if about.st_mtime < time.time() - ABANDONED_S:
                    path.unlink()
                    swept += about.st_size
            except FileNotFoundError:
                continue  # Its download has just ended.
        if swept:
            log.info("leftovers of downloads swept", bytes=swept)
        return swept

    @staticmethod
    def is_silent(error: WorkerError) -> bool:
        """Whether the hub said nothing of a model, so that what is on disk may be served."""
        return isinstance(error, HubUnavailable) or bool(constants.HF_HUB_OFFLINE)

    def _snapshot(self, kind: str, name: str, revision: str) -> Path:
        return self.cache / f"{kind}s--{name.replace('/', '--')}" / "snapshots" / revision


def _counting(on_bytes: Callable[[int], None]) -> type[progress_bar]:
    class Counter(progress_bar):
        """Stands where the library wants a progress bar, and shows nothing."""

        def __init__(self, *args: Any, name: str | None = None, **kwargs: Any) -> None:  # noqa: ANN401
            super().__init__(*args, name=name, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self._counts = name == "huggingface_hub.snapshot_download"  # The others count files, or the same bytes.

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                on_bytes(int(n))
            return None

    return Counter


def _digest(blob: Path, length: int) -> str:
    with blob.open("rb") as file:
        if length == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        header = f"blob {blob.stat().st_size}\0".encode()
        return hashlib.sha1(header + file.read(), usedforsecurity=False).hexdigest()


@contextmanager
def _translated(name: str, kind: Kind) -> Iterator[None]:
    try:
        yield
    except WorkerError:
        raise
    except Exception as error:
        # Where files cannot be found the library wraps the cause: an outage, say.
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        raise _failure(cause, name, kind) from error


def _failure(error: BaseException, name: str, kind: Kind) -> WorkerError:
    """The one table from what the library raises to what a caller is told; the first line that fits counts."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    match error:
        case errors.GatedRepoError():
            return ModelForbidden(
                f"{name!r} is gated: visit {page} and accept its conditions with the account of HF_TOKEN",
                field="model",
            )
        case errors.DisabledRepoError():
            return ModelForbidden(f"the hub has disabled {name!r}", field="model")
        case errors.RevisionNotFoundError():
            return ModelNotFound(f"the hub has {name!r}, but not that revision of it", field="model")
        case errors.RepositoryNotFoundError():
            return ModelNotFound(
                f"the hub has no {kind} {name!r}, or it is private and HF_TOKEN has no access to it", field="model"
            )
        case errors.HfHubHTTPError() if status in (401, 403):
            return ModelForbidden(f"the hub refuses access to {name!r} ({status}); is HF_TOKEN valid?", field="model")
        case errors.HfHubHTTPError() if status == 429:
            wait = re.match(r"\d+", response.headers.get("retry-after", "")) if response is not None else None
            return HubUnavailable(
                "the hub takes no more requests from here for now (429)",
                retry_after_s=float(wait[0]) if wait else 60.0,
            )
        case errors.OfflineModeIsEnabled():
            return ModelNotFound(
                f"there is no {kind} {name!r} on disk, and the hub is not asked (HF_HUB_OFFLINE)", field="model"
            )
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"the disk of {constants.HF_HUB_CACHE} is full: {name!r} does not fit", field="model")
        case _:
            why = str(error).strip().splitlines()
            return HubUnavailable(
                f"the hub at {constants.ENDPOINT} failed for {name!r}, which is not on disk: "
                f"{type(error).__name__}{f': {why[0][:200]}' if why else ''}",
                retry_after_s=5.0,
            )
