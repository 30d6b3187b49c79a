import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engines.base import Settings
from worker.engines.hibari import MODEL, HibariEngine, HibariModel
from worker.engines.stages import Call, alone
from worker.errors import UnspeakableText
from worker.synthesis import synthesize


@pytest.fixture(scope="module")
def model() -> HibariModel:
    return HibariEngine.load_embedded(MODEL, "cpu")


def speak(model: HibariModel, text: str, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(alone(model.speak(text, 0, Settings("heart", speed, seed)))))


@pytest.mark.parametrize("text", ["⠓⠑⠇⠇⠕", "Σωκράτης", "你好", "Hello 你好", "Привет", "नमस्ते", "日"])
def test_letters_of_other_scripts_are_refused_by_name(model, text):
    with pytest.raises(UnspeakableText) as caught:
        model.check(text, "heart")
    strange = next(c for c in text if not c.isascii())
    assert repr(strange) in caught.value.message
    assert "Latin" in caught.value.message


@pytest.mark.parametrize("text", ["...", "!!!", "—", "😀", "\u200b", "\x07", "†", "🎉🎉", "“”"])
def test_text_with_nothing_to_say_is_refused(model, text):
    with pytest.raises(UnspeakableText, match="nothing to say"):
        model.check(text, "heart")


@pytest.mark.parametrize(
    "text",
    [
        "Hello 😀!",
        "café",
        "naïve Ω",
        "½ cup",
        "x²",
        "%",
        "#1",
        "50 °C",
        "e\u0301te\u0301",
        "ŷ",
        "𝐇𝐞𝐥𝐥𝐨",
        "١٢٣",
        "Ⅳ",
        "a\u0301\u0302b",
        "it’s",
    ],
)
def test_what_english_text_holds_is_accepted_and_heard(model, text):
    model.check(text, "heart")
    assert len(speak(model, text)) > 2400


@pytest.mark.parametrize(
    "text", ["7" * 55, "1," * 3 + "000," * 20 + "000", "H₂O", "25:99₁", "0x1F" * 8, "1/0", "99/99/9999"]
)
def test_numbers_of_every_shape_are_read(model, text):
    model.check(text, "heart")
    assert len(speak(model, text)) > 2400


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("5 ≤ 6", "5 less-than or equal to 6"),
        ("√ 9", "square root 9"),
        ("about 100 €", "about €100"),
        ("I have no €", "I have no euro sign"),
        ("¹In 1999", "1In 1999"),
        ("H₂O", "H2O"),
        ("it was −12 degrees", "it was -12 degrees"),
        ("$5.5", "$5.50"),
        ("$5.5 million", "$5.5 million"),
        ("$1.2bn", "$1.2 billion"),
        ("the angle α", "the angle alpha"),
    ],
)
def test_symbols_without_a_reading_are_spelled_out(model, text, spoken):
    assert model._readers[model.card.voices[0].id].spell(text) == spoken


def test_a_long_row_of_symbols_is_judged_and_passed_over_in_small_steps(model):
    with pytest.raises(UnspeakableText):
        model.check("😀" * 32_768, "heart")
    utterance = synthesize(model, "😀" * 30_000 + " a", Settings("heart", 1.0, 0))
    # A turn for others after every segment, though none but the last makes a sound.
    turns = [next(utterance) for _ in range(100)]
    assert all(isinstance(turn, Call) for turn in turns)
    blocks = list(alone(utterance))
    assert sum(len(block.samples) > 0 for block in blocks) == 1


ODD = [
    *"aA1$€%&/()=?.,;:-—'\"¹²³₁½€→≤∑°#@*~<>[]{}|\\+ \n",
    "½",
    "25:99",
    "1/0",
    "$1.2.3",
    "IV",
    "[a](/b/)",
    "😀",
    "0x1F",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ODD), max_size=40).map("".join))
def test_no_text_whatever_breaks_the_engine(model, text):
    with contextlib.suppress(UnspeakableText):
        list(alone(synthesize(model, text, Settings("heart", 1.0, 0))))


def test_composed_and_decomposed_letters_sound_alike(model):
    assert np.array_equal(speak(model, "café"), speak(model, "cafe\u0301"))


def test_the_silence_of_the_package_is_gone(model):
    from hibari import Hibari

    raw = Hibari().__call__("Hello there.", seed=0)
    samples = speak(model, "Hello there.")
    assert len(raw) - len(samples) > 0.6 * 24_000
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    assert loud[0] < 0.05 * 24_000
    assert len(samples) - loud[-1] < 0.15 * 24_000


def test_a_piece_past_the_phoneme_limit_loses_nothing(model):
    text = "; ".join(["one million two hundred thousand three hundred and forty five"] * 12)
    longer = speak(model, text)
    assert len(longer) > 10 * len(speak(model, "one million two hundred thousand three hundred and forty five"))


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8])
def test_speed_changes_the_length_by_its_factor(model, speed):
    text = "The quick brown fox jumps over the lazy dog."
    assert len(speak(model, text, speed)) == pytest.approx(len(speak(model, text)) / speed, rel=0.1)
