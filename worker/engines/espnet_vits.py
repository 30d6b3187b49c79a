"""Builds transformers' `VitsModel` from the weights of an ESPnet VITS generator; knows no text and no files.

The two descend from one code (github.com/jaywalnut310/vits) and differ in names, in a few foldings of constants, and in
the text encoder: ESPnet's is a Conformer (Gulati et al. 2020) with the relative positions of Transformer-XL (Dai et al.
2019), which is written here with ESPnet's names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import VitsConfig, VitsModel
from transformers.models.vits.modeling_vits import VitsTextEncoderOutput

from worker.engines.vits_network import strip
from worker.errors import UnsupportedModel

PREFIX = "tts.generator."
"""Where the generator is in the weights; the rest are discriminators, which only training needs."""

DEFAULTS: Mapping[str, Any] = {
    "hidden_channels": 192,
    "spks": None,
    "langs": None,
    "spk_embed_dim": None,
    "global_channels": -1,
    "text_encoder_attention_heads": 2,
    "text_encoder_ffn_expand": 4,
    "text_encoder_blocks": 6,
    "text_encoder_positionwise_layer_type": "conv1d",
    "text_encoder_positionwise_conv_kernel_size": 1,
    "text_encoder_positional_encoding_layer_type": "rel_pos",
    "text_encoder_self_attention_layer_type": "rel_selfattn",
    "text_encoder_activation_type": "swish",
    "text_encoder_normalize_before": True,
    "text_encoder_conformer_kernel_size": 7,
    "use_macaron_style_in_text_encoder": True,
    "use_conformer_conv_in_text_encoder": True,
    "decoder_kernel_size": 7,
    "decoder_channels": 512,
    "decoder_upsample_scales": [8, 8, 2, 2],
    "decoder_upsample_kernel_sizes": [16, 16, 4, 4],
    "decoder_resblock_kernel_sizes": [3, 7, 11],
    "decoder_resblock_dilations": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "flow_flows": 4,
    "flow_kernel_size": 5,
    "flow_base_dilation": 1,
    "flow_layers": 4,
    "use_only_mean_in_flow": True,
    "stochastic_duration_predictor_kernel_size": 3,
    "stochastic_duration_predictor_flows": 4,
    "stochastic_duration_predictor_dds_conv_layers": 3,
}
"""What ESPnet takes for the parameters that a configuration leaves out."""

_NEEDED = {
    "text_encoder_positionwise_layer_type": "conv1d",
    "text_encoder_positional_encoding_layer_type": "rel_pos",
    "text_encoder_self_attention_layer_type": "rel_selfattn",
    "text_encoder_activation_type": "swish",
    "text_encoder_normalize_before": True,
    "decoder_kernel_size": 7,
    "use_only_mean_in_flow": True,
}

_NAMES = [
    (r"^global_emb\.", "embed_speaker."),
    (r"^decoder\.input_conv\.", "decoder.conv_pre."),
    (r"^decoder\.output_conv\.1\.", "decoder.conv_post."),
    (r"^decoder\.upsamples\.(\d+)\.1\.", r"decoder.upsampler.\1."),
    (r"^decoder\.blocks\.(\d+)\.(convs[12])\.(\d+)\.1\.", r"decoder.resblocks.\1.\2.\3."),
    (r"^(decoder|duration_predictor)\.global_conv\.", r"\1.cond."),
    (r"^duration_predictor\.(pre|proj|dds)\.", r"duration_predictor.conv_\1."),
    (r"\.flows\.0\.m$", ".flows.0.translate"),
    (r"\.flows\.0\.logs$", ".flows.0.log_scale"),
    (r"(\.flows\.\d+)\.input_conv\.", r"\1.conv_pre."),
    (r"(\.flows\.\d+)\.dds_conv\.", r"\1.conv_dds."),
    (r"^(duration_predictor\.flows\.\d+)\.proj\.", r"\1.conv_proj."),
    (r"^(flow\.flows\.\d+)\.proj\.", r"\1.conv_post."),
    (r"(conv_dds)\.convs\.(\d+)\.0\.", r"\1.convs_dilated.\2."),
    (r"(conv_dds)\.convs\.(\d+)\.2\.", r"\1.norms_1.\2."),
    (r"(conv_dds)\.convs\.(\d+)\.5\.", r"\1.convs_pointwise.\2."),
    (r"(conv_dds)\.convs\.(\d+)\.7\.", r"\1.norms_2.\2."),
    (r"\.encoder\.conv_layers\.(\d+)\.conv\.", r".wavenet.in_layers.\1."),
    (r"\.encoder\.conv_layers\.(\d+)\.conv1x1_out\.", r".wavenet.res_skip_layers.\1."),
    (r"\.encoder\.conv_layers\.(\d+)\.conv1x1_glo\.", r".wavenet.cond_layers.\1."),
]
_TRAINING_ONLY = ("posterior_encoder.", "duration_predictor.post_")


def build(
    parameters: Mapping[str, Any], num_tokens: int, sample_rate_hz: int, weights: Mapping[str, Tensor]
) -> VitsModel:
    """Build the network.

    Args:
        parameters: `generator_params` of the configuration.
        num_tokens: Length of its `token_list`.
        sample_rate_hz: Rate of its waveform.
        weights: The state dict, as ESPnet saves it.

    Returns:
        A `VitsModel` with the text encoder exchanged.

    Raises:
        UnsupportedModel: A parameter asks for what is not implemented here.
    """
    params = {**DEFAULTS, **parameters}
    _insist(params)
    # Without storage: nothing is drawn from the random generators, which belong to who is speaking meanwhile.
    with torch.device("meta"):
        model = VitsModel(_config(params, num_tokens, sample_rate_hz))
        strip(model)
        model.text_encoder = TextEncoder(params, num_tokens)
        model.decoder.conv_post = nn.Conv1d(model.decoder.conv_post.in_channels, 1, 7, padding=3)
        for k, layer in enumerate(model.decoder.upsampler):
            if odd := layer.stride[0] % 2:
                model.decoder.upsampler[k] = nn.ConvTranspose1d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel_size[0],
                    layer.stride[0],
                    padding=layer.stride[0] // 2 + odd,
                    output_padding=odd,
                )
    model.load_state_dict(_convert(weights, params), strict=True, assign=True)
    return model


def _insist(params: Mapping[str, Any]) -> None:
    for name, value in _NEEDED.items():
        if params[name] != value:
            raise UnsupportedModel(f"its {name} is {params[name]!r}; only {value!r} is served", field="model")
    if (params["spk_embed_dim"] or 0) > 0:
        raise UnsupportedModel("it needs a speaker embedding (x-vector) for each voice and brings none", field="model")
    if (params["langs"] or 0) > 1:
        raise UnsupportedModel(
            f"it speaks {params['langs']} languages by numbers that only its makers know", field="model"
        )


def _config(params: Mapping[str, Any], num_tokens: int, sample_rate_hz: int) -> VitsConfig:
    return VitsConfig(
        vocab_size=num_tokens,
        hidden_size=params["hidden_channels"],
        flow_size=params["hidden_channels"],
        num_hidden_layers=0,
        num_speakers=max(params["spks"] or 1, 1),
        speaker_embedding_size=max(params["global_channels"], 0),
        upsample_initial_channel=params["decoder_channels"],
        upsample_rates=params["decoder_upsample_scales"],
        upsample_kernel_sizes=params["decoder_upsample_kernel_sizes"],
        resblock_kernel_sizes=params["decoder_resblock_kernel_sizes"],
        resblock_dilation_sizes=params["decoder_resblock_dilations"],
        depth_separable_num_layers=params["stochastic_duration_predictor_dds_conv_layers"],
        duration_predictor_kernel_size=params["stochastic_duration_predictor_kernel_size"],
        duration_predictor_num_flows=params["stochastic_duration_predictor_flows"],
        prior_encoder_num_flows=params["flow_flows"],
        prior_encoder_num_wavenet_layers=params["flow_layers"],
        posterior_encoder_num_wavenet_layers=1,
        wavenet_kernel_size=params["flow_kernel_size"],
        wavenet_dilation_rate=params["flow_base_dilation"],
        sampling_rate=sample_rate_hz,
    )


def _convert(weights: Mapping[str, Tensor], params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the weights of the generator the names and shapes of `VitsModel`."""
    ours = {name.removeprefix(PREFIX): weight for name, weight in weights.items() if name.startswith(PREFIX)}
    plain: dict[str, Tensor] = {}
    for name, weight in ours.items():
        if name.startswith(_TRAINING_ONLY) or name.endswith(".weight_g"):
            continue
        if name.endswith(".weight_v"):
            name = name.removesuffix("_v")
            weight = torch._weight_norm(weight, ours[f"{name}_g"], 0)
        plain[_rename(name)] = weight
    hidden, layers = params["hidden_channels"], params["flow_layers"]
    for flow in range(params["flow_flows"]):
        prefix = f"flow.flows.{flow}."
        # ESPnet scales the sum over the layers, transformers does not.
        plain[prefix + "conv_post.weight"] = plain[prefix + "conv_post.weight"] * math.sqrt(1 / layers)
        for kind in ("weight", "bias"):
            # The last layer's residual leads nowhere, and transformers has no place for it.
            last = f"{prefix}wavenet.res_skip_layers.{layers - 1}.{kind}"
            plain[last] = plain[last][hidden:]
        conditions = [plain.pop(f"{prefix}wavenet.cond_layers.{k}.weight", None) for k in range(layers)]
        if all(condition is not None for condition in conditions):
            plain[prefix + "wavenet.cond_layer.weight"] = torch.cat(conditions)  # type: ignore[arg-type]
            plain[prefix + "wavenet.cond_layer.bias"] = torch.zeros(2 * hidden * layers)
    return plain


def _rename(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    # ESPnet counts the flips between the flows, which have no weights.
    name = re.sub(r"^(flow\.flows\.)(\d+)", lambda found: f"{found[1]}{int(found[2]) // 2}", name)
    return re.sub(r"^(duration_predictor\.flows\.)(\d+)", lambda found: f"{found[1]}{(int(found[2]) + 1) // 2}", name)


class TextEncoder(nn.Module):
    """Turns tokens into the prior distribution of the latent frames; called as transformers' `VitsTextEncoder` is.

    Args:
        params: `generator_params`, complete.
        num_tokens: Length of the `token_list`.
    """

    def __init__(self, params: Mapping[str, Any], num_tokens: int) -> None:
        super().__init__()
        size = params["hidden_channels"]
        self.emb = nn.Embedding(num_tokens, size)
        self.encoder = Encoder(params)
        self.proj = nn.Conv1d(size, 2 * size, 1)

    @property
    def embed_tokens(self) -> nn.Embedding:
        """The embedding by its name in transformers."""
        return self.emb

    def forward(self, input_ids: Tensor, padding_mask: Tensor, **_: object) -> VitsTextEncoderOutput:
        """Encode tokens.

        Args:
            input_ids: int64 [B, T].
            padding_mask: [B, T, 1]; 0 where a row is padded.

        Returns:
            Hidden states, means and logarithms of the deviations, each [B, T, C].
        """
        hidden = self.encoder(self.emb(input_ids) * math.sqrt(self.emb.embedding_dim), padding_mask)
        stats = self.proj(hidden.transpose(1, 2)).transpose(1, 2) * padding_mask
        means, log_deviations = stats.chunk(2, dim=2)
        return VitsTextEncoderOutput(last_hidden_state=hidden, prior_means=means, prior_log_variances=log_deviations)


class Encoder(nn.Module):
    """A stack of Conformer blocks that are told how far apart two tokens are."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Block(params) for _ in range(params["text_encoder_blocks"]))
        self.after_norm = _norm(params)

    def forward(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]."""
        positions = relative_positions(hidden.shape[1], hidden.shape[2]).to(hidden)
        hidden = hidden * math.sqrt(hidden.shape[2])
        for block in self.encoders:
            hidden = block(hidden, positions, padding_mask)
        normed: Tensor = self.after_norm(hidden)
        return normed


class Block(nn.Module):
    """A Conformer block; its first half feed-forward layer and its convolution are left out if so configured."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.self_attn = Attention(params)
        self.feed_forward = FeedForward(params)
        self.norm_mha = _norm(params)
        self.norm_ff = _norm(params)
        self.has_macaron = params["use_macaron_style_in_text_encoder"]
        self.has_convolution = params["use_conformer_conv_in_text_encoder"]
        if self.has_macaron:
            self.feed_forward_macaron = FeedForward(params)
            self.norm_ff_macaron = _norm(params)
        if self.has_convolution:
            self.conv_module = Convolution(params)
            self.norm_conv = _norm(params)
            self.norm_final = _norm(params)

    def forward(self, hidden: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]."""
        share = 0.5 if self.has_macaron else 1.0
        if self.has_macaron:
            hidden = hidden + share * self.feed_forward_macaron(self.norm_ff_macaron(hidden), padding_mask)
        hidden = hidden + self.self_attn(self.norm_mha(hidden), positions, padding_mask)
        if self.has_convolution:
            hidden = hidden + self.conv_module(self.norm_conv(hidden), padding_mask)
        hidden = hidden + share * self.feed_forward(self.norm_ff(hidden), padding_mask)
        if self.has_convolution:
            hidden = self.norm_final(hidden)
        return hidden


class Attention(nn.Module):
    """Self-attention with relative positions (Dai et al. 2019, section 3.3)."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        size, self.heads = params["hidden_channels"], params["text_encoder_attention_heads"]
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(self.heads, size // self.heads))
        self.pos_bias_v = nn.Parameter(torch.empty(self.heads, size // self.heads))

    def forward(self, hidden: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]; positions are those of `relative_positions`."""
        query = self._split(self.linear_q(hidden))
        key = self._split(self.linear_k(hidden)).transpose(2, 3)
        position = self._split(self.linear_pos(positions)[None]).transpose(2, 3)
        by_content = (query + self.pos_bias_u[:, None]) @ key
        by_distance = (query + self.pos_bias_v[:, None]) @ position
        # Row i of `by_distance` begins with the distance T - 1, so that to token j is at T - 1 - i + j.
        tokens = torch.arange(hidden.shape[1], device=hidden.device)
        index = hidden.shape[1] - 1 - tokens[:, None] + tokens
        scores = by_content + by_distance.gather(3, index.expand_as(by_content))
        scores = scores / math.sqrt(query.shape[3])
        scores = scores.masked_fill(padding_mask[:, None, :, 0][:, :, None] == 0, torch.finfo(scores.dtype).min)
        mixed = torch.softmax(scores, dim=3) @ self._split(self.linear_v(hidden))
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, hidden: Tensor) -> Tensor:
        """Split [B, T, C] into heads, [B, H, T, C / H]."""
        batch, length, size = hidden.shape
        return hidden.view(batch, length, self.heads, size // self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Two convolutions over time in place of a Transformer's two linear layers."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        size, kernel = params["hidden_channels"], params["text_encoder_positionwise_conv_kernel_size"]
        wide = size * params["text_encoder_ffn_expand"]
        self.w_1 = nn.Conv1d(size, wide, kernel, padding=(kernel - 1) // 2)
        self.w_2 = nn.Conv1d(wide, size, kernel, padding=(kernel - 1) // 2)

    def forward(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]; a convolution reads zeros after the end of a row, however long its batch is."""
        mask = padding_mask.transpose(1, 2)
        out: Tensor = self.w_2(torch.relu(self.w_1(hidden.transpose(1, 2) * mask)) * mask)
        return out.transpose(1, 2)


class Convolution(nn.Module):
    """A Conformer's convolution over time."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        size, kernel = params["hidden_channels"], params["text_encoder_conformer_kernel_size"]
        self.pointwise_conv1 = nn.Conv1d(size, 2 * size, 1)
        self.depthwise_conv = nn.Conv1d(size, size, kernel, padding=(kernel - 1) // 2, groups=size)
        self.norm = nn.BatchNorm1d(size)
        self.pointwise_conv2 = nn.Conv1d(size, size, 1)

    def forward(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C]; likewise."""
        gated = functional.glu(self.pointwise_conv1(hidden.transpose(1, 2)), dim=1) * padding_mask.transpose(1, 2)
        out: Tensor = self.pointwise_conv2(functional.silu(self.norm(self.depthwise_conv(gated))))
        return out.transpose(1, 2)


def relative_positions(length: int, size: int) -> Tensor:
    """Encode the distances length - 1 ... 1 - length as sines and cosines; float32 [2 * length - 1, size]."""
    distance = torch.arange(length - 1, -length, -1, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * -(math.log(10_000.0) / size))
    return torch.stack([torch.sin(distance * rate), torch.cos(distance * rate)], dim=2).flatten(1)


def _norm(params: Mapping[str, Any]) -> nn.LayerNorm:
    return nn.LayerNorm(params["hidden_channels"], eps=1e-12)
