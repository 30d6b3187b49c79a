"""Reads a response of HTTP/1.1 and tells when its audio came; knows no listener. A library would cost much more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

END_OF_HEAD = b"\r\n\r\n"
HEAD = "POST /v1/audio/speech HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


class Response:
    """A response while it comes.

    Attributes:
        status: 0 until the head has come.
        headers: By name, in lower case.
        is_complete: Whether all has come.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._buffer = bytearray()
        self._left = 0  # Bytes of the present chunk, or of the body where it is not chunked.

    def feed(self, data: bytes) -> int:
        """Take what was received; return how many bytes of the body were in it."""
        self._buffer += data
        if not self.status and not self._read_head():
            return 0
        return self._read_chunks() if "transfer-encoding" in self.headers else self._read_body()

    def _read_head(self) -> bool:
        end = self._buffer.find(END_OF_HEAD)
        if end < 0:
            return False
        status, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.status = int(status.split(" ")[1])
        self._left = int(self.headers.get("content-length", 0))
        del self._buffer[: end + len(END_OF_HEAD)]
        return True

    def _read_body(self) -> int:
        count = len(self._buffer)
        self._left -= count
        self._buffer.clear()
        self.is_complete = self._left <= 0
        return count

    def _read_chunks(self) -> int:
        """Take the bodies of chunks as far as they have come; their frames are left out."""
        count = 0
        while self._buffer:
            if self._left:
                taken = min(self._left, len(self._buffer))
                count += taken
                self._left -= taken
                del self._buffer[:taken]
                continue
            if self._buffer.startswith(b"\r\n"):  # After the chunk before.
                del self._buffer[:2]
            end = self._buffer.find(b"\r\n")
            if end <= 0:
                break
            self._left = int(self._buffer[:end].partition(b";")[0], 16)
            if not self._left:
                self.is_complete = self._buffer.endswith(END_OF_HEAD)
                break
            del self._buffer[: end + 2]
        return count


class Connection(asyncio.Protocol):
    """A connection that asks for one response at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._response: Response | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_open = True
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._response:
            self._end()

    def post(self, body: bytes, on_data: Callable[[Response, int], None]) -> asyncio.Future[Response]:
        """Ask for speech.

        Args:
            body: JSON.
            on_data: Called with the response and the number of bytes of its body whenever some of it has come.

        Returns:
            The response, when it has come or the connection was lost.
        """
        self._response, self._on_data = Response(), on_data
        self._ended: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._transport.write(HEAD.format(len(body)).encode() + body)
        return self._ended

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if response := self._response:
            count = response.feed(data)
            if response.status:
                self._on_data(response, count)
            if response.is_complete:
                self._end()

    def _end(self) -> None:
        response, self._response = self._response, None
        if response and not self._ended.done():
            self._ended.set_result(response)
