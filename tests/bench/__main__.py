"""`make bench [ARGS=--rounds=N]`: prints a table and writes `bench-results/<commit>.json`.

One stream: the text is spoken by the engine alone in this process, by the package's own `stream()`, through a worker
by gRPC, and through gateway and worker by HTTP; one after the other, round after round, so that a machine whose speed
drifts treats them alike. What counts are the ratios and differences within a round.

Formats: see `tests.bench.formats`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from protos.client import Client
from tests.bench.formats import formats
from tests.passages import PASSAGES
from tests.stack import HIBARI, ROOT, Stack, running
from worker import device
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
        def chunks():
            yield from client.synthesize(text, model=HIBARI, seed=0)

        return timed(chunks())

    return speak


def over_http(stack: Stack) -> Callable[[str], Run]:
    connection = http.client.HTTPConnection("127.0.0.1", stack.gateway.port)

    def speak(text: str) -> Run:
        body = json.dumps({"model": HIBARI, "input": text, "seed": 0, "response_format": "pcm"})

        def chunks():
            connection.request("POST", "/v1/audio/speech", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200
            while chunk := answer.read1():
                yield chunk

        return timed(chunks())

    return speak


def timed(chunks) -> Run:
    """Time a stream of s16le chunks at 24 kHz from before its first one is asked for."""
    started = time.perf_counter()
    first_at, num_bytes = 0.0, 0
    for chunk in chunks:
        if chunk and not first_at:
            first_at = time.perf_counter()
        num_bytes += len(chunk)
    return Run(1000 * (first_at - started), num_bytes / 48_000 / (time.perf_counter() - started))


def one_stream(rounds: int) -> dict[str, list[Run]]:
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
        texts = list(PASSAGES.values())
        for speak in ways.values():
            speak(texts[0])
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for n in range(rounds):
            for name, speak in ways.items():
                runs[name].append(speak(texts[n % len(texts)]))
    return runs


def summary(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    limit = runs["engine in process"]
    rows = {}
    for name, mine in runs.items():
        ttfas = sorted(run.ttfa_ms for run in mine)
        rows[name] = {
            "ttfa_p50_ms": round(statistics.median(ttfas), 2),
            "ttfa_p95_ms": round(ttfas[int(0.95 * (len(ttfas) - 1))], 2),
            "added_ttfa_p50_ms": round(
                statistics.median(run.ttfa_ms - base.ttfa_ms for run, base in zip(mine, limit, strict=True)), 2
            ),
            "speedup_p50": round(statistics.median(run.speedup for run in mine), 1),
            "throughput_ratio_p50": round(
                statistics.median(run.speedup / base.speedup for run, base in zip(mine, limit, strict=True)), 3
            ),
        }
    return rows


def print_table(rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    width = max(map(len, rows))
    print(" " * width, *(f"{column:>21}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<{width}}", *(f"{row[column]:>21}" for column in columns))


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if git("status", "--porcelain") else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...")
    parser.add_argument("--rounds", type=int, default=50, help="rounds of one utterance each way")
    parser.add_argument("--check", action="store_true", help="fail if the HTTP path is slower than it may be")
    arguments = parser.parse_args()
    runs = one_stream(arguments.rounds)
    rows = summary(runs)
    costs = formats(max(1, arguments.rounds // 5))
    result = {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.find("cpu").name,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("sonorant", "grpcio", "hypercorn", "onnxruntime", "hibari-tts")},
        "one_stream": {"summary": rows, "runs": {name: [asdict(run) for run in mine] for name, mine in runs.items()}},
        "formats": costs,
    }
    out = ROOT / "bench-results" / f"{result['commit']}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1), "utf-8")
    print(f"one stream, {arguments.rounds} rounds, {result['device']}, commit {result['commit']}\n")
    print_table(rows)
    print("\nformats, one stream at a time; CPU of the gateway alone\n")
    print_table(costs)
    http_row = rows["gateway by HTTP"]
    print(
        f"\nHTTP adds {http_row['added_ttfa_p50_ms']} ms to the first audio (limit {TTFA_LIMIT_MS}) and keeps "
        f"{http_row['throughput_ratio_p50']} of the throughput (limit {THROUGHPUT_LIMIT}).\n{out.relative_to(ROOT)}"
    )
    good = http_row["added_ttfa_p50_ms"] <= TTFA_LIMIT_MS and http_row["throughput_ratio_p50"] >= THROUGHPUT_LIMIT
    return 0 if good or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
