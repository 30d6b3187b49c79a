"""What the gateway costs as a relay: its streams per core, beside those of a bare relay in front of the same worker.

Both pass on the same chunks at real time, in turn, round after round, for as many listeners. What counts is the CPU
time of the gateway's process for each second of each stream; a stream's beginning and end are among it. A chunk tells
when the worker handed it over: how much later the listener has it is its lateness.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import struct
import tempfile
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import uvloop

from tests.stack import TONE, Gateway, Process, eventually, free_port

STREAMS = 100
AUDIO_S = 4.8
"""Length of a stream: about that of a reply of a voice agent."""

CHUNKS_MS = (80, 400)
"""Lengths of chunks: of a worker's first one, and of its others."""

HEAD = "POST /v1/audio/speech HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


@dataclass(frozen=True)
class Run:
    """What one round of streams did to a relay."""

    cpu_ms_per_stream_s: float
    lateness_ms: list[float]
    first_byte_ms: list[float]


def measure(seconds: float) -> dict[str, dict[str, float]]:
    """Measure both relays.

    Args:
        seconds: About how long; at least one round of each.

    Returns:
        For each length of chunks, by name: medians of the rounds, those of the bare relay under `bare_...`; `ratio` is
        that of the streams per core, within a round.
    """
    rounds = max(1, round(seconds / (2 * len(CHUNKS_MS) * (AUDIO_S + 1))))
    runs: dict[int, list[tuple[Run, Run]]] = {chunk_ms: [] for chunk_ms in CHUNKS_MS}
    with relays() as (ours, bare):
        for relay in (ours, bare):
            uvloop.run(listen(relay, CHUNKS_MS[0], num_streams=2, audio_s=0.4))
        for _ in range(rounds):
            for chunk_ms in CHUNKS_MS:
                runs[chunk_ms].append((one_round(ours, chunk_ms), one_round(bare, chunk_ms)))
    return {f"{chunk_ms} ms chunks": summary(pairs) for chunk_ms, pairs in runs.items()}


@contextmanager
def relays():
    """Start a worker, and both relays in front of it."""
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), []
        try:
            worker = Relay(folder / "worker.log", free_port(), "tests.bench.relay_bare.worker")
            started.append(worker)
            bare = Relay(folder / "bare.log", free_port(), "tests.bench.relay_bare.gateway", worker.address)
            started.append(bare)
            ours = Gateway(folder, [worker])  # type: ignore[list-item]
            started.append(ours)
            eventually(lambda: ours.up(), "the gateway sees the worker")
            eventually(bare.answers, "the bare relay listens")
            yield ours, bare
        finally:
            for process in started:
                process.end()


class Relay(Process):
    """A module of the bare kind, at a port."""

    def __init__(self, log: Path, port: int, module: str, *arguments: str) -> None:
        self.port = port
        super().__init__(log, "-m", module, str(port), *arguments)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answers(self) -> bool:
        assert self.popen.poll() is None, self.output
        try:
            return httpx.get(f"http://{self.address}/").status_code == 404
        except httpx.HTTPError:
            return False


def one_round(relay: Gateway | Relay, chunk_ms: int) -> Run:
    process = psutil.Process(relay.popen.pid)
    busy_before_s = cpu_s(process)
    listeners = uvloop.run(listen(relay, chunk_ms))
    cpu_ms = 1000 * (cpu_s(process) - busy_before_s)
    return Run(
        cpu_ms / (len(listeners) * AUDIO_S),
        [late for listener in listeners for late in listener.lateness_ms],
        [listener.first_byte_ms for listener in listeners],
    )


async def listen(
    relay: Gateway | Relay, chunk_ms: int, num_streams: int = STREAMS, audio_s: float = AUDIO_S
) -> list[Listener]:
    """Have as many streams at once; they begin one after the other within a second."""
    loop = asyncio.get_running_loop()
    text = json.dumps({"chunk_ms": chunk_ms, "audio_s": audio_s})
    body = json.dumps({"model": TONE, "input": text, "response_format": "pcm"})
    request = (HEAD.format(len(body)) + body).encode()
    listeners = []
    for _ in range(num_streams):
        listener = Listener(loop.create_future())
        transport, _ = await loop.create_connection(lambda it=listener: it, "127.0.0.1", relay.port)
        listener.asked_ns = time.monotonic_ns()
        transport.write(request)
        listeners.append(listener)
        await asyncio.sleep(1 / num_streams)
    await asyncio.gather(*(listener.ended for listener in listeners))
    num_bytes = round(48_000 * audio_s)
    assert all(listener.num_bytes == num_bytes for listener in listeners)
    return listeners


@dataclass
class Listener(asyncio.Protocol):
    """Reads one response; a library of HTTP would cost more than the relay."""

    ended: asyncio.Future[None]
    asked_ns: int = 0
    first_byte_ms: float = 0.0
    num_bytes: int = 0
    lateness_ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        now = time.monotonic_ns()
        if not self.first_byte_ms:
            head, end, _ = self._received.partition(b"\r\n\r\n")
            if not end or len(self._received) == len(head) + len(end):
                return
            assert head.startswith(b"HTTP/1.1 200"), self._received
            self.first_byte_ms = (now - self.asked_ns) / 1e6
            del self._received[: len(head) + len(end)]
        while (size_end := self._received.find(b"\r\n")) > 0:
            begin, size = size_end + 2, int(self._received[:size_end], 16)
            if len(self._received) < begin + size + 2:
                return
            if not size:
                self._transport.close()
                return
            (sent_ns,) = struct.unpack_from("<q", self._received, begin)
            self.lateness_ms.append((now - sent_ns) / 1e6)
            self.num_bytes += size
            del self._received[: begin + size + 2]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def summary(pairs: list[tuple[Run, Run]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for prefix, runs in (("", [ours for ours, _ in pairs]), ("bare_", [bare for _, bare in pairs])):
        cpu_ms = statistics.median(run.cpu_ms_per_stream_s for run in runs)
        figures |= {
            f"{prefix}cpu_ms_per_stream_s": round(cpu_ms, 2),
            f"{prefix}streams_per_core": round(1000 / cpu_ms),
            f"{prefix}late_p99_ms": median(p99(run.lateness_ms) for run in runs),
            f"{prefix}first_byte_p50_ms": median(statistics.median(run.first_byte_ms) for run in runs),
        }
    ratios = [bare.cpu_ms_per_stream_s / ours.cpu_ms_per_stream_s for ours, bare in pairs]
    return {"ratio": round(statistics.median(ratios), 3), **figures}


def median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 1)


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
