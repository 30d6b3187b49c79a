import threading

import numpy as np
import pytest
import torch

from worker.engines.base import Settings
from worker.engines.stepwise import Noise, TorchEngine, place, seed_of, stepwise


def draws(count: int):
    def call(emit) -> None:
        for _ in range(count):
            emit(torch.rand(1).item())

    return call


def expected(seed: int, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, generator=generator).item() for _ in range(count)]


def test_a_call_with_a_callback_becomes_an_iterator():
    assert list(stepwise(draws(3), Noise(5, "cpu"))) == expected(5, 3)


def test_interleaved_calls_draw_what_they_draw_alone():
    one, two = stepwise(draws(3), Noise(1, "cpu")), stepwise(draws(3), Noise(2, "cpu"))
    first, second = [], []
    for mine, other in ((first, second), (second, first), (first, second)):
        mine.append(next(one if mine is first else two))
        torch.rand(7)  # And somebody else, in between.
        other.append(next(two if mine is first else one))
    assert (first, second) == (expected(1, 3), expected(2, 3))


def test_closing_ends_the_call_where_it_stands():
    trace = []

    def call(emit) -> None:
        try:
            for number in range(10):
                trace.append(number)
                emit(number)
        finally:
            trace.append("ended")

    steps = stepwise(call, Noise(0, "cpu"))
    assert [next(steps), next(steps)] == [0, 1]
    steps.close()
    assert trace == [0, 1, "ended"]


def test_what_the_call_raises_comes_out_of_the_iterator_and_the_generators_are_given_back():
    def call(emit) -> None:
        emit(1)
        raise LookupError("lost")

    torch.manual_seed(3)
    steps = stepwise(call, Noise(0, "cpu"))
    assert next(steps) == 1
    with pytest.raises(LookupError, match="lost"):
        next(steps)
    assert torch.rand(1).item() == expected(3, 1)[0]


def test_a_call_that_gives_nothing_is_an_empty_iterator():
    assert list(stepwise(lambda emit: None, Noise(0, "cpu"))) == []


def test_segments_of_one_utterance_have_seeds_of_their_own_and_the_first_has_its():
    seeds = {(seed, index): seed_of(Settings("v", 1.0, seed), index) for seed in range(20) for index in range(20)}
    assert seeds[7, 0] == 7
    assert len(set(seeds.values())) == len(seeds)
    assert seed_of(Settings("v", 1.0, 2**64 - 1), 1) < 2**64


def test_a_load_on_another_thread_does_not_disturb_the_numbers_of_a_step():
    drawn, may_draw, has_loaded = [], threading.Event(), threading.Event()

    def load() -> None:
        with TorchEngine.loading():
            may_draw.wait(10)
            torch.nn.Linear(30, 30)
            torch.nn.Embedding(30, 30)
            torch.nn.Conv1d(3, 3, 3)
            torch.nn.LSTM(3, 3)
            torch.nn.init.trunc_normal_(torch.empty(9))
            torch.randn(9)
            torch.randn_like(torch.empty(9))
            torch.rand_like(torch.empty(9))
        has_loaded.set()

    thread = threading.Thread(target=load)
    thread.start()
    with Noise(4, "cpu"):
        drawn.append(torch.rand(1).item())
        may_draw.set()
        assert has_loaded.wait(30)
        drawn.append(torch.rand(1).item())
    thread.join()
    assert drawn == expected(4, 2)


def test_a_placed_model_speaks_and_does_not_learn():
    model = place(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(1.0)), "cpu")
    out = model(torch.ones(1, 2))
    assert not out.requires_grad
    assert np.abs(out.numpy()).max() > 0
