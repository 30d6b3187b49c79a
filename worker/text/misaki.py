"""Reads languages other than English in misaki's phonemes, as far as the parts of misaki for them are installed.

Japanese and Chinese need permissive parts; the rest goes through espeak-ng, which is GPL and the operator's choice.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from worker.errors import UnspeakableText
from worker.text.phonemes import EnglishReader, Reader, quote, sounds

_LATIN = ("LATIN", "DIGIT")
_ESPEAK = ("misaki", "phonemizer", "espeakng_loader")


@dataclass(frozen=True, slots=True)
class _Language:
    """How a language is read.

    Attributes:
        modules: What must be installed.
        install: What the operator installs to that end.
        scripts: How the Unicode names of the letters and digits begin that it can read.
        espeak: Its name in espeak-ng, if that reads it.
    """

    modules: Sequence[str]
    install: str
    scripts: Sequence[str] = field(default=_LATIN)
    espeak: str = ""


_LANGUAGES = {
    "en-US": _Language(("hibari",), "hibari-tts"),
    "en-GB": _Language(("hibari",), "hibari-tts"),
    "ja": _Language(
        ("misaki", "pyopenjtalk"), "misaki[ja]", ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "FULLWIDTH", *_LATIN)
    ),
    "zh": _Language(
        ("misaki", "jieba", "pypinyin", "pypinyin_dict", "cn2an"),
        "misaki[zh]",
        ("CJK", "IDEOGRAPHIC", "FULLWIDTH DIGIT", "DIGIT"),
    ),
    "es": _Language(_ESPEAK, "misaki[en]", espeak="es"),
    "fr-FR": _Language(_ESPEAK, "misaki[en]", espeak="fr-fr"),
    "hi": _Language(_ESPEAK, "misaki[en]", ("DEVANAGARI", *_LATIN), espeak="hi"),
    "it": _Language(_ESPEAK, "misaki[en]", espeak="it"),
    "pt-BR": _Language(_ESPEAK, "misaki[en]", espeak="pt-br"),
}
LANGUAGES = tuple(_LANGUAGES)
"""BCP 47 tags of the languages that misaki has phonemes for."""


def lacks(language: str) -> str:
    """Say what is to be installed for a language to be read; empty if nothing is."""
    known = _LANGUAGES[language]
    return "" if all(find_spec(module) for module in known.modules) else known.install


def reader(language: str, *, bopomofo: bool = False) -> Reader:
    """Load the reader of a language of which nothing is lacking.

    Args:
        language: One of `LANGUAGES`.
        bopomofo: Read Chinese in the alphabet of Kokoro-82M v1.1, which also takes English words in between.
    """
    known = _LANGUAGES[language]
    if language.startswith("en"):
        return EnglishReader(british=language == "en-GB")
    if known.espeak:
        from misaki.espeak import EspeakG2P

        return MisakiReader(language, EspeakG2P(language=known.espeak), known.scripts)
    if language == "ja":
        from misaki.ja import JAG2P

        return MisakiReader(language, JAG2P(), known.scripts)

    import jieba
    from misaki.zh import ZHG2P

    jieba.setLogLevel("WARNING")  # It announces on stderr that it reads its dictionary.
    if not bopomofo:
        return MisakiReader(language, ZHG2P(), known.scripts)
    english = EnglishReader()
    convert = ZHG2P(version="1.1", en_callable=lambda words: " ".join(english.read(words)))
    return MisakiReader(language, convert, (*known.scripts, *_LATIN))


class MisakiReader(Reader):
    """Reads one language by a converter of misaki.

    Args:
        language: BCP 47 tag.
        convert: Gives the phonemes of a text and something that is of no use here.
        scripts: How the Unicode names of the letters and digits begin that it can read.
    """

    def __init__(self, language: str, convert: Callable[[str], tuple[str, object]], scripts: Sequence[str]) -> None:
        self._language = language
        self._convert = convert
        self._scripts = tuple(scripts)
        self._lock = threading.Lock()  # The converters were not made for several threads.

    def check(self, text: str, voice: str) -> None:
        """Refuse letters and digits of other scripts, and text with none of its own."""
        signs = [c for c in dict.fromkeys(unicodedata.normalize("NFC", text)) if unicodedata.category(c)[0] in "LN"]
        if strange := [c for c in signs if not unicodedata.name(c, "").startswith(self._scripts)]:
            raise UnspeakableText(
                f"the voice {voice!r} speaks {self._language} and cannot say {quote(strange)}", field="input"
            )
        if not signs:
            raise UnspeakableText(
                f"there is nothing to say in {text.strip()[:40]!r}; the voice {voice!r} needs letters or digits",
                field="input",
            )

    def read(self, text: str) -> list[str]:
        """Turn text into phonemes: one string, or none if there is no sound in it."""
        with self._lock:
            phonemes, _ = self._convert(unicodedata.normalize("NFC", text).strip())
        return [phonemes] if sounds(phonemes) else []
