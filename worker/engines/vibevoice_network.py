"""Runs the networks of VibeVoice for several utterances at once, a frame of each at a time; knows no text, no engine.

A `Line` is a segment while it is spoken. Lines join and leave between two frames:

    prefill  the language model reads all of a prompt but its last position
    step     the language model reads one position, and says a token that tells whether there is another frame. If so,
             the diffusion head refines noise to the frame's latent, the decoder turns that into samples, and an
             encoder listens to them; what the latent is and what was heard make the next position.

As that is a circle, the codec cannot wait for further frames. To follow the text more closely, both the token and the
latent are moved away from what they were without it (classifier-free guidance, Ho and Salimans 2022), so a line has
three rows in the language model:

    0  the prompt, and after it the frames
    1  the frames alone, for the latent
    2  the tokens alone, for the token: what transformers makes of a `guidance_scale` in any model, and so in this one

The samples of a line are those it has alone: it has keys, values, pasts of the convolutions and random numbers of its
own, and batches change no more than the rounding. Frames that are refined in different numbers of steps go through the
head one after the other.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.engines.base import Samples
from worker.engines.kv_cache import SlotCache, Slots
from worker.engines.prefill import Prefill
from worker.engines.stages import Stage
from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS = 3
"""Rows of a line in the language model."""

SLOTS = {"cpu": 4, "cuda": 16}
"""Lines at once. Each takes 168 KB for a position in the numbers of VibeVoice 1.5B on a CPU, 84 KB on a GPU."""

PREFILLS = {"cpu": 1, "cuda": 8}
"""Prompts read at once: a CPU has its hands full with one."""


@dataclass(slots=True, eq=False)
class Line:
    """A segment while it is spoken.

    Attributes:
        slot: Its place in the caches.
        prompt: [T, H]: its prompt, embedded; T >= 2. It ends with the token that begins speech, with which the rows
            without a prompt begin.
        tokens_left: How many more tokens it may have; 0 when it is over.
        noise: Its random numbers, on the CPU.
        guidance_scale: How closely it follows its prompt.
        num_diffusion_steps: Steps that each frame is refined in.
        length: Positions that the language model has read.
        num_frames: Those among them that are kept for the latent.
        input: [H]: what it reads next.
        token: [H]: the token that this stands for.
    """

    slot: int
    prompt: Tensor
    tokens_left: int
    noise: torch.Generator
    guidance_scale: float
    num_diffusion_steps: int
    length: int = 0
    num_frames: int = 0
    input: Tensor = field(init=False)
    token: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.input = self.token = self.prompt[-1]

    @property
    def rows(self) -> range:
        """Its rows in the language model, next to each other."""
        return range(ROWS * self.slot, ROWS * (self.slot + 1))

    @property
    def positions(self) -> tuple[int, int, int]:
        """Where each of them goes on."""
        return self.length, self.num_frames, self.length - len(self.prompt) + 1


class Network:
    """The networks, and the places in them.

    Args:
        model: `VibeVoiceForConditionalGeneration`, on the device.
        device: `cpu` or `cuda:N`.

    Attributes:
        slots: Places of lines.
        num_slots: How many there are.
        prefill: Reads a line's prompt.
        step: Makes its next frame: float32 [S], empty where the language model says something else.

    Raises:
        UnsupportedModel: The noise scheduler draws random numbers.
    """

    def __init__(self, model: Any, device: str) -> None:  # noqa: ANN401  # transformers is not typed.
        self.model, self.device = model, device
        kind = device.partition(":")[0]
        self.num_slots = SLOTS[kind]
        self.slots = Slots(self.num_slots)
        config = model.config.text_config
        layer = model.model.language_model.layers[0].self_attn
        self.past = SlotCache(
            SimpleNamespace(  # Configurations of Qwen 2 may lack the dimension of a head.
                num_hidden_layers=config.num_hidden_layers,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=layer.head_dim,
            ),
            num_slots=ROWS * self.num_slots,
            longest=config.max_position_embeddings,
            like=model.lm_head.weight,
        )
        self.decoder = ConvolutionSlots(model.model.audio_tower.decoder, self.num_slots)
        self.listener = ConvolutionSlots(model.model.semantic_tokenizer_encoder, self.num_slots)
        self.head = DiffusionHead(model)
        self.prefill = Prefill[Line](self, PREFILLS[kind])
        self.step = Step(self)

    def clear(self, line: Line) -> None:
        """Forget what was said in a line's slot."""
        for row in line.rows:
            self.past.clear(row)
        self.decoder.clear(line.slot)
        self.listener.clear(line.slot)

    def read_prompts(self, lines: Sequence[Line], prompts: Tensor) -> None:
        """Have the language model read the beginnings of prompts, [B, T, H]."""
        self._read([line.rows[0] for line in lines], [0] * len(lines), prompts)

    def read(self, lines: Sequence[Line]) -> Tensor:
        """Have it read what comes next.

        Args:
            lines: B lines, none twice. They are left as they are.

        Returns:
            [B, 3, H]: what it makes of it in each row.
        """
        import torch

        # Those of neighbours are neighbours, which are read without a copy.
        rows = [row for line in lines for row in line.rows]
        positions = [position for line in lines for position in line.positions]
        inputs = torch.stack([each for line in lines for each in (line.input, line.input, line.token)])
        return self._read(rows, positions, inputs[:, None]).view(len(lines), ROWS, -1)

    def _read(self, rows: Sequence[int], positions: Sequence[int], inputs: Tensor) -> Tensor:
        span = self.past.span(rows, positions, inputs.shape[1])
        read: Tensor = self.model.model.language_model(
            inputs_embeds=inputs,
            attention_mask=span.mask,
            position_ids=span.position_ids,
            past_key_values=span,
            use_cache=True,
        ).last_hidden_state
        return read

    def speak(self, slots: Sequence[int], latents: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a frame of each line into sound, and listen to it.

        Args:
            slots: Of the B lines, none twice.
            latents: [B, D].

        Returns:
            Samples, [B, S] in about [-1, 1], and what the language model is to read of them, [B, H].
        """
        model = self.model.model
        scaled = latents / model.latent_scaling_factor - model.latent_bias_factor
        sound: Tensor = self.decoder.push(slots, scaled[..., None]).audio
        heard = self.listener.push(slots, sound).latents[:, 0]
        return sound[:, 0], model.multi_modal_projector(latents) + model.semantic_connector(heard)


class Step(Stage[Line, Samples]):
    """Makes the next frame of every line."""

    name = "step"

    def __init__(self, network: Network) -> None:
        import torch

        self._network, self.limit = network, network.num_slots
        model, config = network.model, network.model.config
        self._frame, self._begin = config.audio_token_id, config.audio_bos_token_id
        end = model.generation_config.eos_token_id
        self._ends = set(end if isinstance(end, list) else [end])
        # Of all its vocabulary the model says these only; of equals the first one.
        said = sorted({self._begin, config.audio_eos_token_id, self._frame, config.eos_token_id})
        self._said = torch.tensor(said, device=network.device)
        self._scores = model.lm_head.weight[self._said]

    def run(self, items: Sequence[Line], size: Hashable) -> list[Samples]:
        """Read, make frames, and tell which lines are over."""
        import torch

        network = self._network
        lines = sorted(items, key=lambda line: line.slot)
        # Before the language model, since to bring numbers to a GPU waits for what it was given before.
        scales = torch.tensor([[line.guidance_scale] for line in lines], device=network.device)
        read = network.read(lines)
        tokens = self._choose(read, scales)
        embedded: Tensor = network.model.get_input_embeddings()(tokens)
        following = embedded.clone()
        told = tokens.tolist()  # A wait for the device: whether random numbers are drawn depends on it.
        samples = {line: np.zeros(0, np.float32) for line in lines}
        if frames := [number for number, token in enumerate(told) if token == self._frame]:
            speaking = [lines[number] for number in frames]
            rows = torch.tensor(frames, device=read.device)
            latents = network.head.sample(speaking, read[rows, :2], scales[rows])
            sound, following[rows] = network.speak([line.slot for line in speaking], latents)
            samples |= zip(speaking, sound.float().cpu().numpy(), strict=True)
        for number, (line, token) in enumerate(zip(lines, told, strict=True)):
            line.length += 1
            # Of what was read for the latent only frames are kept; nothing, where speech begins anew.
            line.num_frames = 0 if token == self._begin else line.num_frames + (token == self._frame)
            line.input, line.token = following[number], embedded[number]
            line.tokens_left = 0 if token in self._ends else line.tokens_left - 1
        return [samples[line] for line in items]

    def _choose(self, read: Tensor, scales: Tensor) -> Tensor:
        """Take the likeliest token: int64 [B] of what was read, [B, 3, H], and scales, float32 [B, 1]."""
        scores = (read[:, ::2] @ self._scores.T).float()
        guided, unguided = scores.unbind(1)
        # The library guides logarithms of probabilities, which differ from scores by the same for all tokens.
        return self._said[(unguided + scales * (guided - unguided)).argmax(-1)]


class DiffusionHead:
    """Refines noise to latents.

    Args:
        model: `VibeVoiceForConditionalGeneration`.

    Raises:
        UnsupportedModel: The noise scheduler draws random numbers, and not those of an utterance.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._head = model.model.diffusion_head
        self._size: int = model.config.audio_config.hidden_size
        self._scheduler = model._build_default_noise_scheduler(model.generation_config)
        self._prepared: dict[int, Any] = {}
        if self._is_random():
            raise UnsupportedModel(
                f"its noise scheduler ({type(self._scheduler).__name__}) draws random numbers in each step; "
                "only one that draws none is served",
                field="model",
            )

    def sample(self, lines: Sequence[Line], conditions: Tensor, scales: Tensor) -> Tensor:
        """Make the latents of a frame of each line.

        Args:
            lines: B lines, of which each draws random numbers.
            conditions: [B, 2, H]: with the prompt and without.
            scales: float32 [B, 1]: how closely the first one is followed.

        Returns:
            [B, D].
        """
        import torch

        # Two for a frame, of which the second is for nothing, so that the numbers are those of the library.
        noise = torch.stack([torch.randn(2, self._size, generator=line.noise)[0] for line in lines]).to(conditions)
        together = defaultdict(list)
        for number, line in enumerate(lines):
            together[line.num_diffusion_steps].append(number)
        latents = torch.empty_like(noise)
        for num_steps, numbers in together.items():
            rows = torch.tensor(numbers, device=noise.device)
            latents[rows] = self._refine(noise[rows], conditions[rows], scales[rows], num_steps)
        return latents

    def _refine(self, latents: Tensor, conditions: Tensor, scales: Tensor, num_steps: int) -> Tensor:
        """Refine noise, [B, D], in steps."""
        import torch

        scheduler = self._scheduler_of(num_steps)
        condition = conditions.transpose(0, 1).flatten(0, 1)
        times = scheduler.timesteps.to(latents)
        for time, timestep in zip(times, scheduler.timesteps, strict=True):
            predicted = self._head(torch.cat([latents, latents]), time.expand(len(condition)), condition=condition)
            guided, unguided = predicted.chunk(2)
            # In float32, since a scale would be rounded in smaller numbers.
            followed = unguided.float() + scales * (guided - unguided).float()
            latents = scheduler.step(followed.to(predicted), timestep, latents).prev_sample
        return latents

    def _scheduler_of(self, num_steps: int) -> Any:  # noqa: ANN401  # diffusers is not typed.
        """A scheduler at its beginning: it counts steps and keeps what was predicted."""
        if num_steps not in self._prepared:
            scheduler = copy.deepcopy(self._scheduler)
            with warnings.catch_warnings():
                # numpy deprecates how diffusers makes arrays of tensors.
                warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
                scheduler.set_timesteps(num_inference_steps=num_steps)
            self._prepared[num_steps] = scheduler
        return copy.deepcopy(self._prepared[num_steps])

    def _is_random(self) -> bool:
        """Tell whether the same is refined differently in a second run."""
        import torch

        latents = []
        for _ in range(2):
            scheduler, latent = self._scheduler_of(3), torch.ones(1, self._size)
            for timestep in scheduler.timesteps:
                latent = scheduler.step(torch.ones_like(latent), timestep, latent).prev_sample
            latents.append(latent)
        return not torch.equal(*latents)


class ConvolutionSlots:
    """One half of a tokenizer, with the last inputs of its convolutions for utterances in slots. Used on one thread.

    Args:
        half: The encoder or decoder, causal, where it is to stay.
        num_slots: Places.
    """

    def __init__(self, half: Any, num_slots: int) -> None:  # noqa: ANN401
        self._half = half
        self._places: dict[str, slice] = {}
        end = 0
        for layer in half.modules():
            if hasattr(layer, "cache_key"):
                self._places[layer.cache_key] = slice(end, end := end + layer.in_channels * layer.left_pad)
        self._last = next(half.parameters()).new_zeros(num_slots, end)  # What all convolutions keep.

    def clear(self, slot: int) -> None:
        """Begin an utterance."""
        self._last[slot] = 0

    def push(self, slots: Sequence[int], inputs: Tensor) -> Any:  # noqa: ANN401  # The library's own output.
        """Run the next inputs of some utterances.

        Args:
            slots: Of the B utterances, none twice.
            inputs: [B, C, T].
        """
        import torch

        index = torch.tensor(slots, device=self._last.device)
        past = _Past(self._last[index], self._places)
        output = self._half(inputs, padding_cache=past, use_cache=True)
        self._last[index] = past.last
        return output


class _Past:
    """What the convolutions saw last; what the library calls `padding_cache`."""

    def __init__(self, last: Tensor, places: dict[str, slice]) -> None:
        self.last, self._places = last, places

    def update(self, inputs: Tensor, cache_key: str, layer: Any) -> Tensor:  # noqa: ANN401  # A convolution.
        """Put its past before the next inputs of a layer, [B, C, T] to [B, C, P + T], and keep what it sees last."""
        import torch

        if not layer.left_pad:
            return inputs
        before = self.last[:, self._places[cache_key]].unflatten(1, (layer.in_channels, layer.left_pad))
        joined = torch.cat([before, inputs], -1)
        before.copy_(joined[..., -layer.left_pad :])
        return joined
