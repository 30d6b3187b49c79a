"""Runs a VITS network for several segments at once; knows no text, no engine and no scheduling.

`Network.encode` runs the text encoder, the duration predictor and the flow over whole segments, which is 5 % of the
work. `Network.decode` turns slices of their latent frames into sound. A slice gives what the whole gives, to rounding,
but for as many frames at either of its ends as reach over it through the convolutions (the halo of the decoder).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.engines.stepwise import place
from worker.engines.vits_decoder import Decoder, Keep

if TYPE_CHECKING:
    import torch


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
        longest = max(counts)
        input_ids = torch.tensor(
            [[*reading.tokens, *[0] * (longest - len(reading.tokens))] for reading in readings], device=self.device
        )
        mask = self._mask(counts)
        speakers = [reading.speaker for reading in readings if reading.speaker is not None]
        embedding = None
        if speakers:
            embedding = model.embed_speaker(torch.tensor(speakers, device=self.device)).unsqueeze(-1)
        with _exact(self.device):
            text = model.text_encoder(
                input_ids=input_ids,
                padding_mask=mask.transpose(1, 2),
                attention_mask=mask[:, 0].long() if min(counts) < longest else None,
            )
            hidden = text.last_hidden_state.transpose(1, 2)
            log_duration = self._log_duration(hidden, mask, embedding, readings, noises)
            length_scale = self._column([1.0 / (model.speaking_rate * reading.speed) for reading in readings])
            durations = torch.ceil(torch.exp(log_duration) * mask * length_scale)[:, 0].cpu()
            tokens = [
                _expand(row[:count], reading.max_frames)
                for row, count, reading in zip(durations, counts, readings, strict=True)
            ]
            lengths = [len(each) for each in tokens]
            index = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)[..., None].to(self.device)
            means, log_variances = (
                stats.gather(1, index.expand(-1, -1, stats.shape[2])).transpose(1, 2)
                for stats in (text.prior_means, text.prior_log_variances)
            )
            noise = self._frame_noise(means, lengths, readings, noises)
            scale = self._column([reading.noise_scale for reading in readings])
            prior = means + noise * torch.exp(log_variances) * scale
            frames = model.flow(prior, self._mask(lengths), embedding, reverse=True).to(self._decoder_dtype)
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

    def _log_duration(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        embedding: torch.Tensor | None,
        readings: Sequence[Reading],
        noises: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """Predict the logarithms of the tokens' durations, [B, 1, S].

        The stochastic predictor of the library, which would draw noise for the whole batch from torch's global
        generator, is followed step by step.
        """
        import torch

        model = self._model
        predictor = model.duration_predictor
        if not model.config.use_stochastic_duration_prediction:
            predicted: torch.Tensor = predictor(hidden, mask, embedding)
            return predicted
        states = predictor.conv_pre(hidden)
        if embedding is not None:
            states = states + predictor.cond(embedding)
        states = predictor.conv_proj(predictor.conv_dds(states, mask)) * mask
        latents = torch.zeros(len(readings), 2, hidden.shape[2])
        for row, reading, noise in zip(latents, readings, noises, strict=True):
            count = len(reading.tokens)
            row[:, :count] = torch.randn(2, count, generator=noise)
        latents = latents.to(hidden) * self._column([reading.noise_scale_duration for reading in readings])
        affine, _, *flows = predictor.flows  # The second one changes what is thrown away.
        for flow in (*reversed(flows), affine):
            latents, _ = flow(latents.flip(1), mask, global_conditioning=states, reverse=True)
        return latents[:, :1]

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

    def _mask(self, lengths: Sequence[int]) -> torch.Tensor:
        """Ones where a row has something and zeros behind, [B, 1, max(lengths)]."""
        import torch

        ends = torch.tensor(lengths)[:, None, None]
        return (torch.arange(max(lengths)) < ends).to(self.device, self._dtype)

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        """A number for each row, [B, 1, 1]."""
        import torch

        return torch.tensor(values, device=self.device, dtype=self._dtype)[:, None, None]


def _expand(durations: torch.Tensor, max_frames: int) -> torch.Tensor:
    """Tell the token that each frame belongs to; the library multiplies by a matrix of zeros and ones instead.

    Args:
        durations: Frames of each token, [S].
        max_frames: Later frames are left out.

    Returns:
        int64 [T].
    """
    import torch

    return torch.arange(len(durations)).repeat_interleave(durations.clamp(1, max_frames).long())[:max_frames]


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
