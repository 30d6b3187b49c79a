"""Text as it is read aloud, for models that know letters or phoneme dictionaries alone; knows no engine.

English is read in full (`worker.text.spoken_english`). In the other languages of the CLDR numbers become words:
cardinal ones, decimals, negative ones, and where a table here has the words, ordinals, percents and amounts of money.
Whatever holds nothing of that comes back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial

from worker.text import spoken_english
from worker.text.numbers import Numbers, numbers_of, spaced

_DECIMAL_POINT = {
    "am", "cy", "fil", "ga", "he", "hi", "ja", "km", "ko", "ms", "mt", "my", "ne", "sw", "ta", "th", "yue", "zh",
}  # fmt: skip
"""Languages that write 1,234.5; the others write 1.234,5."""

_WORDS: Mapping[str, Mapping[str, Mapping[str, str] | str]] = {
    "de": {"%": "Prozent", "€": "Euro", "$": "Dollar", "£": "Pfund"},
    "es": {
        "%": "por ciento",
        "€": {"one": "euro", "other": "euros"},
        "$": {"one": "dólar", "other": "dólares"},
        "£": {"one": "libra", "other": "libras"},
    },
    "fr": {
        "%": "pour cent",
        "€": {"one": "euro", "other": "euros"},
        "$": {"one": "dollar", "other": "dollars"},
        "£": {"one": "livre", "other": "livres"},
    },
    "hi": {"%": "प्रतिशत", "₹": {"one": "रुपया", "other": "रुपये"}, "$": "डॉलर"},
    "it": {
        "%": "per cento",
        "€": "euro",
        "$": {"one": "dollaro", "other": "dollari"},
        "£": {"one": "sterlina", "other": "sterline"},
    },
    "nl": {"%": "procent", "€": "euro", "$": "dollar", "£": "pond"},
    "pl": {"%": "procent", "€": "euro", "$": {"one": "dolar", "few": "dolary", "many": "dolarów", "other": "dolara"}},
    "pt": {
        "%": "por cento",
        "€": {"one": "euro", "other": "euros"},
        "$": {"one": "dólar", "other": "dólares"},
        "£": {"one": "libra", "other": "libras"},
    },
    "ru": {
        "%": {"one": "процент", "few": "процента", "many": "процентов", "other": "процента"},
        "€": "евро",
        "$": {"one": "доллар", "few": "доллара", "many": "долларов", "other": "доллара"},
        "₽": {"one": "рубль", "few": "рубля", "many": "рублей", "other": "рубля"},
    },
    "sv": {"%": "procent", "€": "euro", "$": "dollar", "£": "pund"},
}
"""What is said for a sign beside a number; by the CLDR's plural categories where the word has several forms."""

_ORDINALS: Mapping[str, Mapping[str, str]] = {
    "es": {"º": "-masculine", "ª": "-feminine", ".º": "-masculine", ".ª": "-feminine"},
    "fr": {"er": "-masculine", "re": "-feminine", "e": "-masculine", "ème": "-masculine"},
    "it": {"º": "-masculine", "ª": "-feminine", "°": "-masculine"},
    "nl": {"e": "", "de": "", "ste": ""},
    "pt": {"º": "-masculine", "ª": "-feminine", ".º": "-masculine", ".ª": "-feminine"},
}
"""What is written after an ordinal number, and the ending of the ruleset that says it."""

_SIGNS = "%€$£₹₽"


def normalise(text: str, language: str) -> str:
    """Write out what is written in figures and signs, as it would be read aloud.

    Args:
        text: Any text.
        language: BCP 47 tag of the voice; its region tells American from British dates.

    Returns:
        The text; unchanged where there is nothing to write out, or no rules for the language.
    """
    numbers = numbers_of(language)
    if numbers is None:
        return text
    base = language.replace("_", "-").partition("-")[0].lower()
    if base == "en":
        return spoken_english.read(text, numbers, day_first=language.upper()[3:] not in ("", "US"))
    if not any(map(str.isdecimal, text)):
        return text
    return _pattern(base).sub(partial(_read, base, numbers), text)


@lru_cache
def _pattern(base: str) -> re.Pattern[str]:
    """Find numbers with what belongs to them, and the separators that stand between two of them."""
    group, point = (",", r"\.") if base in _DECIMAL_POINT else (r"\.", ",")
    grouped = (
        rf"\d{{1,3}}(?:[{group}'’\xa0\u202f]\d{{3}})+(?!{group}?\d)"
        r"|\d{1,3}(?: \d{3}){2,}(?!\d)|\d{1,3} 000(?!\d)"
    )
    # In German 3.14 is no group of thousands, so its point can only be meant as a decimal one.
    decimal = point if point == r"\." else "[,.]"
    ordinals = "|".join(map(re.escape, sorted(_ORDINALS.get(base, {}), key=len, reverse=True)))
    return re.compile(
        rf"(?!{grouped})(?P<row>\d+(?:[.:]\d+){{2,}}|\d+:\d+)"
        rf"|(?P<minus>(?<![^\s(])[-−])?(?:(?P<before>[{_SIGNS}])\s?)?(?P<whole>{grouped}|\d+)"
        rf"(?:(?P<ordinal>{ordinals or '(?!)'})(?!\w)"
        rf"|(?:{decimal}(?P<fraction>\d+))?(?:\s?(?P<after>[{_SIGNS}])(?!\w))?)"
    )


def _read(base: str, numbers: Numbers, found: re.Match[str]) -> str:
    if found["row"]:
        return spaced(found, " ".join(map(numbers.cardinal, re.split("[.:]", found["row"]))), numbers.space)
    whole = re.sub(r"\D", "", found["whole"])
    if found["ordinal"]:
        said = numbers.ordinal(whole, _ORDINALS[base][found["ordinal"]])
    elif found["fraction"]:
        said = numbers.decimal(whole, found["fraction"])
    else:
        said = numbers.cardinal(whole, counting=bool(found["before"] or found["after"]))
    after = ""
    for sign in filter(None, (found["before"], found["after"])):
        word = _WORDS.get(base, {}).get(sign, sign)
        if not isinstance(word, str):
            word = word.get("other" if found["fraction"] else numbers.plural(whole), word["other"])
        after += f" {word}"
    return spaced(found, (numbers.minus if found["minus"] else "") + said + after, numbers.space)
