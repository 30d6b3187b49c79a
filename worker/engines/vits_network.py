"""Runs a VITS network in two stages, of which the second goes window by window; knows no text and no engine.

`Network.encode` runs the text encoder, the duration predictor and the flow over a whole segment, which is 5 % of the
work. `Network.decode` turns its latent frames into sound in windows that grow, so the first audio waits for eight
frames and not for the sentence. A window is decoded with as many frames on either side as reach into it through the
convolutions (its halo); what comes out is the whole decode to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from worker.engines.base import Samples
from worker.engines.stepwise import place
from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

WINDOWS = (8, 32, 128)
"""Latent frames of the first windows; the last size stays. A small window costs most for its halo."""


@dataclass(frozen=True, slots=True)
class Latents:
    """What a segment is decoded from.

    Attributes:
        frames: [1, C, T]; T latent frames of `Network.hop_length` samples.
        speaker: [1, E, 1], the embedding of the speaker; None where there is but one.
    """

    frames: torch.Tensor
    speaker: torch.Tensor | None

    @property
    def num_frames(self) -> int:
        """T."""
        return self.frames.shape[-1]


class Network:
    """transformers' `VitsModel`, in stages.

    Args:
        model: A `VitsModel`, or one whose text encoder is another with the same results.
        device: `cpu` or `cuda:N`.

    Raises:
        UnsupportedModel: The decoder does not make the same number of samples of every frame.
    """

    def __init__(self, model: Any, device: str) -> None:  # noqa: ANN401  # transformers is not typed.
        self.device = device
        self.sample_rate_hz = int(model.config.sampling_rate)
        self.hop_length = math.prod(model.config.upsample_rates)
        self.num_speakers = int(model.config.num_speakers)
        self.noise_scale = float(model.noise_scale)
        self.noise_scale_duration = float(model.noise_scale_duration)
        self.halo = halo(model.decoder)
        strip(model)
        self._model = place(model, device)

    def encode(
        self,
        tokens: Sequence[int],
        *,
        speaker: int | None,
        speed: float,
        noise_scale: float,
        noise_scale_duration: float,
        max_frames: int,
    ) -> Latents:
        """Make the latent frames of a segment, with the numbers of `VitsModel.forward`.

        Draws the noise from torch's global generators.

        Args:
            tokens: Token ids of the segment, at least one.
            speaker: Number of the speaker; None where there is but one.
            speed: Pace, relative to the checkpoint's own.
            noise_scale: Standard deviation of the noise on the frames.
            noise_scale_duration: That of the noise on the durations.
            max_frames: Later frames are left out.
        """
        import torch

        model = self._model
        input_ids = torch.tensor([tokens], device=self.device)
        mask = torch.ones(1, 1, len(tokens), device=self.device, dtype=model.dtype)
        embedding = None
        if speaker is not None:
            embedding = model.embed_speaker(torch.tensor([speaker], device=self.device)).unsqueeze(-1)
        text = model.text_encoder(input_ids=input_ids, padding_mask=mask.transpose(1, 2))
        hidden = text.last_hidden_state.transpose(1, 2)
        if model.config.use_stochastic_duration_prediction:
            log_duration = model.duration_predictor(
                hidden, mask, embedding, reverse=True, noise_scale=noise_scale_duration
            )
        else:
            log_duration = model.duration_predictor(hidden, mask, embedding)
        length_scale = 1.0 / (model.speaking_rate * speed)
        duration = torch.ceil(torch.exp(log_duration) * mask * length_scale)[0, 0].clamp(1, max_frames).long()
        # The token that each frame belongs to; the library multiplies by a matrix of zeros and ones instead.
        token = torch.arange(len(tokens), device=self.device).repeat_interleave(duration)[:max_frames]
        # Frames before channels in memory, as in the library: so the generator fills them with the same noise.
        means = text.prior_means[:, token].contiguous().transpose(1, 2)
        log_variances = text.prior_log_variances[:, token].transpose(1, 2)
        prior = means + torch.randn_like(means) * torch.exp(log_variances) * noise_scale
        frames = model.flow(prior, torch.ones_like(prior[:, :1]), embedding, reverse=True)
        return Latents(frames, embedding)

    def decode(self, latents: Latents, start: int, stop: int) -> Samples:
        """Decode a window of latent frames (HiFi-GAN generator, Kong et al. 2020).

        Args:
            latents: A segment.
            start: First frame of the window.
            stop: The frame after its last one, at most `latents.num_frames`.

        Returns:
            float32 [S] in [-1, 1] at `sample_rate_hz`, S = (stop - start) * hop_length.
        """
        before, after = self.halo
        left = max(0, start - before)
        frames = latents.frames[..., left : stop + after]
        waveform = self._model.decoder(frames, latents.speaker)[0, 0]
        window = waveform[(start - left) * self.hop_length : (stop - left) * self.hop_length]
        samples: Samples = window.float().cpu().numpy()
        return samples


def windows(num_frames: int) -> Iterator[tuple[int, int]]:
    """Cut `num_frames` latent frames into windows that grow; each as its first frame and the one after its last."""
    start = 0
    for size in chain(WINDOWS, repeat(WINDOWS[-1])):
        if start >= num_frames:
            return
        yield start, min(start + size, num_frames)
        start += size


def halo(decoder: Any) -> tuple[int, int]:  # noqa: ANN401  # A library's own class.
    """Count the latent frames before and after a window that its samples depend on.

    Follows the interval of positions that one frame's samples are computed from, from the output to the input, through
    every convolution of the decoder.

    Args:
        decoder: A `VitsHifiGan`.

    Returns:
        Frames before and frames after.

    Raises:
        UnsupportedModel: An upsampling layer does not multiply the length by its stride.
    """
    strides = [layer.stride[0] for layer in decoder.upsampler]
    first, last = 0, math.prod(strides) - 1
    reach = _reach(decoder.conv_post)
    first, last = first - reach, last + reach
    for level, layer in reversed(list(enumerate(decoder.upsampler))):
        blocks = decoder.resblocks[level * decoder.num_kernels : (level + 1) * decoder.num_kernels]
        reach = max(sum(map(_reach, chain(block.convs1, block.convs2))) for block in blocks)
        first, last = first - reach, last + reach
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        if kernel + layer.output_padding[0] - 2 * padding != stride:
            raise UnsupportedModel(f"its decoder upsamples by {stride} with a kernel of {kernel}", field="model")
        # output[t] is the sum over j of weight[j] * input[(t + padding - j) / stride], 0 <= j < kernel.
        first, last = math.ceil((first + padding - kernel + 1) / stride), (last + padding) // stride
    reach = _reach(decoder.conv_pre)
    return reach - first, last + reach


def _reach(convolution: Any) -> int:  # noqa: ANN401  # A torch module.
    """Inputs on either side that one output of a convolution depends on."""
    return int(convolution.dilation[0] * (convolution.kernel_size[0] - 1) // 2)


def strip(model: Any) -> None:  # noqa: ANN401  # A library's own class.
    """Remove what only training needs: the posterior encoders, and weights kept apart from their norms.

    Args:
        model: A `VitsModel`; its results stay the same.
    """
    from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

    model.posterior_encoder = None
    if model.config.use_stochastic_duration_prediction:
        for name in ("post_conv_pre", "post_conv_proj", "post_conv_dds", "post_flows"):
            setattr(model.duration_predictor, name, None)
    for module in model.modules():
        if is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight", leave_parametrized=True)
