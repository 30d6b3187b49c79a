"""What each format costs: real-time streams that one core of the gateway carries, and the time to its first audio.

All formats are asked for the same speech in turn, round after round. The tone engine costs next to nothing, so the
gateway is what is measured: its CPU time for an audio second. The first audio of a format is counted from the request
to the first byte that a decoder makes sound of, and compared with `pcm` in the same round; what a codec must hold back
by its own nature (a frame, and its look-ahead) stands beside it.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.outcome import Options, Outcome
from tests.bench.usage import cpu_s
from tests.stack import TONE, Stack, running

FORMATS = ("pcm", "wav", "flac", "mp3", "opus", "aac")
SPEECH = "word " * 300
"""30 s of tones."""

CODEC_DELAY_MS = {"pcm": 0.0, "wav": 0.0, "flac": 24.0, "mp3": 1000 * (576 + 1105) / 24_000, "opus": 26.5, "aac": 85.3}
"""A frame and the look-ahead at 24 kHz: what the codec holds back before its first audio can be decoded."""


@dataclass(frozen=True)
class Cost:
    """One response: CPU time of the gateway for each second of audio, and time to the first byte."""

    cpu_ms_per_audio_s: float
    first_byte_ms: float


def measure(options: Options) -> Outcome:
    """Measure every format; tells the medians."""
    found = Outcome("each format, one stream at a time; CPU time of the gateway alone")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as stack:
        gateway = psutil.Process(stack.gateway.popen.pid)
        runs: dict[str, list[Cost]] = {form: [] for form in FORMATS}
        for form in FORMATS:
            ask(stack, gateway, form)  # What is imported or opened at first use is not counted.
        for _ in range(max(1, options.rounds // 2)):
            for form in FORMATS:
                runs[form].append(ask(stack, gateway, form))
    found.tables["by format"] = {form: summary(costs, runs["pcm"], form) for form, costs in runs.items()}
    return found


def ask(stack: Stack, gateway: psutil.Process, form: str) -> Cost:
    connection = http.client.HTTPConnection("127.0.0.1", stack.gateway.port)
    connection.connect()
    body = json.dumps({"model": TONE, "input": SPEECH, "response_format": form, "seed": 0})
    busy_before = cpu_s(gateway)
    started = time.perf_counter()
    connection.request("POST", "/v1/audio/speech", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    header = answer.read(1)
    first_byte_ms = 1000 * (time.perf_counter() - started)
    assert header + answer.read()
    connection.close()
    audio_s = len(SPEECH.split()) / 10
    return Cost(1000 * (cpu_s(gateway) - busy_before) / audio_s, first_byte_ms)


def summary(costs: list[Cost], base: list[Cost], form: str) -> dict[str, float]:
    cpu_ms = statistics.mean(cost.cpu_ms_per_audio_s for cost in costs)
    return {
        "cpu_ms_per_audio_s": round(cpu_ms, 2),
        "streams_per_core": round(1000 / cpu_ms, 0) if cpu_ms else float("inf"),
        "first_byte_p50_ms": round(statistics.median(cost.first_byte_ms for cost in costs), 1),
        "added_to_pcm_p50_ms": round(
            statistics.median(mine.first_byte_ms - pcm.first_byte_ms for mine, pcm in zip(costs, base, strict=True)), 2
        ),
        "codec_delay_ms": round(CODEC_DELAY_MS[form], 1),
    }
