"""Leaves out the signs that a voice has no token for; knows no language and no model."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

APOSTROPHES = {"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{MODIFIER LETTER APOSTROPHE}": "'"}
"""What stands in words like don't beside the apostrophe of the keyboard, which most vocabularies hold alone."""


def leave_out(text: str, unknown: Collection[str], gap: str = " ") -> str:
    """Leave characters out; a sign that parts two words, as in `and/or` or `yes—no`, leaves a gap.

    Args:
        text: Any text.
        unknown: The characters.
        gap: What is put between two words that only such signs have parted.
    """
    kept: list[str] = []
    is_parted = False
    for char in text:
        if char in unknown:
            is_parted = is_parted or not _is_inside_words(char)
            continue
        if is_parted and kept and not (kept[-1].isspace() or char.isspace()):
            kept.append(gap)
        kept.append(char)
        is_parted = False
    return "".join(kept)


def _is_inside_words(char: str) -> bool:
    """Whether letters on both sides are of one word: letters, marks, what has no width, and apostrophes."""
    return unicodedata.category(char)[0] in "LM" or unicodedata.category(char) == "Cf" or char in ("'", *APOSTROPHES)
