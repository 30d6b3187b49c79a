import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.audio import Trimmer, to_f32le, to_s16le, trim_silence

RATE = 24_000


def test_silence_at_both_ends_goes_but_for_a_margin():
    speech = 0.3 * np.ones(RATE, np.float32)
    samples = np.concatenate([np.zeros(RATE // 2, np.float32), speech, np.zeros(RATE // 2, np.float32)])
    trimmed = trim_silence(samples, RATE)
    assert len(trimmed) == RATE + int(0.02 * RATE) + int(0.06 * RATE)
    assert np.array_equal(trimmed[480 : 480 + RATE], speech)


def test_the_ends_are_faded_so_that_a_cut_does_not_click():
    trimmed = trim_silence(0.3 * np.ones(RATE, np.float32), RATE)
    assert trimmed[0] == 0
    assert abs(trimmed[-1]) < 0.01


def test_silence_alone_is_nothing():
    assert trim_silence(np.full(RATE, 0.001, np.float32), RATE).size == 0
    assert trim_silence(np.zeros(0, np.float32), RATE).size == 0


def test_sixteen_bits_are_rounded_and_clipped():
    assert np.frombuffer(to_s16le(np.array([0, 0.5, -0.5, 1, -1, 7, -7], np.float32)), "<i2").tolist() == [
        *(0, 16384, -16384, 32767, -32767, 32767, -32767)
    ]


def test_floats_are_written_as_they_are():
    samples = np.array([0, 0.25, -2], np.float32)
    assert np.array_equal(np.frombuffer(to_f32le(samples), "<f4"), samples)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 900)), max_size=8), st.integers(1, 700))
def test_trimming_piece_by_piece_gives_what_trimming_the_whole_gives(stretches, step):
    noise = np.random.default_rng(0)
    samples = np.concatenate(
        [np.zeros(0, np.float32)]
        + [noise.uniform(-1.5, 1.5, size).astype(np.float32) * loud for loud, size in stretches]
    )
    trimmer = Trimmer(8000)
    pieces = [trimmer.feed(samples[at : at + step]) for at in range(0, len(samples), step)]
    assert np.array_equal(np.concatenate([*pieces, trimmer.flush()]), trim_silence(samples, 8000))


def test_sound_comes_out_while_it_comes_in():
    trimmer = Trimmer(RATE)
    assert len(trimmer.feed(np.full(RATE, 0.5, np.float32))) == RATE - RATE // 200


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_does_not_pass_for_silence(value):
    with pytest.raises(ValueError, match="finite"):
        Trimmer(RATE).feed(np.array([value], np.float32))
