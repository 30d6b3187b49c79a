"""Splits text that is still being written into pieces that can be spoken; knows no sockets and no voices.

A text comes in chunks of any size, such as the tokens of a language model. It is judged at gaps: the characters between
one run of letters and digits and the next. Whether and where a gap is cut depends on the text up to the first letter
after it and on nothing else. So the pieces are the same however the text was chunked; a full stop waits for what comes
after it ("3." may become "3.14"); and no piece consists of signs alone, which no voice could say.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from sentencex import get_sentence_boundaries

Split = Literal["sentence", "clause"]

LONGEST = 400
"""Most characters of a piece, from its first letter on; a longer sentence is cut at a clause or a space."""

SHORTEST_CLAUSE = 20
"""A clause under this many characters stays with the next one."""

SHORTEST_WRAPPED_LINE = 50
"""A line under this many characters was ended on purpose, not for want of room."""

_WORD = re.compile(r"[^\W_]+")
_LAST_SPACE = re.compile(r".*\s", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…。！？｡．؟۔।॥։።]")
_CLAUSE_END = re.compile(r"[,;:，；：、،؛—–]\s+|[，；：、]\s*")
_UNSPACED_END = re.compile(r".*(?:[。！？｡．][」』）】》〉”’\"')\]]*|[，；：、])", re.DOTALL)
"""Writing without spaces is cut right behind the sign and the brackets that it closes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text.

    Attributes:
        text: As written; the pieces of a text put together are the text.
        start: Its first Unicode code point in the text.
        is_broken: Whether it was cut in the middle of a clause for want of room, so that no pause belongs after it.
    """

    text: str
    start: int
    is_broken: bool = False


class Splitter:
    """One text, from its first chunk to its end.

    Args:
        language: BCP 47 tag of the text; empty if nobody has said. Sets which abbreviations are known.
        split: `clause` to cut at commas and the like too.
    """

    def __init__(self, language: str, split: Split) -> None:
        self._language = language.split("-")[0].lower() or "en"
        self._split = split
        self._text = ""
        self._start = 0
        self._column = 0  # Of the text's first character in its line.
        self._begin()

    def _begin(self) -> None:
        self._head = -1  # Where the piece's first letter is.
        self._gap = 0  # Where the letters end that have been judged.
        self._seen = 0  # How far there is no letter behind those.

    @property
    def num_chars(self) -> int:
        """Characters fed so far."""
        return self._start + len(self._text)

    def feed(self, chunk: str) -> None:
        """Take the next part of the text."""
        self._text += chunk

    def take(self, *, is_whole: bool) -> Piece | None:
        """Cut off the next piece.

        Args:
            is_whole: Whether the text has ended; what is left is the last piece then.

        Returns:
            The piece; None if there is none yet, or none any more.
        """
        while word := _WORD.search(self._text, self._seen):
            cut = self._cut(word.start()) if self._head >= 0 else 0
            self._head = self._head if self._head >= 0 else word.start()
            if cut:
                return self._taken(cut)
            if word.end() > self._head + LONGEST:
                return self._forced(self._head + LONGEST)
            self._gap = self._seen = word.end()
        self._seen = len(self._text)
        return self._taken(len(self._text)) if is_whole and self._text else None

    def _taken(self, cut: int, *, is_broken: bool = False) -> Piece:
        piece = Piece(self._text[:cut], self._start, is_broken)
        self._text = self._text[cut:]
        self._start += cut
        last_line = piece.text.rfind("\n")
        self._column = cut - last_line - 1 if last_line >= 0 else self._column + cut
        self._begin()
        return piece

    def _cut(self, stop: int) -> int:
        """Find where to cut the gap that ends at `stop`; 0 for nowhere."""
        gap = self._text[self._gap : stop]
        if "\n" in gap and self._ends_line(gap):
            rest = gap[gap.rindex("\n") :]
            return stop - len(rest.lstrip())
        is_end = bool(_SENTENCE_END.search(gap)) and self._ends_sentence(stop)
        if not is_end and self._split == "clause" and _CLAUSE_END.search(gap):
            is_end = len(self._text[: self._gap].lstrip()) + 1 >= SHORTEST_CLAUSE
        end = (_LAST_SPACE.match(gap) or _UNSPACED_END.match(gap)) if is_end else None
        return self._gap + end.end() if end else 0

    def _ends_line(self, gap: str) -> bool:
        if re.search(r"\n\s*\n", gap):
            return True
        line_end = self._gap + gap.index("\n")
        line_start = self._text.rfind("\n", 0, self._gap) + 1
        return line_end - line_start + (0 if line_start else self._column) < SHORTEST_WRAPPED_LINE

    def _ends_sentence(self, stop: int) -> bool:
        text = self._text[self._head : stop + 1]
        first, last = self._gap - self._head, stop - self._head
        return any(first < found["start_index"] <= last for found in get_sentence_boundaries(self._language, text))

    def _forced(self, limit: int) -> Piece:
        """Cut off a piece that has grown too long, before `limit`."""
        clauses = [found.end() for found in _CLAUSE_END.finditer(self._text, self._head + SHORTEST_CLAUSE, limit)]
        if clauses:
            return self._taken(clauses[-1])
        if space := _LAST_SPACE.match(self._text, self._head + 1, limit):
            return self._taken(space.end(), is_broken=True)
        # A letter stays with its accents.
        ends = (cut for cut in range(limit, self._head, -1) if unicodedata.category(self._text[cut])[0] != "M")
        return self._taken(next(ends, limit), is_broken=True)
