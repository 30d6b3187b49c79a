"""One stream: the engine alone in this process, the package's own `stream()`, a worker by gRPC, the gateway by HTTP.

A passage is spoken each way, one after the other, round after round, so that a machine whose speed drifts treats them
alike. What counts are the ratios and differences within a round.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.client import Client
from tests.bench.listener import percentile
from tests.bench.outcome import Check, Options, Outcome, Row
from tests.bench.texts import PARAGRAPHS
from tests.stack import HIBARI, Stack, running
from worker.audio import to_s16le
from worker.engines.base import Settings
from worker.engines.hibari import HibariEngine
from worker.engines.stages import alone
from worker.synthesis import synthesize

TTFA_LIMIT_MS = 5.0
THROUGHPUT_LIMIT = 0.9


@dataclass(frozen=True)
class Run:
    """One utterance spoken one way: time to its first audio, and seconds of audio per second of wall time."""

    ttfa_ms: float
    speedup: float


def measure(options: Options) -> Outcome:
    """Speak the passages every way."""
    found = Outcome("hibari, one stream of 120-word passages")
    runs = take_turns(options.rounds)
    rows = summary(runs)
    found.tables["each way"] = dict(rows)
    found.raw = {"runs": {name: [asdict(run) for run in mine] for name, mine in runs.items()}}
    http_row = rows["gateway by HTTP"]
    found.checks = [
        Check("first audio added by HTTP, median, ms", http_row["added_ttfa_p50_ms"], TTFA_LIMIT_MS),
        Check("throughput kept by HTTP", http_row["throughput_ratio_p50"], THROUGHPUT_LIMIT, is_most=False),
    ]
    return found


def take_turns(rounds: int) -> dict[str, list[Run]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), worker_settings={"SONORANT_PRELOAD": HIBARI}) as stack,
    ):
        ways = {
            "engine in process": in_process(),
            "package's stream()": package(),
            "worker by gRPC": over_grpc(stack),
            "gateway by HTTP": over_http(stack),
        }
        for speak in ways.values():
            speak(PARAGRAPHS[0])
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for n in range(rounds):
            for name, speak in ways.items():
                runs[name].append(speak(PARAGRAPHS[n % len(PARAGRAPHS)]))
    return runs


def in_process() -> Callable[[str], Run]:
    """The engine as the worker drives it: same segments, same trimming, no other process."""
    model = HibariEngine.load_embedded(HIBARI, "cpu")

    def speak(text: str) -> Run:
        return timed(map(to_s16le, (b.samples for b in alone(synthesize(model, text, Settings("heart", 1.0, 0))))))

    return speak


def package() -> Callable[[str], Run]:
    """The package's own `stream()`: whole sentences, their silence left in."""
    from hibari import Hibari

    tts = Hibari()

    def speak(text: str) -> Run:
        return timed(map(to_s16le, tts.stream(text, seed=0)))

    return speak


def over_grpc(stack: Stack) -> Callable[[str], Run]:
    client = Client(stack.worker.address)

    def speak(text: str) -> Run:
        def chunks() -> Iterator[bytes]:
            yield from client.synthesize(text, model=HIBARI, seed=0)

        return timed(chunks())

    return speak


def over_http(stack: Stack) -> Callable[[str], Run]:
    connection = http.client.HTTPConnection("127.0.0.1", stack.gateway.port)

    def speak(text: str) -> Run:
        body = json.dumps({"model": HIBARI, "input": text, "seed": 0, "response_format": "pcm"})

        def chunks() -> Iterator[bytes]:
            connection.request("POST", "/v1/audio/speech", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200
            while chunk := answer.read1():
                yield chunk

        return timed(chunks())

    return speak


def timed(chunks: Iterable[bytes]) -> Run:
    """Time a stream of s16le chunks at 24 kHz from before its first one is asked for."""
    started = time.perf_counter()
    first_at, num_bytes = 0.0, 0
    for chunk in chunks:
        if chunk and not first_at:
            first_at = time.perf_counter()
        num_bytes += len(chunk)
    return Run(1000 * (first_at - started), num_bytes / 48_000 / (time.perf_counter() - started))


def summary(runs: dict[str, list[Run]]) -> dict[str, Row]:
    limit = runs["engine in process"]
    rows: dict[str, Row] = {}
    for name, mine in runs.items():
        pairs = list(zip(mine, limit, strict=True))
        ttfas_ms = [run.ttfa_ms for run in mine]
        rows[name] = {
            "ttfa_p50_ms": round(percentile(ttfas_ms, 0.5), 2),
            "ttfa_p95_ms": round(percentile(ttfas_ms, 0.95), 2),
            "added_ttfa_p50_ms": round(statistics.median(run.ttfa_ms - base.ttfa_ms for run, base in pairs), 2),
            "speedup_p50": round(statistics.median(run.speedup for run in mine), 1),
            "throughput_ratio_p50": round(statistics.median(run.speedup / base.speedup for run, base in pairs), 3),
        }
    return rows
