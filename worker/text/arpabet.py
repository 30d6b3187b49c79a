"""Reads English text as ARPAbet, the alphabet of the CMU Pronouncing Dictionary; knows no model.

The reading comes from the text-to-phoneme converter of hibari, which writes American English in misaki's phonemes. They
are mapped one by one to ARPAbet: vowels carry their stress as a digit (0 none, 1 primary, 2 secondary), r-coloured
schwas become ER, and the consonants that English makes a syllable of get the AH0 that CMU writes. This gives what the
converter `g2p_en` gives to the models that were trained with it, without its dictionary.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from functools import cache
from typing import TYPE_CHECKING

from worker.text.english import respell

if TYPE_CHECKING:
    from hibari.g2p import G2P

PUNCTUATION = frozenset(",.?!'")
"""Signs that are tokens of their own."""

CONSONANTS = {
    "b": "B",
    "d": "D",
    "f": "F",
    "h": "HH",
    "j": "Y",
    "k": "K",
    "l": "L",
    "m": "M",
    "n": "N",
    "p": "P",
    "s": "S",
    "t": "T",
    "v": "V",
    "w": "W",
    "z": "Z",
    "ð": "DH",
    "ŋ": "NG",
    "ɡ": "G",
    "ɹ": "R",
    "ʀ": "R",
    "ɾ": "T",
    "ʃ": "SH",
    "ʒ": "ZH",
    "ʔ": "T",
    "ʤ": "JH",
    "ʧ": "CH",
    "θ": "TH",
    "T": "T",  # The flap of "butter".
}

VOWELS = {
    "A": "EY",
    "I": "AY",
    "O": "OW",
    "W": "AW",
    "Y": "OY",
    "a": "AA",
    "i": "IY",
    "u": "UW",
    "æ": "AE",
    "ɐ": "AH",
    "ɑ": "AA",
    "ɔ": "AO",
    "ə": "AH",
    "ɛ": "EH",
    "ɜ": "ER",
    "ɪ": "IH",
    "ʊ": "UH",
    "ʌ": "AH",
    "ᵊ": "AH",
    "ᵻ": "IH",
}

_REDUCED = frozenset("ɐəᵊᵻ")
_STRESSES = {"ˈ": "1", "ˌ": "2"}
_SIGNS = {";": ",", ":": ",", "—": ",", "…": "."}
# CMU writes these words, which speech reduces, without stress.
_WEAK_WORDS = {"ænd": "AH0 N D", "ɪn": "IH0 N", "ði": "DH IY0"}

_PIECE = re.compile(r"[^\s,.?!;:—…“”()\"]+|[,?!;:—]|[.…]+")
_QUOTES = re.compile(r"[\"“”„«»]")
_SYLLABIC_N = re.compile(r"(?<=[tTdszʃʒ])n(?![ˈˌ" + "".join(VOWELS) + "])")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d|[,.?!]")


def to_arpabet(text: str) -> list[str]:
    """Read English text.

    Numbers, amounts, common abbreviations and symbols are read out. Semicolons, colons and dashes become commas, a row
    of points one point; quotation marks and brackets have no sound and are left out.

    Args:
        text: A sentence or a few, in English.

    Returns:
        Phonemes such as `HH`, `AH0` and `OW1`, and the signs of `PUNCTUATION`, without tokens between the words.
    """
    tokens: list[str] = []
    for piece in _PIECE.findall(_phonemize(_spell(text))):
        sign = _SIGNS.get(piece[0], piece[0])
        tokens += [sign] if sign in PUNCTUATION else _map_word(piece)
    return tokens


def unreadable(text: str) -> list[str]:
    """Find the characters with a meaning that `to_arpabet` leaves out: letters and digits of other scripts.

    Returns:
        Each of them once, in order of appearance.
    """
    known = _converter().oov.cin
    return [
        char
        for char in dict.fromkeys(_spell(text))
        if unicodedata.category(char)[0] in "LN"
        and not char.isascii()
        and not (char in known and unicodedata.name(char, "").startswith(("LATIN", "VULGAR FRACTION", "SUPERSCRIPT")))
    ]


@cache
def _converter() -> G2P:
    from hibari.g2p import G2P

    return G2P(british=False)


def _spell(text: str) -> str:
    """Bring text to what the converter knows: composed letters, plain digits, named symbols, no stray accents."""
    # Quotation marks have no sound, and the converter reads some words differently beside them.
    composed = respell(unicodedata.normalize("NFC", _QUOTES.sub("", text)))
    return re.sub(r"\s+", " ", "".join(map(_plain, composed))).strip()


def _plain(char: str) -> str:
    category = unicodedata.category(char)
    if char.isascii() or char in _converter().oov.cin:
        return char if char.isprintable() else " "
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category in ("Mn", "Me", "Cf"):
        return ""
    if category[0] in "LN":
        base = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
        return base.replace("⁄", "/") if base.replace("⁄", "").isascii() else char
    if category == "Sm":
        return f" {unicodedata.name(char).lower()} "
    return " " if category[0] in "ZC" else char


def restress(phoneme: str, known: Container[str]) -> str:
    """Give a phoneme the stress that a model knows it with; empty if it knows it with none.

    The list of a model is made of one corpus, and a rare vowel may not occur there with every stress.
    """
    stressed = [phoneme, *(phoneme[:-1] + stress for stress in "120")] if phoneme[-1].isdigit() else [phoneme]
    return next((each for each in stressed if each in known), "")


def _phonemize(text: str) -> str:
    try:
        return str(_converter()(text))
    except Exception:  # The converter's number reader trips over some shapes: 40 digits, say.
        # Words and single digits it can always read, and that is nearer to the text than silence.
        return " ".join(_converter()(word) for word in _WORD.findall(text))


def _map_word(phonemes: str) -> list[str]:
    """Map one word, such as `həlˈO` to HH AH0 L OW1."""
    if phonemes in _WEAK_WORDS:
        return _WEAK_WORDS[phonemes].split()
    phonemes = _SYLLABIC_N.sub("ᵊn", phonemes)
    tokens: list[str] = []
    stress = ""
    last_vowel = ""
    for char in phonemes:
        if char in _STRESSES:
            stress = _STRESSES[char]
        elif char in VOWELS:
            tokens.append(VOWELS[char] + (stress or "0"))
            stress = ""
        elif char == "ɹ" and last_vowel in ("ə", "ɜ"):
            tokens[-1] = "ER" + tokens[-1][-1]
        elif char in CONSONANTS:
            tokens.append(CONSONANTS[char])
        if char not in _STRESSES:
            last_vowel = char if char in VOWELS else ""
    return _accent(tokens, phonemes)


def _accent(tokens: list[str], phonemes: str) -> list[str]:
    """Give a word without a primary stress the one that the dictionary gives it: words are listed as said alone."""
    if any(token.endswith("1") for token in tokens):
        return tokens
    full = [char for char in phonemes if char in VOWELS]
    places = [k for k, token in enumerate(tokens) if token[-1].isdigit()]
    ranked = [k for k in places if tokens[k].endswith("2")] or [
        k for k, vowel in zip(places, full, strict=True) if vowel not in _REDUCED
    ]
    if ranked:
        tokens[ranked[0]] = tokens[ranked[0]][:-1] + "1"
    return tokens
