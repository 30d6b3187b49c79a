"""VITS at the size of mms-tts, in this process: windows beside the library's decoding of the whole at once."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench import random_weights
from tests.bench.inside import Inside, with_inside
from tests.bench.outcome import Check, Options, Outcome, Row
from tests.passages import PASSAGES
from worker import device
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, Samples
from worker.engines.vits import VitsEngine

TEXT = PASSAGES["harbour"][:214].lower()
"""About 20 s of speech."""

FIRST_LIMIT, TOTAL_LIMIT, DIFFERENCE_LIMIT = 0.15, 1.25, 1e-4


def measure(options: Options) -> Outcome:
    """Speak the same text both ways in turn."""
    found = Outcome("VITS at the size of mms-tts with random weights, one segment, in process")
    where = device.find("cpu")
    with tempfile.TemporaryDirectory() as root:
        checkpoint = random_weights.vits(Path(root))
        model = VitsEngine.load(checkpoint, where.id)
        whole = Whole(checkpoint)

        async def compare(inside: Inside) -> None:
            rows, difference = await take_turns(inside, whole, 1 if options.is_quick else 3)
            first = median(row["first_s"] / row["total_s"] for row in rows)
            total = median(row["total_s"] / row["whole_s"] for row in rows)
            middle: Row = {name: round(median(row[name] for row in rows), 3) for name in rows[0]}
            found.tables["medians"] = {f"{where.lanes} cores": middle}
            found.checks += [
                Check("first audio / total", first, FIRST_LIMIT),
                Check("total in windows / decoded at once by the library", total, TOTAL_LIMIT),
                Check("largest difference of a sample", difference, DIFFERENCE_LIMIT),
            ]

        with_inside(model, where, compare)
    return found


async def take_turns(inside: Inside, whole: Whole, rounds: int) -> tuple[list[dict[str, float]], float]:
    """Speak by the scheduler and by the library; gives the times, and how much the samples differ."""
    rows: list[dict[str, float]] = []
    difference = 0.0
    for number in range(-1, rounds):  # The first is to warm up.
        blocks: list[Samples] = []
        heard = await inside.speak_segment(TEXT, 0, lambda block, blocks=blocks: blocks.append(block.samples))
        began = time.monotonic()
        samples = whole.speak(TEXT, 0)
        whole_s = time.monotonic() - began
        if number < 0:
            own, theirs = np.concatenate(blocks), trim_silence(samples, whole.rate_hz)
            assert own.shape == theirs.shape, (own.shape, theirs.shape)
            difference = float(np.abs(own - theirs).max())
            continue
        row = {"first_s": heard.ttfa_s, "total_s": heard.ended_s - heard.due_s, "whole_s": whole_s}
        rows.append(row | {"audio_s": heard.audio_s})
    return rows, difference


class Whole:
    """The library's own way: `VitsModel.forward`, on all cores."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from transformers import VitsModel, VitsTokenizer

        self._tokenizer: Any = VitsTokenizer.from_pretrained(checkpoint.folder)
        self._network: Any = VitsModel.from_pretrained(checkpoint.folder).eval()
        self.rate_hz: int = self._network.config.sampling_rate

    def speak(self, text: str, seed: int) -> Samples:
        import torch

        torch.set_num_threads(device.cores())
        torch.manual_seed(seed)
        with torch.inference_mode():
            return np.asarray(self._network(**self._tokenizer(text, return_tensors="pt")).waveform[0], np.float32)
