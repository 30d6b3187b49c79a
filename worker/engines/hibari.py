"""Engine `hibari`: the embedded English voice, a 6 M parameter ONNX distillation of Kokoro-82M on the CPU.

The package speaks a sentence per call and needs no hub. What it leaves to us, beside the reading: it returns 0 samples
where there is nothing to say, and surrounds every sentence with silence.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worker.audio import trim_silence
from worker.engines.base import Card, Engine, Model, Samples, SegmentLimits, Settings, Voice
from worker.engines.stages import Speech, Stage
from worker.text.phonemes import EnglishReader, cut

if TYPE_CHECKING:
    from hibari import Hibari

MODEL = "maureesewilliams/hibari"
SAMPLE_RATE_HZ = 24_000
SPEEDS = (0.25, 1.0)
"""Slower than 1, it keeps the pace and is understood as well as its speech at 1 is when stretched. Faster, it does not:
the model rounds durations to whole frames, at least one, so 1.2 comes out as 1.1; and from 1.4 on, sounds are lost."""

PIECE_PAUSE_S = 0.15
LONGEST_PHONEMES = 400


class HibariEngine(Engine):
    """Runs `maureesewilliams/hibari`, whose weights come inside the package `hibari-tts`."""

    name = "hibari"

    @classmethod
    @cache
    def embedded(cls) -> Mapping[str, Card]:
        """The one model, with the voices whose weights are on this machine."""
        from hibari.voices import DEFAULT, VOICES, voice_path

        def is_here(name: str) -> bool:
            try:
                return Path(voice_path(name, download_missing=False)).exists()
            except FileNotFoundError:
                return False

        voices = [
            Voice(name, name.capitalize(), about["language"], about["gender"])
            for name, about in sorted(VOICES.items(), key=lambda item: item[0] != DEFAULT)
            if is_here(name)
        ]
        return {MODEL: Card(SAMPLE_RATE_HZ, voices, revision=version("hibari-tts"), speeds=SPEEDS)}

    @classmethod
    def load_embedded(cls, name: str, device: str) -> HibariModel:
        """Load every voice that is on this machine; always on the CPU, where it is fastest with one thread."""
        return HibariModel(cls.embedded()[name])


class HibariModel(Model):
    """A session per voice, and one reader for each of American and British English."""

    # A clause of 80 characters is 4 s of speech, made in some 50 ms.
    limits = SegmentLimits(first=80, longest=300)
    is_staged = True

    def __init__(self, card: Card) -> None:
        from hibari import Hibari

        self.card = card
        languages = {voice.language for voice in card.voices}
        readers = {language: EnglishReader(british=language == "en-GB") for language in languages}
        self._readers = {voice.id: readers[voice.language] for voice in card.voices}
        # The converter of the session itself is never asked: it would be a second one.
        self._voices = {voice.id: Hibari(voice=voice.id, threads=1, g2p=False) for voice in card.voices}

    def check(self, text: str, voice: str) -> None:
        """Refuse letters of scripts that English does not use, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        self._readers[voice].check(text, voice)

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment, in pieces of at most 400 phonemes (nearly always one)."""
        synthesize = Synthesis(self._voices[settings.voice])
        noise = np.random.default_rng([settings.seed, index])
        pause = np.zeros(int(PIECE_PAUSE_S / settings.speed * SAMPLE_RATE_HZ), np.float32)
        first = True
        # Punctuation alone would be sounded as a breath of noise; the reader leaves it out.
        for sentence in self._readers[settings.voice].read(text):
            for phonemes in cut(sentence, LONGEST_PHONEMES):
                samples = yield from synthesize(Piece(phonemes, settings.speed, noise))
                yield samples if first else np.concatenate([pause, samples])
                first = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What the network speaks at once.

    Attributes:
        phonemes: At most `LONGEST_PHONEMES`.
        speed: Pace.
        noise: What the breath in the voice is drawn from.
    """

    phonemes: str
    speed: float
    noise: np.random.Generator


class Synthesis(Stage[Piece, Samples]):
    """Speaks with one voice.

    Each run takes one core: two threads make 1.9 times the audio of one, as much as two processes do, and a session of
    two threads a tenth less.
    """

    name = "synthesis"
    is_reentrant = True
    takes_threads = False

    def __init__(self, voice: Hibari) -> None:
        self._voice = voice

    def run(self, items: Sequence[Piece], size: Hashable) -> Sequence[Samples]:
        """Speak a piece; its silence at both ends is cut."""
        (piece,) = items
        samples = self._voice.from_ids(self._voice.ids(piece.phonemes), piece.speed, piece.noise)
        return [trim_silence(samples, SAMPLE_RATE_HZ)]
