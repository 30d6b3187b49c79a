"""Runs a decoder on a CUDA device from graphs, captured once for every shape; knows no speech and no scheduling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from worker.engines.graphs import Graph, capture, rows_captured
from worker.engines.vits_decoder import Keep
from worker.engines.vits_windows import Shape

if TYPE_CHECKING:
    import torch

MOST_ROWS = 32

MOST_FRAMES = 4096
"""Latent frames in one launch. More keep the device no busier, and their activations would take gigabytes."""

log = structlog.get_logger(__name__)

Decode = Callable[["torch.Tensor", "torch.Tensor | None", Keep], "torch.Tensor"]
"""Maps frames [B, C, L], speakers [B, E, 1] or None, and which frames are wanted, to samples [B, S] of these; the same
kernels for the same shapes."""


def rows_at_most(length: int) -> int:
    """Most rows in one launch, for slices of `length` frames; a power of two."""
    most = max(1, MOST_FRAMES // length)
    return min(MOST_ROWS, 1 << (most.bit_length() - 1))


class Graphs:
    """The decoder of one network; called on one thread at a time.

    Args:
        decode: What is captured.
        device: `cuda:N`.
        shapes: Of the slices that graphs are captured for; others are decoded without.
    """

    def __init__(self, decode: Decode, device: str, shapes: Sequence[Shape]) -> None:
        self._decode = decode
        self._device = device
        self._shapes = shapes
        self._graphs: dict[tuple[int, Shape], Graph] | None = None

    def prepare(self, frames: torch.Tensor, speakers: torch.Tensor | None) -> None:
        """Capture all graphs, unless that is done: it takes seconds, which the worker spends when it warms a model up.

        Args:
            frames: [1, C, L] as those that will be decoded, of any length.
            speakers: [1, E, 1] or None, likewise.
        """
        if self._graphs is not None:
            return
        import torch

        self._graphs = {}
        pool = torch.cuda.graph_pool_handle()
        # The largest first: what it needs is enough for all others, which never run at the same time.
        batches = [
            (rows, shape)
            for shape in sorted(self._shapes, key=lambda shape: shape.length, reverse=True)
            for rows in (1 << k for k in reversed(range(rows_at_most(shape.length).bit_length())))
        ]
        try:
            with torch.cuda.device(self._device):
                for rows, shape in batches:
                    self._graphs[rows, shape] = self._capture(rows, shape, frames, speakers, pool)
        except RuntimeError as error:
            self._graphs.clear()
            log.warning("no CUDA graphs, decoding without them", device=self._device, reason=str(error))

    def __call__(self, frames: torch.Tensor, speakers: torch.Tensor | None, keep: Keep) -> torch.Tensor:
        """Decode a batch.

        Args:
            frames: [B, C, L] on the device; B is at most `rows_at_most(L)`.
            speakers: [B, E, 1] on the device, or None.
            keep: Frames whose samples are wanted, the first and the one after the last.

        Returns:
            [B, S] on the device; copy it, in the same stream, before the next call.
        """
        rows, length = frames.shape[0], frames.shape[2]
        graph = (self._graphs or {}).get((rows_captured(rows), Shape(length, *keep)))
        return graph(frames, speakers)[0] if graph else self._decode(frames, speakers, keep)

    def _capture(
        self,
        rows: int,
        shape: Shape,
        frames: torch.Tensor,
        speakers: torch.Tensor | None,
        pool: Any,  # noqa: ANN401  # Its type is torch's own affair.
    ) -> Graph:
        still = frames.new_zeros(rows, frames.shape[1], shape.length)
        nobody = None if speakers is None else speakers.new_zeros(rows, *speakers.shape[1:])
        keep = shape.first, shape.stop
        return capture(lambda still, nobody: [self._decode(still, nobody, keep)], [still, nobody], pool)
