"""Decodes Mimi and the codec of Pocket TTS frame by frame, exactly, for several utterances at once; knows no engine.

Both codecs have one decoder: a transposed convolution from latent frames to SEANet frames, a causal transformer with a
sliding window, and a causal SEANet (Tagliasacchi et al. 2020; Mimi: Défossez et al. 2024). All of it looks back only,
so the audio of a frame is certain as soon as the frame is there. The libraries' own streaming keeps the transformer's
keys and values alone; what the convolutions saw last is forgotten, and is heard as a click at every frame. Here each
of them keeps it, for every utterance in a slot of its own:

    convolution             its last `kernel - stride` inputs, put before the next ones in place of the zeros
    transposed convolution  its last `kernel - stride` outputs, which the next inputs still add to
    transformer             the keys and values of its window

The result equals that of the whole decode up to rounding (some 1e-6), however the frames are cut and whoever else is
decoded with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from worker.engines.base import Samples
from worker.engines.kv_cache import SlotCache
from worker.engines.stages import Stage
from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor

MOST_FRAMES = 4
"""Frames that go through the decoder at once; more of them are cut."""

WAITING_S = 0.4
"""What a listener has in hand for each further frame that is waited for, so that several are decoded together: five
times what a frame takes that is made just in time."""


class SeanetSlots:
    """A decoder with places for utterances on their way through it. Used on one thread.

    Args:
        decoder: The half of a `MimiModel` or a `PocketTTSAudioTokenizerModel` that decodes: its `decoder`, where it is
            to stay.
        num_slots: Places.

    Raises:
        UnsupportedModel: The decoder looks ahead, so it cannot be streamed.
    """

    def __init__(self, decoder: Any, num_slots: int) -> None:  # noqa: ANN401  # A class of transformers.
        import torch

        config = decoder.config
        if not config.use_causal_conv or config.trim_right_ratio != 1.0 or config.pad_mode != "constant":
            raise UnsupportedModel(
                "its codec cannot be streamed: it needs causal convolutions (`use_causal_conv`) that are padded with "
                "zeros (`pad_mode`: constant) and trimmed on the right (`trim_right_ratio`: 1)",
                field="model",
            )
        self._torch = torch
        self._decoder = decoder
        self._stride: int = decoder.upsample.conv.stride[0]
        like = decoder.upsample.conv.weight
        self._window = SlotCache(
            config,
            num_slots=num_slots,
            longest=config.sliding_window - 1 + MOST_FRAMES * self._stride,
            like=like,
            window=config.sliding_window,
        )
        self._positions = [0] * num_slots
        self._places: dict[Any, slice] = {}
        end = 0
        for layer in (decoder.upsample, *_convolutions(decoder.decoder_seanet.layers)):
            channels = layer.conv.out_channels if self._is_transposed(layer) else layer.conv.in_channels
            self._places[layer] = slice(end, end := end + channels * self._reach(layer))
        self._last = like.new_zeros(num_slots, end)  # What all convolutions keep.

    def clear(self, slot: int) -> None:
        """Begin an utterance."""
        self._positions[slot] = 0
        self._last[slot] = 0
        self._window.clear(slot)

    def decode(self, slots: Sequence[int], latents: Tensor) -> Tensor:
        """Decode the next frames of some utterances.

        Args:
            slots: Of the B utterances, none twice.
            latents: [B, H, T]; T >= 1 latent frames of each, H the `hidden_size` of the codec.

        Returns:
            [B, 1, S] in about [-1, 1] at the codec's rate; S is T times the codec's samples per frame.
        """
        return self._torch.cat([self._decode(slots, piece) for piece in latents.split(MOST_FRAMES, -1)], -1)

    def _decode(self, slots: Sequence[int], latents: Tensor) -> Tensor:
        num_new = latents.shape[-1] * self._stride
        span = self._window.span(slots, [self._positions[slot] for slot in slots], num_new)
        index = self._torch.tensor(slots, device=self._last.device)
        last = self._last[index]
        frames = self._transposed(self._decoder.upsample, latents, last).transpose(1, 2)
        attended = self._decoder.decoder_transformer(
            frames,
            attention_mask=span.mask,
            position_ids=span.position_ids,
            past_key_values=span,
            use_cache=True,
        )
        hidden: Tensor = attended.last_hidden_state.transpose(1, 2)
        for layer in self._decoder.decoder_seanet.layers:
            hidden = self._apply(layer, hidden, last)
        # At the end, so that a decode that fails can be tried again.
        self._last[index] = last
        for slot in slots:
            self._positions[slot] += num_new
        return hidden

    def _apply(self, layer: Any, inputs: Tensor, last: Tensor) -> Tensor:  # noqa: ANN401
        if hasattr(layer, "block"):
            hidden = inputs
            for inner in layer.block:
                hidden = self._apply(inner, hidden, last)
            return self._apply(layer.shortcut, inputs, last) + hidden
        if layer not in self._places:
            return layer(inputs)  # type: ignore[no-any-return]  # Without state: ELU, identity.
        if self._is_transposed(layer):
            return self._transposed(layer, inputs, last)
        return self._convolved(layer, inputs, last)

    def _convolved(self, layer: Any, inputs: Tensor, last: Tensor) -> Tensor:  # noqa: ANN401
        """Convolve [B, C, T] to [B, D, T]; the stride is 1 everywhere in a decoder."""
        if reach := self._reach(layer):
            before = last[:, self._places[layer]]
            inputs = self._torch.cat([before.view(*inputs.shape[:2], reach), inputs], -1)
            before.copy_(inputs[..., -reach:].flatten(1))
        return layer.conv(inputs)  # type: ignore[no-any-return]

    def _transposed(self, layer: Any, inputs: Tensor, last: Tensor) -> Tensor:  # noqa: ANN401
        """Convolve [B, C, T] to [B, D, T * stride]."""
        convolution, overlap = layer.conv, self._reach(layer)
        outputs = self._torch.nn.functional.conv_transpose1d(
            inputs, convolution.weight, None, convolution.stride, groups=convolution.groups
        )
        before = last[:, self._places[layer]]
        outputs[..., :overlap] += before.view(*outputs.shape[:2], overlap)
        ready: Tensor
        ready, after = outputs.split([outputs.shape[-1] - overlap, overlap], -1)
        before.copy_(after.flatten(1))
        if convolution.bias is not None:
            ready = ready + convolution.bias[:, None]  # At the end, or what two inputs add to would get it twice.
        return ready

    def _is_transposed(self, layer: Any) -> bool:  # noqa: ANN401
        return isinstance(layer.conv, self._torch.nn.ConvTranspose1d)

    def _reach(self, layer: Any) -> int:  # noqa: ANN401
        """How many inputs, or outputs, of a convolution meet those of the next frame."""
        convolution = layer.conv
        if self._is_transposed(layer):
            return int(convolution.kernel_size[0] - convolution.stride[0])
        return int((convolution.kernel_size[0] - 1) * convolution.dilation[0])


class Frames(Protocol):
    """What `FrameDecoding` asks of a segment while it is spoken; compared by identity.

    Attributes:
        slot: Its place in the decoder.
        frames: Those that are not decoded yet, all of one shape.
        frames_left: How many more will come; 0 when it is over.
        lead_s: What its listener had in hand when that was last asked, in seconds of audio.
    """

    slot: int
    frames: list[Tensor]
    frames_left: int
    lead_s: float


F = TypeVar("F", bound=Frames)


class FrameDecoding(Stage[F, Samples]):
    """Turns frames into sound: the first at once, later ones several together where the listener can wait.

    Args:
        codec: Where the segments have their places.
        limit: Most segments in one run.
        to_latents: Makes of T frames of each of B segments, [B, T, ...], what the codec decodes, [B, H, T].
    """

    name = "decode"

    def __init__(self, codec: SeanetSlots, limit: int, to_latents: Callable[[Tensor], Tensor]) -> None:
        self._codec, self.limit, self._to_latents = codec, limit, to_latents

    def size(self, item: F, lead_s: float) -> None:
        """Note what the listener has in hand. All segments go together, so that they meet at the next step too."""
        item.lead_s = lead_s

    def run(self, items: Sequence[F], size: Hashable) -> list[Samples]:
        """Decode the segments that do not wait, together where they have as many frames.

        Args:
            items: Segments with at least one frame each.
            size: None.

        Returns:
            float32 [S] of each, S samples at the codec's rate for all its frames; empty where it waits.
        """
        import torch

        together = defaultdict(list)
        for item in sorted(items, key=lambda item: item.slot):
            if not item.frames_left or len(item.frames) >= min(1 + int(item.lead_s / WAITING_S), MOST_FRAMES):
                together[len(item.frames)].append(item)
        samples = {item.slot: np.zeros(0, np.float32) for item in items}
        for alike in together.values():
            latents = self._to_latents(torch.stack([torch.stack(item.frames) for item in alike]))
            sound = self._codec.decode([item.slot for item in alike], latents)[:, 0].float().cpu().numpy()
            for item, heard in zip(alike, sound, strict=True):
                samples[item.slot] = heard
                item.frames.clear()
        return [samples[item.slot] for item in items]


def _convolutions(layers: Any) -> Iterator[Any]:  # noqa: ANN401
    """All convolutions among the layers of a SEANet and in their residual blocks."""
    for layer in layers:
        if hasattr(layer, "block"):
            yield from _convolutions([*layer.block, layer.shortcut])
        elif hasattr(layer, "conv"):
            yield layer
