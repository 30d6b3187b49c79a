"""Keys and values of utterances that one transformer speaks together; knows no model and no scheduling.

Every utterance has a slot and a position of its own, so that rows join and leave a batch between two steps. What the
attention of transformers calls a cache is a `Span` here: the rows of one forward pass, with the mask and the positions
that make their attention what it is alone:

    slots = Slots(8)                                    # One for all caches of a model, on the host.
    cache = SlotCache(model.config, num_slots=8, longest=2048, like=model.lm_head.weight)

    slot = slots.take()                                 # When an utterance begins;
    cache.clear(slot)
    ...
    slots.give_back(slot)                               # when it ends, however it does.

    span = cache.span([3, 0], [17, 120])                # Slot 3 goes on at position 17, slot 0 at 120.
    model(
        inputs_embeds=embeddings,                       # [2, 1, H]
        attention_mask=span.mask,                       # Of four dimensions: taken as it is.
        position_ids=span.position_ids,
        past_key_values=span,
        use_cache=True,
    )

A prompt is the same with more new positions. Prompts of several lengths go together if they are padded on the right:
what is written for the padding lies behind the position that the row goes on at, where no mask lets it be seen, and is
overwritten when the row gets there. A cross-attention needs no such cache: its keys do not grow.

The masks are boolean, which the `sdpa` attention takes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

GRAIN = 64
"""Positions that a span's keys are rounded up to, so that few shapes occur."""

FIRST_LENGTH = 256
"""Positions that a cache has room for at first. It grows with what is spoken."""


class Slots:
    """Numbers of the places that are free; any thread may ask.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = set(range(count))
        self._lock = threading.Lock()

    def take(self) -> int:
        """Take the lowest free place: rows that lie next to each other are read without a copy.

        Raises:
            RuntimeError: All are taken; a model's `slots` keeps this from happening.
        """
        with self._lock:
            if not self._free:
                raise RuntimeError("more utterances are spoken at once than the model has slots")
            slot = min(self._free)
            self._free.remove(slot)
            return slot

    def give_back(self, slot: int) -> None:
        """Make a place free."""
        with self._lock:
            self._free.add(slot)


class SlotCache:
    """Keys and values of every layer, [slots, positions, heads, dim] each. Used on one thread.

    Args:
        config: Of the transformer, with `num_hidden_layers`, `num_key_value_heads` and `head_dim`.
        num_slots: How many utterances have a place.
        longest: Positions that one may take. With a window it is how many are kept: at least `window - 1` and as many
            as are new at once.
        like: A tensor with the type and on the device of the keys.
        window: How many positions back a query sees, itself among them; None for all.
    """

    def __init__(self, config: Any, *, num_slots: int, longest: int, like: Tensor, window: int | None = None) -> None:  # noqa: ANN401
        self.longest = longest
        self._window = window
        shape = (num_slots, min(FIRST_LENGTH, longest), config.num_key_value_heads, config.head_dim)
        self._keys = [like.new_zeros(shape) for _ in range(config.num_hidden_layers)]
        self._values = [like.new_zeros(shape) for _ in range(config.num_hidden_layers)]

    @property
    def length(self) -> int:
        """Positions that there is room for now."""
        return self._keys[0].shape[1]

    def clear(self, slot: int) -> None:
        """Forget what was said in a slot: a mask multiplies by 0, which does not mend what is not finite."""
        for tensor in (*self._keys, *self._values):
            tensor[slot].zero_()

    def span(self, slots: Sequence[int], positions: Sequence[int], num_new: int = 1) -> Span:
        """Prepare a forward pass.

        Args:
            slots: The B utterances in it, none twice.
            positions: Where each of them goes on: how many positions it has already.
            num_new: T, positions that are new in each row.

        Raises:
            ValueError: A row would grow longer than may be.
        """
        end = max(positions) + num_new
        if end > self.longest and not self._window:
            raise ValueError(f"a slot holds {self.longest} positions, not {end}")
        length = min(-(-end // GRAIN) * GRAIN, self.longest)
        self._grow(length)
        return Span(self._keys, self._values, slots, positions, num_new, length, self.longest, self._window)

    def _grow(self, length: int) -> None:
        if length <= self.length:
            return
        length = min(max(length, 2 * self.length), self.longest)
        for tensors in (self._keys, self._values):
            for layer, held in enumerate(tensors):
                tensors[layer] = held.new_zeros(held.shape[0], length, *held.shape[2:])
                tensors[layer][:, : held.shape[1]] = held


class Span:
    """The rows of one forward pass; what the library calls `past_key_values`. Made by `SlotCache.span`.

    Attributes:
        position_ids: int64 [B, T], positions of what is new.
        mask: bool [B, 1, T, L], True where a query sees a key; L keys, in the order in which they are kept.
    """

    def __init__(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        slots: Sequence[int],
        positions: Sequence[int],
        num_new: int,
        length: int,
        longest: int,
        window: int | None,
    ) -> None:
        import torch

        self._keys, self._values, self._length = keys, values, length
        device = keys[0].device
        first, count = slots[0], len(slots)
        index = torch.tensor(slots, device=device)
        is_dense = list(slots) == list(range(first, first + count))
        self._rows = slice(first, first + count) if is_dense else index
        starts = torch.tensor(positions, device=device)[:, None]
        self.position_ids = starts + torch.arange(num_new, device=device)
        # Position p is kept at p modulo `longest`, over the one that has left the window.
        self._new = (index[:, None], self.position_ids % longest)
        last = starts + num_new - 1
        held = (last - (last - torch.arange(length, device=device)) % longest)[
            :, None
        ]  # [B, 1, L], < 0 if there is none.
        query = self.position_ids[..., None]
        self.mask = ((held >= 0) & (held <= query) & (held > query - (window or longest)))[:, None]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keep what is new and give what is there; called by the attention of each layer.

        Args:
            keys: [B, heads, T, dim].
            values: Likewise.
            layer_idx: Which layer.

        Returns:
            Keys and values, [B, heads, L, dim].
        """
        return self._put(self._keys[layer_idx], keys), self._put(self._values[layer_idx], values)

    def _put(self, kept: Tensor, new: Tensor) -> Tensor:
        kept[self._new] = new.transpose(1, 2)
        return kept[:, : self._length][self._rows].transpose(1, 2)
