"""Rewrites what English readers say differently from how it is written, where phoneme converters commonly trip."""

from __future__ import annotations

import re
import unicodedata

_CURRENCIES = "$£€¥"
_SCALES = {"mn": "million", "bn": "billion", "tn": "trillion"}

_GREEK_LETTER = re.compile(r"(?<![Ͱ-Ͽ])[ΑΒΓ-ΡΣ-Ωα-ρσ-ω](?![Ͱ-Ͽ])")
_SHORT_SCALE = re.compile(r"(?<=\d)\s?(mn|bn|tn)\b")
_TENS_OF_CENTS = re.compile(r"[$£€]\d+\.\d(?![\w.]*\w)(?!\s?(?:hundred|thousand|[mbtr]+illion)\b)")
_AMOUNT_THEN_CURRENCY = re.compile(rf"(?<![\w.,{_CURRENCIES}])(\d[\d.,]*(?<=\d))\s?([{_CURRENCIES}])(?!\s?\d)")
_LONE_CURRENCY = re.compile(rf"(?<![\w.,])[{_CURRENCIES}](?!\s?[\d.])")
_DOT_IN_NAME = re.compile(r"(?<=[^\W_])(?<=[^\W_][^\W_])\.(?=[a-z]{2})")
_VERSION = re.compile(rf"(?<![\d.,{_CURRENCIES}])\d{{1,4}}(?:\.\d{{1,4}}){{2,}}")


def respell(text: str) -> str:
    """Rewrite amounts, signs, single Greek letters, and dots within addresses, file names and versions.

    `100 €` becomes `€100`, `$5.5` becomes `$5.50`, `$1.2bn` becomes `$1.2 billion`, a currency sign alone and a single
    Greek letter become their names, the minus sign of Unicode becomes the one of the keyboard. `example.com` becomes
    `example dot com`, `2.0.1` becomes `2 point 0 point 1`. Greek words stay.

    Args:
        text: English text, composed (NFC).
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    text = _GREEK_LETTER.sub(lambda found: f" {_last_word(found[0])} ", text)
    text = _VERSION.sub(lambda found: found[0].replace(".", " point "), text)
    text = _DOT_IN_NAME.sub(" dot ", text)
    text = _SHORT_SCALE.sub(lambda found: f" {_SCALES[found[1]]}", text)
    text = _TENS_OF_CENTS.sub(r"\g<0>0", text)
    text = _AMOUNT_THEN_CURRENCY.sub(r"\2\1", text)
    return _LONE_CURRENCY.sub(lambda found: f" {unicodedata.name(found[0]).lower()} ", text)


def _last_word(letter: str) -> str:
    """Name of a Greek letter: `GREEK SMALL LETTER ALPHA` is alpha."""
    return unicodedata.name(letter).split()[3].lower()
