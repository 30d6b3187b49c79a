import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PocketTTSForConditionalGeneration, VitsModel

from tests.checkpoints import pocket, vits
from worker.engines.base import Settings
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, require_all, seed_of, stepwise
from worker.errors import UnsupportedModel


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model in bfloat16, as its library saves it."""
    root = tmp_path_factory.mktemp("saved")
    vits.build(root)
    folder = root / "half"
    VitsModel.from_pretrained(root / vits.MODEL, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def rewrite(saved, folder, change):
    shutil.copytree(saved, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_up_with_noise(saved, tmp_path):
    lost = ["text_encoder.embed_tokens.weight", "decoder.conv_pre.bias"]
    folder = rewrite(saved, tmp_path / "org", lambda weights: {k: w for k, w in weights.items() if k not in lost})
    with pytest.raises(UnsupportedModel, match=r"conv_pre\.bias, text_encoder\.embed_tokens\.weight") as refused:
        from_disk(VitsModel, folder, "cpu")
    assert refused.value.field == "model"
    renamed = rewrite(saved, tmp_path / "two", lambda weights: {f"another.{k}": w for k, w in weights.items()})
    with pytest.raises(UnsupportedModel, match=r"and \d+ more"):
        from_disk(VitsModel, renamed, "cpu")


def test_buffers_and_tied_weights_may_be_missing():
    model = torch.nn.Module()
    model.one, model.two = torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1)
    require_all(model, ["two.running_mean", "two.num_batches_tracked"])
    with pytest.raises(UnsupportedModel, match=r"a Module has one\.bias"):
        require_all(model, ["two.running_mean", "one.bias"])


def test_a_model_is_float32_on_the_cpu_and_what_its_library_makes_of_it_elsewhere(saved):
    assert {tensor.dtype for tensor in from_disk(VitsModel, saved, "cpu").parameters()} == {torch.float32}
    mine, own = from_disk(VitsModel, saved, "cuda:0"), VitsModel.from_pretrained(saved, dtype="auto")
    state = own.state_dict()
    assert mine.dtype == mine.config.dtype == torch.bfloat16
    assert state.keys() == mine.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in mine.state_dict().items())
    assert all(state[name].dtype == tensor.dtype for name, tensor in mine.state_dict().items())


def test_frequencies_and_what_the_library_keeps_stay_in_float32(tmp_path):
    pocket.build_pocket(tmp_path)
    folder = tmp_path / pocket.POCKET
    PocketTTSForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    mine = from_disk(PocketTTSForConditionalGeneration, tmp_path / "half", "cuda:0")
    own = PocketTTSForConditionalGeneration.from_pretrained(tmp_path / "half", dtype="auto")
    types = {name: tensor.dtype for name, tensor in [*own.named_parameters(), *own.named_buffers()]}
    assert {name: tensor.dtype for name, tensor in [*mine.named_parameters(), *mine.named_buffers()]} == types
    assert {torch.float32, torch.bfloat16} <= set(types.values())


def test_loading_leaves_the_default_type_of_the_process_alone(saved):
    seen = []

    class Watched(VitsModel):
        def __init__(self, config) -> None:
            seen.append(torch.zeros(1).dtype)
            super().__init__(config)
            seen.append(torch.zeros(1).dtype)

    from_disk(Watched, saved, "cuda:0")
    assert seen == [torch.float32, torch.float32]
