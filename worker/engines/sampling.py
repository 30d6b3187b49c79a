"""Draws tokens for several utterances at once, each with options and random numbers of its own; knows no model.

A token is drawn as torch and transformers draw one: the scores are divided by the temperature, all but the likeliest
`top_k` are struck out, and of the others that one is taken whose probability, divided by a number of its own from the
exponential distribution, is the largest (`torch.multinomial` does the same inside). The numbers are drawn for each
utterance by itself, so its tokens do not depend on who else is in the batch. On a CPU they are those that the library
would have drawn after `torch.manual_seed`.

    noise = torch.empty(len(rows), num_tokens, vocabulary, device=device)   # For all tokens of a step.
    for row, numbers in zip(rows, noise):
        row.draws.fill(numbers)
    sampler = Sampler([row.sampling for row in rows], device)
    tokens = sampler.draw(logits, noise[:, 0])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one utterance draws.

    Attributes:
        temperature: Above 0; what scores are divided by.
        top_k: At least 1; how many likeliest tokens are drawn from. 1 takes the likeliest.
    """

    temperature: float = 1.0
    top_k: int = 50


class Draws:
    """The random numbers of one utterance: the same for the same seed, whatever else is drawn.

    Args:
        seed: Starts them.
        device: Where they are drawn; another kind of device draws others.
    """

    def __init__(self, seed: int, device: str) -> None:
        import torch

        self._generator = torch.Generator(device).manual_seed(seed)

    def fill(self, numbers: Tensor) -> None:
        """Write the next numbers of the exponential distribution into a float tensor of any shape, on that device."""
        numbers.exponential_(generator=self._generator)


class Sampler:
    """Draws for the rows of one batch; nothing in it waits for the device.

    Args:
        rows: How each of the B rows draws.
        device: Where the scores are.

    Attributes:
        most: The largest `top_k`.
        temperature: float32 [B, 1], those of the rows.
        last: int64 [B, 1], `top_k` - 1 of the rows.
    """

    def __init__(self, rows: Sequence[Sampling], device: str | torch.device) -> None:
        import torch

        self.most = max(row.top_k for row in rows)
        self.temperature = torch.tensor([[row.temperature] for row in rows], dtype=torch.float32, device=device)
        self.last = torch.tensor([[row.top_k - 1] for row in rows], device=device)

    def draw(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Draw a token for each row; `draw` says what of."""
        return draw(logits, noise, self.temperature, self.last, self.most)


def draw(logits: Tensor, noise: Tensor, temperature: Tensor, last: Tensor, most: int) -> Tensor:
    """Draw a token for each row.

    Args:
        logits: [B, V], of any floating type.
        noise: float32 [B, V], positive: the rows' numbers from their `Draws`.
        temperature: float32 [B, 1].
        last: int64 [B, 1].
        most: How many likeliest tokens are looked for, more than any of `last`.

    Returns:
        int64 [B], below V.
    """
    scores = logits.float() / temperature
    likeliest = scores.topk(min(most, scores.shape[-1])).values
    least = likeliest.gather(1, last.clamp(max=likeliest.shape[-1] - 1))
    scores = scores.masked_fill(scores < least, -float("inf"))
    return (scores.softmax(-1) / noise).argmax(-1)
