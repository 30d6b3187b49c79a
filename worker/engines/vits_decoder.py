"""Turns slices of latent frames into sound, with no more work than the frames that are wanted need; knows no text.

The samples of a frame depend on frames on either side, which reach them through the convolutions (the halo). Most of
the halo is there for the first layers, which have a few steps for each frame. So before each upsampling the slice is
cut back to what the rest of the way depends on: with the published decoders, a cut between two windows then costs as
much as 6 frames, and 26 without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

Keep = tuple[int, int]
"""The frames of a slice whose samples are wanted: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Span:
    """What the samples of frame 0 depend on, at one place in the decoder; those of frame n, n * rate steps later.

    Attributes:
        rate: Steps that a frame has there.
        first: The first step.
        last: The last one.
    """

    rate: int
    first: int
    last: int

    def of(self, keep: Keep) -> tuple[int, int]:
        """Tell which steps some frames depend on: the first, and the one after the last."""
        return keep[0] * self.rate + self.first, (keep[1] - 1) * self.rate + self.last + 1


class Decoder:
    """transformers' `VitsHifiGan` (HiFi-GAN generator, Kong et al. 2020). May run on several threads at once.

    Args:
        network: A `VitsHifiGan`.

    Attributes:
        halo: Frames before and after a window that its samples depend on.

    Raises:
        UnsupportedModel: An upsampling layer does not multiply the length by its stride.
    """

    def __init__(self, network: Any) -> None:  # noqa: ANN401  # A library's own class.
        self._network = network
        self._hop_length = math.prod(layer.stride[0] for layer in network.upsampler)
        frames, *self._crops = _spans(network)
        self.halo = -frames.first, frames.last
        self._is_laid_out = False

    def lay_out(self) -> None:
        """Lay numbers out in the order in which a GPU convolves them: the channels of a step next to each other.

        Otherwise they are put into that order before each convolution and back after it, which takes a third of the
        time. torch keeps an order between convolutions of images, but not between those of sequences; so sequences
        become images of one line.
        """
        for module in list(self._network.modules()):
            for name, layer in module.named_children():
                if hasattr(layer, "kernel_size"):
                    setattr(module, name, _as_image(layer))
        self._is_laid_out = True

    def __call__(self, frames: torch.Tensor, speakers: torch.Tensor | None, keep: Keep) -> torch.Tensor:
        """Decode slices.

        Args:
            frames: [B, C, L].
            speakers: [B, E, 1], the embeddings of their speakers; None where there is but one.
            keep: The same frames of all slices. They are given as in the whole if a slice has the halo on either side
                of them, or ends where the whole does.

        Returns:
            [B, 1, S] in [-1, 1], the samples of these frames.
        """
        from torch.nn.functional import leaky_relu

        network = self._network
        if self._is_laid_out:
            frames = frames[:, :, None]
            speakers = None if speakers is None else speakers[:, :, None]
        states = network.conv_pre(frames)
        if speakers is not None:
            states = states + network.cond(speakers)
        begin = 0  # Where the states begin, in steps from the beginning of the slice.
        for level, (layer, crop) in enumerate(zip(network.upsampler, self._crops, strict=True)):
            first, stop = crop.of(keep)
            # A slice that does not reach as far as the span ends where the whole does.
            states = states[..., max(0, first - begin) : stop - begin]
            begin = max(first, begin) * layer.stride[-1]
            states = layer(leaky_relu(states, network.config.leaky_relu_slope))
            first_block, *blocks = network.resblocks[level * network.num_kernels : (level + 1) * network.num_kernels]
            total = first_block(states)
            for block in blocks:
                total += block(states)
            states = total / network.num_kernels
        first, stop = (frame * self._hop_length - begin for frame in keep)
        samples: torch.Tensor = network.conv_post(leaky_relu(states))[..., first:stop].tanh()
        return samples[:, :, 0] if self._is_laid_out else samples


def _as_image(layer: Any) -> Any:  # noqa: ANN401  # A torch module.
    """Make of a convolution of sequences one of images of one line."""
    import torch

    kind = torch.nn.ConvTranspose2d if isinstance(layer, torch.nn.ConvTranspose1d) else torch.nn.Conv2d
    with torch.device("meta"):
        image: Any = kind(layer.in_channels, layer.out_channels, (1, *layer.kernel_size), groups=layer.groups)
    image.stride, image.dilation = (1, *layer.stride), (1, *layer.dilation)
    image.padding, image.output_padding = (0, *layer.padding), (0, *layer.output_padding)
    weight = layer.weight.data.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    image.weight = torch.nn.Parameter(weight, requires_grad=False)
    image.bias = layer.bias
    return image


def _spans(network: Any) -> list[Span]:  # noqa: ANN401  # A library's own class.
    """Follow the steps that the samples of a frame depend on from the output to the input, through every convolution.

    Returns:
        The span of the frames themselves, then that before each upsampling.
    """
    rate = math.prod(layer.stride[0] for layer in network.upsampler)
    reach = _reach(network.conv_post)
    first, last = -reach, rate - 1 + reach
    spans: list[Span] = []
    for level, layer in reversed(list(enumerate(network.upsampler))):
        blocks = network.resblocks[level * network.num_kernels : (level + 1) * network.num_kernels]
        reach = max(sum(map(_reach, chain(block.convs1, block.convs2))) for block in blocks)
        first, last = first - reach, last + reach
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        if kernel + layer.output_padding[0] - 2 * padding != stride:
            raise UnsupportedModel(f"its decoder upsamples by {stride} with a kernel of {kernel}", field="model")
        # output[t] is the sum over j of weight[j] * input[(t + padding - j) / stride], 0 <= j < kernel.
        first, last = math.ceil((first + padding - kernel + 1) / stride), (last + padding) // stride
        rate //= stride
        spans.append(Span(rate, first, last))
    reach = _reach(network.conv_pre)
    return [Span(1, first - reach, last + reach), *reversed(spans)]


def _reach(convolution: Any) -> int:  # noqa: ANN401  # A torch module.
    """Inputs on either side that one output of a convolution depends on."""
    return int(convolution.dilation[0] * (convolution.kernel_size[0] - 1) // 2)
