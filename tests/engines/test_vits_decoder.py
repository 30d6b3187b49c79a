"""The decoder of VITS: what it gives of slices, and what of the frames around a window it needs for that."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from transformers import VitsConfig
from transformers.models.vits.modeling_vits import VitsHifiGan

from worker.engines.vits_decoder import Decoder

SIZES = (([8, 8, 2, 2], [16, 16, 4, 4]), ([8, 8, 4, 2], [16, 16, 8, 4]), ([5, 4], [11, 8]))
NUM_FRAMES = 61

of_all_sizes = pytest.mark.parametrize(("rates", "kernels"), SIZES)


def network(rates: list[int], kernels: list[int], **more: object) -> VitsHifiGan:
    torch.set_num_threads(1)  # Threads that wait for each other are slower than these small models.
    torch.manual_seed(0)
    sizes = {"upsample_rates": rates, "upsample_kernel_sizes": kernels, "upsample_initial_channel": 32, **more}
    return VitsHifiGan(VitsConfig(flow_size=4, **sizes)).double().eval().requires_grad_(False)


@of_all_sizes
@pytest.mark.parametrize("num_speakers", [0, 2])
def test_all_frames_sound_as_in_the_library(rates: list[int], kernels: list[int], num_speakers: int) -> None:
    library = network(rates, kernels, speaker_embedding_size=3 if num_speakers else 0)
    frames = torch.randn(2, 4, NUM_FRAMES, dtype=torch.float64)
    speakers = torch.randn(2, 3, 1, dtype=torch.float64) if num_speakers else None
    given = Decoder(library)(frames, speakers, (0, NUM_FRAMES))
    np.testing.assert_allclose(given.numpy(), library(frames, speakers).numpy(), rtol=0, atol=1e-12)


@of_all_sizes
def test_the_frames_that_are_wanted_sound_as_in_the_whole(rates: list[int], kernels: list[int]) -> None:
    library = network(rates, kernels)
    decoder, hop_length = Decoder(library), prod(rates)
    frames = torch.randn(2, 4, NUM_FRAMES, dtype=torch.float64)
    whole = library(frames)
    before, after = decoder.halo
    for first, stop in (0, 1), (0, 20), (3, 30), (before, before + 1), (before + 5, before + 20), (40, 61), (60, 61):
        left, right = max(0, first - before), min(NUM_FRAMES, stop + after)
        given = decoder(frames[..., left:right], None, (first - left, stop - left))
        expected = whole[..., first * hop_length : stop * hop_length]
        np.testing.assert_allclose(given.numpy(), expected.numpy(), rtol=0, atol=1e-12)


@of_all_sizes
def test_the_halo_is_as_long_as_the_decoder_reaches_and_no_longer(rates: list[int], kernels: list[int]) -> None:
    library = network(rates, kernels)
    hop_length, middle = prod(rates), NUM_FRAMES // 2
    reached = torch.zeros(NUM_FRAMES, dtype=torch.bool)
    silent = torch.zeros(1, 4, NUM_FRAMES, dtype=torch.float64)
    quiet = library(silent)[0, 0].view(-1, hop_length)[middle]
    for frame in range(NUM_FRAMES):
        touched = silent.clone()
        touched[..., frame] = 100.0
        reached[frame] = (library(touched)[0, 0].view(-1, hop_length)[middle] != quiet).any()
    frames = reached.nonzero()[:, 0]
    assert Decoder(library).halo == (middle - int(frames[0]), int(frames[-1]) - middle)


@pytest.mark.parametrize(("rates", "kernels"), SIZES[:2])
def test_the_halo_of_the_published_decoders_is_thirteen_frames(rates: list[int], kernels: list[int]) -> None:
    assert Decoder(network(rates, kernels)).halo == (13, 13)


def test_a_halo_costs_less_than_a_third_of_what_is_heard() -> None:
    library = network(*SIZES[0])
    worked: list[int] = []

    def count(layer: torch.nn.Conv1d, _: object, states: torch.Tensor) -> None:
        worked.append(states.shape[-1] * layer.weight.numel())

    for layer in (layer for block in library.resblocks for layer in (*block.convs1, *block.convs2)):
        layer.register_forward_hook(count)

    def work(length: int, keep: tuple[int, int]) -> int:
        worked.clear()
        Decoder(library)(torch.zeros(1, 4, length, dtype=torch.float64), None, keep)
        return sum(worked)

    frame = work(100, (0, 100)) / 100
    assert work(126, (13, 113)) == pytest.approx((100 + 26 / 4) * frame, rel=0.01)
