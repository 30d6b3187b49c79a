"""Engine `tone`: a test double that is a real engine. It has no weights, costs nothing and does what the text says.

Every word is one step and one tone, so counts and lengths can be foretold: word number k of a segment sounds for
`word_ms` at a pitch that depends on the voice and on k alone. Words in angle brackets are orders:

    <long=S>    this word sounds for S seconds
    <delay=S>   the step takes S seconds
    <hold=NAME> the step waits until the file NAME appears in the directory SONORANT_TONE_DIR
    <pause=S>   the step takes S seconds and makes no samples
    <touch=NAME> the file NAME appears in that directory
    <fail>      the step raises
    <die>       the process ends at once, as if killed
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from worker.engines.base import Card, Engine, Model, Samples, SegmentLimits, Settings, Voice
from worker.errors import UnspeakableText

VOICES = {"low": 220.0, "high": 440.0}
RATES_HZ = {"sonorant/tone": 24_000, "sonorant/tone-22k": 22_050}
WORD_MS = 100
HOLD_LIMIT_S = 60.0

_ORDER = re.compile(r"<(\w+)(?:=([\w.-]+))?>")


class ToneEngine(Engine):
    """Runs `sonorant/tone` (24 kHz) and `sonorant/tone-22k` (22.05 kHz)."""

    name = "tone"
    test_only = True

    @classmethod
    def embedded(cls) -> Mapping[str, Card]:
        """The two models, alike but for the rate."""
        voices = [Voice(name, name.capitalize(), "und") for name in VOICES]
        options = {
            "word_ms": {"type": "integer", "minimum": 10, "maximum": 10_000, "description": "length of a word"},
        }
        return {
            name: Card(rate_hz, voices, revision="1", speeds=(0.25, 4.0), options=options)
            for name, rate_hz in RATES_HZ.items()
        }

    @classmethod
    def load(cls, name: str, device: str) -> ToneModel:
        """There is nothing to load."""
        return ToneModel(cls.embedded()[name])


class ToneModel(Model):
    """Speaks in sine waves."""

    limits = SegmentLimits(first=40, longest=200)

    def __init__(self, card: Card) -> None:
        self.card = card

    def check(self, text: str, voice: str) -> None:
        """Refuse text without a word."""
        if not text.split():
            raise UnspeakableText("there is no word in the text", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Sound one tone for each word; the seed sets the phase."""
        word_s = settings.options.get("word_ms", WORD_MS) / 1000
        phase = np.random.default_rng([settings.seed, index]).random()
        for k, word in enumerate(text.split()):
            duration_s = word_s / settings.speed
            if order := _ORDER.match(word):
                duration_s = self._obey(order[1], order[2] or "", duration_s)
            t = np.arange(round(duration_s * self.card.sample_rate_hz)) / self.card.sample_rate_hz
            pitch_hz = VOICES[settings.voice] * (1 + k % 8 / 8)
            yield (0.5 * np.sin(2 * np.pi * (pitch_hz * t + phase))).astype(np.float32)

    @staticmethod
    def _obey(order: str, value: str, duration_s: float) -> float:
        match order:
            case "long":
                return float(value)
            case "delay":
                time.sleep(float(value))
            case "hold":
                _wait_for(_signal(value))
            case "pause":
                time.sleep(float(value))
                return 0.0
            case "touch":
                _signal(value).touch()
            case "fail":
                raise RuntimeError("told to fail")
            case "die":
                os._exit(1)
        return duration_s


def _signal(name: str) -> Path:
    return Path(os.environ["SONORANT_TONE_DIR"]) / name


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + HOLD_LIMIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear in {HOLD_LIMIT_S:.0f} s")
        time.sleep(0.005)
