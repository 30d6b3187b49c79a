import pytest

from worker.text.arpabet import CONSONANTS, VOWELS, to_arpabet, unreadable

WORDS = {
    "hello": "HH AH0 L OW1",
    "world": "W ER1 L D",
    "the": "DH AH0",
    "this": "DH IH1 S",
    "it's": "IH1 T S",
    "and": "AH0 N D",
    "happy": "HH AE1 P IY0",
    "butter": "B AH1 T ER0",
    "water": "W AO1 T ER0",
    "around": "ER0 AW1 N D",
    "button": "B AH1 T AH0 N",
    "Etna": "EH1 T N AH0",
    "little": "L IH1 T AH0 L",
    "rhythm": "R IH1 DH AH0 M",
    "judge": "JH AH1 JH",
    "church": "CH ER1 CH",
    "vision": "V IH1 ZH AH0 N",
    "singing": "S IH1 NG IH0 NG",
    "boy": "B OY1",
    "house": "HH AW1 S",
    "day": "D EY1",
    "time": "T AY1 M",
    "book": "B UH1 K",
    "queue": "K Y UW1",
    "father": "F AA1 DH ER0",
    "think": "TH IH1 NG K",
    "north": "N AO1 R TH",
    "beautiful": "B Y UW1 T AH0 F AH0 L",
    "refrigerator": "R AH0 F R IH1 JH ER0 EY2 T ER0",
}


@pytest.mark.parametrize(("word", "expected"), WORDS.items())
def test_words_are_read_as_the_dictionary_has_them(word: str, expected: str) -> None:
    assert to_arpabet(word) == expected.split()


def test_punctuation_stays_and_words_are_not_set_apart() -> None:
    hello, world = WORDS["hello"].split(), WORDS["world"].split()
    assert to_arpabet("Hello, world! Hello?") == [*hello, ",", *world, "!", *hello, "?"]


def test_other_signs_become_commas_points_or_nothing() -> None:
    hello, world = WORDS["hello"].split(), WORDS["world"].split()
    assert to_arpabet("hello; world") == to_arpabet("hello — world") == [*hello, ",", *world]
    assert to_arpabet("hello... world") == to_arpabet("hello… world") == [*hello, ".", *world]
    assert to_arpabet("“hello” (world)") == [*hello, *world]


def test_numbers_and_amounts_are_read_out() -> None:
    assert to_arpabet("3 cats") == to_arpabet("three cats")
    assert to_arpabet("$5.50") == to_arpabet("five dollars and fifty cents")
    assert to_arpabet("5 % of 20 €") == to_arpabet("five percent of twenty euros")


def test_a_number_that_trips_the_converter_is_read_digit_by_digit() -> None:
    assert to_arpabet("1" * 40) == to_arpabet("one") * 40


def test_words_that_no_dictionary_has_are_read_and_accents_are_no_obstacle() -> None:
    assert to_arpabet("xylzqrt")
    assert to_arpabet("café") == to_arpabet("cafe\u0301")


def test_every_token_is_an_arpabet_phoneme_or_a_sign() -> None:
    text = "The quick brown fox jumps over 13 lazy dogs; isn't that — roughly — 99.5 % of Ångström's joy? Ah, U.S.A.!"
    allowed = {*CONSONANTS.values(), *(vowel + digit for vowel in VOWELS.values() for digit in "012"), *",.?!'"}
    assert set(to_arpabet(text)) <= allowed


def test_silence_is_no_token() -> None:
    assert to_arpabet("") == to_arpabet("  ") == to_arpabet("🙂") == []


def test_characters_that_would_be_lost_are_named() -> None:
    assert unreadable("Hello, wörld! 100 € for π and ½ 🙂 … — “x²”") == []
    assert unreadable("hi 你好 нет 你") == ["你", "好", "н", "е", "т"]
    assert to_arpabet("hello 你好") == to_arpabet("hello")
