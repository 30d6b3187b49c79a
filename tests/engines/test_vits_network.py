"""The parts of a VITS network: batches against single runs, slices against the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VitsModel

from tests.checkpoints.vits import MODEL, SPEAKERS, build
from worker.engines.vits_network import Latents, Network, Reading

READING = Reading(
    [1, 2, 3, 4, 5] * 12,
    seed=0,
    speaker=None,
    speed=1.0,
    noise_scale=0.667,
    noise_scale_duration=0.8,
    max_frames=10_000,
)
KINDS: Mapping[str, Mapping[str, Any]] = {
    MODEL: {},
    SPEAKERS: {"num_speakers": 4, "speaker_embedding_size": 8, "use_stochastic_duration_prediction": False},
    "tiny-org/stochastic-speakers": {"num_speakers": 4, "speaker_embedding_size": 8},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # Threads that wait for each other are slower than these small models.
    root = tmp_path_factory.mktemp("networks")
    for name, settings in KINDS.items():
        build(root, name, **settings)
    return root


@pytest.fixture(params=KINDS)
def model(root: Path, request: pytest.FixtureRequest) -> VitsModel:
    return VitsModel.from_pretrained(root / request.param).eval()


def speaker(network: Network, number: int) -> int | None:
    return number if network.num_speakers > 1 else None


def test_the_frames_are_those_of_the_library_after_the_same_seed(model: VitsModel) -> None:
    speaker_id = 2 if model.config.num_speakers > 1 else None
    torch.manual_seed(7)
    with torch.no_grad():
        expected = model(torch.tensor([READING.tokens]), speaker_id=speaker_id).spectrogram
    (latents,) = Network(model, "cpu").encode([replace(READING, seed=7, speaker=speaker_id)])
    np.testing.assert_allclose(latents.frames.numpy(), expected.numpy(), rtol=0, atol=1e-6)


def test_segments_in_a_batch_are_what_they_are_alone(model: VitsModel) -> None:
    network = Network(model.double(), "cpu")
    readings = [
        replace(
            READING,
            tokens=READING.tokens[: 60 - 17 * k],
            seed=k,
            speaker=speaker(network, k),
            speed=0.8 + 0.3 * k,
            noise_scale=0.2 * k,
            max_frames=10_000 if k else 30,
        )
        for k in range(4)
    ]
    latents = network.encode(readings)
    assert len({each.num_frames for each in latents}) == 4
    assert latents[0].num_frames == 30
    for together, reading in zip(latents, readings, strict=True):
        (single,) = network.encode([reading])
        np.testing.assert_allclose(together.frames.numpy(), single.frames.numpy(), rtol=0, atol=1e-12)


def test_what_fills_a_segment_up_to_the_length_of_a_graph_leaves_no_trace(model: VitsModel) -> None:
    network = Network(model.double(), "cpu")
    readings = [
        replace(READING, tokens=READING.tokens[: 60 - 17 * k], seed=k, speaker=speaker(network, k)) for k in range(2)
    ]
    expected = network.encode(readings)
    # As on a GPU, but that nothing is captured.
    network._told.update(dict.fromkeys((64, 100), network._tell))
    network._flowed.update(dict.fromkeys((32, 512), network._flow))
    for filled, single in zip(network.encode(readings), expected, strict=True):
        np.testing.assert_allclose(filled.frames.numpy(), single.frames.numpy(), rtol=0, atol=1e-12)


def test_the_order_in_which_a_gpu_convolves_changes_no_sample(model: VitsModel) -> None:
    network = Network(model.double(), "cpu")
    (latents,) = network.encode([replace(READING, speaker=speaker(network, 1))])
    frames = latents.frames[..., :42]
    expected = [network.decode(frames, latents.speaker, keep) for keep in (None, (13, 29))]
    network._decoder.lay_out()
    for keep, samples in zip((None, (13, 29)), expected, strict=True):
        np.testing.assert_allclose(network.decode(frames, latents.speaker, keep).numpy(), samples.numpy(), atol=1e-6)


def test_slices_of_several_speakers_in_a_batch_sound_as_alone(model: VitsModel) -> None:
    network = Network(model, "cpu")
    rows = network.encode([replace(READING, seed=k, speaker=speaker(network, k)) for k in range(3)])
    slices = [Latents(row.frames[..., 5 * k : 5 * k + 40], row.speaker) for k, row in enumerate(rows)]
    speakers = [row.speaker for row in rows if row.speaker is not None]
    together = network.decode(torch.cat([row.frames for row in slices]), torch.cat(speakers) if speakers else None)
    for row, single in zip(together, slices, strict=True):
        alone = network.decode(single.frames, single.speaker)[0]
        np.testing.assert_allclose(row.numpy(), alone.numpy(), rtol=0, atol=2e-5)


def test_the_decoder_may_compute_in_other_numbers_than_what_decides_the_durations(root: Path) -> None:
    usual, coarse = (Network(VitsModel.from_pretrained(root / MODEL), "cpu", dtype) for dtype in ("", "bfloat16"))
    (expected,), (given,) = usual.encode([READING]), coarse.encode([READING])
    assert given.frames.dtype == torch.bfloat16
    np.testing.assert_array_equal(given.frames.float().numpy(), expected.frames.bfloat16().float().numpy())
    samples, sure = coarse.decode(given.frames, None), usual.decode(expected.frames, None)
    assert samples.dtype == torch.float32
    assert 0 < (samples - sure).square().mean() < 1e-3 * sure.square().mean()
