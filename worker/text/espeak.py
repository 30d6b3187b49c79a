"""Gives the phonemes that espeak-ng would write, which Piper's voices were trained on, for English without espeak-ng.

English comes from our own reader: its alphabet (misaki's) was made from espeak's by folding sounds together, and is
unfolded here. The length of a vowel, which American misaki leaves out, follows from the vowel.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from importlib.util import find_spec

from worker.errors import UnspeakableText
from worker.text.phonemes import EnglishReader, Reader, sounds

_BOTH = {"A": "eɪ", "I": "aɪ", "W": "aʊ", "Y": "ɔɪ", "ʤ": "dʒ", "ʧ": "tʃ", "ᵊ": "ə", "—": ",", "…": "."}
_AMERICAN = str.maketrans(_BOTH | {"O": "oʊ", "T": "ɾ", "ɑ": "ɑː", "ɔ": "ɔː", "u": "uː"})
_BRITISH = str.maketrans(_BOTH | {"Q": "əʊ", "T": "t"})

_VOWELS = "AIOQWYaeiouæɐɑɒɔəɛɜɪʊʌᵊᵻ"
_NURSE = re.compile(r"ɜɹ")
_LETTER = re.compile(rf"əɹ(?![ˈˌ]?[{_VOWELS}])")
_FLEECE = re.compile(rf"(?<=[ˈˌ])i(?![{_VOWELS}])|(?<![ˈˌ])i(?=[^\W{_VOWELS}])")
_MODULES = ("phonemizer", "espeakng_loader")

_ONE_AT_A_TIME = threading.Lock()
"""The library of espeak-ng keeps what it is reading in global variables."""


def from_misaki(phonemes: str, *, british: bool = False) -> str:
    """Write English phonemes as espeak-ng does.

    Args:
        phonemes: In misaki's alphabet, such as `həlˈO wˈɜɹld`.
        british: Of British English, where misaki keeps the length of vowels.

    Returns:
        In the IPA of espeak-ng, such as `həlˈoʊ wˈɜːld`.
    """
    if british:
        return phonemes.replace("ɛː", "eə").translate(_BRITISH)
    # Nurse is one long vowel, and before another vowel its r is heard beside it; letter is one short vowel.
    phonemes = _NURSE.sub(lambda found: "ɜːɹ" if _is_vowel_at(phonemes, found.end()) else "ɜː", phonemes)
    phonemes = _LETTER.sub("ɚ", phonemes)
    # Fleece is long; the ends of happy and the middles of area are short.
    phonemes = _FLEECE.sub("iː", phonemes)
    return phonemes.translate(_AMERICAN)


def _is_vowel_at(phonemes: str, position: int) -> bool:
    return phonemes[position : position + 2].lstrip("ˈˌ")[:1] in tuple(_VOWELS)


def can_read(voice: str) -> bool:
    """Whether the phonemes of a voice of espeak-ng, such as `en-us`, can be had here."""
    return voice.lower() in _ENGLISH or all(find_spec(module) for module in _MODULES)


def reader(voice: str) -> Reader:
    """Load the reader for a voice of espeak-ng that can be read."""
    british = _ENGLISH.get(voice.lower())
    return EspeakReader(voice) if british is None else EnglishEspeakReader(british=british)


class EnglishEspeakReader(EnglishReader):
    """Reads English as espeak-ng would write it."""

    def __init__(self, *, british: bool = False) -> None:
        super().__init__(british=british)
        self._british = british

    def read(self, text: str) -> list[str]:
        return [from_misaki(sentence, british=self._british) for sentence in super().read(text)]


class EspeakReader(Reader):
    """Reads any language of espeak-ng, which is GPL and not installed with us; any thread may ask.

    Args:
        voice: Its voice for the language, such as `de`.
    """

    def __init__(self, voice: str) -> None:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper

        with _ONE_AT_A_TIME:
            EspeakWrapper.set_library(espeakng_loader.get_library_path())
            EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
            self._backend = EspeakBackend(
                voice, preserve_punctuation=True, with_stress=True, language_switch="remove-flags"
            )

    def check(self, text: str, voice: str) -> None:
        """Refuse text with nothing to say; espeak-ng spells out what it does not know."""
        if not any(unicodedata.category(c)[0] in "LN" for c in text) and not self.read(text):
            raise UnspeakableText(
                f"there is nothing to say in {text.strip()[:40]!r}; the voice {voice!r} needs letters or digits",
                field="input",
            )

    def read(self, text: str) -> list[str]:
        with _ONE_AT_A_TIME:
            phonemes = "".join(self._backend.phonemize([text])).strip()
        return [phonemes] if sounds(phonemes) else []


_ENGLISH = {"en": True, "en-gb": True, "en-gb-x-rp": True, "en-us": False}
