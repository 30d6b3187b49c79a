"""Turns text into phonemes of misaki's alphabet, and says what it cannot read; knows no acoustic model.

English is read by the converter of the package `hibari-tts`, a port of misaki without spaCy and espeak. What it leaves
to us: it drops characters that it cannot say, and it trips over odd numbers and long rows of symbols.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import structlog

from worker.errors import UnspeakableText
from worker.text.english import respell

log = structlog.get_logger(__name__)


class Reader(ABC):
    """Reads text of one language aloud, in phonemes."""

    @abstractmethod
    def check(self, text: str, voice: str) -> None:
        """Refuse text that cannot be read, or not all of it.

        Args:
            text: The input.
            voice: Who was to speak it; for the message.

        Raises:
            UnspeakableText: Names the characters.
        """

    @abstractmethod
    def read(self, text: str) -> list[str]:
        """Turn text into phonemes, one string for each sentence that has a sound."""


class EnglishReader(Reader):
    """Reads English.

    Args:
        british: By the British lexicon and rules, and not by the American ones.
    """

    def __init__(self, *, british: bool = False) -> None:
        from hibari import Hibari
        from hibari.g2p import G2P

        self._split_sentences = Hibari.split_sentences
        self._convert = G2P(british=british)
        # Letters outside the alphabet of the net that reads unknown words are dropped in silence.
        self._alphabet = frozenset(self._convert.oov.cin)
        self._is_read: dict[str, bool] = {}

    def check(self, text: str, voice: str) -> None:
        """Refuse letters of scripts that English does not use, and text with nothing to say."""
        ready = self.spell(text)
        if strange := [c for c in dict.fromkeys(ready) if not self._can_say(c)]:
            raise UnspeakableText(
                f"the voice {voice!r} speaks English and cannot say {quote(strange)}; it reads Latin letters, single "
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

    def read(self, text: str) -> list[str]:
        """Turn text into phonemes, one string for each sentence that has a sound."""
        ready = self.spell(text)
        sentences = self._try_read(ready)
        if not sentences and (words := _WORDS.findall(ready)):
            # Words and single digits it can always read, and that is nearer to the text than silence.
            log.warning("text read word by word", chars=len(text))
            sentences = [sentence for word in words for sentence in self._try_read(word)]
        return sentences

    def spell(self, text: str) -> str:
        """Bring text to what the converter knows: composed letters, plain digits, named symbols, no stray accents."""
        composed = unicodedata.normalize("NFC", text)
        plain = respell(composed.translate({ord(char): self._plain(char) for char in set(composed)}))
        return re.sub(r"\s+", " ", plain).strip()

    def _try_read(self, text: str) -> list[str]:
        # The package's number reader trips over some shapes: a number of 40 digits, say.
        with contextlib.suppress(Exception):
            return [phonemes for part in self._split_sentences(text) if sounds(phonemes := self._convert(part))]
        return []

    def _sound_of(self, text: str) -> str:
        return "".join(c for c in "".join(self._try_read(text)) if c.isalpha())

    def _reads(self, symbol: str) -> bool:
        """Whether the package has a reading for a symbol, alone or beside a number."""
        if symbol not in self._is_read:
            places = [f"{symbol}5"] if unicodedata.category(symbol) == "Sc" else [symbol, f"5 {symbol} 6"]
            self._is_read[symbol] = any(
                self._sound_of(each) != self._sound_of(each.replace(symbol, "")) for each in places
            )
        return self._is_read[symbol]

    def _can_say(self, char: str) -> bool:
        if char.isascii() or unicodedata.category(char)[0] not in "LN":
            # Punctuation and pictographs with no reading are passed over, as a reader would; Braille is text.
            return not unicodedata.name(char, "").startswith("BRAILLE")
        return char in self._alphabet and unicodedata.name(char, "").startswith(_SCRIPTS)

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


def sounds(phonemes: str) -> bool:
    """Whether there is more in phonemes than punctuation."""
    return any(c.isalpha() for c in phonemes)


def cut(phonemes: str, longest: int) -> Iterator[str]:
    """Cut phonemes into pieces that a model can take: after a clause, else at a space, else anywhere.

    Args:
        phonemes: Of one sentence.
        longest: The most characters of any piece.

    Yields:
        The pieces that have a sound, without the space around them.
    """
    while phonemes:
        head = phonemes[: longest + 1]
        end = len(phonemes)
        if end > longest:
            clauses = [found.end() for found in _CLAUSE_END.finditer(head)]
            end = clauses[-1] if clauses else head.rfind(" ")
            end = end if end > 0 else longest
        piece, phonemes = phonemes[:end].strip(), phonemes[end:].lstrip()
        if sounds(piece):
            yield piece


def quote(chars: Sequence[str]) -> str:
    """Show the first few of some characters in a message."""
    return ", ".join(repr(c) for c in chars[:8]) + (" and others" if len(chars) > 8 else "")


_CLAUSE_END = re.compile(r"[,;:—](?= )")
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
