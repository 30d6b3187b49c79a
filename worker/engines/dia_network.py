"""Runs the networks of Dia for several utterances at once, a row of each at a time; knows no text and no engine.

A `Line` is a piece of speech while it is made. Lines join and leave between two rows:

    prefill  the encoder reads the text, and the decoder all of the prompt but its last row
    step     one row of the decoder: a token for each codebook, each codebook some rows behind the first (MusicGen's
             delay pattern, Copet et al. 2023), so that a frame of the codec is complete when the slowest has arrived
    decode   the Descript Audio Codec (DAC, Kumar et al. 2023) turns frames into sound: windows of them, with as many
             on either side as theirs depend on, which gives the samples of one decoding of the whole

Classifier-free guidance compares the decoder with one from which the text is hidden, so a guided line has two places
in its cache, which go through the decoder side by side. The library hides a text behind as many zeros as it has bytes.
The encoder makes the same of each of them, since its values carry no positions, and to attend to what is the same
everywhere gives just that. So the attention of each layer to a hidden text is one vector, computed once.

The tokens of a line are those it has alone: it has keys, values and random numbers of its own, and batches change no
more than the rounding.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.engines.base import Samples
from worker.engines.kv_cache import GRAIN, SlotCache, Slots
from worker.engines.sampling import Draws
from worker.engines.stages import Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SLOTS = {"cpu": 8, "cuda": 16}
"""Lines at once. In the numbers of `nari-labs/Dia-1.6B-0626` on a CPU each takes 144 KB for a row and 288 KB for a byte
of text; half of that on a GPU."""

FIRST_WINDOW = 8
LONGEST_WINDOW = 64
"""Frames decoded at once: few at first, for early audio; more later, since the frames around them cost the same for
all."""

WAITING = 5
"""How many times the length of the frames that are waited for beyond the first window a listener must have in hand."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of a line are drawn.

    Attributes:
        guidance_scale: At least 1, which is no guidance.
        temperature: Above 0.
        top_k: How many likeliest tokens are drawn from; with guidance the likeliest by that.
        top_p: In (0, 1]: the share of the probability that is drawn from.
    """

    guidance_scale: float
    temperature: float
    top_k: int
    top_p: float

    @property
    def is_guided(self) -> bool:
        """Whether a decoder without the text is asked as well."""
        return self.guidance_scale != 1


@dataclass(slots=True, eq=False)
class Line:
    """A piece of speech while it is made.

    Attributes:
        slot: Its place in the caches.
        text: int64 [L]: its text in bytes; L >= 1.
        given: int64 [P + D, C]: the P rows that it begins with, P >= 1, and what they tell of the next D, D the longest
            delay; padding where a token is to be drawn.
        num_frames: How many frames it may have; how many it has when that is known.
        draws: Its random numbers.
        sampling: How it draws.
        length: Rows that the decoder has read.
        rows: int64 [C] each: what has been drawn.
        num_complete: Frames of which all tokens are there.
        num_heard: Frames that are decoded.
        lead_s: What its listener had in hand when that was last asked, in seconds of audio.
    """

    slot: int
    text: Tensor
    given: Tensor
    num_frames: int
    draws: Draws
    sampling: Sampling
    length: int = 0
    rows: list[Tensor] = field(default_factory=list)
    num_complete: int = 0
    num_heard: int = 0
    lead_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether all of its frames are there."""
        return self.num_complete == self.num_frames


class Network:
    """The networks, and the places in them.

    Args:
        model: `DiaForConditionalGeneration`, on the device.
        codec: `DacModel`, likewise; its upsampling ratios are even.
        longest: Rows that a line may have, those of its prompt among them.
        device: `cpu` or `cuda:N`.

    Attributes:
        slots: Places of lines.
        num_slots: How many there are.
        delays: Rows by which each codebook is behind, the first one 0.
        halo: Frames on either side that the samples of a frame depend on.
        hop_length: Samples of a frame.
        prefill: Reads a line's prompt.
        step: Makes its next row.
        decode: Turns frames into float32 [S]; empty while it is better to wait for more of them.
    """

    def __init__(self, model: Any, codec: Any, longest: int, device: str) -> None:  # noqa: ANN401  # Not typed.
        self.model, self.codec, self.device = model, codec, device
        self.delays: list[int] = list(model.config.delay_pattern)
        self.halo = dac_halo(codec.config.upsampling_ratios)
        self.hop_length: int = math.prod(codec.config.upsampling_ratios)
        kind = device.partition(":")[0]
        self.num_slots = SLOTS[kind]
        self.slots = Slots(self.num_slots)
        decoder, like = model.model.decoder, model.logits_dense.weight
        # A line's two places lie next to each other: first the one with the text.
        self.past = SlotCache(decoder.config, num_slots=2 * self.num_slots, longest=longest, like=like)
        self.texts = Texts([layer.cross_attention for layer in decoder.layers], self.num_slots, like)
        self._blank = self._read_nothing()
        self.prefill = Prefill(self)
        self.step = Step(self)
        self.decode = Decode(self)

    def read(self, lines: Sequence[Line], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Have the decoder read what comes next.

        Args:
            lines: B of them.
            rows: int64 [B, T, C].

        Returns:
            What it made of them with the text and without, [B, T, H] each; the same where a line is not guided.
        """
        import torch

        decoder = self.model.model.decoder
        places: list[int] = []
        of_line, told, untold = [], [], []
        for number, line in enumerate(lines):
            told.append(len(places))
            places += [2 * line.slot, 2 * line.slot + 1] if line.sampling.is_guided else [2 * line.slot]
            untold.append(len(places) - 1)
            of_line += [number] * (len(places) - told[-1])
        span = self.past.span(places, [lines[number].length for number in of_line], rows.shape[1])
        all_of, those_told, those_untold = (torch.tensor(each, device=rows.device) for each in (of_line, told, untold))
        heard = self.texts.of([line.slot for line in lines], [len(line.text) for line in lines])
        hidden = decoder.embeddings(rows[all_of])
        turns = decoder.rotary_emb(hidden, position_ids=span.position_ids)
        # Not the decoder but its layers, since only half of what goes through them attends to a text.
        for layer, blank, text in zip(decoder.layers, self._blank, heard, strict=True):
            attended, _ = layer.self_attention(layer.pre_sa_norm(hidden), turns, span.mask, span)
            hidden = hidden + attended
            crossed = blank.repeat(*hidden.shape[:2], 1)
            crossed[those_told] = _attend(layer.cross_attention, layer.pre_ca_norm(hidden[those_told]), *text)
            hidden = hidden + crossed
            hidden = hidden + layer.mlp(layer.pre_mlp_norm(hidden))
        hidden = decoder.norm(hidden)
        return hidden[those_told], hidden[those_untold]

    def _read_nothing(self) -> list[Tensor]:
        """What the attention of each layer to a hidden text comes to, [H] each."""
        import torch

        encoded = self.model.model.encoder(torch.zeros(1, 1, dtype=torch.int64, device=self.device)).last_hidden_state
        blank = []
        for layer in self.model.model.decoder.layers:
            attention = layer.cross_attention
            values = attention.v_proj(encoded[0, 0]).view(-1, attention.head_dim)
            blank.append(attention.o_proj(values.repeat_interleave(attention.num_key_value_groups, 0).flatten()))
        return blank


class Texts:
    """Keys and values of the lines' texts for the cross-attention of every layer, [slots, bytes, heads, dim] each.

    Args:
        layers: The `DiaCrossAttention` of each layer.
        num_slots: How many lines have a place.
        like: A tensor with the type and on the device of the keys.
    """

    def __init__(self, layers: Sequence[Any], num_slots: int, like: Tensor) -> None:
        self._layers = layers
        self._held = [
            tuple(like.new_zeros(num_slots, GRAIN, layer.num_key_value_heads, layer.head_dim) for _ in range(2))
            for layer in layers
        ]

    def put(self, slots: Sequence[int], encoded: Tensor) -> None:
        """Keep what the encoder made of some texts, [B, L, H]."""
        import torch

        length = encoded.shape[1]
        index = torch.tensor(slots, device=encoded.device)
        for number, layer in enumerate(self._layers):
            held = self._held[number] = tuple(_grown(each, length) for each in self._held[number])
            for each, projection in zip(held, (layer.k_proj, layer.v_proj), strict=True):
                each[index, :length] = projection(encoded).view(*encoded.shape[:2], -1, layer.head_dim)
                each[index, length:] = 0  # A mask does not mend what is not finite.

    def of(self, slots: Sequence[int], lengths: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Give keys and values of some texts for each layer, [B, heads, L, dim], and a mask, bool [B, 1, 1, L]."""
        import torch

        longest, first = -(-max(lengths) // GRAIN) * GRAIN, slots[0]
        device = self._held[0][0].device
        is_dense = list(slots) == list(range(first, first + len(slots)))
        rows = slice(first, first + len(slots)) if is_dense else torch.tensor(slots, device=device)
        ends = torch.tensor(lengths, device=device)[:, None, None, None]
        mask = torch.arange(longest, device=device) < ends
        return [
            (keys[:, :longest][rows].transpose(1, 2), values[:, :longest][rows].transpose(1, 2), mask)
            for keys, values in self._held
        ]


def _grown(held: Tensor, length: int) -> Tensor:
    """Make room for texts of a length, rounded up."""
    length = -(-length // GRAIN) * GRAIN
    if length <= held.shape[1]:
        return held
    grown = held.new_zeros(held.shape[0], length, *held.shape[2:])
    grown[:, : held.shape[1]] = held
    return grown


def _attend(attention: Any, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
    """Do what a `DiaCrossAttention` does, [B, T, H] to [B, T, H], with keys and values that are there."""
    import torch

    queries = attention.q_proj(hidden).view(*hidden.shape[:2], -1, attention.head_dim).transpose(1, 2)
    groups = attention.num_key_value_groups
    attended = torch.nn.functional.scaled_dot_product_attention(
        queries,
        keys.repeat_interleave(groups, 1) if groups > 1 else keys,
        values.repeat_interleave(groups, 1) if groups > 1 else values,
        attn_mask=mask,
        scale=attention.scaling,
    )
    crossed: Tensor = attention.o_proj(attended.transpose(1, 2).flatten(2))
    return crossed


class Prefill(Stage[Line, None]):
    """Reads texts and prompts.

    Those who set out together should meet at the first step, since some 30 of them come before the first sound. So
    texts of any length go together; prompts, which a recording makes long, if they are about equally long.
    """

    name = "prefill"

    def __init__(self, network: Network) -> None:
        self._network, self.limit = network, network.num_slots

    def size(self, item: Line, lead_s: float) -> int:
        """Rows, rounded up."""
        return -(-len(item.given) // GRAIN)

    def run(self, items: Sequence[Line], size: Hashable) -> list[None]:
        """Read the texts, and all but the last row, which is the first step's."""
        import torch

        network, device = self._network, items[0].text.device
        for line in items:
            for part in (0, 1):
                network.past.clear(2 * line.slot + part)
        pad = torch.nn.utils.rnn.pad_sequence
        ends = torch.tensor([[len(line.text)] for line in items], device=device)
        texts = pad([line.text for line in items], batch_first=True)
        mask = torch.arange(texts.shape[1], device=device) < ends
        encoded = network.model.model.encoder(texts, attention_mask=mask).last_hidden_state
        network.texts.put([line.slot for line in items], encoded)
        prompts = [line.given[: -max(network.delays) - 1] for line in items]
        # On the right, where it is not seen by what comes before it, and overwritten by what comes after.
        rows = pad(prompts, batch_first=True)
        if rows.shape[1]:
            network.read(items, rows)
        for line, prompt in zip(items, prompts, strict=True):
            line.length = len(prompt)
        return [None] * len(items)


class Step(Stage[Line, None]):
    """Makes the next row of every line."""

    name = "step"

    def __init__(self, network: Network) -> None:
        import torch

        self._network, self.limit = network, network.num_slots
        config = network.model.config.decoder_config
        self._vocabulary, self._end, self._pad = config.vocab_size, config.eos_token_id, config.pad_token_id
        self._is_random: bool = network.model.generation_config.do_sample
        self._delays = torch.tensor(network.delays, device=network.device)
        self._free = torch.full_like(self._delays, self._pad)

    def run(self, items: Sequence[Line], size: Hashable) -> list[None]:
        """Read, draw, and tell how far the lines have come."""
        import torch

        network, longest = self._network, max(self._network.delays)
        lines = sorted(items, key=lambda line: line.slot)  # Neighbours are read without a copy.
        rows = torch.stack([line.rows[-1] if line.rows else line.given[-longest - 1] for line in lines])
        # Before the decoder, since to bring numbers to a GPU waits for what it was given before.
        sampler = Sampler([line.sampling for line in lines], self._end, network.device)
        since = torch.tensor([[len(line.rows) - line.num_frames] for line in lines], device=network.device)
        given = torch.stack([self._given(line, longest) for line in lines])
        told, untold = (
            network.model.logits_dense(hidden[:, -1]).view(*rows.shape, self._vocabulary).float()
            for hidden in network.read(lines, rows[:, None])
        )
        noise = torch.ones_like(told)
        if self._is_random:
            for line, numbers in zip(lines, noise, strict=True):
                line.draws.fill(numbers)
        drawn = sampler.draw(told, untold, noise)
        is_end = drawn[:, :1] == self._end
        # When the first codebook has ended the others end one by one, as far behind as they are.
        past = since.where((since >= 0) | ~is_end, 0) - self._delays
        drawn = drawn.where(past < 0, self._pad).where(past != 0, self._end)
        drawn = drawn.where(given == self._pad, given)
        for line, row, (has_ended,) in zip(lines, drawn, is_end.tolist(), strict=True):  # The wait for the device.
            if has_ended:
                line.num_frames = min(line.num_frames, len(line.rows))
            line.length += 1
            line.rows.append(row)
            line.num_complete = max(0, min(len(line.rows) - longest, line.num_frames))
        return [None] * len(items)

    def _given(self, line: Line, longest: int) -> Tensor:
        """What is known of a line's next row, int64 [C]."""
        at = len(line.rows)
        return line.given[at - longest] if at < longest else self._free


class Sampler:
    """Draws for the rows of one batch as the library does; nothing in it waits for the device.

    A token is drawn by what the decoder says with the text. Guidance only chooses among which: those that are likeliest
    when what the text changes is exaggerated.

    Args:
        lines: How each of the B lines draws.
        end: Token of the first codebook that ends the frames. Those above it have no meaning.
        device: Where the scores are.
    """

    def __init__(self, lines: Sequence[Sampling], end: int, device: str | torch.device) -> None:
        import torch

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None, None]

        self._end = end
        self._most = max(line.top_k for line in lines)
        self._last = column([line.top_k - 1 for line in lines], torch.int64)
        self._scale = column([line.guidance_scale for line in lines], torch.float32)
        self._is_guided = column([line.is_guided for line in lines], torch.bool)
        self._temperature = column([line.temperature for line in lines], torch.float32)
        self._unlikely = column([1 - line.top_p for line in lines], torch.float32)

    def draw(self, told: Tensor, untold: Tensor, noise: Tensor) -> Tensor:
        """Draw a row of tokens for each line.

        Args:
            told: float32 [B, C, V]: scores with the text.
            untold: float32 [B, C, V]: scores without it.
            noise: float32 [B, C, V], positive: the lines' numbers from their `Draws`.

        Returns:
            int64 [B, C], below V.
        """
        nothing = -float("inf")
        guided = told + (told - untold) * self._scale
        scores = told.masked_fill(self._is_guided & (guided < self._likeliest(guided)[1]), nothing) / self._temperature
        scores[:, 1:, self._end :] = nothing
        scores[:, 0, self._end + 1 :] = nothing
        # The end comes when it is likeliest, and never by chance.
        is_end = scores[:, 0].argmax(-1, keepdim=True) == self._end
        scores[:, 0, : self._end].masked_fill_(is_end, nothing)
        scores[:, 0, self._end :].masked_fill_(~is_end, nothing)
        likeliest, least = self._likeliest(scores)
        ascending = likeliest.masked_fill(likeliest < least, nothing).flip(-1)
        is_unlikely = ascending.softmax(-1).cumsum(-1) <= self._unlikely
        is_unlikely[..., -1] = False
        least = ascending.masked_fill(is_unlikely, float("inf")).amin(-1, keepdim=True)
        return (scores.masked_fill(scores < least, nothing).softmax(-1) / noise).argmax(-1)

    def _likeliest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Give the scores of the likeliest tokens, [B, C, K] from the largest, and the least of each line's own."""
        likeliest = scores.topk(min(self._most, scores.shape[-1])).values
        last = self._last.clamp(max=likeliest.shape[-1] - 1).expand(*likeliest.shape[:2], 1)
        return likeliest, likeliest.gather(-1, last)


class Decode(Stage[Line, Samples]):
    """Turns frames into sound: the first at once, later ones more together where the listener can wait."""

    name = "decode"

    def __init__(self, network: Network) -> None:
        self._network, self.limit = network, network.num_slots
        self._frame_s = network.hop_length / network.codec.config.sampling_rate

    def size(self, item: Line, lead_s: float) -> None:
        """Note what the listener has in hand. All lines go together, so that they meet at the next step too."""
        item.lead_s = lead_s

    def is_worthwhile(self, line: Line) -> bool:
        """Whether there may be something to decode."""
        num_waiting = line.num_complete - line.num_heard
        return num_waiting >= FIRST_WINDOW + self._network.halo or (line.is_over and num_waiting > 0)

    def run(self, items: Sequence[Line], size: Hashable) -> list[Samples]:
        """Decode the lines that do not wait, together where they have as many frames."""
        import torch

        halo, hop_length = self._network.halo, self._network.hop_length
        together = defaultdict(list)
        for line in sorted(items, key=lambda line: line.slot):
            stop = line.num_complete if line.is_over else line.num_heard + self._window(line.lead_s)
            first, last = max(0, line.num_heard - halo), min(stop + halo, line.num_complete)
            if line.is_over or stop + halo <= line.num_complete:
                together[last - first].append((line, first, stop))
        samples = {line: np.zeros(0, np.float32) for line in items}
        for num_frames, windows in together.items():
            codes = torch.stack([self._codes(line, first, num_frames) for line, first, _ in windows])
            sound = self._network.codec.decode(audio_codes=codes).audio_values.float().cpu().numpy()
            for (line, first, stop), heard in zip(windows, sound, strict=True):
                samples[line] = heard[(line.num_heard - first) * hop_length : (stop - first) * hop_length]
                line.num_heard = stop
        return [samples[line] for line in items]

    def _window(self, lead_s: float) -> int:
        """Frames to decode at once: the first window, doubled while the listener can wait for that."""
        window = FIRST_WINDOW
        while window < LONGEST_WINDOW and lead_s >= WAITING * (2 * window - FIRST_WINDOW) * self._frame_s:
            window *= 2
        return window

    def _codes(self, line: Line, first: int, num_frames: int) -> Tensor:
        """Collect the tokens of frames from the rows in which they came, int64 [C, T]."""
        import torch

        delays = self._network.delays
        rows = torch.stack(line.rows[first : first + num_frames + max(delays)], -1)
        return torch.stack([rows[k, delay : delay + num_frames] for k, delay in enumerate(delays)])


def dac_halo(upsampling_ratios: Sequence[int]) -> int:
    """How many frames on either side a frame's samples depend on, in the decoder of the DAC.

    It is a convolution of width 7, then for each ratio r a transposed one of width 2 r and stride r and three residual
    units of width 7 and dilations 1, 3 and 9, and last a convolution of width 7.

    Args:
        upsampling_ratios: In the order of the decoder.

    Returns:
        Frames, 10 for (8, 8, 4, 2).
    """
    edge, units = 3, 3 * (1 + 3 + 9)
    first, last = -edge, math.prod(upsampling_ratios) - 1 + edge
    for ratio in reversed(upsampling_ratios):
        first, last = first - units, last + units
        padding = math.ceil(ratio / 2)
        first, last = math.ceil((first + padding - (2 * ratio - 1)) / ratio), (last + padding) // ratio
    return max(edge - first, last + edge)
