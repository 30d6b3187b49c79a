import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.audio import Trimmer, resample, to_f32le, to_s16le, trim_silence

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


@pytest.mark.parametrize("to_hz", [8000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_051, 24_000, 44_100, 48_000])
def test_what_both_rates_can_carry_is_the_same_at_the_other(rate_hz, to_hz):
    def sound(at_hz):
        t = np.arange(round(0.4 * at_hz)) / at_hz
        window = np.exp(-(((t - 0.2) / 0.03) ** 2))
        return (
            window * sum(np.sin(2 * np.pi * share * min(rate_hz, to_hz) * t) for share in (0.01, 0.2, 0.45)) / 3
        ).astype("f4")

    samples = resample(sound(rate_hz), rate_hz, to_hz)
    expected = sound(to_hz)
    assert samples.dtype == np.float32
    assert abs(len(samples) - len(expected)) <= 1
    error = samples[: len(expected)] - expected[: len(samples)]
    assert np.abs(error).max() < 10 ** (-100 / 20)


def test_what_the_lower_rate_cannot_carry_is_gone_and_does_not_come_back_as_another_tone():
    t = np.arange(48_000) / 48_000
    above = np.sin(2 * np.pi * 15_000 * t) * np.exp(-(((t - 0.5) / 0.1) ** 2))
    assert np.abs(resample(above.astype(np.float32), 48_000, 24_000)).max() < 10 ** (-100 / 20)


def test_the_end_of_a_recording_is_not_heard_at_its_start():
    samples = np.zeros(24_000, np.float32)
    samples[-100:] = 1.0
    assert np.abs(resample(samples, 24_000, 44_100)[:20_000]).max() < 1e-3
