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

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from worker.engines.kv_cache import SlotCache
from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor

MOST_FRAMES = 4
"""Frames that go through the decoder at once; more of them are cut."""


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


class SeanetStream:
    """Utterances that go through a decoder in step; many may share the decoder, which holds no state.

    Args:
        decoder: As for `SeanetSlots`.
        count: How many.

    Raises:
        UnsupportedModel: The decoder looks ahead, so it cannot be streamed.
    """

    def __init__(self, decoder: Any, count: int = 1) -> None:  # noqa: ANN401
        self._slots = SeanetSlots(decoder, count)
        self._rows = range(count)

    def push(self, latents: Tensor) -> Tensor:
        """Decode the next frames: [count, H, T] to [count, 1, S], as `SeanetSlots.decode` does."""
        return self._slots.decode(self._rows, latents)


def _convolutions(layers: Any) -> Iterator[Any]:  # noqa: ANN401
    """All convolutions among the layers of a SEANet and in their residual blocks."""
    for layer in layers:
        if hasattr(layer, "block"):
            yield from _convolutions([*layer.block, layer.shortcut])
        elif hasattr(layer, "conv"):
            yield layer
