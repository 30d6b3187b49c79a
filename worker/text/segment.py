"""Cuts an utterance into the segments that an engine gets at once; knows no engine.

Sentences come from `sentencex` (Wikimedia), which knows the abbreviations of many languages. On top of that: the first
segment is kept short, so that the first audio comes early, and none is longer than the engine can take. Cuts are made
where a reader would breathe: at a clause, else at a space, else between two characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from sentencex import get_sentence_boundaries

SHORTEST_CLAUSE = 12
"""A clause under this many characters is not worth a breath of its own."""

SHORTEST_WRAPPED_LINE = 50
"""A line under this many characters was not broken for want of room."""

_LINE_END = re.compile(r"\n\s*")
_CLAUSE_END = re.compile(r"[,;:，；：、—–](?=\s)|(?<=\s)[—–]|[，；：、]")
_CLAUSE_LAST = re.compile(r"[,;:，；：、—–]\s*\Z")
_PHRASE_LAST = re.compile(r"[;:；：—–]\s*\Z")
_TRAILING_LAST = re.compile(r"(?:…|\.\.\.)[\"'”’»)]*\s*\Z")


class Break(Enum):
    """What a segment ends at; the value is the pause after it, in seconds at speed 1."""

    WORD = 0.0
    CLAUSE = 0.12
    PHRASE = 0.20
    LINE = 0.24
    SENTENCE = 0.32
    TRAILING = 0.45
    PARAGRAPH = 0.60


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the input.

    Attributes:
        text: The piece, without the white space around it.
        start: Its first Unicode code point in the input.
        stop: The code point after its last one.
        ends_at: What comes after it.
    """

    text: str
    start: int
    stop: int
    ends_at: Break


def segment(text: str, language: str, *, first: int, longest: int, joins: bool = False) -> Iterator[Segment]:
    """Cut text into segments; together they hold every character but the white space between them.

    Args:
        text: The utterance.
        language: BCP 47 tag of the voice; sets the rules for the end of a sentence.
        first: A first segment longer than this is cut at a clause, if it has one.
        longest: The most characters of any segment.
        joins: Whether sentences stay together as long as they fit.

    Yields:
        The segments in order; none is empty.
    """
    is_first = True
    lines = _lines(text, language)
    for start, stop, ends_at in _joined(lines, longest) if joins else lines:
        while start < stop:
            limit = min(first, longest) if is_first else longest
            cut, kind = stop, ends_at
            if stop - start > limit:
                cut, kind = _cut(text, start, stop, limit, longest) or (stop, ends_at)
            piece = text[start:cut]
            if stripped := piece.strip():
                lead = len(piece) - len(piece.lstrip())
                yield Segment(stripped, start + lead, start + lead + len(stripped), _as_written(stripped, kind))
                is_first = False
            start = cut


def _as_written(text: str, ends_at: Break) -> Break:
    """Tell a semicolon from a comma, and a thought that trails off from a full stop."""
    if ends_at is Break.CLAUSE and _PHRASE_LAST.search(text):
        return Break.PHRASE
    if ends_at is Break.SENTENCE and _TRAILING_LAST.search(text):
        return Break.TRAILING
    return ends_at


def _joined(lines: Iterator[tuple[int, int, Break]], longest: int) -> Iterator[tuple[int, int, Break]]:
    """Put neighbours together as long as they fit."""
    joined: tuple[int, int, Break] | None = None
    for start, stop, ends_at in lines:
        if joined and stop - joined[0] <= longest:
            joined = (joined[0], stop, ends_at)
            continue
        if joined:
            yield joined
        joined = (start, stop, ends_at)
    if joined:
        yield joined


def _lines(text: str, language: str) -> Iterator[tuple[int, int, Break]]:
    """Yield the sentences, cut where a line was ended on purpose: in a poem or a list, but not in wrapped prose."""
    for start, stop, ends_at in _sentences(text, language):
        for end in _LINE_END.finditer(text, start, stop):
            line_start = text.rfind("\n", 0, end.start()) + 1
            if end.start() - line_start < SHORTEST_WRAPPED_LINE and end.end() < stop:
                yield start, end.end(), Break.LINE
                start = end.end()
        yield start, stop, ends_at


def _sentences(text: str, language: str) -> Iterator[tuple[int, int, Break]]:
    """Yield the sentences as start, stop and what each ends at; blank stretches between them make paragraphs."""
    pending: tuple[int, int] | None = None
    for found in get_sentence_boundaries(language.split("-")[0], text):
        start, stop = found["start_index"], found["end_index"]
        blank = not text[start:stop].strip()
        if pending:
            yield *pending, Break.PARAGRAPH if blank and "\n" in text[start:stop] else Break.SENTENCE
        pending = None if blank else (start, stop)
    if pending:  # A caller that splits text itself may end at a clause.
        yield *pending, Break.CLAUSE if _CLAUSE_LAST.search(text[slice(*pending)]) else Break.SENTENCE


def _cut(text: str, start: int, stop: int, limit: int, longest: int) -> tuple[int, Break] | None:
    """Find where to cut a sentence that is longer than `limit`; None to leave it whole."""
    clauses = [
        match.end()
        for match in _CLAUSE_END.finditer(text, start + SHORTEST_CLAUSE, min(stop, start + longest + 1))
        if stop - match.end() >= SHORTEST_CLAUSE
    ]
    if within := [end for end in clauses if end - start <= limit]:
        return within[-1], Break.CLAUSE
    # Over the wish for a short first segment a clause goes whole; only the engine's limit cuts inside of one.
    if clauses and clauses[0] - start <= longest:
        return clauses[0], Break.CLAUSE
    if stop - start <= longest:
        return None
    space = max(text.rfind(" ", start, start + longest), text.rfind("\n", start, start + longest))
    return (space + 1 if space > start else start + longest), Break.WORD
