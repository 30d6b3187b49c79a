"""Text in chunks of any size becomes the same pieces, and nothing of it is lost."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sentences import LONGEST, Splitter

TEXT = st.text(st.sampled_from(list("ab3Ä好が. ,;—!?…。，\n\"'()😀-e\u0301नि ")), max_size=900)
"""Dense in whatever decides about a cut."""


def split(chunks, how="sentence", language=""):
    """Pieces, taken as early as they can be had."""
    splitter, pieces = Splitter(language, how), []
    for n, chunk in enumerate([*chunks, ""]):
        splitter.feed(chunk)
        while piece := splitter.take(is_whole=n == len(chunks)):
            pieces.append(piece)
    return [piece.text for piece in pieces], [piece.start for piece in pieces]


@settings(max_examples=400, deadline=None)
@given(TEXT, st.lists(st.integers(0, 900), max_size=12), st.sampled_from(["sentence", "clause"]))
def test_the_pieces_are_the_text_and_the_same_for_every_chunking(text, cuts, how):
    pieces, starts = split([text], how)
    assert "".join(pieces) == text
    assert starts == [len("".join(pieces[:n])) for n in range(len(pieces))]
    places = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    assert split([text[a:b] for a, b in itertools.pairwise(places)], how) == (pieces, starts)
    assert split(list(text), how) == (pieces, starts)


@settings(max_examples=400, deadline=None)
@given(TEXT, st.sampled_from(["sentence", "clause"]))
def test_no_piece_is_without_a_letter_and_none_is_too_long(text, how):
    pieces, _ = split([text], how)
    if len(pieces) > 1:
        assert all(re.search(r"[^\W_]", piece) for piece in pieces)
    for piece in pieces:
        letters = [match.start() for match in re.finditer(r"[^\W_]", piece)]
        assert not letters or letters[-1] - letters[0] <= LONGEST


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It is 3.14 here. Yes!  No?", ["It is 3.14 here. ", "Yes!  ", "No?"]),
        ("Ask Dr. Smith. He knows.", ["Ask Dr. Smith. ", "He knows."]),
        ('He said. "Next one."', ["He said. ", '"Next one."']),
        ("Hello. 😀 World … !", ["Hello. 😀 ", "World … !"]),
        ("(Well.) … Then?", ["(Well.) … ", "Then?"]),
        ("你好。「我很好。」他说。", ["你好。", "「我很好。」", "他说。"]),
        ("यह है। वह है।", ["यह है। ", "वह है।"]),
        ("Shopping\n- milk\n- bread\n\nDone", ["Shopping\n", "- milk\n", "- bread\n\n", "Done"]),
        ("A line that was wrapped because it had grown too long for\nthe page", None),
        ("He ran 5 km, then 1,000 more, and went home", None),
        ("…", None),
        (" \n ", None),
    ],
)
def test_sentences_and_lines_are_told_from_what_looks_like_them(text, pieces):
    assert split([text])[0] == (pieces or [text])


def test_clauses_are_cut_once_they_are_long_enough():
    text = "Yes, of course, my friend; that costs 1,000 euros: not less — nor more."
    assert split([text], "clause")[0] == [
        "Yes, of course, my friend; ",
        "that costs 1,000 euros: ",
        "not less — nor more.",
    ]
    assert split(["今天天气很好我们一起去公园散步吃饭看电影，然后回家。"], "clause")[0] == [
        "今天天气很好我们一起去公园散步吃饭看电影，",
        "然后回家。",
    ]


def test_the_language_tells_what_an_abbreviation_is():
    assert len(split(["Das ist z. B. Alles."], language="de-DE")[0]) == 1


def test_a_sentence_is_given_as_soon_as_the_next_one_begins():
    splitter = Splitter("", "sentence")
    splitter.feed("It is 3.")
    assert splitter.take(is_whole=False) is None
    splitter.feed(" ")
    assert splitter.take(is_whole=False) is None
    splitter.feed("Y")
    assert splitter.take(is_whole=False).text == "It is 3. "
    assert splitter.take(is_whole=False) is None
    assert splitter.take(is_whole=True).text == "Y"
    assert splitter.take(is_whole=True) is None


def test_an_overlong_sentence_is_cut_at_a_clause_or_else_a_space_or_else_anywhere():
    words = "word " * 100
    assert [len(piece) for piece in split([words])[0]] == [400, 100]
    assert split(["x" * 100 + ", " + words])[0][0] == "x" * 100 + ", "
    assert [len(piece) for piece in split(["x" * 1000])[0]] == [400, 400, 200]
    assert all(piece[0] == "e" for piece in split(["e\u0301" * 1000])[0])


@pytest.mark.parametrize("unit", ["x", "a. ", ". ", "😀", " ", "\n", "word ", "“ ", "e\u0301"])
def test_text_without_end_is_split_in_steady_time(unit, monkeypatch):
    """Counted in characters that the sentence finder is shown: a few hundred for each place that could be an end."""
    import gateway.sentences as module

    shown = []
    find = module.get_sentence_boundaries

    def watched(language, text):
        shown.append(len(text))
        return find(language, text)

    monkeypatch.setattr(module, "get_sentence_boundaries", watched)
    num_units = 30_000 // len(unit)
    pieces, _ = split([unit] * num_units)
    assert "".join(pieces) == unit * num_units
    assert max(shown, default=0) <= LONGEST + 10
    assert len(shown) <= 2 * num_units
