"""Reads the prompts of utterances that one transformer speaks together; knows no model family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from worker.engines.kv_cache import GRAIN
from worker.engines.stages import Stage

if TYPE_CHECKING:
    from torch import Tensor


class Line(Protocol):
    """A segment while it is spoken.

    Attributes:
        prompt: [T, H], embedded.
        length: Positions that have been read.
    """

    prompt: Tensor
    length: int


L = TypeVar("L", bound=Line)
Read = TypeVar("Read", bound=Line, contravariant=True)


class Network(Protocol[Read]):
    """Who reads."""

    def clear(self, line: Read) -> None:
        """Forget what was said in a line's slot."""

    def read_prompts(self, lines: Sequence[Read], prompts: Tensor) -> None:
        """Read the beginnings of prompts, [B, T, H], from position 0 on."""


class Prefill(Stage[L, None]):
    """Reads prompts, of about equal length where there are several.

    Args:
        network: Who reads them.
        limit: Most prompts in one run.
    """

    name = "prefill"

    def __init__(self, network: Network[L], limit: int) -> None:
        self._network, self.limit = network, limit

    def size(self, item: L, lead_s: float) -> int:
        """Positions, rounded up."""
        return -(-len(item.prompt) // GRAIN)

    def run(self, items: Sequence[L], size: Hashable) -> list[None]:
        """Read all but the last position, which is the first step's."""
        import torch

        for line in items:
            self._network.clear(line)
            line.length = 0
        # On the right, where it is not seen by what comes before it, and overwritten by what comes after.
        prompts = torch.nn.utils.rnn.pad_sequence([line.prompt[:-1] for line in items], batch_first=True)
        self._network.read_prompts(items, prompts)
        for line in items:
            line.length = len(line.prompt) - 1
        return [None] * len(items)
