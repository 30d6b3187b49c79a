"""Where the workers are: addresses that are given, that a name resolves to, or that stand in a file; knows no gRPC.

    gpu1:50051              an address
    dns:///workers:50051    every address of a name, such as a headless Service's; resolved anew every few seconds
    file:///run/workers     a line for each address; read again when it has changed

A name that cannot be resolved, or a file that cannot be read, changes nothing: what was known last stays.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

RESOLVE_S = 3.0
"""How often names are resolved."""

LOOK_S = 0.5
"""How often it is looked whether a file has changed."""

ADDRESS = re.compile(r"unix:.+|(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}", re.ASCII)
_NAME = re.compile(r"dns:///([\w.-]+):(\d{1,5})", re.ASCII)
_FILE = re.compile(r"file://(/.+)")

log = structlog.get_logger(__name__)


class Discovery:
    """Keeps a list of addresses true.

    Args:
        sources: As `SONORANT_WORKERS` has them; see the module.
        tell: Called with all addresses, each once, whenever they have changed.

    Raises:
        ValueError: One is neither; see `check`.
    """

    def __init__(self, sources: Sequence[str], tell: Callable[[Sequence[str]], None]) -> None:
        for source in sources:
            check(source)
        self._found: dict[str, Sequence[str]] = dict.fromkeys(sources, ())
        self._tell = tell
        self._told: Sequence[str] | None = None

    async def run(self) -> None:
        """Look, and look again, until cancelled. What is given or stands in a file is told before the first pause."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._found:
                if name := _NAME.fullmatch(source):
                    tasks.create_task(self._resolve(source, name[1], int(name[2])))
                elif file := _FILE.fullmatch(source):
                    tasks.create_task(self._read(source, Path(file[1])))
                else:
                    self._found[source] = (source,)
            self._note()

    async def _resolve(self, source: str, name: str, port: int) -> None:
        trouble = ""
        while True:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
            except OSError as error:
                trouble = self._complain(source, str(error.strerror or error), trouble)
            else:
                trouble = ""
                hosts = sorted({str(place[0]) for *_, place in found})
                self._found[source] = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
                self._note()
            await asyncio.sleep(RESOLVE_S)

    async def _read(self, source: str, path: Path) -> None:
        trouble, seen = "", None
        while True:
            try:
                # In a thread: the file may be on another machine.
                now, text = await asyncio.to_thread(_read_unless, path, seen)
            except (OSError, UnicodeDecodeError) as error:
                trouble = self._complain(source, str(error), trouble)
            else:
                trouble = ""
                if now != seen:
                    seen = now
                    self._found[source] = _addresses(text, source)
                    self._note()
            await asyncio.sleep(LOOK_S)

    def _note(self) -> None:
        addresses = list(dict.fromkeys(address for found in self._found.values() for address in found))
        if addresses != self._told:
            self._told = addresses
            self._tell(addresses)

    @staticmethod
    def _complain(source: str, why: str, before: str) -> str:
        if why != before:
            log.warning("workers are not found; those that are known stay", source=source, why=why)
        return why


def check(source: str) -> None:
    """See whether a source is one.

    Raises:
        ValueError: It is not.
    """
    if not any(form.fullmatch(source) for form in (ADDRESS, _NAME, _FILE)):
        raise ValueError(
            f"{source!r} says of no worker where it is; give HOST:PORT, unix:PATH, dns:///NAME:PORT or file:///PATH"
        )


def _read_unless(path: Path, seen: object) -> tuple[object, str]:
    """Read a file, unless it is the one that was seen last; say which one it is.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    stat = path.stat()
    # A file that is replaced within a tick of the clock has another inode.
    now = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return now, "" if now == seen else path.read_text(encoding="utf-8")


def _addresses(text: str, source: str) -> list[str]:
    """Read the lines of a file; empty ones and those after `#` count for nothing, and wrong ones are told of."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    for line in filter(None, lines):
        if not ADDRESS.fullmatch(line):
            log.warning("passed over: no address of a worker; give HOST:PORT or unix:PATH", source=source, line=line)
    return [line for line in lines if ADDRESS.fullmatch(line)]
