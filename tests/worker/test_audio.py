import numpy as np

from worker.audio import to_f32le, to_s16le, trim_silence

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
