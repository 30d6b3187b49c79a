"""What one client alone could do to the process: keep its descriptors, fill its memory, hold its tasks."""

import contextlib
import json
import select
import socket
import struct
import zlib
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.stack import PATIENCE_S, eventually

PATH = "/v1/audio/speech/stream"
LARGE = 600_000
"""Bytes, over the limit of a message."""

UNSUPPORTED_DATA, TOO_LARGE = struct.pack(">H", 1003), struct.pack(">H", 1009)
FLUSH = b'{"type": "text.flush"}'


@pytest.fixture
def gateway(start):
    return start().gateway


def num_descriptors(gateway) -> int:
    return len(list(Path(f"/proc/{gateway.popen.pid}/fd").iterdir()))


def memory_mib(gateway, of: str = "VmRSS") -> int:
    status = Path(f"/proc/{gateway.popen.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(of)) // 1024


def header(opcode: int, num_bytes: int, *, is_compressed: bool = False) -> bytes:
    """What comes before the payload of a frame that is a whole message."""
    first = 0x80 | (0x40 if is_compressed else 0) | opcode
    if num_bytes < 126:
        return bytes([first, 0x80 | num_bytes]) + bytes(4)
    return bytes([first, 0xFF]) + struct.pack(">Q", num_bytes) + bytes(4)


def opened(gateway, extensions: str = "", request_id: str = "none") -> socket.socket:
    """A WebSocket over a bare socket, which keeps to no rule."""
    client = socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S)
    client.sendall(
        f"GET {PATH} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-request-id: {request_id}\r\n"
        f"{extensions}sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert b" 101 " in head
    assert b"extensions" not in head.lower()
    return client


def test_a_connection_that_the_client_has_closed_is_let_go(gateway):
    before = num_descriptors(gateway)
    for _ in range(5):
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
        opened(gateway).close()
    eventually(lambda: num_descriptors(gateway) <= before, "all descriptors are given back", patience_s=15)


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        pytest.param(header(1, 1 << 40), b"x" * 65_536, id="one message without end"),
        pytest.param(header(1, LARGE) + b"x" * LARGE, (header(1, len(FLUSH)) + FLUSH) * 2500, id="one after the other"),
    ],
)
def test_what_comes_after_a_message_that_was_too_large_is_not_kept(gateway, first, rest):
    with opened(gateway, request_id="endless") as client:
        client.sendall(first)
        received = b""
        while TOO_LARGE not in received:
            client.sendall(rest)
            if select.select([client], [], [], 0)[0]:
                received += client.recv(65_536)
        before = memory_mib(gateway)
        with contextlib.suppress(OSError):  # At some time the server hangs up.
            for _ in range(1500):
                client.sendall(rest)
        assert memory_mib(gateway) < before + 30
    assert gateway.line_of("endless")["outcome"] == "refused"


def test_nothing_is_compressed_so_nothing_can_be_inflated(gateway):
    with connect(f"ws://127.0.0.1:{gateway.port}{PATH}") as ws:  # Which asks for compression.
        assert not ws.protocol.extensions
        ws.send(FLUSH.decode())
        assert json.loads(ws.recv(PATIENCE_S))["type"] == "error"
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(bytes(200 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    before = memory_mib(gateway, "VmHWM")
    with opened(gateway, "sec-websocket-extensions: permessage-deflate\r\n") as client:
        client.sendall(header(1, len(bomb) - 4, is_compressed=True) + bomb[:-4])
        while client.recv(65_536):
            pass
    assert memory_mib(gateway, "VmHWM") < before + 20


def test_what_still_comes_when_a_session_is_over_holds_nothing(gateway):
    before = num_descriptors(gateway)
    for _ in range(3):
        with opened(gateway) as client:
            # Much more than waits in a queue, and the first of it ends the session.
            client.sendall(header(2, 2) + b"ab" + (header(1, len(FLUSH)) + FLUSH) * 2000)
            received = b""
            while got := client.recv(65_536):
                received += got
            assert UNSUPPORTED_DATA in received
    eventually(lambda: num_descriptors(gateway) <= before, "all descriptors are given back", patience_s=15)
