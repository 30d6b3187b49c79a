"""Clients that go away, readers that stall, engines that break: nothing is worked on for nobody, nothing is disguised.

A text ends in an order that leaves a trace when it is reached. Work that goes on for nobody would reach it before the
worker is idle; so once the worker is idle, the absence of the trace proves that the work was given up.
"""

import json
import socket
import struct
import subprocess
import uuid

import httpx
import pytest

from tests.stack import PATIENCE_S, TONE, Stack, eventually

HEAD = (
    b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nx-request-id: %s\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
SLOW = "<delay=0.02> " * 40
SLOW_AND_MUTE = "<pause=0.02> " * 40


FORMATS = ["wav", "mp3", "opus", "aac", "flac", "pcm"]
WAYS = [
    *({"response_format": form} for form in FORMATS),
    *({"response_format": form, "stream_format": "sse"} for form in ("wav", "mp3")),
    *({"response_format": form, "stream": False} for form in ("wav", "opus")),
    {"response_format": "pcm", "sample_rate": 16_000, "speed": 4.0},
]


def connect(stack: Stack, text: str, request_id: str = "none", **fields: object) -> socket.socket:
    """Send a request over a bare socket."""
    body = json.dumps({"input": text, "model": TONE, **fields}).encode()
    client = socket.create_connection(("127.0.0.1", stack.gateway.port), PATIENCE_S)
    client.sendall(HEAD % (request_id.encode(), len(body)) + body)
    return client


def hang_up(client: socket.socket, how: str) -> None:
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("phase", ["before the first byte", "midway"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_a_client_that_hangs_up_ends_the_work(stack, way, phase, how):
    trace = stack.signals / f"reached-{uuid.uuid4().hex}"
    begun = stack.signals / f"{trace.name}-begun"
    text = (SLOW_AND_MUTE if phase == "before the first byte" else f"word <touch={begun.name}> {SLOW}") * 5
    text += f"<touch={trace.name}>"
    client = connect(stack, text, trace.name, **way)
    quiet_so_far = (stack.gateway.output + stack.worker.output).count("Traceback")
    if phase == "midway" and "stream" in way:
        eventually(begun.exists, "some of the file has been made")
    elif phase == "midway":
        assert client.recv(64).startswith(b"HTTP/1.1 200")
    else:
        eventually(lambda: stack.worker.running, "the worker has begun")
    hang_up(client, how)
    eventually(stack.is_idle, "nothing is left counted as running")
    assert not trace.exists()
    assert stack.gateway.line_of(trace.name)["outcome"] == "client_gone"
    assert (stack.gateway.output + stack.worker.output).count("Traceback") == quiet_so_far


def test_many_clients_that_hang_up_at_once_leave_nothing(stack):
    clients = [connect(stack, f"word {SLOW * 5} <touch=reached-many>") for _ in range(20)]
    eventually(lambda: stack.worker.running == 20, "all of them have begun or wait")
    for client in clients[:2]:
        assert client.recv(64).startswith(b"HTTP/1.1 200")
    for n, client in enumerate(clients):
        hang_up(client, "reset" if n % 2 else "close")
    eventually(stack.is_idle, "nothing is left counted as running")
    assert not (stack.signals / "reached-many").exists()


def test_a_client_that_sends_half_a_request_and_goes_leaves_nothing(stack):
    client = socket.create_connection(("127.0.0.1", stack.gateway.port), PATIENCE_S)
    client.sendall(HEAD % (b"half", 99) + b"{")
    client.close()
    assert stack.speak(input="one").status_code == 200
    assert stack.gateway.line_of("half")["outcome"] == "client_gone"


def test_a_client_that_does_not_read_holds_the_worker_back(stack):
    """Ten minutes of speech for somebody who reads nothing: the worker waits long before the end."""
    seconds = "<long=10> " * 60
    client = connect(stack, f"{seconds}<touch=reached-unread>")
    assert client.recv(16).startswith(b"HTTP/1.1 200")
    # Somebody else is served meanwhile, the whole of it.
    assert len(stack.speak(input="<long=10> " * 12).content) == 44 + 2 * 24_000 * 120
    assert not (stack.signals / "reached-unread").exists()
    assert stack.worker.running == 1
    hang_up(client, "close")
    eventually(stack.is_idle, "nothing is left counted as running")
    assert not (stack.signals / "reached-unread").exists()


def test_a_failure_before_the_first_byte_is_an_ordinary_error(stack):
    answer = stack.speak(input="<fail>")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_failure"
    assert "told to fail" in answer.json()["error"]["message"]


def test_a_failure_midway_ends_the_body_without_its_terminator(stack):
    received = b""
    with (
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
        stack.stream(input="one two <fail> three") as answer,
    ):
        assert answer.status_code == 200
        for chunk in answer.iter_bytes():
            received += chunk
    # Audio alone reached the client, and all of it that was made.
    assert len(received) == 44 + 2 * 4800
    assert stack.gateway.line_of(answer.headers["x-request-id"])["outcome"] == "cut"
    assert stack.speak(input="one").status_code == 200


def test_a_failure_midway_of_a_whole_file_is_an_ordinary_error(stack):
    assert stack.speak(input="one two <fail> three", stream=False).status_code == 500


@pytest.mark.parametrize("version", ["--http1.0", "--http2-prior-knowledge"])
def test_where_a_body_cannot_be_broken_off_it_is_whole_or_an_error(stack, version, tmp_path):
    """HTTP/1.0 has no terminator whose absence would tell, and HTTP/2 streams are not reset."""

    def curl(text: str) -> tuple[str, bytes]:
        out = tmp_path / "out"
        command = ["curl", "-sS", version, "-o", str(out), "-w", "%{http_code}", "-H", "content-type: application/json"]
        body = json.dumps({"input": text, "model": TONE})
        command += ["-d", body, f"{stack.url}/v1/audio/speech"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        return done.stdout, out.read_bytes()

    status, audio = curl("one two three")
    assert (status, len(audio)) == ("200", 44 + 3 * 4800)
    assert int.from_bytes(audio[40:44], "little") == 3 * 4800
    assert curl("one two <fail> three")[0] == "500"
