"""Rows of a batch attend to what is theirs: a transformer of the library with our cache against itself alone."""

import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from worker.engines.kv_cache import FIRST_LENGTH, SlotCache, Slots
from worker.engines.stepwise import place

torch.set_num_threads(1)  # On small tensors threads cost more than they bring.

HIDDEN, LONGEST = 32, 400


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=LONGEST,
        initializer_range=0.5,
    )
    return place(LlamaModel(config), "cpu")


def cache_of(model, num_slots=4, longest=LONGEST) -> SlotCache:
    return SlotCache(model.config, num_slots=num_slots, longest=longest, like=model.norm.weight)


def read(model, cache, slots, positions, inputs):
    span = cache.span(slots, positions, inputs.shape[1])
    return model(
        inputs_embeds=inputs,
        attention_mask=span.mask,
        position_ids=span.position_ids,
        past_key_values=span,
        use_cache=True,
    ).last_hidden_state


def whole(model, inputs):
    """What the library makes of a sequence [T, H] that it sees all at once."""
    return model(inputs_embeds=inputs[None]).last_hidden_state[0]


def test_rows_at_different_positions_read_what_they_read_alone(model):
    sequences = [torch.randn(length, HIDDEN) for length in (90, 17, 300)]
    starts, slots, cache = (80, 3, 275), (2, 0, 3), cache_of(model)
    for slot, sequence, start in zip(slots, sequences, starts, strict=True):
        read(model, cache, [slot], [0], sequence[None, :start])
    for step in range(10):
        inputs = torch.stack([sequence[start + step] for sequence, start in zip(sequences, starts, strict=True)])
        together = read(model, cache, slots, [start + step for start in starts], inputs[:, None])[:, 0]
        for row, sequence, start in zip(together, sequences, starts, strict=True):
            expected = whole(model, sequence[: start + step + 1])[-1]
            assert (row - expected).abs().max() < 1e-5


@pytest.mark.parametrize("slots", [(0, 1, 2), (1, 2, 3), (3, 1, 0)], ids=["dense", "dense from 1", "scattered"])
def test_prompts_of_several_lengths_are_read_together_if_padded_on_the_right(model, slots):
    lengths, cache = (5, 40, 23), cache_of(model)
    sequences = [torch.randn(length + 3, HIDDEN) for length in lengths]
    prompts = [sequence[:length] for sequence, length in zip(sequences, lengths, strict=True)]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    first = read(model, cache, slots, [0] * 3, padded)
    for row, prompt in zip(first, prompts, strict=True):
        assert (row[: len(prompt)] - whole(model, prompt)).abs().max() < 1e-5
    inputs = torch.stack([sequence[length:] for sequence, length in zip(sequences, lengths, strict=True)])
    after = read(model, cache, slots, lengths, inputs)
    for row, sequence in zip(after, sequences, strict=True):
        assert (row - whole(model, sequence)[-3:]).abs().max() < 1e-5


def test_a_slot_that_is_cleared_bears_no_trace_of_what_was_there(model):
    cache, sequence = cache_of(model), torch.randn(1, 6, HIDDEN)
    read(model, cache, [1], [0], torch.full((1, 40, HIDDEN), torch.nan))
    cache.clear(1)
    assert torch.equal(read(model, cache, [1], [0], sequence), read(model, cache_of(model), [1], [0], sequence))


def test_the_cache_grows_with_what_is_spoken_and_no_further_than_it_may(model):
    cache, sequence = cache_of(model), torch.randn(LONGEST, HIDDEN)
    assert cache.length == FIRST_LENGTH
    read(model, cache, [0], [0], sequence[None, :250])
    assert cache.length == FIRST_LENGTH
    last = read(model, cache, [0], [250], sequence[None, 250:])[0, -1]
    assert cache.length == LONGEST
    assert (last - whole(model, sequence)[-1]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="holds 400 positions, not 401"):
        cache.span([0], [LONGEST])


def test_a_window_keeps_as_many_positions_as_it_shows():
    window, longest, heads = 5, 7, 1
    config = SimpleNamespace(num_hidden_layers=1, num_key_value_heads=heads, head_dim=1)
    cache = SlotCache(config, num_slots=2, longest=longest, like=torch.zeros(1), window=window)
    position = 0
    for num_new in (1, 3, 2, 1, 3, 3, 1, 2):
        span = cache.span([1], [position], num_new)
        new = torch.arange(position, position + num_new, dtype=torch.float32)[None, None, :, None]
        keys, values = span.update(new, new + 0.5, 0)
        for query, seen in zip(range(position, position + num_new), span.mask[0, 0], strict=True):
            expected = list(range(max(0, query - window + 1), query + 1))
            assert sorted(keys[0, 0, seen, 0].tolist()) == expected
            assert sorted(values[0, 0, seen, 0].tolist()) == [number + 0.5 for number in expected]
        position += num_new
    assert position > 2 * longest
    assert cache.length == longest


def test_the_lowest_free_slot_is_taken_and_no_more_than_there_are():
    slots = Slots(3)
    assert [slots.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="more utterances"):
        slots.take()
    slots.give_back(2)
    slots.give_back(1)
    assert slots.take() == 1


def test_no_two_threads_get_the_same_slot():
    slots, taken = Slots(400), []
    threads = [threading.Thread(target=lambda: taken.extend(slots.take() for _ in range(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(400))
