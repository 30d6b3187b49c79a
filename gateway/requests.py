"""What surrounds every request: its id, its one line in the log, and noticing that the client has hung up."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import tracing
from gateway.errors import ApiError, ClientGone
from gateway.settings import Settings

T = TypeVar("T")

log = structlog.get_logger(__name__)

DRAIN_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, so that the client gets to read the answer."""

_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_BEGINNINGS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class RequestLog:
    """Gives every request and every WebSocket an id, and writes one line when it is over.

    The id is the client's `x-request-id` if that is sane, else a new one; the answer carries it back. Routes add to the
    line through `request.state.log`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request = HTTPConnection(scope)
        given = request.headers.get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        fields: dict[str, object] = {"outcome": "", "status": 0}
        request.state.request_id, request.state.log = request_id, fields
        request.state.started = started
        traced = tracing.request(scope, request.headers, request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _BEGINNINGS:
                message = {"headers": [], **message}
                MutableHeaders(scope=message)["x-request-id"] = request_id
                fields["status"] = message.get("status", 101)
            elif message["type"] == "websocket.close" and not fields["status"]:
                fields["status"] = 403  # What the server makes of it.
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log.exception("bug", request_id=request_id)
            fields.update(outcome="cut" if fields["status"] else "failed", error=f"{type(error).__name__}: {error}")
            if scope["type"] == "websocket":
                raise  # The server closes it with the code for that.
            if not fields["status"]:
                answer = ApiError("BUG", "the server made a mistake; its log says more").response()
                await answer(scope, receive, send_with_id)
        except BaseException:
            fields["outcome"] = fields["outcome"] or "cut"
            raise
        finally:
            fields["outcome"] = fields["outcome"] or _outcome(int(str(fields["status"])))
            route = getattr(scope.get("route"), "path", "")
            request.app.state.metrics.note_request(route, fields)
            level = "debug" if scope["path"] in tracing.QUIET_PATHS else "info"
            duration_ms = round(1000 * (time.monotonic() - started), 1)
            line = {
                "method": scope.get("method", "WEBSOCKET"),
                "path": scope["path"],
                **fields,
                "duration_ms": duration_ms,
            }
            getattr(log, level)("request", request_id=request_id, **line)
            if traced:
                tracing.end_request(traced, scope, route, fields)


def _outcome(status: int) -> str:
    if 0 < status < 400:
        return "ok"
    return "refused" if 400 <= status < 500 else "failed"


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """Await something, but no longer than the client stays.

    Args:
        request: Whose body has been read to its end.
        work: What to await; cancelled when the client hangs up.

    Raises:
        ClientGone: The client has hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        # This first: the message that says so comes once, and whoever awaits the next thing would not get it again.
        if gone.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def body_of(request: Request, most_bytes: int, refusal: ApiError) -> AsyncGenerator[bytes, None]:
    """Read a body, piece by piece, and give no more of it than is accepted.

    Args:
        request: Whose body it is.
        most_bytes: The most that is accepted.
        refusal: What to raise over a body that is larger.

    Raises:
        ApiError: It is too large; the rest has been read and thrown away.
    """
    # The length is declared, or the body comes in chunks; the server has refused what is no number.
    total, dropped = 0, 0
    is_too_large = int(request.headers.get("content-length", "0")) > most_bytes
    async for piece in request.stream():
        total += len(piece)
        is_too_large = is_too_large or total > most_bytes
        if not is_too_large:
            yield piece
            continue
        dropped += len(piece)
        if dropped > DRAIN_BYTES:
            break
    if is_too_large:
        raise refusal


async def drain(body: AsyncGenerator[bytes, None]) -> None:
    """Read a body to its end and throw it away."""
    async for _ in body:
        pass


def same_origin(request: Request) -> None:
    """Refuse pages of other origins: a visitor's browser must not change what the server holds.

    Raises:
        ApiError: The page is neither ours nor one that the operator has named.
    """
    settings: Settings = request.app.state.settings
    origin = request.headers.get("origin")
    # Browsers send nothing but scheme and host; `urlsplit` would raise where it is something else.
    if origin and origin not in settings.cors_origins and origin.partition("://")[2] != request.headers.get("host"):
        raise ApiError(
            "FOREIGN_ORIGIN", f"pages of {origin} may not change what this server holds; see SONORANT_CORS_ORIGINS"
        )


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
