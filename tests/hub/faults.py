"""What goes wrong between a hub and its client: knows of paths and bytes, and nothing of repositories."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.hub.repositories import MEMBER

INVERTED = bytes(255 - byte for byte in range(256))


@dataclass
class Fail:
    """Requests are answered with an error.

    Attributes:
        status: HTTP status.
        times: How many requests fail; None for all.
        headers: Beside those that the hub sends itself.
    """

    status: int
    times: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """Connections break in the midst of a file.

    Attributes:
        at_byte: The first byte of the file that is not sent.
        times: How many transfers break; None for all that come to that byte.
    """

    at_byte: int
    times: int | None = None


@dataclass
class Knobs:
    """Faults and rights. The keys of every `dict` are parts of paths; a path that holds several takes the first.

    Attributes:
        fail: Requests that are refused.
        cut: Transfers that break.
        delay: Seconds that each 64 KiB of a transfer take.
        hold: Transfers that stop at this byte of the file until they are held no more.
        corrupt: Parts of the paths of files that come with other bytes, as many as there should be.
        tokens: Tokens with access to everything; `STRANGER` is valid besides, any other is not.
        page: Most entries of a page of a listing.
    """

    fail: dict[str, Fail] = field(default_factory=dict)
    cut: dict[str, Cut] = field(default_factory=dict)
    delay: dict[str, float] = field(default_factory=dict)
    hold: dict[str, int] = field(default_factory=dict)
    corrupt: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=lambda: [MEMBER])
    page: int = 1000

    def update(self, changes: Mapping[str, Any]) -> None:
        """Replace the knobs that are named, as they come in JSON."""
        for name, value in changes.items():
            kind = {"fail": Fail, "cut": Cut}.get(name)
            setattr(self, name, {part: kind(**fault) for part, fault in value.items()} if kind else value)


@dataclass
class Requested:
    """A request as the hub's log has it; `status` is None until it is answered."""

    method: str
    path: str
    query: str
    authorization: str | None
    range: str | None
    status: int | None = None


class _Broken(Exception):
    """The connection is to be closed now."""


class Faults:
    """Keeps the log and does to requests and transfers what the knobs say; the endpoints know nothing of it."""

    def __init__(self, app: ASGIApp, knobs: Knobs, log: list[Requested]) -> None:
        self.app = app
        self.knobs = knobs
        self.log = log
        self.turned = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope, receive)
        if request.url.path == "/test/requests":
            entries = [asdict(entry) for entry in self.log]
            self.log.clear()
            return await JSONResponse(entries)(scope, receive, send)
        if request.url.path == "/test/knobs":
            self.knobs.update(await request.json())
            async with self.turned:
                self.turned.notify_all()
            return await Response()(scope, receive, send)
        asked, headers = request.url, request.headers
        entry = Requested(request.method, asked.path, asked.query, headers.get("authorization"), headers.get("range"))
        self.log.append(entry)
        if (fail := _first(self.knobs.fail, asked.path)) and _is_due(fail):
            entry.status = fail.status
            return await _failure(fail)(scope, receive, send)
        try:
            return await self.app(scope, receive, self._faulty(send, entry))
        except _Broken:  # A response that just ends before its length breaks off.
            return None

    def _faulty(self, send: Send, entry: Requested) -> Send:
        """Wrap what sends a response."""
        path = entry.path
        cut = _first(self.knobs.cut, path)
        at = 0

        async def faulty(message: Message) -> None:
            nonlocal at
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                content_range = dict(message["headers"]).get(b"content-range", b"bytes 0-").decode()
                at = int(content_range.removeprefix("bytes ").partition("-")[0])
                return await send(message)
            body, more = message.get("body", b""), message.get("more_body", False)
            if any(part in path for part in self.knobs.corrupt):
                body = body.translate(INVERTED)
            while (held := _first(self.knobs.hold, path)) is not None and at + len(body) > held:
                free = max(0, held - at)
                await send({"type": "http.response.body", "body": body[:free], "more_body": True})
                at, body = at + free, body[free:]
                async with self.turned:
                    await self.turned.wait_for(lambda before=held: _first(self.knobs.hold, path) != before)
            if cut and at + len(body) > cut.at_byte and _is_due(cut):
                await send({"type": "http.response.body", "body": body[: max(0, cut.at_byte - at)], "more_body": True})
                raise _Broken
            await asyncio.sleep((_first(self.knobs.delay, path) or 0.0) * len(body) / FileResponse.chunk_size)
            at += len(body)
            return await send({"type": "http.response.body", "body": body, "more_body": more})

        return faulty


def _first(knob: Mapping[str, Any], path: str) -> Any:
    return next((value for part, value in knob.items() if part in path), None)


def _is_due(fault: Fail | Cut) -> bool:
    """Whether the fault happens once more; counts it."""
    if fault.times is not None:
        fault.times -= 1
    return fault.times is None or fault.times >= 0


def _failure(fail: Fail) -> Response:
    message = {429: "Too Many Requests", 503: "Service Unavailable"}.get(fail.status, "Internal Error")
    headers = {"X-Error-Message": message}
    if fail.status == 429:
        headers |= {
            "Retry-After": "0",
            "RateLimit": '"api";r=0;t=0',
            "RateLimit-Policy": '"fixed window";"api";q=9;w=300',
        }
    return JSONResponse({"error": message}, fail.status, headers | fail.headers)
