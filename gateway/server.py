"""Hypercorn, mended where one client alone could use the process up; knows no routes and no speech.

Hypercorn 0.18 does four things that it should not, each of them tested in `tests/e2e/test_server.py`:

- It keeps a connection that the client has closed, and its descriptor, until the keep-alive timeout.
- It goes on to gather what a WebSocket's client sends after a message that was too large.
- It inflates what a WebSocket's client has compressed, a thousandfold, before it looks at the size.
- It waits for ever until an application that has ended takes what a WebSocket's client has sent since.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import hypercorn.asyncio.run
import hypercorn.protocol.h2
import hypercorn.protocol.h11
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.events import Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.typing import AppWrapper, ASGIReceiveCallable, Scope
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

__all__ = ["serve"]

LINGER_S = 2.0
"""How long a WebSocket's client may take to close its side: to close over what it still sends would take our last words
back."""


class Connection(TCPServer):
    """A connection that ends with its client."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self._close()


class WebSocket(WSStream):
    """A WebSocket that is not compressed, and takes nothing more once it is closed."""

    def __init__(self, app: AppWrapper, *args: Any) -> None:  # noqa: ANN401
        super().__init__(app, *args)
        self._app = app
        self.app = self._run  # type: ignore[assignment]  # Any callable will do.
        self._is_too_large = False
        self._gone = asyncio.Event()

    async def _run(self, scope: Scope, receive: ASGIReceiveCallable, *more: Any) -> None:  # noqa: ANN401
        try:
            await self._app(scope, receive, *more)
        finally:
            self.task_group.spawn(self._take_the_rest, receive)

    async def _take_the_rest(self, receive: ASGIReceiveCallable) -> None:
        """Make room in the queue, for which Hypercorn's reader may be waiting, until nothing comes any more."""
        while True:
            try:
                async with asyncio.timeout(LINGER_S):
                    await receive()
            except TimeoutError:
                if self.closed:
                    return

    async def handle(self, event: Event) -> None:
        """Take an event of the connection."""
        if isinstance(event, Request):
            headers = [each for each in event.headers if each[0].lower() != b"sec-websocket-extensions"]
            event = replace(event, headers=headers)
        if isinstance(event, StreamClosed):
            self._gone.set()
        await super().handle(event)

    async def app_send(self, message: Any) -> None:  # noqa: ANN401
        """Take a message of the application, or None when that has ended."""
        if message is None and self._is_deaf:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._gone.wait()
        await super().app_send(message)

    @property
    def _is_deaf(self) -> bool:
        return self.closed or self._is_too_large or self.state is ASGIWebsocketState.CLOSED

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, CloseConnection):
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                await self.send(StreamClosed(stream_id=self.stream_id))
            elif self._is_deaf:
                continue
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, Message):
                await self._take(event)

    async def _take(self, part: Message[Any]) -> None:
        assert self.app_put
        try:
            self.buffer.extend(part)
        except FrameTooLargeError:
            self._is_too_large = True
            self.buffer.clear()
            await self._send_wsproto_event(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
            await self.app_put({"type": "websocket.disconnect", "code": int(CloseReason.MESSAGE_TOO_BIG)})
        else:
            if part.message_finished:
                await self.app_put(self.buffer.to_message())
                self.buffer.clear()


# Hypercorn has no setting for either.
for module, name, mended in (
    (hypercorn.asyncio.run, "TCPServer", Connection),
    (hypercorn.protocol.h11, "WSStream", WebSocket),
    (hypercorn.protocol.h2, "WSStream", WebSocket),
):
    setattr(module, name, mended)
