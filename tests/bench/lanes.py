"""Threads or processes: how many audio seconds an engine makes on several cores, by one or the other."""

from __future__ import annotations

import statistics

from tests.bench import engine
from tests.bench.outcome import Check, Options, Outcome, Row
from tests.bench.texts import SENTENCES
from worker import device

THREADS_LIMIT = 0.9
"""Least that threads may make of what processes make: the worker uses threads."""


def measure(options: Options) -> Outcome:
    """Measure one thread, a thread for each core, and a process for each core, in turn."""
    found = Outcome("hibari on every core, without a server: threads beside processes")
    cores = device.cores()
    ways = {
        "one thread": (engine.in_threads, 1),
        f"{cores} threads": (engine.in_threads, cores),
        f"{cores} processes": (engine.in_processes, cores),
    }
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if options.is_quick else 2):
        for name, (work, count) in ways.items():
            runs[name].append(work(engine.hibari, count, SENTENCES, options.seconds / 2).audio_per_s)
    one, threads, processes = runs.values()
    rows: dict[str, Row] = {}
    for name, made in runs.items():
        ratio = statistics.median(mine / alone for mine, alone in zip(made, one, strict=True))
        rows[name] = {"audio_per_s": round(statistics.median(made), 1), "of_one_thread": round(ratio, 2)}
    found.tables["audio seconds each second"] = rows
    ratio = statistics.median(mine / theirs for mine, theirs in zip(threads, processes, strict=True))
    found.checks.append(Check("audio made by threads / by processes", ratio, THREADS_LIMIT, is_most=False))
    return found
