"""Runs the networks of CSM for several utterances at once, a frame of each at a time; knows no text and no engine.

A `Line` is a segment while it is spoken. Lines join and leave between two frames:

    prefill  the backbone reads all of a prompt but its last position
    step     one position of the backbone, from which the first code of a frame is drawn, and a pass of the depth
             decoder for each of the others (32 positions, which no other frame sees); what was drawn is the next input
    decode   the codec turns frames into sound

The codes of a line are those it has alone: it has keys, values and random numbers of its own, and batches change no
more than the rounding.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from worker.engines.graphs import RowGraphs
from worker.engines.kv_cache import SlotCache, Slots
from worker.engines.prefill import Prefill
from worker.engines.sampling import Draws, Sampler, Sampling, draw
from worker.engines.seanet import FrameDecoding, SeanetSlots
from worker.engines.stages import Stage

if TYPE_CHECKING:
    from torch import Tensor

SLOTS = {"cpu": 8, "cuda": 32}
"""Lines at once. Each takes 64 KB for a position in the numbers of `sesame/csm-1b` on a CPU, 32 KB on a GPU."""

PREFILLS = {"cpu": 1, "cuda": 8}
"""Prompts read at once: a CPU has its hands full with one."""

FEW = 64
"""Likeliest codes that a graph looks for; one that is captured when somebody wants more of them takes longer."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Line:
    """A segment while it is spoken.

    Attributes:
        slot: Its place in the caches.
        prompt: [T, H]: its prompt, embedded; T >= 2.
        frames_left: How many more frames it may have; 0 when it is over.
        draws: Its random numbers.
        first: How the first code of a frame is drawn.
        rest: How the others are.
        length: Positions that the backbone has read.
        input: [H]: what it reads next.
        frames: int64 [C] each: frames that are not decoded yet.
        lead_s: What its listener had in hand when that was last asked, in seconds of audio.
    """

    slot: int
    prompt: Tensor
    frames_left: int
    draws: Draws
    first: Sampling
    rest: Sampling
    length: int = 0
    input: Tensor = field(init=False)
    frames: list[Tensor] = field(default_factory=list)
    lead_s: float = 0.0

    def __post_init__(self) -> None:
        self.input = self.prompt[-1]


class Network:
    """The networks, and the places in them.

    Args:
        model: `CsmForConditionalGeneration`, on the device.
        device: `cpu` or `cuda:N`.

    Attributes:
        slots: Places of lines.
        num_slots: How many there are.
        prefill: Reads a line's prompt.
        step: Makes its next frame.
        decode: Turns frames into float32 [S]; empty while it is better to wait for more of them.

    Raises:
        UnsupportedModel: The codec looks ahead.
    """

    def __init__(self, model: Any, device: str) -> None:  # noqa: ANN401  # transformers is not typed.
        self.model, self.device = model, device
        kind = device.partition(":")[0]
        self.num_slots = SLOTS[kind]
        self.slots = Slots(self.num_slots)
        self.past = SlotCache(
            model.config,
            num_slots=self.num_slots,
            longest=model.config.max_position_embeddings,
            like=model.lm_head.weight,
        )
        self.codec = SeanetSlots(model.codec_model.decoder, self.num_slots)
        self.prefill = Prefill[Line](self, PREFILLS[kind])
        self.step = Step(self)
        self.decode = FrameDecoding[Line](self.codec, self.num_slots, self._as_codec_takes_them)

    def embed(self, codes: Tensor) -> Tensor:
        """Embed frames, int64 [T, C], as [T, H]."""
        embedded: Tensor = self.model.backbone_model.embed_tokens(codes[None])[0]
        return embedded

    def clear(self, line: Line) -> None:
        """Forget what was said in a line's slot."""
        self.past.clear(line.slot)
        self.codec.clear(line.slot)

    def read_prompts(self, lines: Sequence[Line], prompts: Tensor) -> None:
        """Have the backbone read the beginnings of prompts, [B, T, H]."""
        self.read(lines, prompts)

    def read(self, lines: Sequence[Line], inputs: Tensor) -> Tensor:
        """Have the backbone read what comes next, [B, T, H]; what it makes of it has the same shape."""
        span = self.past.span([line.slot for line in lines], [line.length for line in lines], inputs.shape[1])
        read: Tensor = self.model.backbone_model(
            inputs_embeds=inputs,
            attention_mask=span.mask,
            position_ids=span.position_ids,
            past_key_values=span,
            use_cache=True,
        ).last_hidden_state
        return read

    def _as_codec_takes_them(self, frames: Tensor) -> Tensor:
        codec = self.model.codec_model
        # The vocabulary has a few codes more, which speech has no use for; a GPU does not survive one here.
        latents: Tensor = codec.quantizer.decode(frames.mT.clamp(max=codec.config.codebook_size - 1))
        return latents


class Step(Stage[Line, None]):
    """Makes the next frame of every line."""

    name = "step"

    def __init__(self, network: Network) -> None:
        self._network, self.limit = network, network.num_slots
        config = network.model.config
        self._num_codes, self._vocabulary = config.num_codebooks, config.vocab_size
        self._end = config.codebook_eos_token_id
        self._has_graphs = network.device != "cpu"
        self._graphs: dict[int, RowGraphs] = {}

    def run(self, items: Sequence[Line], size: Hashable) -> list[None]:
        """Read, draw, and tell which lines are over."""
        import torch

        lines = sorted(items, key=lambda line: line.slot)  # Neighbours are read without a copy.
        inputs = torch.stack([line.input for line in lines])[:, None]
        # Before the backbone, since to bring numbers to a GPU waits for what it was given before.
        first = Sampler([line.first for line in lines], inputs.device)
        rest = Sampler([line.rest for line in lines], inputs.device)
        read = self._network.read(lines, inputs)[:, 0]
        noise = torch.empty(len(lines), self._num_codes, self._vocabulary, device=read.device)
        for line, numbers in zip(lines, noise, strict=True):
            line.draws.fill(numbers)
        codes = self._codes(read, noise, first, rest)
        following = self._network.embed(codes)
        is_end = codes == self._end
        # As in the library: the last code has no say in whether the line is over, but in whether its frame is heard.
        told = torch.stack([is_end[:, :-1].all(1), is_end.all(1)], 1).tolist()  # The wait for the device.
        for line, frame, embedded, (is_over, is_silent) in zip(lines, codes, following, told, strict=True):
            line.length += 1
            line.input = embedded
            line.frames_left = 0 if is_over else line.frames_left - 1
            if not is_silent:
                line.frames.append(frame)
        return [None] * len(items)

    def _codes(self, read: Tensor, noise: Tensor, first: Sampler, rest: Sampler) -> Tensor:
        """Draw a frame for each line, int64 [B, C]; on a GPU from graphs, since it is some 3000 small kernels."""
        inputs = read, noise, first.temperature, first.last, rest.temperature, rest.last
        most = max(first.most, rest.most)
        if not self._has_graphs:
            return self._draw(*inputs, most=most)[0]
        most = FEW if most <= FEW else self._vocabulary
        if most not in self._graphs:
            work = partial(self._draw, most=most)
            try:
                self._graphs[most] = RowGraphs(work, partial(_rows_like, inputs), self.limit, self._network.device)
            except RuntimeError as error:
                self._has_graphs = False
                log.warning("no CUDA graphs, going on without them", device=self._network.device, reason=str(error))
                return work(*inputs)[0]
        return self._graphs[most](*inputs)[0].clone()

    def _draw(
        self,
        read: Tensor,
        noise: Tensor,
        first_temperature: Tensor,
        first_last: Tensor,
        rest_temperature: Tensor,
        rest_last: Tensor,
        *,
        most: int,
    ) -> list[Tensor]:
        """Draw a frame for each line; work of the device alone, in shapes that depend on nothing but B.

        Args:
            read: [B, H]: what the backbone made of the last frame.
            noise: float32 [B, C, V].
            first_temperature: Of the `Sampler` of the first code.
            first_last: Likewise.
            rest_temperature: Of that of the others.
            rest_last: Likewise.
            most: The larger of both.

        Returns:
            int64 [B, C] alone.
        """
        import torch

        model = self._network.model
        depth, heads = model.depth_decoder.model, model.depth_decoder.codebooks_head.weight
        # Not the model but its layers: what it does around them, in each of 31 passes, is the same for every frame.
        turns = depth.rotary_emb(read, torch.arange(self._num_codes, device=read.device)[None])
        past = Past()
        codes = [draw(model.lm_head(read), noise[:, 0], first_temperature, first_last, most)]
        inputs, start = read[:, None], 0
        for number in range(1, self._num_codes):
            embedded = depth.embed_tokens(codes[-1] + (number - 1) * self._vocabulary)[:, None]
            inputs = torch.cat([inputs, embedded], 1) if number == 1 else embedded
            hidden = depth.inputs_embeds_projector(inputs)
            for layer in depth.layers:
                hidden = layer(
                    hidden,
                    past_key_values=past,
                    use_cache=True,
                    position_embeddings=tuple(turn[:, start : number + 1] for turn in turns),
                )
            logits = depth.norm(hidden[:, -1]) @ heads[number - 1]
            codes.append(draw(logits, noise[:, number], rest_temperature, rest_last, most))
            start = number + 1
        return [torch.stack(codes, 1)]


class Past:
    """Keys and values of one frame; what the library calls `past_key_values`. Its own would ask what it has got."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keep what is new and give what is there, [B, heads, T, dim] each; called by the attention of each layer."""
        import torch

        if layer_idx in self._layers:
            before = self._layers[layer_idx]
            keys, values = (torch.cat(pair, 2) for pair in zip(before, (keys, values), strict=True))
        self._layers[layer_idx] = keys, values
        return keys, values


def _rows_like(inputs: Sequence[Tensor], count: int) -> list[Tensor]:
    """Make inputs of so many rows, all like the first."""
    return [each[:1].expand(count, *each.shape[1:]).contiguous() for each in inputs]
