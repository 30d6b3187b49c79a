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
    <oom>       the step asks for more memory than there is

Two models are embedded. The second one takes instructions, an order that stands for every word that is none; and it
imitates voices: its pitch is the strongest one of the recording. The engine claims models of a hub too whose
config.json has the `model_type` `tone`: `weights.bin` then begins with `TONE` and is held in memory, and `orders` of
their configuration are obeyed while they are loaded.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worker.engines.base import (
    Card,
    Checkpoint,
    Engine,
    HubModel,
    Model,
    Part,
    Reference,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
)
from worker.errors import UnspeakableText

VOICES = {"low": 220.0, "high": 440.0}
RATES_HZ = {"sonorant/tone": 24_000, "sonorant/tone-22k": 22_050}
WORD_MS = 100
HOLD_LIMIT_S = 60.0

_ORDER = re.compile(r"<(\w+)(?:=([\w.-]+))?>")


class ToneEngine(Engine):
    """Runs `sonorant/tone` (24 kHz), `sonorant/tone-22k` (22.05 kHz) and models of a hub that are made for it."""

    name = "tone"
    test_only = True

    @classmethod
    def embedded(cls) -> Mapping[str, Card]:
        """The two models, alike but for the rate."""
        return {
            name: _card(rate_hz, revision="1", is_gifted=name == "sonorant/tone-22k")
            for name, rate_hz in RATES_HZ.items()
        }

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Models that say so."""
        return model.model_type == "tone"

    @classmethod
    def files(cls, model: HubModel) -> tuple[str, ...]:
        """Configuration and weights; whatever else is there is not needed."""
        return ("config.json", "weights.bin")

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> list[Part]:
        """What the configuration names."""
        return [Part(name) for name in _config(checkpoint).get("parts", ())]

    @classmethod
    def load_embedded(cls, name: str, device: str) -> ToneModel:
        """There is nothing to load."""
        return ToneModel(cls.embedded()[name])

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> ToneModel:
        """Read the weights into memory.

        Raises:
            ValueError: They do not begin as they should.
        """
        config = _config(checkpoint)
        for order in _ORDER.finditer(config.get("orders", "")):
            ToneModel.obey(order[1], order[2] or "", 0.0)
        weights = bytearray((checkpoint.folder / "weights.bin").read_bytes())
        if not weights.startswith(b"TONE"):
            raise ValueError("weights.bin does not begin with TONE")
        return ToneModel(_card(config.get("sample_rate_hz", 24_000)), weights)


class ToneModel(Model):
    """Speaks in sine waves."""

    limits = SegmentLimits(first=40, longest=200, patience_s=3600.0)

    def __init__(self, card: Card, weights: bytearray | None = None) -> None:
        self.card = card
        self._weights = weights

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
            if order := _ORDER.match(word) or _ORDER.match(settings.instructions):
                duration_s = self.obey(order[1], order[2] or "", duration_s)
            t = np.arange(round(duration_s * self.card.sample_rate_hz)) / self.card.sample_rate_hz
            pitch_hz = (_pitch_hz(settings.reference) or VOICES[settings.voice]) * (1 + k % 8 / 8)
            yield (0.5 * np.sin(2 * np.pi * (pitch_hz * t + phase))).astype(np.float32)

    @staticmethod
    def obey(order: str, value: str, duration_s: float) -> float:
        """Do what an order says; return how long the word sounds, in seconds."""
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
            case "oom":
                raise MemoryError
        return duration_s


def _pitch_hz(reference: Reference | None) -> float:
    """The strongest pitch of a recording; 0 without one."""
    if not reference:
        return 0.0
    spectrum = np.abs(np.fft.rfft(reference.samples - reference.samples.mean()))
    return float(np.argmax(spectrum) * reference.sample_rate_hz / len(reference.samples))


def _card(sample_rate_hz: int, revision: str = "", *, is_gifted: bool = False) -> Card:
    voices = [Voice(name, name.capitalize(), "und") for name in VOICES]
    options = {"word_ms": {"type": "integer", "minimum": 10, "maximum": 10_000, "description": "length of a word"}}
    return Card(
        sample_rate_hz,
        voices,
        revision,
        speeds=(0.5, 2.0),
        options=options,
        takes_instructions=is_gifted,
        cloning="audio" if is_gifted else "",
    )


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    return config


def _signal(name: str) -> Path:
    return Path(os.environ["SONORANT_TONE_DIR"]) / name


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + HOLD_LIMIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear in {HOLD_LIMIT_S:.0f} s")
        time.sleep(0.005)
