"""A stand-in of the Hugging Face Hub: serves folders as repositories the way the hub's API does, and fails on demand.

`python -m tests.hub ROOT PORT` serves `ROOT/org/name` as models and `ROOT/datasets/org/name` as datasets. A file
`.hub.json` in a repository tells what the hub knows of it beside its files:

    {"gated": "auto", "private": true, "disabled": true, "info": {"library_name": "transformers", "tags": [...], ...},
     "sizes": {"model.safetensors": 6_000_000_000}}

`sizes` are what the hub says of files that are never transferred.

A revision is the hash of all files: to change a file is to push a commit, and the old one is gone. Tests start it as
the process `Hub` and turn its `Knobs` while it runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import httpx

from tests.hub.faults import Cut, Fail, Knobs, Requested
from tests.hub.repositories import MEMBER, STRANGER
from tests.stack import PATIENCE_S, Process, eventually, free_port

__all__ = ["MEMBER", "STRANGER", "Cut", "Fail", "Hub", "Knobs", "Requested"]


class Hub(Process):
    """A hub on a free port, and a cache folder for its clients.

    Attributes:
        root: Its repositories, `org/name` and `datasets/org/name`.
        cache: What the processes under test download to.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.root = folder / "hub"
        self.cache = folder / "cache"
        self.port = port or free_port()
        self.root.mkdir(exist_ok=True)
        super().__init__(folder / "hub.log", "-m", "tests.hub", str(self.root), str(self.port))
        eventually(self._is_up, "the hub answers")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process under test: it sees this hub alone, without the token of whoever runs the tests."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.cache),
            "HF_HUB_CACHE": str(self.cache / "hub"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HUGGINGFACE_HUB_TOKEN": "",
        }

    def again(self) -> Hub:
        """The same hub, started anew at the same port, without faults."""
        return Hub(self.folder, self.port)

    def add(self, repo: str, files: Path | Mapping[str, bytes], **about: object) -> Path:
        """Add a repository, or files to it.

        Args:
            repo: `org/name`, or `datasets/org/name`.
            files: A folder to copy, or contents by path.
            about: What goes to `.hub.json`.

        Returns:
            Its folder. Whatever is changed there is a commit.
        """
        folder = self.root / repo
        if isinstance(files, Path):
            shutil.copytree(files, folder, dirs_exist_ok=True)
        else:
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        if about:
            (folder / ".hub.json").write_text(json.dumps(about), encoding="utf-8")
        return folder

    def knobs(self, **changes: object) -> None:
        """Turn some of `Knobs`; each value replaces the one before."""
        assert changes.keys() <= {knob.name for knob in fields(Knobs)}, changes
        encoded = json.dumps(changes, default=asdict)  # type: ignore[arg-type]
        httpx.post(f"{self.url}/test/knobs", content=encoded, timeout=PATIENCE_S).raise_for_status()

    def mend(self) -> None:
        """Turn every knob back, and forget the requests."""
        self.knobs(**asdict(Knobs()))
        self.requests()

    def requests(self) -> list[Requested]:
        """The requests since the last look, in the order in which they came."""
        answer = httpx.post(f"{self.url}/test/requests", timeout=PATIENCE_S).raise_for_status()
        return [Requested(**request) for request in answer.json()]

    def _is_up(self) -> bool:
        assert self.popen.poll() is None, self.output
        try:
            return httpx.post(f"{self.url}/test/requests").is_success
        except httpx.TransportError:
            return False
