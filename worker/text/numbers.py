"""Numbers in words, by the rules of the Unicode CLDR (package `unicode-rbnf`); knows no notation but digits."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from functools import lru_cache

from unicode_rbnf import FormatPurpose, RbnfEngine
from unicode_rbnf.engine import NoRuleForNumberError
from unicode_rbnf.plural_rules import get_plural_category

MOST_DIGITS = 15
"""Longer numbers are said digit by digit: listeners could not follow, and the rules of the CLDR end at 18."""

_POINTS = {"ja": "点", "pl": " przecinek ", "ru": " запятая ", "kk": " үтір ", "ky": " үтүр "}
"""What is said for the decimal separator where the rules give a fraction, or what no voice reads."""

_CARDINALS = {"zh": "spellout-cardinal"}
"""Rulesets to take instead of the library's choice; the one of Chinese writes 〇, which is a sign, for 零."""

_INVISIBLE = str.maketrans("", "", "\N{ZERO WIDTH SPACE}\N{SOFT HYPHEN}")
"""Places to break a line."""

_ALIASES = {"nb": "no"}


class Numbers:
    """How a language says numbers.

    Attributes:
        minus: What it says before a number below zero, with the space after it.
        point: What it says between a number and its decimals, with the spaces around it.
        space: What it writes between words: nothing in Chinese, Japanese or Thai.
    """

    def __init__(self, name: str) -> None:
        self._engine = RbnfEngine.for_language(name)
        self._language = name.partition("_")[0]
        one, two = (self._engine.format_number(number) for number in (1, 2))
        # The library spells a number in every gender and case unless it is told which one is wanted.
        self._cardinals = [_CARDINALS.get(self._language, one.text_ruleset)]
        masculine = "spellout-cardinal-masculine"
        self._counting = [masculine] if masculine in self._engine.rulesets else self._cardinals
        self._digits = [self._say(str(digit)) for digit in range(10)]
        self.minus = self._tidy(self._engine.format_number(-1).text.partition(one.text)[0])
        said = self._engine.format_number(Decimal("1.2")).text
        before = max((len(form) for form in one.text_by_ruleset.values() if said.startswith(form)), default=0)
        after = max((len(form) for form in two.text_by_ruleset.values() if said.endswith(form)), default=0)
        self.point = _POINTS.get(self._language) or self._tidy(said[before : len(said) - after])
        self.space = " " if " " in self.point else ""

    def cardinal(self, digits: str, *, counting: bool = False) -> str:
        """Say a whole number; with zeros before it, as `042`, or when it is long, digit by digit.

        Args:
            digits: Decimal digits of any script.
            counting: Whether a masculine noun follows, as in Spanish `un euro` where the number alone is `uno`.
        """
        if len(digits) > MOST_DIGITS or (len(digits) > 1 and unicodedata.decimal(digits[0]) == 0):
            return self.spelled(digits)
        return self._say(digits, counting=counting)

    def decimal(self, whole: str, fraction: str) -> str:
        """Say a number with decimals: these digit by digit."""
        return self.cardinal(whole) + self.point + self.spelled(fraction)

    def spelled(self, digits: str) -> str:
        """Say digits one by one."""
        return self.space.join(self._digits[unicodedata.decimal(digit)] for digit in digits)

    def ordinal(self, digits: str, ending: str = "") -> str:
        """Say first, second, third; `ending` is that of the ruleset's name, as `-feminine`. A long one is spelled."""
        if len(digits) > MOST_DIGITS:
            return self.spelled(digits)
        said = self._engine.format_number(int(digits), ruleset_names=[f"spellout-ordinal{ending}"]).text
        return self.spelled(digits) if any(map(str.isdecimal, said)) else self._tidy(said)

    def year(self, digits: str) -> str:
        """Say a number of four digits as a year."""
        return self._tidy(self._engine.format_number(int(digits), FormatPurpose.YEAR).text)

    def plural(self, digits: str) -> str:
        """Name the CLDR's plural category that this many things take: one, few, many, other ..."""
        return get_plural_category(self._language, int(digits[-MOST_DIGITS:]))

    def _say(self, digits: str, *, counting: bool = False) -> str:
        names = self._counting if counting else self._cardinals
        try:
            said = self._tidy(self._engine.format_number(int(digits), ruleset_names=names).text)
        except NoRuleForNumberError:  # Khmer and Sundanese end below a million millions.
            return self.spelled(digits)
        # Beyond its last rule a language says nothing but the figures again.
        return self.spelled(digits) if any(map(str.isdecimal, said)) else said

    def _tidy(self, words: str) -> str:
        return words.translate(_INVISIBLE)


@lru_cache
def numbers_of(language: str) -> Numbers | None:
    """Find how a language, given by its BCP 47 tag, says numbers; None if the CLDR does not tell."""
    known = RbnfEngine.get_supported_languages()
    parts = language.replace("_", "-").split("-")
    base = _ALIASES.get(parts[0].lower(), parts[0].lower())
    names = [f"{base}_{part}" for part in (*map(str.upper, parts[1:]), *map(str.title, parts[1:]))]
    for name in (*names, base):
        if name in known:
            try:
                return Numbers(name)
            except NoRuleForNumberError:  # isiZulu has rules for a few numbers alone.
                return None
    return None


def spaced(found: re.Match[str], words: str, space: str = " ") -> str:
    """Keep words apart from the letters beside what they are said for: `MP3` is MP three."""
    before, after = found.string[max(0, found.start() - 1) : found.start()], found.string[found.end() : found.end() + 1]
    return (space if before.isalnum() else "") + words + (space if after.isalnum() else "")
