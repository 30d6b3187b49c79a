"""What is heard where one segment ends and the next begins, in the speech of the embedded voice."""

import itertools

import numpy as np
import pytest

from tests.passages import PASSAGES
from worker.engines.base import Settings
from worker.engines.hibari import MODEL, HibariEngine, HibariModel
from worker.engines.stages import alone
from worker.synthesis import synthesize
from worker.text.segment import Break

FRAME_S = 0.05
SILENT = 1e-5
"""Power of a frame that counts as silence: -50 dB full scale."""


@pytest.fixture(scope="module")
def model() -> HibariModel:
    return HibariEngine.load_embedded(MODEL, "cpu")


@pytest.fixture(scope="module")
def spoken(model) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Every passage: its samples, and where each of its segments begins and ends."""

    def speak(text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        blocks = list(alone(synthesize(model, text, Settings("heart", 1.0, 0))))
        marks = [mark for block in blocks for mark in block.marks if mark.end_sample is not None]
        return np.concatenate([block.samples for block in blocks]), [(m.first_sample, m.end_sample) for m in marks]

    return [speak(text) for text in PASSAGES.values()]


def loudness_db(samples: np.ndarray, rate_hz: int) -> float:
    """Mean power of the frames with a sound in them."""
    size = int(FRAME_S * rate_hz)
    power = (samples[: len(samples) // size * size].reshape(-1, size) ** 2).mean(axis=1)
    return float(10 * np.log10(power[power > SILENT].mean()))


def test_no_join_clicks(spoken):
    for samples, places in spoken:
        for first, end in places:
            # A segment begins and ends at silence, over 5 ms, so there is no step for the ear.
            assert np.abs(samples[[first, end - 1]]).max() < 0.002
        steps = np.abs(np.diff(samples))
        joins = [edge for _, end in places[:-1] for edge in (end - 1, end)] + [first - 1 for first, _ in places[1:]]
        assert steps[joins].max(initial=0.0) < 0.002 < steps.max()


def test_between_segments_there_is_the_pause_and_nothing_else(model, spoken):
    pauses = {round(each.value * model.card.sample_rate_hz) for each in Break}
    gaps = [
        (samples[end:first], first - end)
        for samples, places in spoken
        for (_, end), (first, _) in itertools.pairwise(places)
    ]
    assert len(gaps) > 10
    for gap, length in gaps:
        assert length in pauses
        assert not gap.any()


def test_no_segment_is_heard_to_be_louder_than_the_one_before(model, spoken):
    steps = [
        loudness_db(samples[b0:b1], model.card.sample_rate_hz) - loudness_db(samples[a0:a1], model.card.sample_rate_hz)
        for samples, places in spoken
        for (a0, a1), (b0, b1) in itertools.pairwise(places)
        if min(a1 - a0, b1 - b0) > 0.5 * model.card.sample_rate_hz
    ]
    # A sentence falls by 5 dB from its beginning to its end.
    assert np.percentile(np.abs(steps), 95) < 2.0
    assert np.abs(steps).max() < 3.0
