"""The embedded voice over HTTP: what the server adds to the engine, and how soon talkers hear something."""

from __future__ import annotations

import statistics

from tests.bench import engine, servers
from tests.bench.listener import Answer, in_window, percentile, summary
from tests.bench.load import Plan, run
from tests.bench.outcome import Check, Curve, Options, Outcome, Row
from tests.bench.texts import PARAGRAPHS, SENTENCES
from tests.bench.usage import watched
from tests.stack import HIBARI, Stack
from worker import device

TALKERS = (1, 2, 4, 8, 16, 32, 64)
RATES = (8.0, 16.0)
CHECKED_TALKERS, CHECKED_RATE = 16, 8.0
CPU_LIMIT, TTFA_LIMIT = 1.2, 3.0
AT_REST = 20
"""Requests one after the other, for the first audio at rest."""


def measure(options: Options) -> Outcome:
    """Measure at each number of talkers, and at each rate of arrivals."""
    found = Outcome("hibari over HTTP, sentences of about four seconds")
    with servers.hibari() as stack:
        run(Plan(stack.gateway.port, HIBARI, SENTENCES, 1.0, talkers=2))
        levels = (CHECKED_TALKERS,) if options.is_quick else TALKERS
        found.tables["closed loop, by talkers"] = {str(count): talkers(stack, count, options) for count in levels}
        found.tables["CPU time for each audio second at 16 talkers"] = cpu(stack, options, found)
        first_audio(stack, options, found)
    closed = found.tables["closed loop, by talkers"]
    points = [(float(count), float(row["audio_per_s"])) for count, row in closed.items()]
    found.curves.append(Curve("talkers", "hibari", points))
    return found


def talkers(stack: Stack, count: int, options: Options) -> Row:
    with watched(stack) as used:
        answers = run(Plan(stack.gateway.port, HIBARI, SENTENCES, 0.6 * options.seconds, talkers=count))
    audio_s = sum(answer.audio_s for answer in answers)
    return {
        **summary(answers),
        "audio_per_s": round(in_window(answers, 0.5, 0.6 * options.seconds) / (0.6 * options.seconds - 0.5), 1),
        "cpu_ms_per_audio_s": round(1000 * used.cpu_s / audio_s, 2),
    }


def cpu(stack: Stack, options: Options, found: Outcome) -> dict[str, Row]:
    """Compare in turn, round after round: a machine whose speed drifts treats both alike."""
    rows: dict[str, Row] = {}
    for name, texts in {"paragraphs": PARAGRAPHS, "sentences": SENTENCES}.items():
        over_http: list[tuple[float, float]] = []
        in_process: list[float] = []
        for _ in range(2 if options.is_quick else 3):
            alone = engine.in_threads(engine.hibari, device.cores(), texts, options.seconds / 2)
            in_process.append(alone.cpu_per_audio)
            with watched(stack) as used:
                answers = run(Plan(stack.gateway.port, HIBARI, texts, options.seconds / 2, talkers=CHECKED_TALKERS))
            audio_s = sum(answer.audio_s for answer in answers)
            over_http.append((used.worker_cpu_s / audio_s, used.gateway_cpu_s / audio_s))
        ratio = statistics.median(sum(mine) / alone for mine, alone in zip(over_http, in_process, strict=True))
        what = f"CPU time for each audio second over HTTP / of the engine alone, {name}"
        found.checks.append(Check(what, ratio, CPU_LIMIT))
        parts = [*map(statistics.median, zip(*over_http, strict=True)), statistics.median(in_process)]
        worker, gateway, own = (round(1000 * part, 2) for part in parts)
        rows[name] = {"engine_alone_ms": own, "worker_ms": worker, "gateway_ms": gateway, "ratio": round(ratio, 3)}
    return rows


def first_audio(stack: Stack, options: Options, found: Outcome) -> None:
    rest: list[Answer] = []
    while len(rest) < AT_REST:
        rest += run(Plan(stack.gateway.port, HIBARI, SENTENCES, 1.0, talkers=1))
    at_rest_ms = percentile([1000 * answer.ttfa_s for answer in rest], 0.5)
    rows: dict[str, Row] = {"at rest": summary(rest)}
    points = []
    for rate in (CHECKED_RATE,) if options.is_quick else RATES:
        seconds = options.seconds * (3 if rate == CHECKED_RATE else 1)
        rows[f"{rate:g} requests/s"] = heard = summary(run(Plan(stack.gateway.port, HIBARI, SENTENCES, seconds, rate)))
        points.append((rate, heard["ttfa_p95_ms"]))
        if rate == CHECKED_RATE:
            what = f"first audio, p95 at {rate:g} requests/s / median at rest"
            found.checks.append(Check(what, heard["ttfa_p95_ms"] / at_rest_ms, TTFA_LIMIT))
    found.tables["open loop, by rate"] = rows
    found.curves.append(Curve("rate", "hibari", points))
