"""Decodes Mimi and the codec of Pocket TTS frame by frame, exactly; knows no engine.

Both codecs have one decoder: a transposed convolution from latent frames to SEANet frames, a causal transformer with a
sliding window, and a causal SEANet (Tagliasacchi et al. 2020; Mimi: Défossez et al. 2024). All of it looks back only,
so the audio of a frame is certain as soon as the frame is there. The libraries' own streaming keeps the transformer's
keys and values alone; what the convolutions saw last is forgotten, and is heard as a click at every frame. Here each
of them keeps it:

    convolution             its last `kernel - stride` inputs, put before the next ones in place of the zeros
    transposed convolution  its last `kernel - stride` outputs, which the next inputs still add to
    transformer             the keys and values of its window

The result equals that of the whole decode up to rounding (some 1e-6), however the frames are cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor


class SeanetStream:
    """One utterance on its way through a decoder; many may share the decoder, which holds no state.

    Args:
        decoder: The half of a `MimiModel` or a `PocketTTSAudioTokenizerModel` that decodes: its `decoder`.

    Raises:
        UnsupportedModel: The decoder looks ahead, so it cannot be streamed.
    """

    def __init__(self, decoder: Any) -> None:  # noqa: ANN401  # A class of transformers.
        import torch
        from transformers import DynamicCache

        config = decoder.config
        if not config.use_causal_conv or config.trim_right_ratio != 1.0 or config.pad_mode != "constant":
            raise UnsupportedModel(
                "its codec cannot be streamed: it needs causal convolutions (`use_causal_conv`) that are padded with "
                "zeros (`pad_mode`: constant) and trimmed on the right (`trim_right_ratio`: 1)",
                field="model",
            )
        self._torch = torch
        self._decoder = decoder
        self._window = DynamicCache(config=config)
        self._last: dict[Any, Tensor] = {}

    def push(self, latents: Tensor) -> Tensor:
        """Decode the next frames.

        Args:
            latents: [B, H, T]; T >= 1 latent frames, H the `hidden_size` of the codec.

        Returns:
            [B, 1, S] in about [-1, 1] at the codec's rate; S is T times the codec's samples per frame.
        """
        frames = self._transposed(self._decoder.upsample, latents)
        attended = self._decoder.decoder_transformer(
            frames.transpose(1, 2), past_key_values=self._window, use_cache=True
        )
        hidden: Tensor = attended.last_hidden_state.transpose(1, 2)
        for layer in self._decoder.decoder_seanet.layers:
            hidden = self._apply(layer, hidden)
        return hidden

    def _apply(self, layer: Any, inputs: Tensor) -> Tensor:  # noqa: ANN401
        if hasattr(layer, "block"):
            hidden = inputs
            for inner in layer.block:
                hidden = self._apply(inner, hidden)
            return self._apply(layer.shortcut, inputs) + hidden
        convolution = getattr(layer, "conv", None)
        if convolution is None:
            return layer(inputs)  # type: ignore[no-any-return]  # Without state: ELU, identity.
        if isinstance(convolution, self._torch.nn.ConvTranspose1d):
            return self._transposed(layer, inputs)
        return self._convolved(layer, inputs)

    def _convolved(self, layer: Any, inputs: Tensor) -> Tensor:  # noqa: ANN401
        """Convolve [B, C, T] to [B, D, T]; the stride is 1 everywhere in a decoder."""
        convolution = layer.conv
        reach = (convolution.kernel_size[0] - 1) * convolution.dilation[0]
        if not reach:
            return convolution(inputs)  # type: ignore[no-any-return]
        before = self._last.get(layer)
        if before is None:
            before = inputs.new_zeros(*inputs.shape[:2], reach)
        inputs = self._torch.cat([before, inputs], -1)
        self._last[layer] = inputs[..., -reach:]
        return convolution(inputs)  # type: ignore[no-any-return]

    def _transposed(self, layer: Any, inputs: Tensor) -> Tensor:  # noqa: ANN401
        """Convolve [B, C, T] to [B, D, T * stride]."""
        convolution = layer.conv
        overlap = convolution.kernel_size[0] - convolution.stride[0]
        outputs = self._torch.nn.functional.conv_transpose1d(
            inputs, convolution.weight, None, convolution.stride, groups=convolution.groups
        )
        before = self._last.get(layer)
        if before is not None:
            outputs[..., :overlap] += before
        ready: Tensor
        ready, self._last[layer] = outputs.split([outputs.shape[-1] - overlap, overlap], -1)
        if convolution.bias is not None:
            ready = ready + convolution.bias[:, None]  # At the end, or what two inputs add to would get it twice.
        return ready
