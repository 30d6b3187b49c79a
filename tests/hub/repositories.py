"""Folders as a hub sees them: files with their hashes, commits, and what is known of each repository."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

MEMBER = "hf_member"
"""A token with access to every private and gated repository."""

STRANGER = "hf_stranger"
"""A valid token that has been granted nothing."""

LFS_SUFFIXES = {".bin", ".gguf", ".npy", ".npz", ".onnx", ".pt", ".pth", ".safetensors", ".wav"}
"""Files that the hub keeps in its large file storage, where they go by their SHA-256."""


@dataclass(frozen=True)
class File:
    """A file of a repository; `sha1` is git's name of the blob."""

    location: Path
    path: str
    size: int
    sha1: str
    sha256: str

    @property
    def is_lfs(self) -> bool:
        return self.location.suffix in LFS_SUFFIXES

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.sha1

    def sibling(self) -> dict[str, Any]:
        """As `model_info(files_metadata=True)` gets it."""
        lfs = {"sha256": self.sha256, "size": self.size, "pointerSize": 135}
        return {"rfilename": self.path, "size": self.size, "blobId": self.sha1} | ({"lfs": lfs} if self.is_lfs else {})

    def entry(self) -> dict[str, Any]:
        """As `list_repo_tree` gets it."""
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": 135}
        entry = {"type": "file", "path": self.path, "size": self.size, "oid": self.sha1}
        return entry | ({"lfs": lfs} if self.is_lfs else {})


class Repository:
    """A folder served as a repository; read anew for each request."""

    def __init__(self, folder: Path) -> None:
        about = folder / ".hub.json"
        self.folder = folder
        self.id = f"{folder.parent.name}/{folder.name}"
        self.about: dict[str, Any] = json.loads(about.read_text("utf-8")) if about.exists() else {}
        sizes: dict[str, int] = self.about.get("sizes", {})
        files = [_file(folder, path) for path in sorted(folder.rglob("*")) if path.is_file() and path != about]
        self.files = [replace(file, size=sizes.get(file.path, file.size)) for file in files]
        every = "\n".join(f"{file.path} {file.sha1}" for file in self.files)
        self.commit = hashlib.sha1(every.encode()).hexdigest()

    def info(self) -> dict[str, Any]:
        """All that the hub tells of it."""
        defaults = {
            "_id": hashlib.sha1(self.id.encode()).hexdigest()[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.folder.parent.name,
            "sha": self.commit,
            "private": self.about.get("private", False),
            "gated": self.about.get("gated", False),
            "disabled": False,
            "pipeline_tag": "text-to-speech",
            "library_name": "transformers",
            "tags": ["text-to-speech", "en"],
            "downloads": 0,
            "likes": 0,
            "trendingScore": 0,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-02T00:00:00.000Z",
            "siblings": [{"rfilename": file.path} for file in self.files],
        }
        return defaults | self.about.get("info", {})


def _file(folder: Path, path: Path) -> File:
    stat = path.stat()
    return File(path, path.relative_to(folder).as_posix(), stat.st_size, *_hashes(path, stat.st_size, stat.st_mtime_ns))


@cache
def _hashes(path: Path, size: int, mtime_ns: int) -> tuple[str, str]:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % size + content).hexdigest(), hashlib.sha256(content).hexdigest()
