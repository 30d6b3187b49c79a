"""The stages of VITS: one run for several segments, in batches and slices that leave no trace in the samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import VitsModel

from tests.checkpoints.vits import SPEAKERS, build
from worker.engines.graphs import rows_captured
from worker.engines.vits_graphs import MOST_FRAMES, MOST_ROWS, rows_at_most
from worker.engines.vits_network import Latents, Network, Reading
from worker.engines.vits_stages import Decode, Encode, Rest, chunks
from worker.engines.vits_windows import Shape


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.set_num_threads(1)  # Threads that wait for each other are slower than these small models.
    root = tmp_path_factory.mktemp("vits")
    build(root, SPEAKERS, num_speakers=4, speaker_embedding_size=8)
    return Network(VitsModel.from_pretrained(root / SPEAKERS), "cpu")


@pytest.fixture(scope="module")
def segments(network: Network) -> list[Latents]:
    lengths = (70, 33, 25, 60)
    readings = [Reading([1, 2, 3] * n, n, k, 1.0, 0.667, 0.8, 10_000) for k, n in enumerate(lengths)]
    return [Encode(network).run([reading], None)[0] for reading in readings]


def whole(network: Network, latents: Latents) -> np.ndarray:
    return network.decode(latents.frames, latents.speaker)[0].numpy()


@pytest.mark.parametrize(
    ("shape", "starts"),
    [
        (Shape(42, 0, 29), (0, 1, 9, 28)),  # At the beginning of a segment.
        (Shape(42, 13, 29), (13, 14, 20, 33)),
        (Shape(42, 13, 42), (-29, -20, -2, -1)),  # At its end.
    ],
)
def test_one_run_decodes_windows_of_several_segments(
    network: Network, segments: list[Latents], shape: Shape, starts: Sequence[int]
) -> None:
    stage, hop = Decode(network), network.hop_length
    items = [
        Rest(latents, start if start >= 0 else latents.num_frames + start)
        for latents, start in zip(segments, starts, strict=True)
    ]
    made = stage.run(items, shape)
    assert {window.stop == item.latents.num_frames for window, item in zip(made, items, strict=True)} == {
        shape.stop == shape.length
    }
    for window, item in zip(made, items, strict=True):
        assert len(window.samples) == (window.stop - item.start) * hop
        expected = whole(network, item.latents)[item.start * hop : window.stop * hop]
        np.testing.assert_allclose(window.samples, expected, rtol=0, atol=1e-5)


def test_results_do_not_share_memory(network: Network, segments: list[Latents]) -> None:
    stage = Decode(network)
    first, second = stage.run([Rest(segments[0], 0), Rest(segments[0], 0)], Shape(42, 0, 29))
    before = second.samples.copy()
    first.samples[:] = 9.0
    np.testing.assert_array_equal(second.samples, before)


def test_on_a_cpu_each_thread_decodes_for_one(network: Network) -> None:
    for stage in Encode(network), Decode(network):
        assert (stage.limit, stage.is_reentrant, stage.takes_threads) == (1, True, True)


def test_batches_are_filled_up_to_powers_of_two() -> None:
    assert [rows_captured(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 31, 32)] == [1, 2, 4, 4, 8, 8, 16, 32, 32]


def test_launches_are_bounded_in_rows_and_frames() -> None:
    for length in (1, 21, 58, 90, 154, 282, 5000):
        rows = rows_at_most(length)
        assert rows == rows_captured(rows) <= MOST_ROWS
        assert rows == 1 or rows * length <= MOST_FRAMES
    assert rows_at_most(21) == MOST_ROWS
    assert [len(part) for part in chunks(range(70), 32)] == [32, 32, 6]
