"""Engine `hibari`: the embedded English voice, a 6 M parameter ONNX distillation of Kokoro-82M on the CPU.

The package speaks a sentence per call and needs no hub. What it leaves to us: it drops characters that it cannot say,
returns 0 samples where nothing is left, and surrounds every sentence with silence.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import structlog

from worker.audio import trim_silence
from worker.engines.base import Card, Engine, Model, Samples, SegmentLimits, Settings, Voice
from worker.errors import UnspeakableText

MODEL = "maureesewilliams/hibari"
SAMPLE_RATE_HZ = 24_000
SPEEDS = (0.25, 2.0)  # Beyond 2 the durations hit their floor of one frame and the speech falls apart.
PIECE_PAUSE_S = 0.15

log = structlog.get_logger(__name__)


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
    def load(cls, name: str, device: str) -> HibariModel:
        """Load every voice that is on this machine; always on the CPU, where it is fastest with one thread."""
        return HibariModel(cls.embedded()[name])


class HibariModel(Model):
    """A session per voice, and one text-to-phoneme converter for each of American and British English."""

    # A clause of 80 characters is 4 s of speech, made in some 50 ms.
    limits = SegmentLimits(first=80, longest=300)

    def __init__(self, card: Card) -> None:
        from hibari import Hibari
        from hibari.g2p import G2P

        self.card = card
        converters = {voice.language: G2P(british=voice.language == "en-GB") for voice in card.voices}
        self._voices = {
            voice.id: Hibari(voice=voice.id, threads=1, g2p=converters[voice.language]) for voice in card.voices
        }
        # Letters outside the alphabet of the net that reads unknown words are dropped in silence.
        self._alphabet = frozenset().union(*(converter.oov.cin for converter in converters.values()))

    def check(self, text: str, voice: str) -> None:
        """Refuse letters of scripts that English does not use, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        ready = self._spell(text)
        if strange := [c for c in dict.fromkeys(ready) if not self._can_say(c)]:
            shown = ", ".join(repr(c) for c in strange[:8]) + (" and others" if len(strange) > 8 else "")
            raise UnspeakableText(
                f"the voice {voice!r} speaks English and cannot say {shown}; it reads Latin and Greek letters, digits, "
                "and common symbols",
                field="input",
            )
        if not any(c.isalnum() for c in ready) and not _sounds(self._phonemize(ready, voice)):
            raise UnspeakableText(
                f"there is nothing to say in {text.strip()[:40]!r}; the voice {voice!r} needs letters, digits or "
                "symbols with a name",
                field="input",
            )

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment, in pieces of at most 400 phonemes (nearly always one)."""
        tts = self._voices[settings.voice]
        noise = np.random.default_rng([settings.seed, index])
        pause = np.zeros(int(PIECE_PAUSE_S / settings.speed * SAMPLE_RATE_HZ), np.float32)
        first = True
        for phonemes in self._phonemize(text, settings.voice):
            if not _sounds([phonemes]):
                continue  # Punctuation alone is sounded as a breath of noise.
            samples = trim_silence(tts.from_ids(tts.ids(phonemes), settings.speed, noise), SAMPLE_RATE_HZ)
            yield samples if first else np.concatenate([pause, samples])
            first = False

    def _phonemize(self, text: str, voice: str) -> list[str]:
        """Turn text into phonemes, one string for each piece that the network gets at once."""
        tts = self._voices[voice]
        ready = self._spell(text)
        pieces: list[str] = []
        with contextlib.suppress(Exception):
            # The package's number reader trips over some shapes: a number of 40 digits, say.
            pieces = tts.phonemize(ready)
        if not _sounds(pieces) and (plain := " ".join(_PLAIN.findall(ready))):
            # Words and single digits it can always read, and that is nearer to the text than silence.
            log.warning("text read plainly", text=text[:80])
            pieces = tts.phonemize(plain)
        return pieces

    def _can_say(self, char: str) -> bool:
        if char.isascii() or unicodedata.category(char)[0] not in "LN":
            return True  # Punctuation, symbols and emoji with no name are passed over, as a reader would.
        return char in self._alphabet and unicodedata.name(char, "").startswith(_SCRIPTS)

    def _spell(self, text: str) -> str:
        """Bring text to characters that the converter knows: composed, plain digits, no stray accents or controls."""
        return re.sub(r"\s+", " ", "".join(self._plain(c) for c in unicodedata.normalize("NFC", text))).strip()

    def _plain(self, char: str) -> str:
        if char.isascii():
            return char if char.isprintable() else " "
        category = unicodedata.category(char)
        if char in self._alphabet and not unicodedata.name(char).startswith("SUBSCRIPT"):
            return char
        if category == "Nd":
            return str(unicodedata.decimal(char))
        if category in ("Mn", "Me", "Cf"):
            return ""
        if category[0] in "LN":
            base = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
            return base.replace("⁄", "/") if base.replace("⁄", "").isascii() else char
        return " " if category[0] in "ZC" else char


def _sounds(pieces: list[str]) -> bool:
    """Whether there is more in phonemes than punctuation."""
    return any(c.isalpha() for phonemes in pieces for c in phonemes)


_PLAIN = re.compile(r"[^\W\d_]+|\d")
_SCRIPTS = (
    "LATIN",
    "GREEK",
    "SUPERSCRIPT",
    "VULGAR FRACTION",
    "MICRO SIGN",
    "MODIFIER",
    "FEMININE",
    "MASCULINE",
)
