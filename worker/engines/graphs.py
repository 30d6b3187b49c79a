"""Runs work of fixed shapes on a CUDA device from graphs; knows no model.

Many a network is hundreds of small kernels, which the processor takes longer to launch than the device to run. A graph
launches them all at once, but for one shape only: so batches are filled up to a few sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def rows_captured(rows: int) -> int:
    """Rows of the graph that so many rows are run with: the next power of two."""
    return 1 << (rows - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Graph:
    """Work on tensors of fixed shapes.

    Attributes:
        graph: What is replayed.
        inputs: [B, ...] each, where it reads; None where there is nothing to be read.
        outputs: [B, ...] each, where it writes. The next graph of the same pool that is replayed writes there too.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[torch.Tensor | None]
    outputs: Sequence[torch.Tensor]

    def __call__(self, *inputs: torch.Tensor | None) -> list[torch.Tensor]:
        """Run it for at most B rows: copy the outputs, in the same stream, before the next call.

        Args:
            inputs: As those that it was captured with, of so many rows.
        """
        # The other rows keep what they had: nobody listens to them.
        num_rows = next(len(new) for new in inputs if new is not None)
        for place, new in zip(self.inputs, inputs, strict=True):
            if place is not None and new is not None:
                place[:num_rows].copy_(new)
        self.graph.replay()
        return [output[:num_rows] for output in self.outputs]


def capture(
    work: Callable[..., Sequence[torch.Tensor]],
    inputs: Sequence[torch.Tensor | None],
    pool: Any,  # noqa: ANN401  # Its type is torch's own affair.
) -> Graph:
    """Capture work of the current device.

    Args:
        work: Called with the inputs. It must not look at what is in them, nor draw random numbers.
        inputs: Tensors that the graph shall read from, [B, ...] each.
        pool: Memory that graphs share which never run at the same time.

    Raises:
        RuntimeError: The work cannot be captured.
    """
    import torch

    work(*inputs)  # Algorithms are chosen in the first run, and must not be in a capture.
    graph = torch.cuda.CUDAGraph()
    # Other models may be loading, or working, on other threads meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        outputs = work(*inputs)
    return Graph(graph, inputs, outputs)


class RowGraphs:
    """Work on 1, 2, 4 and more rows, captured at once: that takes seconds. Called on one thread at a time.

    Args:
        work: As for `capture`; it must not let a row change the others.
        example: Makes its inputs for so many rows.
        most_rows: Most rows of a call, a power of two.
        device: `cuda:N`.
        pool: Memory that graphs share which never run at the same time; their own if None.

    Raises:
        RuntimeError: The work cannot be captured.
    """

    def __init__(
        self,
        work: Callable[..., Sequence[torch.Tensor]],
        example: Callable[[int], Sequence[torch.Tensor | None]],
        most_rows: int,
        device: str,
        pool: Any = None,  # noqa: ANN401  # Its type is torch's own affair.
    ) -> None:
        import torch

        pool = pool or torch.cuda.graph_pool_handle()
        self._graphs: dict[int, Graph] = {}
        with torch.cuda.device(device):
            # The largest first: what it needs is enough for all others.
            for rows in (1 << k for k in reversed(range(most_rows.bit_length()))):
                self._graphs[rows] = capture(work, example(rows), pool)

    def __call__(self, *inputs: torch.Tensor | None) -> list[torch.Tensor]:
        """Run it; what `Graph` says holds."""
        num_rows = next(len(new) for new in inputs if new is not None)
        return self._graphs[rows_captured(num_rows)](*inputs)
