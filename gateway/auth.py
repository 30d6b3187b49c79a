"""API keys: who asks, by a file of names and digests. It knows nothing of what is asked, but for the paths.

A line of the file is a name, the SHA-256 of a key in hexadecimal, and limits of this key alone where it has any:

    alice 6e3fb72fa190ac322bdd90f25a7c132d25e70aa4d50f17918729778f6cfa4eda requests=60 characters=20000 streams=2

A limit of 0 is none. What follows `#` is a comment. Keys themselves are nowhere kept, written or logged.
`python -m gateway.auth NAME` makes one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError

CHECK_S = 1.0
"""How long the file is taken for unchanged, in seconds."""

DRAIN_BYTES = 16 * 1024 * 1024
"""How much of the body of a refused request is read and thrown away, so that the client gets to read the answer."""

SUBPROTOCOL = "sonorant"
"""What a page asks for beside its key, since the answer must accept a subprotocol and must not repeat the key."""

KEY_SUBPROTOCOL = f"{SUBPROTOCOL}-key."

_NAME = re.compile(r"(?!sk-)[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LIMIT = re.compile(r"(requests|characters|streams)=(\d{1,9})", re.ASCII)
_ACCEPTED = "NAME SHA256 [requests=N] [characters=N] [streams=N]"

_NEEDS_KEY = re.compile(r"/(v1|api)(/.*)?", re.DOTALL)
_DISCOVERY = re.compile(r"/v1/models(/.*)?|/v1/audio/(models|voices)/?|/api/(models|workers)/?", re.DOTALL)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks.

    Attributes:
        name: Of the key; empty where none was asked for.
        requests: Most requests a minute; 0 for any number, None for the server's own limit. So are the others.
        characters: Most characters a minute.
        streams: Most streams at once.
    """

    name: str = ""
    requests: int | None = None
    characters: int | None = None
    streams: int | None = None


class KeysFileError(ValueError):
    """The file of keys cannot be used; says why, without a word of what stands there."""


class KeyFile:
    """The keys of a file, read anew when it has changed.

    Who changes it should put the new file in its place in one step (`mv`): half a file lacks keys.

    Args:
        path: Of the file.

    Raises:
        KeysFileError: The file cannot be read, or a line is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._content = _read(self._path)
        self._keys = parse_keys(self._content)
        self._trouble = ""
        self._checked_s = time.monotonic()

    def find(self, secret: bytes) -> Key | None:
        """Look a key up.

        Every digest is compared, each in constant time, so that the time it takes tells nothing of them.
        """
        self._refresh()
        digest = hashlib.sha256(secret).digest()
        found = None
        for known, key in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = key
        return found

    @property
    def is_good(self) -> bool:
        """Whether the file can be used as it is now; else what it said last counts."""
        self._refresh()
        return not self._trouble

    def _refresh(self) -> None:
        """Take over what the file says now. One that has become wrong, or has gone, changes nothing."""
        if time.monotonic() < self._checked_s + CHECK_S:
            return
        self._checked_s = time.monotonic()
        try:
            # The content tells, not the time of its change: two changes within one tick of the clock look like one.
            content = _read(self._path)
            keys = self._keys if content == self._content else parse_keys(content)
        except KeysFileError as error:
            if str(error) != self._trouble:
                log.error("API keys stay as they were: their file is wrong", file=str(self._path), error=str(error))
            self._trouble = str(error)
            return
        if self._trouble or content != self._content:
            log.info("API keys were read anew", file=str(self._path), keys=len(keys))
        self._content, self._keys, self._trouble = content, keys, ""


def parse_keys(content: bytes) -> dict[bytes, Key]:
    """Read what a file of keys says; give the keys by their digests.

    Raises:
        KeysFileError: A line is wrong.
    """
    keys: dict[bytes, Key] = {}
    lines: dict[str, int] = {}
    for n, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        # What stands there is not repeated: it may be a key, put where its digest belongs.
        name, digest, *rest = words if len(words) > 1 else (*words, "")
        limits = [_LIMIT.fullmatch(word) for word in rest]
        wrong = ""
        if not _NAME.fullmatch(name):
            wrong = "the name must be 1 to 64 of the letters a-z and A-Z, digits and . _ @ -, not beginning with sk-"
        elif not _DIGEST.fullmatch(digest):
            wrong = "the second word must be the SHA-256 of a key, 64 hexadecimal digits"
        elif not all(limits) or len({limit[1] for limit in limits if limit}) < len(rest):
            wrong = "limits are requests=N, characters=N and streams=N, each at most once"
        elif name in lines:
            wrong = f"the name {name!r} stands in line {lines[name]} already"
        elif bytes.fromhex(digest) in keys:
            wrong = f"this digest stands in line {lines[keys[bytes.fromhex(digest)].name]} already"
        if wrong:
            raise KeysFileError(f"line {n}: {wrong}; a line is {_ACCEPTED}, as `python -m gateway.auth NAME` makes it")
        lines[name] = n
        keys[bytes.fromhex(digest)] = Key(name, **{limit[1]: int(limit[2]) for limit in limits if limit})
    return keys


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise KeysFileError("there is no such file")
        return path.read_bytes()
    except OSError as error:
        raise KeysFileError(f"cannot be read: {error.strerror or error}") from error


class Keys:
    """Middleware that finds out who asks, and answers 401 to who may not.

    The API, all that is under `/v1` and `/api`, needs a key, but for its lists where they are public. A key that is
    given there must be right nevertheless: somebody who takes a wrong one for right is helped by hearing of it.

    Args:
        app: The application.
        file: The keys; None to ask for none.
        public_discovery: Whether lists of models and voices need no key.
    """

    def __init__(self, app: ASGIApp, file: KeyFile | None, public_discovery: bool) -> None:
        self._app = app
        self._file = file
        self._public_discovery = public_discovery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        fields = getattr(connection.state, "log", {})
        try:
            connection.state.key = key = self._who(connection)
            connection.state.who = partial(self._who, connection)
        except ApiError as error:
            fields.update(reason=error.reason, error=error.message)
            if scope["type"] == "http":
                await _drain(receive)
            await error.response()(scope, receive, send)
            return
        if key.name:
            fields["key"] = key.name
        await self._app(scope, receive, send)

    def _who(self, connection: HTTPConnection) -> Key:
        path, method = connection.scope["path"], connection.scope.get("method", "")
        # OPTIONS tells what a path allows and does nothing.
        if not self._file or not _NEEDS_KEY.fullmatch(path) or method == "OPTIONS":
            return Key()
        challenge = {"www-authenticate": "Bearer"}
        secret = _secret(connection)
        if secret:
            key = self._file.find(secret)
            if key:
                return key
            raise ApiError(
                "UNAUTHENTICATED", "the API key that was given is none of this server's keys", headers=challenge
            )
        if self._public_discovery and method in ("GET", "HEAD") and _DISCOVERY.fullmatch(path):
            return Key()
        how = "send one as `Authorization: Bearer KEY`"
        if connection.scope["type"] == "websocket":
            how += f", or ask for the subprotocols `{SUBPROTOCOL}` and `{KEY_SUBPROTOCOL}KEY`"
        raise ApiError("UNAUTHENTICATED", f"no API key was given; {how}", headers=challenge)


def _secret(connection: HTTPConnection) -> bytes:
    """Find the key that is given; empty if none is."""
    return next(filter(None, _secrets(connection)), b"")


def _secrets(connection: HTTPConnection) -> Iterator[bytes]:
    for value in connection.headers.getlist("authorization"):
        scheme, _, secret = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            yield secret.strip().encode("latin-1")  # As starlette has decoded it, so these are the bytes as sent.
    # Scripts of a page can set no other header of a WebSocket.
    for value in connection.scope.get("subprotocols", ()):
        if value.startswith(KEY_SUBPROTOCOL):
            yield value.removeprefix(KEY_SUBPROTOCOL).encode("latin-1", errors="replace")


async def _drain(receive: Receive) -> None:
    """Read a body to its end: a server that closes a connection with something unread takes its answer back."""
    total = 0
    while total < DRAIN_BYTES:
        message = await receive()
        total += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def main(arguments: list[str]) -> int:
    """Make a key: its line for the file to standard output, the key itself to standard error; return the status."""
    if len(arguments) != 1 or not _NAME.fullmatch(arguments[0]):
        sys.stderr.write(
            "usage: python -m gateway.auth NAME >> KEYS_FILE\n"
            "NAME is 1 to 64 of the letters a-z and A-Z, digits and . _ @ -, and does not begin with sk-\n"
        )
        return 2
    secret = f"sk-{secrets.token_urlsafe(32)}"
    sys.stderr.write(f"The key of {arguments[0]}, shown this once: {secret}\n")
    sys.stdout.write(f"{arguments[0]} {hashlib.sha256(secret.encode()).hexdigest()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
