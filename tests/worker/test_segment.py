import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passages import PASSAGES
from worker.text.segment import Break, Segment, segment


def cut(text: str, first: int = 80, longest: int = 300, language: str = "en-US") -> list[Segment]:
    return list(segment(text, language, first=first, longest=longest))


def texts(*args: object, **kwargs: object) -> list[str]:
    return [piece.text for piece in cut(*args, **kwargs)]  # type: ignore[arg-type]


def test_sentences_become_segments():
    assert texts("It rains. Stay inside! Why?") == ["It rains.", "Stay inside!", "Why?"]


def test_titles_initials_decimals_and_abbreviations_do_not_end_a_sentence():
    text = "Dr. J. K. Smith paid $4.50 at 5 p.m. today. Then he left."
    assert texts(text) == ["Dr. J. K. Smith paid $4.50 at 5 p.m. today.", "Then he left."]


def test_a_long_first_sentence_is_cut_at_its_last_clause_that_keeps_it_short():
    text = "When the rain had stopped, and the street was dry again, we walked all the way down to the old harbour."
    first, second = cut(text, first=60)
    assert first.text == "When the rain had stopped, and the street was dry again,"
    assert (first.ends_at, second.ends_at) == (Break.CLAUSE, Break.SENTENCE)


def test_a_later_sentence_is_not_cut_though_it_is_as_long():
    later = "When the rain had stopped, and the street was dry again, we walked all the way down to the old harbour."
    assert texts(f"It rained. {later}", first=60) == ["It rained.", later]


def test_a_first_sentence_without_a_clause_stays_whole():
    text = "We walked all the way down to the old harbour and back again before the sun had set on us"
    assert texts(text, first=40) == [text]


def test_a_first_clause_longer_than_wished_goes_whole():
    text = "We walked all the way down to the old harbour and back again, and nobody saw us at all."
    assert texts(text, first=30)[0] == "We walked all the way down to the old harbour and back again,"


def test_a_comma_inside_a_number_is_no_clause():
    assert texts("There were 1,250,000 people in the square that night and none of them slept", first=20)[0].endswith(
        "slept"
    )


def test_nothing_is_longer_than_the_engine_takes():
    assert [len(t) for t in texts("word " * 100, longest=50)] == [49] * 10
    assert [len(t) for t in texts("x" * 120, longest=50)] == [50, 50, 20]


def test_a_blank_line_makes_a_longer_pause_than_a_sentence():
    assert [piece.ends_at for piece in cut("One.\n\nTwo. Three.")] == [Break.PARAGRAPH, Break.SENTENCE, Break.SENTENCE]


def test_lines_that_were_ended_on_purpose_are_segments_and_wrapped_prose_is_not():
    assert texts("Shopping list:\nmilk\neggs\nbread") == ["Shopping list:", "milk", "eggs", "bread"]
    poem = "Roses are red\nViolets are blue"
    assert [(piece.text, piece.ends_at) for piece in cut(poem)] == [
        ("Roses are red", Break.LINE),
        ("Violets are blue", Break.SENTENCE),
    ]
    wrapped = (
        "The river begins as a spring under a flat stone, no wider\nthan the hand of a child and as cold as stone."
    )
    assert texts(wrapped, first=200) == [wrapped]


def test_chinese_sentences_are_cut_too():
    assert texts("今天下雨。我们不出门。", language="zh") == ["今天下雨。", "我们不出门。"]


def test_long_rows_of_one_thing_take_no_time():
    """Linear in the length: at quadratic cost this would run for minutes."""
    for row in (" " * 200_000, "\n" * 200_000, " \n" * 100_000, ", " * 100_000, "a\n" * 20_000):
        cut(f"a{row}b")


@pytest.mark.parametrize("text", ["", " ", "\n\n \t"])
def test_nothing_gives_nothing(text):
    assert cut(text) == []


def assert_covers(text: str, pieces: list[Segment]) -> None:
    position = 0
    for piece in pieces:
        assert text[piece.start : piece.stop] == piece.text
        assert not text[position : piece.start].strip()
        position = piece.stop
    assert not text[position:].strip()


@pytest.mark.parametrize("text", PASSAGES.values())
def test_spans_count_code_points_and_leave_out_white_space_alone(text):
    assert_covers(f"😀 {text}\n\n{text}", cut(f"😀 {text}\n\n{text}"))


@given(st.text(st.sampled_from("ab .,;:!?—\n\"'()😀é。，1$"), max_size=300), st.integers(1, 60), st.integers(1, 80))
def test_no_text_whatever_loses_a_character(text, first, longest):
    pieces = cut(text, first, longest)
    assert_covers(text, pieces)
    assert all(len(piece.text) <= longest for piece in pieces)


@pytest.mark.parametrize(
    ("end", "ends_at"),
    [
        (",", Break.CLAUSE),
        (";", Break.PHRASE),
        (":", Break.PHRASE),
        (" —", Break.PHRASE),
        (".", Break.SENTENCE),
        ("?", Break.SENTENCE),
        ("…", Break.TRAILING),
        ("...", Break.TRAILING),
        ("…”", Break.TRAILING),
    ],
)
def test_the_pause_is_as_long_as_the_punctuation_asks_for(end, ends_at):
    (piece,) = segment(f"It was late{end}", "en", first=80, longest=400)
    assert piece.ends_at is ends_at


def test_the_pauses_grow_with_what_they_part():
    order = [Break.WORD, Break.CLAUSE, Break.PHRASE, Break.LINE, Break.SENTENCE, Break.TRAILING, Break.PARAGRAPH]
    pauses = [each.value for each in order]
    assert order == list(Break)
    assert pauses == sorted(set(pauses))
