"""Runs a VITS network for several segments at once; knows no text, no engine and no scheduling.

`Network.encode` runs the text encoder, the duration predictor and the flow over whole segments, which is 5 % of the
work. `Network.decode` turns slices of their latent frames into sound. A slice gives what the whole gives, to rounding,
but for as many frames at either of its ends as reach over it through the convolutions (the halo of the decoder).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from worker.engines.graphs import RowGraphs
from worker.engines.stepwise import place
from worker.engines.vits_decoder import Decoder, Keep

if TYPE_CHECKING:
    import torch

MOST_READINGS = 16
"""Segments in one graph. With more, cuDNN chooses exact convolutions that take twenty times as long."""

TOKENS = (64, 128, 192, 256, 384, 640)
FRAMES = (128, 256, 384, 512, 768, 1280)
"""Lengths that graphs are captured for. A first segment has some 160 tokens and 400 frames, a long one 600 and
1250."""

LEAST_BIN, LEAST_SLOPE = 1e-3, 1e-3
"""Of the splines of durations, by which the library keeps them invertible."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """A segment as a network takes it.

    Attributes:
        tokens: Its token ids, at least one.
        seed: Fixes the noise. It is that of `VitsModel.forward` after `torch.manual_seed(seed)`.
        speaker: Number of the speaker; None where there is but one.
        speed: Pace, relative to the checkpoint's own.
        noise_scale: Standard deviation of the noise on the frames.
        noise_scale_duration: That of the noise on the durations.
        max_frames: Later frames are left out.
    """

    tokens: Sequence[int]
    seed: int
    speaker: int | None
    speed: float
    noise_scale: float
    noise_scale_duration: float
    max_frames: int


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
    """transformers' `VitsModel`, in parts. Its methods may run on several threads at once.

    Args:
        model: A `VitsModel`, or one whose text encoder is another with the same results.
        device: `cpu` or `cuda:N`.
        decoder_dtype: Numbers that the decoder computes in, by torch's name; those of its weights if empty. The rest
            keeps its own, since rounding there would change how long sounds last.

    Raises:
        UnsupportedModel: The decoder does not make the same number of samples of every frame.
    """

    def __init__(self, model: Any, device: str, decoder_dtype: str = "") -> None:  # noqa: ANN401
        import torch

        self.device = device
        self.sample_rate_hz = int(model.config.sampling_rate)
        self.hop_length = math.prod(model.config.upsample_rates)
        self.num_speakers = int(model.config.num_speakers)
        self.noise_scale = float(model.noise_scale)
        self.noise_scale_duration = float(model.noise_scale_duration)
        self._decoder = Decoder(model.decoder)
        self.halo = self._decoder.halo
        strip(model)
        self._model = place(model, device)
        self._dtype: torch.dtype = model.text_encoder.embed_tokens.weight.dtype
        own = model.decoder.conv_pre.weight.dtype
        self._decoder_dtype: torch.dtype = getattr(torch, decoder_dtype) if decoder_dtype else own
        model.decoder.to(self._decoder_dtype)
        if device != "cpu":
            self._decoder.lay_out()
        self._told: dict[int, RowGraphs] = {}
        self._flowed: dict[int, RowGraphs] = {}
        self._is_prepared = device == "cpu"

    def prepare(self) -> None:
        """Capture graphs for `encode`, on a GPU, unless that is done; likewise."""
        if self._is_prepared:
            return
        import torch

        self._is_prepared = True
        config = self._model.config
        new = partial(torch.zeros, device=self.device, dtype=self._dtype)

        def speaker(rows: int) -> torch.Tensor | None:
            return new(rows, config.speaker_embedding_size, 1) if self.num_speakers > 1 else None

        def text(length: int, rows: int) -> Sequence[torch.Tensor | None]:
            ids = torch.zeros(rows, length, dtype=torch.int64, device=self.device)
            return ids, new(rows, 1, length), speaker(rows), new(rows, 2, length), new(rows, 1, 1)

        def prior(length: int, rows: int) -> Sequence[torch.Tensor | None]:
            return new(rows, config.flow_size, length), new(rows, 1, length), speaker(rows)

        pool = torch.cuda.graph_pool_handle()
        works = (self._told, self._tell, text, TOKENS), (self._flowed, self._flow, prior, FRAMES)
        try:
            with _exact(self.device):
                for graphs, work, example, lengths in works:
                    for length in reversed(lengths):
                        graphs[length] = RowGraphs(work, partial(example, length), MOST_READINGS, self.device, pool)
        except RuntimeError as error:
            self._told.clear()
            self._flowed.clear()
            log.warning("no CUDA graphs, encoding without them", device=self.device, reason=str(error))

    def encode(self, readings: Sequence[Reading]) -> list[Latents]:
        """Make the latent frames of segments, with the numbers of `VitsModel.forward` for each alone.

        Args:
            readings: The segments, of one or more tokens each.
        """
        import torch

        model = self._model
        # Of those on the CPU come the durations' numbers, in the library too.
        noises = [torch.Generator().manual_seed(reading.seed) for reading in readings]
        counts = [len(reading.tokens) for reading in readings]
        length = _filled(max(counts), self._told)
        input_ids = torch.tensor(
            [[*reading.tokens, *[0] * (length - len(reading.tokens))] for reading in readings], device=self.device
        )
        mask = self._mask(counts, length)
        speakers = [reading.speaker for reading in readings if reading.speaker is not None]
        embedding = None
        if speakers:
            embedding = model.embed_speaker(torch.tensor(speakers, device=self.device)).unsqueeze(-1)
        length_scale = self._column([1.0 / (model.speaking_rate * reading.speed) for reading in readings])
        inputs = input_ids, mask, embedding, self._token_noise(readings, noises, length), length_scale
        with _exact(self.device):
            tell = self._told.get(length) or partial(self._tell, is_padded=min(counts) < length)
            counted, *statistics = tell(*inputs)
            tokens = [
                _expand(row[:count], reading.max_frames)
                for row, count, reading in zip(counted.cpu(), counts, readings, strict=True)
            ]
            lengths = [len(each) for each in tokens]
            length = _filled(max(lengths), self._flowed)
            index = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
            index = torch.nn.functional.pad(index, (0, length - index.shape[1]))[..., None].to(self.device)
            means, log_variances = (
                stats.gather(1, index.expand(-1, -1, stats.shape[2])).transpose(1, 2) for stats in statistics
            )
            noise = self._frame_noise(means, lengths, readings, noises)
            scale = self._column([reading.noise_scale for reading in readings])
            prior = means + noise * torch.exp(log_variances) * scale
            (frames,) = (self._flowed.get(length) or self._flow)(prior, self._mask(lengths, length), embedding)
            frames = frames.to(self._decoder_dtype, copy=True)
        if embedding is not None:
            embedding = embedding.to(self._decoder_dtype)
        return [
            Latents(frames[k : k + 1, :, :length], None if embedding is None else embedding[k : k + 1])
            for k, length in enumerate(lengths)
        ]

    def decode(self, frames: torch.Tensor, speakers: torch.Tensor | None, keep: Keep | None = None) -> torch.Tensor:
        """Decode slices of latent frames (HiFi-GAN generator, Kong et al. 2020).

        Args:
            frames: [B, C, L], all of them true frames.
            speakers: [B, E, 1], the embeddings of their speakers; None where there is but one.
            keep: Frames of each slice whose samples are wanted, the first and the one after the last; None for all.

        Returns:
            float32 [B, S] in [-1, 1] at `sample_rate_hz`, `hop_length` samples of each frame; on the device.
        """
        return self._decoder(frames, speakers, keep or (0, frames.shape[2]))[:, 0].float()

    def _tell(
        self,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        embedding: torch.Tensor | None,
        noise: torch.Tensor,
        length_scale: torch.Tensor,
        *,
        is_padded: bool = True,
    ) -> Sequence[torch.Tensor]:
        """Run the text encoder and the duration predictor; work of the device alone, whatever is in the tensors.

        Args:
            input_ids: int64 [B, S].
            mask: [B, 1, S].
            embedding: [B, E, 1], or None.
            noise: [B, 2, S]: for the durations.
            length_scale: [B, 1, 1].
            is_padded: Whether a row may be shorter than S.

        Returns:
            The frames of each token, [B, S], whole numbers; means and logarithms of the variances, [B, S, C] both.
        """
        import torch

        bias = None
        if is_padded:  # Of four dimensions: taken as it is. The library looks at other masks, to leave them out.
            bias = ((1 - mask) * torch.finfo(mask.dtype).min)[:, None].expand(-1, 1, mask.shape[2], -1)
        text = self._model.text_encoder(input_ids=input_ids, padding_mask=mask.transpose(1, 2), attention_mask=bias)
        hidden = text.last_hidden_state.transpose(1, 2)
        log_duration = self._log_duration(hidden, mask, embedding, noise)
        durations = torch.ceil(torch.exp(log_duration) * mask * length_scale)[:, 0]
        return durations, text.prior_means, text.prior_log_variances

    def _flow(self, prior: torch.Tensor, mask: torch.Tensor, embedding: torch.Tensor | None) -> Sequence[torch.Tensor]:
        """Make latent frames, [B, C, T], of their prior; likewise work of the device alone."""
        return [self._model.flow(prior, mask, embedding, reverse=True)]

    def _log_duration(
        self, hidden: torch.Tensor, mask: torch.Tensor, embedding: torch.Tensor | None, noise: torch.Tensor
    ) -> torch.Tensor:
        """Predict the logarithms of the tokens' durations, [B, 1, S].

        The stochastic predictor of the library, which would draw noise for the whole batch from torch's global
        generator, is followed step by step.
        """
        predictor = self._model.duration_predictor
        if not self._model.config.use_stochastic_duration_prediction:
            predicted: torch.Tensor = predictor(hidden, mask, embedding)
            return predicted
        states = predictor.conv_pre(hidden)
        if embedding is not None:
            states = states + predictor.cond(embedding)
        states = predictor.conv_proj(predictor.conv_dds(states, mask)) * mask
        latents = noise
        affine, _, *flows = predictor.flows  # The second one changes what is thrown away.
        for flow in reversed(flows):
            latents = _undo(flow, latents.flip(1), mask, states)
        told: torch.Tensor = affine(latents.flip(1), mask, reverse=True)[0][:, :1]
        return told

    def _token_noise(self, readings: Sequence[Reading], noises: Sequence[torch.Generator], length: int) -> torch.Tensor:
        """Draw the noise on the durations: [B, 2, length], zero where a row is padded."""
        import torch

        drawn = torch.zeros(len(readings), 2, length)
        is_random = self._model.config.use_stochastic_duration_prediction
        for row, reading, noise in zip(drawn, readings, noises, strict=True) if is_random else ():
            count = len(reading.tokens)
            row[:, :count] = torch.randn(2, count, generator=noise) * reading.noise_scale_duration
        return drawn.to(self.device, self._dtype)

    def _frame_noise(
        self,
        like: torch.Tensor,
        lengths: Sequence[int],
        readings: Sequence[Reading],
        noises: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """Draw the noise on the frames: [B, C, T] as `like`, zero where a row is padded."""
        import torch

        drawn = torch.zeros_like(like)
        for row, length, reading, noise in zip(drawn, lengths, readings, noises, strict=True):
            if like.device.type == "cuda":
                noise = torch.Generator(like.device).manual_seed(reading.seed)
            # Frames before channels in memory, as in the library: so the generator fills them with the same numbers.
            row[:, :length] = like.new_empty(1, length, like.shape[1]).transpose(1, 2).normal_(generator=noise)[0]
        return drawn

    def _mask(self, lengths: Sequence[int], longest: int) -> torch.Tensor:
        """Ones where a row has something and zeros behind, [B, 1, longest]."""
        import torch

        ends = torch.tensor(lengths)[:, None, None]
        return (torch.arange(longest) < ends).to(self.device, self._dtype)

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        """A number for each row, [B, 1, 1]."""
        import torch

        return torch.tensor(values, device=self.device, dtype=self._dtype)[:, None, None]


def _filled(length: int, prepared: Iterable[int]) -> int:
    """Tell how long sequences are made so that there is a graph for them; longer ones stay as they are."""
    return min((each for each in prepared if each >= length), default=length)


def _undo(flow: Any, latents: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Run a `VitsConvFlow` backwards.

    The library takes the splines of those values alone that lie in their range, and looks whether all is well: each
    time the processor waits for the device. Here they are all taken, and values beyond the range are left as they are.

    Args:
        flow: A `VitsConvFlow`.
        latents: [B, 2 * half, S].
        mask: [B, 1, S].
        states: [B, H, S]: what it depends on.

    Returns:
        [B, 2 * half, S].
    """
    import torch

    first, second = latents.chunk(2, 1)
    hidden = flow.conv_proj(flow.conv_dds(flow.conv_pre(first), mask, states)) * mask
    widths, heights, slopes = (
        hidden.unflatten(1, (flow.half_channels, -1))
        .transpose(2, 3)
        .tensor_split((flow.num_bins, 2 * flow.num_bins), -1)
    )
    scale = math.sqrt(flow.filter_channels)
    made = _unspline(second, widths / scale, heights / scale, slopes, flow.tail_bound)
    undone: torch.Tensor = torch.cat([first, made], 1) * mask
    return undone


def _unspline(
    values: torch.Tensor, widths: torch.Tensor, heights: torch.Tensor, slopes: torch.Tensor, bound: float
) -> torch.Tensor:
    """Invert rational-quadratic splines from [-bound, bound] to itself (Durkan et al. 2019), as the library does.

    Args:
        values: [...]; those beyond the bounds stay what they are.
        widths: [..., K], of the bins, unnormalised.
        heights: [..., K], likewise.
        slopes: [..., K - 1], between them, likewise.
        bound: Above 0.

    Returns:
        [...].
    """
    import torch
    from torch.nn.functional import pad, softplus

    def edges(unnormalised: torch.Tensor) -> torch.Tensor:
        sizes = LEAST_BIN + (1 - LEAST_BIN * unnormalised.shape[-1]) * unnormalised.softmax(-1)
        inner = 2 * bound * sizes.cumsum(-1)[..., :-1] - bound
        return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)

    lefts, bottoms = edges(widths), edges(heights)
    inside = values.clamp(-bound, bound)
    chosen = (inside[..., None] >= bottoms[..., 1:-1]).sum(-1, keepdim=True)

    def pick(of_bins: torch.Tensor) -> torch.Tensor:
        return of_bins.gather(-1, chosen)[..., 0]

    # Beyond the bounds the slope is 1, and so it is there.
    derivatives = pad(LEAST_SLOPE + softplus(slopes), (1, 1), value=1.0)
    left, bottom = pick(lefts), pick(bottoms)
    width, height = pick(lefts[..., 1:]) - left, pick(bottoms[..., 1:]) - bottom
    before, after = pick(derivatives), pick(derivatives[..., 1:])
    delta, above = height / width, inside - bottom
    bend = above * (before + after - 2 * delta)
    a, b, c = height * (delta - before) + bend, height * before - bend, -delta * above
    discriminant = (b * b - 4 * a * c).clamp(min=0)  # It is none below, but for rounding.
    root = 2 * c / (-b - discriminant.sqrt())
    return torch.where(values.abs() <= bound, root * width + left, values)


def _expand(durations: torch.Tensor, max_frames: int) -> torch.Tensor:
    """Tell the token that each frame belongs to; the library multiplies by a matrix of zeros and ones instead.

    Args:
        durations: Frames of each token, [S].
        max_frames: Later frames are left out.

    Returns:
        int64 [T].
    """
    import torch

    frames = durations.float().clamp(1, max_frames).numpy().astype(np.int64)
    return torch.from_numpy(np.repeat(np.arange(len(frames)), frames)[:max_frames])


def _exact(device: str) -> AbstractContextManager[None]:
    """Keep a GPU from rounding what its convolutions read to TF32.

    Durations are rounded up to whole frames: a coarse sum that depends on the batch would make a sound longer, and all
    that follows other samples. The decoder may round.
    """
    import torch

    return nullcontext() if device == "cpu" else torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


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
