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
from worker.text.english import respell

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
        self._read: dict[str, bool] = {}
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
                f"the voice {voice!r} speaks English and cannot say {shown}; it reads Latin letters, single "
                "Greek ones, digits and symbols",
                field="input",
            )
        # One by one: the package takes quadratic time over a long row of symbols.
        if not any(c.isalnum() or self._reads(c) for c in dict.fromkeys(ready)):
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
        ready = self._spell(text)
        pieces = self._try_phonemize(ready, voice)
        if not _sounds(pieces) and (words := _WORDS.findall(ready)):
            # Words and single digits it can always read, and that is nearer to the text than silence.
            log.warning("text read word by word", chars=len(text))
            pieces = [piece for word in words for piece in self._try_phonemize(word, voice)]
        return pieces

    def _try_phonemize(self, text: str, voice: str) -> list[str]:
        # The package's number reader trips over some shapes: a number of 40 digits, say.
        with contextlib.suppress(Exception):
            return list(self._voices[voice].phonemize(text))
        return []

    def _sound_of(self, text: str) -> str:
        pieces = self._try_phonemize(text, self.card.voices[0].id)
        return "".join(c for c in "".join(pieces) if c.isalpha())

    def _reads(self, symbol: str) -> bool:
        """Whether the package has a reading for a symbol, alone or beside a number."""
        if symbol not in self._read:
            places = [f"{symbol}5"] if unicodedata.category(symbol) == "Sc" else [symbol, f"5 {symbol} 6"]
            self._read[symbol] = any(
                self._sound_of(each) != self._sound_of(each.replace(symbol, "")) for each in places
            )
        return self._read[symbol]

    def _can_say(self, char: str) -> bool:
        if char.isascii() or unicodedata.category(char)[0] not in "LN":
            # Punctuation and pictographs with no reading are passed over, as a reader would; Braille is text.
            return not unicodedata.name(char, "").startswith("BRAILLE")
        return char in self._alphabet and unicodedata.name(char, "").startswith(_SCRIPTS)

    def _spell(self, text: str) -> str:
        """Bring text to what the converter knows: composed letters, plain digits, named symbols, no stray accents."""
        composed = unicodedata.normalize("NFC", text)
        plain = respell(composed.translate({ord(char): self._plain(char) for char in set(composed)}))
        return re.sub(r"\s+", " ", plain).strip()

    def _plain(self, char: str) -> str:
        if char.isascii():
            return char if char.isprintable() else " "
        category = unicodedata.category(char)
        if char in self._alphabet and char not in _SMALL_DIGITS:
            return char
        if category in ("Sm", "Sc") and char != "\N{MINUS SIGN}" and not self._reads(char):
            return f" {unicodedata.name(char).lower()} "
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


_WORDS = re.compile(r"[A-Za-zÀ-ɏͰ-Ͽ]+|[0-9]")
_SMALL_DIGITS = frozenset("¹₀₁₂₃₄₅₆₇₈₉")  # The converter takes them for numbers and trips; ² and ³ it reads as powers.
_SCRIPTS = (
    "LATIN",
    "SUPERSCRIPT",
    "VULGAR FRACTION",
    "MICRO SIGN",
    "MODIFIER",
    "FEMININE",
    "MASCULINE",
)
