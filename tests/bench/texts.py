"""What is spoken in the benchmarks: sentences of about four seconds, and passages of about forty."""

from __future__ import annotations

import re

from tests.passages import PASSAGES

LEAST_CHARS, MOST_CHARS = 45, 80

PARAGRAPHS = list(PASSAGES.values())

SENTENCES = [
    sentence
    for passage in PARAGRAPHS
    for sentence in re.split(r"(?<=[.?!]) ", passage)
    if LEAST_CHARS <= len(sentence) <= MOST_CHARS
]
