"""Runs the networks of Pocket TTS for several utterances at once, a frame of each at a time; knows no text, no engine.

A `Line` is a segment while it is spoken. Lines join and leave between two frames:

    prefill  the transformer reads all of a prompt but its last position
    step     one position of the transformer, whether the speech ends there, and the flow head, which makes a latent
             of noise; the latent is the next input
    decode   the codec turns latents into sound

The latents of a line are those it has alone: it has keys, values and noise of its own, and batches change no more than
the rounding. Lines that take another number of steps from noise to latent go through the flow head by themselves, and
with the others through all else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.engines.kv_cache import GRAIN, SlotCache, Slots
from worker.engines.seanet import FrameDecoding, SeanetSlots
from worker.engines.stages import Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SLOTS = {"cpu": 8, "cuda": 32}
"""Lines at once. Each takes 48 KB for a position in the numbers of `kyutai/pocket-tts` on a CPU, 24 KB on a GPU."""

PREFILLS = {"cpu": 1, "cuda": 8}
"""Prompts read at once: a CPU has its hands full with one."""

END_LOGIT, FEWEST_FRAMES = -4.0, 6
"""What the library takes where the checkpoint does not say at which logit speech ends, and after how many frames."""

Layers = Sequence[tuple["Tensor", "Tensor"]]
"""Keys and values of each layer, both [1, H, T, E] on the device."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the networks begin with.

    Attributes:
        before: What the transformer has made of the positions before `embedded`; empty if there are none.
        embedded: [T, H] on the device; T >= 2.
        most_frames: How many frames may follow.
        frames_after_end: How many follow the one in which speech ends.
    """

    before: Layers
    embedded: Tensor
    most_frames: int
    frames_after_end: int


@dataclass(slots=True, eq=False)
class Line:
    """A segment while it is spoken.

    Attributes:
        slot: Its place in the caches.
        prompt: What it begins with.
        generator: Its random numbers, drawn on the device.
        temperature: Variance of its noise.
        flow_steps: Steps from noise to latent.
        frames_left: How many more frames it may have; 0 when it is over.
        is_ending: Whether the last frames are counted.
        num_frames: How many it has had.
        length: Positions that the transformer has read.
        input: [H]: what it reads next.
        frames: [D] each: latents that are not decoded yet.
        lead_s: What its listener had in hand when that was last asked, in seconds of audio.
    """

    slot: int
    prompt: Prompt
    generator: torch.Generator
    temperature: float
    flow_steps: int
    frames_left: int = field(init=False)
    is_ending: bool = False
    num_frames: int = 0
    length: int = 0
    input: Tensor = field(init=False)
    frames: list[Tensor] = field(default_factory=list)
    lead_s: float = 0.0

    def __post_init__(self) -> None:
        self.frames_left = self.prompt.most_frames
        self.input = self.prompt.embedded[-1]


class Network:
    """The networks, and the places in them.

    Args:
        model: `PocketTTSForConditionalGeneration` or `GradiumPhononTTSForConditionalGeneration`, on the device.
        codec: `PocketTTSAudioTokenizerModel`, on the device.
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

    def __init__(self, model: Any, codec: Any, device: str) -> None:  # noqa: ANN401  # transformers is not typed.
        self.model, self._codec, self.device = model, codec, device
        kind = device.partition(":")[0]
        self.num_slots = SLOTS[kind]
        self.slots = Slots(self.num_slots)
        self.past = SlotCache(
            model.config,
            num_slots=self.num_slots,
            longest=model.config.max_position_embeddings,
            like=model.eos_head.weight,
        )
        self.codec = SeanetSlots(codec.decoder, self.num_slots)
        self.prefill = Prefill(self, PREFILLS[kind])
        self.step = Step(self)
        self.decode = FrameDecoding[Line](self.codec, self.num_slots, self._as_codec_takes_them)

    def read(self, lines: Sequence[Line], inputs: Tensor) -> Tensor:
        """Have the transformer read what comes next, [B, T, H]; what it makes of it has the same shape."""
        span = self.past.span([line.slot for line in lines], [line.length for line in lines], inputs.shape[1])
        transformer = self.model.model
        # Not the model but its layers: it would look for the places of latents among the inputs, and they are filled.
        turns = transformer.rotary_emb(inputs, span.position_ids)
        hidden = inputs
        for layer in transformer.layers:
            hidden = layer(
                hidden, attention_mask=span.mask, position_embeddings=turns, past_key_values=span, use_cache=True
            )
        read: Tensor = transformer.norm(hidden)
        return read

    def _as_codec_takes_them(self, frames: Tensor) -> Tensor:
        latents = self.model.denormalize_latents(frames).mT.to(self._codec.dtype)
        projected: Tensor = self._codec.latent_proj(latents)
        return projected


class Prefill(Stage[Line, None]):
    """Reads prompts, of about equal length where there are several."""

    name = "prefill"

    def __init__(self, network: Network, limit: int) -> None:
        self._network, self.limit = network, limit

    def size(self, item: Line, lead_s: float) -> int:
        """Positions, rounded up."""
        return -(-len(item.prompt.embedded) // GRAIN)

    def run(self, items: Sequence[Line], size: Hashable) -> list[None]:
        """Read all but the last position, which is the first step's."""
        import torch

        network = self._network
        for line in items:
            network.past.clear(line.slot)
            network.codec.clear(line.slot)
            line.length = self._put(line.slot, line.prompt.before)
        # On the right, where it is not seen by what comes before it, and overwritten by what comes after.
        prompts = torch.nn.utils.rnn.pad_sequence([line.prompt.embedded[:-1] for line in items], batch_first=True)
        network.read(items, prompts)
        for line in items:
            line.length += len(line.prompt.embedded) - 1
        return [None] * len(items)

    def _put(self, slot: int, layers: Layers) -> int:
        """Begin a slot with keys and values that are there, and tell how many positions that makes."""
        if not layers:
            return 0
        length = layers[0][0].shape[2]
        span = self._network.past.span([slot], [0], length)
        for number, (keys, values) in enumerate(layers):
            span.update(keys, values, number)
        return length


class Step(Stage[Line, None]):
    """Makes the next frame of every line."""

    name = "step"

    def __init__(self, network: Network) -> None:
        self._network, self.limit = network, network.num_slots
        config = network.model.generation_config
        end_logit, fewest_frames = (getattr(config, name, None) for name in ("eos_threshold", "min_frames_before_eos"))
        self._end_logit = END_LOGIT if end_logit is None else end_logit
        self._fewest_frames = FEWEST_FRAMES if fewest_frames is None else fewest_frames
        self._is_random = config.do_sample

    def run(self, items: Sequence[Line], size: Hashable) -> list[None]:
        """Read, make latents, and tell which lines are over."""
        import torch

        network, model = self._network, self._network.model
        lines = sorted(items, key=lambda line: line.slot)  # Neighbours are read without a copy.
        inputs = torch.stack([line.input for line in lines])[:, None]
        # Before the transformer, since to bring numbers to a GPU waits for what it was given before.
        noise = self._noise(lines, inputs)
        read = network.read(lines, inputs)[:, 0]
        latents = self._flow(lines, read, noise)
        following = model.model.embed_audio_latents(latents)
        logits = model.eos_head(read)[:, 0].tolist()  # The wait for the device.
        for line, latent, embedded, logit in zip(lines, latents, following, logits, strict=True):
            line.length += 1
            line.input = embedded
            line.frames.append(latent)
            line.frames_left -= 1
            if not line.is_ending and logit > self._end_logit and line.num_frames >= self._fewest_frames:
                line.is_ending = True
                line.frames_left = min(line.frames_left, line.prompt.frames_after_end)
            line.num_frames += 1
        return [None] * len(items)

    def _noise(self, lines: Sequence[Line], like: Tensor) -> Tensor:
        """Draw the noise of one frame of each line, [B, D], as the library does after `torch.manual_seed`."""
        import torch

        noise = like.new_zeros(len(lines), self._network.model.config.latent_dim)
        if not self._is_random:
            return noise
        for line, numbers in zip(lines, noise, strict=True):
            numbers.normal_(generator=line.generator)
        scales = torch.tensor([[line.temperature] for line in lines], dtype=torch.float64).sqrt()
        return (noise * scales.to(like.device, torch.promote_types(noise.dtype, torch.float32))).to(noise.dtype)

    def _flow(self, lines: Sequence[Line], read: Tensor, noise: Tensor) -> Tensor:
        """Make the latents, [B, D], of what the transformer has read, [B, H]."""
        import torch

        model = self._network.model
        alike = defaultdict(list)
        for row, line in enumerate(lines):
            alike[line.flow_steps].append(row)
        if len(alike) == 1:
            latents: Tensor = model.sample_latent(read, noise, lines[0].flow_steps)
            return latents
        latents = torch.empty_like(noise)
        for flow_steps, rows in alike.items():
            latents[rows] = model.sample_latent(read[rows], noise[rows], flow_steps)
        return latents
