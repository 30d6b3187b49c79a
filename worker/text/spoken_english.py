"""How English is read aloud: one rule for each notation, applied in a single pass.

The rules stand in the order in which they are tried at each place of the text; what one has written no other
sees again. Every pattern starts at something fixed or takes runs whole, so that the time is linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from worker.text.numbers import Numbers, spaced

# Thousands are parted by commas, as lakhs are in India, or by spaces: plain ones if nothing else can be meant.
_WHOLE = (
    r"(?:\d{1,3}(?:(?:,\d{3})+|(?:,\d\d)+,\d{3})(?!\d)|\d{1,3}(?:[\xa0\u202f]\d{3})+(?!\d)"
    r"|\d{1,3}(?: \d{3}){2,}(?!\d)|\d{1,3} 000(?!\d)|\d+)"
)
_NUMBER = rf"{_WHOLE}(?:\.\d+)?"

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]}|\\.)?" if len(month) > 3 else month for month in _MONTHS)
_MONTH = _MONTH.replace("Sep(?:", "Sept?(?:")

_CURRENCIES: Mapping[str, tuple[str, str, str, str]] = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "USD": ("US dollar", "US dollars", "cent", "cents"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "GBP": ("pound", "pounds", "penny", "pence"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    "JPY": ("yen", "yen", "", ""),
}
_COUNTRIES = {"US": "US ", "A": "Australian ", "C": "Canadian ", "NZ": "New Zealand ", "HK": "Hong Kong "}
_SCALES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "bn": "billion", "b": "billion",
    "B": "billion", "tn": "trillion", "T": "trillion",
}  # fmt: skip
_SCALE = r"(?:\s?(thousand|million|billion|trillion|mn|bn|tn|[kKmMbBT])\b)?"
_CURRENCY = "[$€£¥₹]"
_CODE = "USD|EUR|GBP|CHF|JPY"

_UNITS: Mapping[str, tuple[str, str]] = {
    "%": ("percent", "percent"), "‰": ("per mille", "per mille"),
    "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "m/s": ("meter per second", "meters per second"),
    "mph": ("mile per hour", "miles per hour"),
    "km²": ("square kilometer", "square kilometers"), "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"), "cm³": ("cubic centimeter", "cubic centimeters"),
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"), "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"), "mi": ("mile", "miles"), "ft": ("foot", "feet"),
    "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"), "mg": ("milligram", "milligrams"),
    "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "L": ("liter", "liters"), "l": ("liter", "liters"), "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "h": ("hour", "hours"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"), "min": ("minute", "minutes"),
    "s": ("second", "seconds"), "sec": ("second", "seconds"), "ms": ("millisecond", "milliseconds"),
    "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"), "dB": ("decibel", "decibels"),
    "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"), "V": ("volt", "volts"), "mA": ("milliampere", "milliamperes"),
    "KB": ("kilobyte", "kilobytes"), "kB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"), "TB": ("terabyte", "terabytes"),
    "kcal": ("kilocalorie", "kilocalories"),
}  # fmt: skip

_TITLES = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor", "Gen": "General",
    "Capt": "Captain", "Sgt": "Sergeant", "Lt": "Lieutenant", "Col": "Colonel", "Rev": "Reverend", "Gov": "Governor",
    "Sen": "Senator", "Mt": "Mount", "St": "Saint",
}  # fmt: skip
_BEFORE_NUMBERS = {
    "No": "number", "Nos": "numbers", "p": "page", "pp": "pages", "Fig": "Figure", "fig": "figure", "Vol": "Volume",
    "vol": "volume", "Ch": "Chapter", "ch": "chapter",
}  # fmt: skip
_ABBREVIATIONS = {
    "Jr": "Junior", "Sr": "Senior", "vs": "versus", "etc": "et cetera", "approx": "approximately", "St": "Street",
    "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "Ave": "Avenue", "Blvd": "Boulevard",
    "dept": "department", "Dept": "Department", "e.g": "for example", "i.e": "that is",
}  # fmt: skip

_SIGNS = {"&": "and", "+": "plus", "=": "equals", "%": "percent", "@": "at", "±": "plus or minus", "÷": "divided by"}
_IN_ADDRESSES = {
    ".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark",
    "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde",
}  # fmt: skip
_PARTS = {"½": "a half", "¼": "a quarter", "¾": "three quarters", "⅓": "a third", "⅔": "two thirds"}


class English(NamedTuple):
    """Who reads: the rules for numbers, and whether 3/4/2024 is in April."""

    numbers: Numbers
    day_first: bool

    def number(self, written: str) -> str:
        """Say `1,234.5`."""
        whole, _, fraction = re.sub(r"[,\s]", "", written).partition(".")
        return self.numbers.decimal(whole or "0", fraction) if fraction else self.numbers.cardinal(whole)

    def number_or_year(self, written: str) -> str:
        """Say `2024`: four digits up to 2099 are a year more often than not, and sound right if they are none."""
        is_year = re.fullmatch("1[1-9][0-9]{2}|20[0-9]{2}", written)
        return self.year(written) if is_year else self.number(written)

    def year(self, written: str) -> str:
        return self.numbers.year(written) if 1000 < int(written) < 10_000 else self.numbers.cardinal(written)

    def date(self, year: str, month: int, day: int) -> str:
        said = f"{_MONTHS[month - 1]} {self.numbers.ordinal(str(day))}"
        return f"{said}, {self.year(year)}" if year else said


Rule = tuple[str, Callable[[English, re.Match[str]], str]]


def read(text: str, numbers: Numbers, *, day_first: bool) -> str:
    """Write English out as it is read.

    Args:
        text: Any text.
        numbers: How English says numbers.
        day_first: Whether 3/4/2024 is in April, as it is everywhere but in the United States.
    """
    if not _WORTH_A_LOOK.search(text):
        return text
    english = English(numbers, day_first)

    def said(found: re.Match[str]) -> str:
        number = int(str(found.lastgroup)[1:])
        pattern, rule = _compiled()[number]
        match = pattern.match(text, found.start())
        assert match, found
        words = rule(english, match)
        return spaced(match, words) if number < len(_SPOKEN_FORMS) else _apart(match, words)

    return _any_rule().sub(said, text)


def _apart(found: re.Match[str], words: str) -> str:
    """Keep the word for a sign apart from all but white space and what closes or opens around it."""
    before = found.string[max(0, found.start() - 1) : found.start()].strip()
    after = found.string[found.end() : found.end() + 1]
    left = " " if before and before not in "([{'\"“‘" else ""
    return left + words + (" " if after.isalnum() or after in (*_CURRENCIES, ".", "(") else "")


def _address(english: English, found: re.Match[str]) -> str:
    address = re.sub("^https?://", "", found[0]).removesuffix("/")
    pieces = re.findall(r"\d+|[^\W\d_]+|.", address)
    return " ".join(
        english.numbers.spelled(piece) if piece.isdecimal() else _IN_ADDRESSES.get(piece, piece) for piece in pieces
    )


def _iso_date(english: English, found: re.Match[str]) -> str:
    return english.date(found[1], int(found[2]), int(found[3]))


def _numeric_date(english: English, found: re.Match[str]) -> str:
    first, second = int(found[1]), int(found[3])
    day_first = found[2] == "." or first > 12 or (english.day_first and second <= 12)
    return english.date(found[4], second if day_first else first, first if day_first else second)


def _month(name: str) -> int:
    return 1 + next(n for n, month in enumerate(_MONTHS) if month.startswith(name[:3]))


def _month_then_day(english: English, found: re.Match[str]) -> str:
    return english.date(found[3] or "", _month(found[1]), int(found[2]))


def _day_then_month(english: English, found: re.Match[str]) -> str:
    said = f"{'' if found[1] else 'the '}{english.numbers.ordinal(found[2])} of {_MONTHS[_month(found[3]) - 1]}"
    return (found[1] or "") + said + (f" {english.year(found[4])}" if found[4] else "")


def _time(english: English, found: re.Match[str]) -> str:
    hour, minute, second, half = found.groups()
    said = english.number(str(int(hour)))
    if minute and int(minute):
        said += f" oh {english.number(minute[1])}" if int(minute) < 10 else f" {english.number(minute)}"
    elif not half:
        said += " o'clock" if 0 < int(hour) <= 12 else " hundred"
    if second:
        said += f" and {_counted(english, str(int(second)), ('second', 'seconds'))}"
    return said + (f" {half[0].lower()} m{_full_stop(found)}" if half else "")


def _phone(english: English, found: re.Match[str]) -> str:
    groups = re.findall(r"\d+", found[0])
    return ("plus " if found[0][0] == "+" else "") + ", ".join(map(english.numbers.spelled, groups))


def _amount(english: English, found: re.Match[str]) -> str:
    country, sign, before, number, scale, after = found.groups()
    one, many, cent, cents = _CURRENCIES[sign or after or before]
    minus, number = ("minus ", number[1:]) if number[0] == "-" else ("", number)
    country = _COUNTRIES.get(country, "")
    if scale:
        return f"{minus}{english.number(number)} {_SCALES.get(scale, scale)} {country}{many}"
    whole, _, fraction = number.partition(".")
    if not fraction or not cent or len(fraction) > 2:
        return f"{minus}{english.number(number)} {country}{one if number == '1' else many}"
    parts = (
        [] if whole == "0" and int(fraction) else [f"{english.number(whole)} {country}{one if whole == '1' else many}"]
    )
    if hundredths := int(fraction.ljust(2, "0")):
        parts.append(_counted(english, str(hundredths), (cent, cents)))
    return minus + " and ".join(parts)


def _measure(english: English, found: re.Match[str]) -> str:
    return _counted(english, found[1], _UNITS[found[2]])


def _counted(english: English, number: str, unit: tuple[str, str]) -> str:
    return f"{english.number(number)} {unit[number != '1']}"


def _fraction(english: English, found: re.Match[str]) -> str:
    whole, above, below = found.groups()
    if not 0 < int(above) < int(below) <= 10:
        return (f"{english.number(whole)} " if whole else "") + f"{english.number(above)} slash {english.number(below)}"
    part = {"2": "half", "4": "quarter"}.get(below) or english.numbers.ordinal(below)
    said = f"{english.number(above)} {part}{'s' if above != '1' else ''}"
    return f"{english.number(whole)} and {said}" if whole else said


def _part(english: English, found: re.Match[str]) -> str:
    return f"{english.number(found[1])} and {_PARTS[found[2]]}" if found[1] else _PARTS[found[2]]


def _ordinal(english: English, found: re.Match[str]) -> str:
    return english.numbers.ordinal(found[1].replace(",", ""))


def _decade(english: English, found: re.Match[str]) -> str:
    said = english.number(found[1]) if found[1] else english.year(found[2])
    return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"


def _version(english: English, found: re.Match[str]) -> str:
    return " point ".join(map(english.numbers.cardinal, found[0].split(".")))


def _number(english: English, found: re.Match[str]) -> str:
    """Say a number that nothing tells about, or 3 x 4 of them."""
    return " by ".join(map(english.number_or_year, re.split(r"\s?[x×]\s?", found[0])))


def _title(english: English, found: re.Match[str]) -> str:
    return _TITLES[found[1]]


def _before_number(english: English, found: re.Match[str]) -> str:
    return _BEFORE_NUMBERS[found[1]]


def _abbreviation(english: English, found: re.Match[str]) -> str:
    return _ABBREVIATIONS[found[1]] + _full_stop(found)


def _full_stop(found: re.Match[str]) -> str:
    """Keep the stop of what was abbreviated where it ends a sentence too."""
    after = found.string[found.end() : found.end() + 9]
    ends = not after.strip() or (found[0][-4:] in ("etc.", "a.m.", "p.m.") and re.match(r"\s+[A-Z]", after))
    return "." if found[0].endswith(".") and ends else ""


def _sign(english: English, found: re.Match[str]) -> str:
    return _SIGNS[found[0].strip()]


def _said(word: str) -> Callable[[English, re.Match[str]], str]:
    return lambda english, found: word


def _any_of(words: Mapping[str, object]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_SPOKEN_FORMS: tuple[Rule, ...] = (
    (r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+", _address),
    (r"(?<!\w)(?:https?://|www\.)[^\s<>\"'\(\)]*\w/?", _address),
    (r"(?<![\w@.-])(?:[A-Za-z0-9-]{1,63}\.)+(?:com|org|net|edu|gov|io|ai|dev|co\.uk)(?![\w-]|\.\w)"
     r"(?:/[\w./~%-]*[\w/])?", _address),
    (r"(?<![\d-])(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?![\d-])", _iso_date),
    (r"(?<![\d./])(0?[1-9]|1[0-2])(/)(0?[1-9]|[12]\d|3[01])/((?:19|20)\d\d)(?![\d/])", _numeric_date),
    (r"(?<![\d./])(0?[1-9]|[12]\d|3[01])(/)(0?[1-9]|1[0-2])/((?:19|20)\d\d)(?![\d/])", _numeric_date),
    (r"(?<![\d./])(0?[1-9]|[12]\d|3[01])(\.)(0?[1-9]|1[0-2])\.((?:19|20)\d\d)(?![\d/])", _numeric_date),
    (rf"\b({_MONTH}) (0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?\b(?![,.:]\d)(?:,? ((?:1\d|20)\d\d)\b)?", _month_then_day),
    (r"(\b[Tt]he )?(?<![\d.,:/-])\b(0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?(?: of)?"
     rf" ({_MONTH})(?!\w)(?:,? ((?:1\d|20)\d\d)\b)?", _day_then_month),
    (r"(?<![\d.:,])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?:\s?([AaPp]\.m\.|[AaPp][Mm]\b))?(?![\d:])", _time),
    (r"(?<![\d.:,])(0?[1-9]|1[0-2])(?:\.([0-5]\d))?()\s?([AaPp]\.m\.|[AaPp][Mm]\b)", _time),
    (r"(?<![\w+])(?:\+?\d{1,3}[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}(?!\w)"
     r"|(?<![\w-])\d{3}-\d{4}(?![\w-])|(?<!\w)\+\d{1,3}(?:[ -]?\(?\d{2,5}\)?){2,5}(?!\w)", _phone),
    (r"(?:(?<=[Tt]he )|['’])(\d0)s\b|\b(\d{3}0)['’]?s\b", _decade),
    (rf"(?:\b(US|A|C|NZ|HK))?(?:({_CURRENCY})\s?|(?<!\w)({_CODE})\s)(-?{_NUMBER}){_SCALE}()", _amount),
    (rf"()()()({_NUMBER}){_SCALE}\s?({_CURRENCY}(?!\s?\d)|(?:{_CODE})\b)", _amount),
    (rf"({_NUMBER})\s?({_any_of(_UNITS)})(?!\w)", _measure),
    (rf"({_WHOLE})? ?([{''.join(_PARTS)}])", _part),
    (r"(?<![\d/])(?:(\d{1,3}) )?(\d{1,9})/(\d{1,9})(?![\d/])", _fraction),
    (r"(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", _ordinal),
    (r"\d+(?:\.\d+){2,}", _version),
    (r"\d+(?:-\d+){2,}", _phone),
    (rf"(?!0x){_NUMBER}(?:\s?[x×]\s?{_NUMBER})+|{_NUMBER}|(?<![\w.])\.\d+", _number),
    (rf"\b({_any_of(_TITLES)})(?:\.|(?<!St)(?<!Gen)(?<!Col)(?<!Mt))(?=\s+[A-Z])", _title),
    (rf"(?<![\w.])({_any_of(_BEFORE_NUMBERS)})\.(?=\s?\d)", _before_number),
    (rf"(?<![\w.])({_any_of(_ABBREVIATIONS)})\.", _abbreviation),
)  # fmt: skip

_SPOKEN_SIGNS: tuple[Rule, ...] = (
    (rf"(?<![\w)\]}}.-])[-−](?=\.?\d|{_CURRENCY}\s?\d)|(?<=\d)\s-\s(?=\d)|−", _said("minus")),
    (rf"(?<=[\d%])\s?[–—-](?={_CURRENCY}?\d)|(?<=[\d%])\s?–\s?(?={_CURRENCY}?\d)"
     r"|(?<=\d[ap]m)\s?[–-]\s?(?=\d)", _said("to")),
    (r"#(?=\d)", _said("number")),
    (r"[~≈](?=\d)", _said("about")),
    (r"(?<=\d)\s?<\s?(?=\d)", _said("is less than")),
    (r"(?<=\d)\s?>\s?(?=\d)", _said("is greater than")),
    (_any_of(_SIGNS), _sign),
)  # fmt: skip

_RULES = (*_SPOKEN_FORMS, *_SPOKEN_SIGNS)

_WORTH_A_LOOK = re.compile(rf"[\d{''.join(_PARTS)}−]|{_any_of(_SIGNS)}|\w\.|://|\b(?:{_any_of(_TITLES)})\s")


@lru_cache
def _compiled() -> list[tuple[re.Pattern[str], Callable[[English, re.Match[str]], str]]]:
    return [(re.compile(pattern), rule) for pattern, rule in _RULES]


@lru_cache
def _any_rule() -> re.Pattern[str]:
    # The groups of a rule are numbered within it; here they would be numbered through, so they are none.
    plain = (re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern) for pattern, _ in _RULES)
    return re.compile("|".join(f"(?P<r{number}>{pattern})" for number, pattern in enumerate(plain)))
