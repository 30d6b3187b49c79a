"""Tokens drawn in a batch against those that torch and transformers draw for one row."""

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

from worker.engines.sampling import Draws, Sampler, Sampling
from worker.engines.sampling import draw as draw_one_of

VOCABULARY, TOKENS = 200, 6
HOWS = [Sampling(0.9, 50), Sampling(0.2, 3), Sampling(1.7, VOCABULARY), Sampling(1.0, 1), Sampling(1.0, 10_000)]


def library(logits, how: Sampling):
    """Draw from float32 [V] as `generate` does, with torch's global generator."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(how.temperature), TopKLogitsWarper(how.top_k)])
    scores = warpers(torch.zeros(1, 1, dtype=torch.int64), logits[None])
    return int(torch.multinomial(scores.softmax(-1), 1))


def draw(logits, hows, seeds):
    """Draw from float32 [steps, B, V], `TOKENS` at a time; int64 [steps, B]."""
    draws, sampler, drawn = [Draws(seed, "cpu") for seed in seeds], Sampler(hows, "cpu"), []
    for step in logits.split(TOKENS):
        noise = torch.empty(len(seeds), TOKENS, VOCABULARY)
        for each, numbers in zip(draws, noise, strict=True):
            each.fill(numbers)
        drawn += [sampler.draw(scores, noise[:, token]) for token, scores in enumerate(step)]
    return torch.stack(drawn)


@pytest.fixture(scope="module")
def logits():
    return torch.randn(4 * TOKENS, len(HOWS), VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2


def test_every_row_draws_what_the_library_draws_alone_with_its_seed(logits):
    seeds = [3, 7, 2**40, 1, 7]
    drawn = draw(logits, HOWS, seeds)
    assert drawn.dtype == torch.int64
    for row, (how, seed) in enumerate(zip(HOWS, seeds, strict=True)):
        torch.manual_seed(seed)
        assert drawn[:, row].tolist() == [library(step[row], how) for step in logits]


def test_a_row_draws_the_same_whoever_else_is_there(logits):
    together = draw(logits, HOWS, [5] * len(HOWS))
    for row, how in enumerate(HOWS):
        assert torch.equal(draw(logits[:, row : row + 1], [how], [5])[:, 0], together[:, row])


def test_one_candidate_is_the_likeliest(logits):
    assert torch.equal(draw(logits, [Sampling(2.0, 1)] * len(HOWS), range(len(HOWS))), logits.argmax(-1))


def test_no_token_is_drawn_that_is_not_among_the_likeliest(logits):
    drawn = draw(logits, [Sampling(5.0, 4)] * len(HOWS), range(len(HOWS)))
    likeliest = logits.topk(4).indices
    assert (drawn[..., None] == likeliest).any(-1).all()
    assert len(set((drawn[..., None] == likeliest).nonzero()[:, 2].tolist())) == 4


def test_global_random_numbers_are_left_alone(logits):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(logits, HOWS, range(len(HOWS)))
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_drawn_from_in_full(logits):
    half = logits.bfloat16()
    assert torch.equal(draw(half, HOWS, range(5)), draw(half.float(), HOWS, range(5)))


def test_to_look_for_more_of_the_likeliest_than_are_wanted_changes_nothing(logits):
    sampler, noise = Sampler(HOWS[:2], "cpu"), torch.rand(2, VOCABULARY) + 0.1
    for scores in logits[:, :2]:
        expected = sampler.draw(scores, noise)
        assert torch.equal(draw_one_of(scores, noise, sampler.temperature, sampler.last, VOCABULARY), expected)
