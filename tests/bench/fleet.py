"""More workers, more streams: what one, two and ten workers speak together, and what each stream costs the gateway.

The workers' devices are simulated, since the cores of one machine cannot be ten: the test engine takes its time for
each tenth of a second of audio, and uses no core meanwhile. What is measured is the gateway and the routing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil

from tests.bench.load import Plan, run
from tests.bench.outcome import Check, Options, Outcome, Row
from tests.bench.usage import cpu_s
from tests.stack import TONE, running

SIZES = (1, 2, 10)
LIMITS = {2: 1.8, 10: 9.0}
FLAT = 1.25
TALKERS = 12
"""For each worker; more than it can keep supplied."""

TEXT = " ".join(["<delay=0.02>"] * 30)
"""Three seconds of audio for 0.6 s of the device."""


def measure(options: Options) -> Outcome:
    """Measure fleets of growing size, one after the other."""
    found = Outcome("workers with simulated devices behind one gateway, closed loop")
    rows: dict[int, Row] = {size: speak(size, options) for size in SIZES}
    found.tables["by number of workers"] = {str(size): row for size, row in rows.items()}
    for size, limit in LIMITS.items():
        ratio = float(rows[size]["streams"]) / float(rows[1]["streams"])
        found.checks.append(Check(f"streams of {size} workers / of one", ratio, limit, is_most=False))
    # One stream alone would tell of what the gateway does anyway; so two workers are the measure.
    cost = float(rows[10]["gateway_ms_per_audio_s"]) / float(rows[2]["gateway_ms_per_audio_s"])
    found.checks.append(Check("the gateway's CPU for a stream, with 10 workers / with 2", cost, FLAT))
    return found


def speak(size: int, options: Options) -> Row:
    """Have a fleet speak as much as it can."""
    settings = {"SONORANT_THREADS": "1", "SONORANT_ENGINES": "tone"}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), workers=size, worker_settings=settings) as stack,
    ):
        port = stack.gateway.port
        run(Plan(port, TONE, [TEXT], 1.0, talkers=TALKERS * size))
        gateway = psutil.Process(stack.gateway.popen.pid)
        used_s = -cpu_s(gateway)
        heard = run(Plan(port, TONE, [TEXT], 2 * options.seconds, talkers=TALKERS * size))
        used_s += cpu_s(gateway)
    audio_s = sum(answer.audio_s for answer in heard)
    took_s = max(answer.ended_s for answer in heard) - min(answer.due_s for answer in heard)
    return {
        "streams": round(audio_s / took_s, 2),
        "utterances": len(heard),
        "failed": sum(answer.status != 200 for answer in heard),
        "gateway_ms_per_audio_s": round(1000 * used_s / audio_s, 3),
    }
