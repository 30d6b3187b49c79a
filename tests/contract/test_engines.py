"""What every engine must keep to, built in or not: run over every model of every installed engine."""

import threading
from importlib.metadata import entry_points
from itertools import pairwise

import grpc
import numpy as np
import pytest

from protos.tts.v1 import speech_pb2
from tests.stack import Stack, eventually
from worker.engines.base import Settings
from worker.engines.registry import GROUP, Registry
from worker.engines.stages import alone
from worker.synthesis import synthesize

REGISTRY = Registry.installed(point.name for point in entry_points(group=GROUP))
MODELS = sorted(REGISTRY.models())
TEXT = "The harbour was quiet, and nobody came. Then a bell rang twice! Was it noon?"


@pytest.fixture(scope="module")
def loaded():
    return {name: REGISTRY.embedding(name).load_embedded(name, "cpu") for name in MODELS}


def in_process(model, text: str = TEXT, **changes) -> tuple[np.ndarray, list]:
    settings = Settings(**{"voice": model.card.voices[0].id, "speed": 1.0, "seed": 7, **changes})
    blocks = list(alone(synthesize(model, text, settings)))
    return np.concatenate([block.samples for block in blocks]), [mark for block in blocks for mark in block.marks]


def over_grpc(stack: Stack, model: str, text: str = TEXT, **more) -> tuple[np.ndarray, list]:
    options = {"model": model, "seed": 7, "encoding": speech_pb2.AUDIO_ENCODING_PCM_F32LE, **more}
    with stack.worker.client() as client, client.synthesize(text, **options) as speech:
        samples = np.concatenate([np.frombuffer(pcm, "<f4") for pcm in speech])
        assert speech.summary.total_samples == len(samples)
        return samples, speech.marks


@pytest.mark.parametrize("name", MODELS)
def test_what_is_streamed_is_what_the_engine_makes(stack, loaded, name):
    streamed, _ = over_grpc(stack, name)
    whole, _ = in_process(loaded[name])
    assert np.array_equal(streamed, whole)


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_finite_and_within_full_scale_and_at_the_declared_rate(stack, loaded, name):
    samples, _ = in_process(loaded[name])
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0
    with stack.worker.client() as client, client.synthesize(TEXT, model=name) as speech:
        assert speech.header.format.sample_rate_hz == loaded[name].card.sample_rate_hz


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_samples_whatever_else_is_running(stack, name):
    alone, _ = over_grpc(stack, name)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(over_grpc(stack, name)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, alone) for result in results)


@pytest.mark.parametrize("name", MODELS)
def test_another_seed_or_none_gives_other_samples(stack, loaded, name):
    seven, _ = in_process(loaded[name])
    eight, _ = in_process(loaded[name], seed=8)
    unseeded = [over_grpc(stack, name, seed=None)[0] for _ in range(2)]
    assert not np.array_equal(seven, eight)
    assert not np.array_equal(*unseeded)


@pytest.mark.parametrize("name", MODELS)
def test_every_voice_speaks_and_sounds_like_no_other(loaded, name):
    model = loaded[name]
    spoken = [in_process(model, voice=voice.id)[0] for voice in model.card.voices]
    assert all(len(samples) for samples in spoken)
    assert len({samples.tobytes() for samples in spoken}) == len(spoken)


@pytest.mark.parametrize("name", MODELS)
def test_marks_cover_the_text_in_code_points_and_lie_where_the_sound_is(stack, name):
    text = "😀 One, two and three, said the old man. Then he left.\n\nNobody saw him again."
    samples, marks = over_grpc(stack, name, text)
    spoken = [text[mark.text_start : mark.text_end] for mark in marks]
    assert " ".join(spoken) == " ".join(text.split())
    previous = 0
    for mark in marks:
        assert mark.HasField("end_sample")
        assert previous <= mark.first_sample < mark.end_sample <= len(samples)
        assert not samples[previous : mark.first_sample].any()
        assert np.abs(samples[mark.first_sample : mark.end_sample]).max() > 0.05
        previous = mark.end_sample
    assert previous == len(samples)


@pytest.mark.parametrize("name", MODELS)
def test_pauses_between_segments_follow_the_punctuation(loaded, name):
    _, marks = in_process(loaded[name], "Well, I never said that, she said at last, and left the room. One.\n\nTwo.")
    complete = [mark for mark in marks if mark.end_sample is not None]
    gaps = [after.first_sample - before.end_sample for before, after in pairwise(complete)]
    rate_hz = loaded[name].card.sample_rate_hz
    assert [round(gap / rate_hz, 2) for gap in gaps[-2:]] == [0.32, 0.6]


@pytest.mark.parametrize("name", MODELS)
def test_a_cancelled_utterance_leaves_nothing_running(stack, name):
    with stack.worker.client() as client:
        speech = client.synthesize(TEXT * 40, model=name)
        next(iter(speech))
        speech.cancel()
        # Inside the context: leaving it would cancel too.
        eventually(lambda: not stack.worker.running, "the worker is idle")


@pytest.mark.parametrize("name", MODELS)
def test_the_engines_own_limits_are_kept_by_name(stack, loaded, name):
    card = loaded[name].card
    slowest, fastest = card.speeds
    for speed in (slowest / 2, fastest * 2, float("nan")):
        with stack.worker.client() as client, pytest.raises(grpc.RpcError) as caught:
            client.synthesize("Hi.", model=name, speed=speed)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "speed" in caught.value.details()
        assert f"{fastest:g}" in caught.value.details()
