"""A tiny `espnet/kan-bayashi_ljspeech_vits`: its files, its configuration, and the names of its weights.

ESPnet is no dependency, not even of the tests, so the state dict is written here name by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints import Family

if TYPE_CHECKING:
    import torch

MODEL = "espnet/kan-bayashi_ljspeech_vits"
RECIPE = "exp/tts_train_vits_raw_phn_tacotron_g2p_en_no_space"
WEIGHTS = f"{RECIPE}/train.total_count.ave_10best.pth"

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N"),
    *("NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
TOKENS = [
    "<blank>",
    "<unk>",
    *(vowel + stress for vowel in VOWELS for stress in "012" if vowel + stress not in ("UH0", "OY2")),
    *CONSONANTS,
    *(".", ",", "?", "!", "'", ".."),
    "<sos/eos>",
]

HIDDEN, CHANNELS, FLOWS, FLOW_LAYERS, DDS_LAYERS, HEADS, EXPAND = 16, 32, 2, 3, 2, 2, 2
GENERATOR = {
    "hidden_channels": HIDDEN,
    "spks": -1,
    "global_channels": -1,
    "segment_size": 32,
    "text_encoder_attention_heads": HEADS,
    "text_encoder_ffn_expand": EXPAND,
    "text_encoder_blocks": 2,
    "text_encoder_positionwise_layer_type": "conv1d",
    "text_encoder_positionwise_conv_kernel_size": 3,
    "text_encoder_positional_encoding_layer_type": "rel_pos",
    "text_encoder_self_attention_layer_type": "rel_selfattn",
    "text_encoder_activation_type": "swish",
    "text_encoder_normalize_before": True,
    "text_encoder_dropout_rate": 0.1,
    "text_encoder_positional_dropout_rate": 0.0,
    "text_encoder_attention_dropout_rate": 0.1,
    "use_macaron_style_in_text_encoder": True,
    "use_conformer_conv_in_text_encoder": False,
    "text_encoder_conformer_kernel_size": -1,
    "decoder_kernel_size": 7,
    "decoder_channels": CHANNELS,
    "decoder_upsample_scales": [8, 8, 2, 2],
    "decoder_upsample_kernel_sizes": [16, 16, 4, 4],
    "decoder_resblock_kernel_sizes": [3, 7, 11],
    "decoder_resblock_dilations": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "use_weight_norm_in_decoder": True,
    "posterior_encoder_kernel_size": 5,
    "posterior_encoder_layers": 1,
    "posterior_encoder_stacks": 1,
    "posterior_encoder_base_dilation": 1,
    "posterior_encoder_dropout_rate": 0.0,
    "use_weight_norm_in_posterior_encoder": True,
    "flow_flows": FLOWS,
    "flow_kernel_size": 5,
    "flow_base_dilation": 1,
    "flow_layers": FLOW_LAYERS,
    "flow_dropout_rate": 0.0,
    "use_weight_norm_in_flow": True,
    "use_only_mean_in_flow": True,
    "stochastic_duration_predictor_kernel_size": 3,
    "stochastic_duration_predictor_dropout_rate": 0.5,
    "stochastic_duration_predictor_flows": FLOWS,
    "stochastic_duration_predictor_dds_conv_layers": DDS_LAYERS,
}
CONFIG: dict[str, Any] = {
    "config": "./conf/tuning/train_vits.yaml",
    "ngpu": 1,
    "optim": "adamw",
    "optim_conf": {"lr": 0.0002, "betas": [0.8, 0.99], "eps": 1e-09, "weight_decay": 0.0},
    "token_list": TOKENS,
    "odim": None,
    "model_conf": {},
    "use_preprocessor": True,
    "token_type": "phn",
    "bpemodel": None,
    "non_linguistic_symbols": None,
    "cleaner": "tacotron",
    "g2p": "g2p_en_no_space",
    "feats_extract": "linear_spectrogram",
    "feats_extract_conf": {"n_fft": 1024, "hop_length": 256, "win_length": None},
    "normalize": None,
    "normalize_conf": {},
    "tts": "vits",
    "tts_conf": {
        "generator_type": "vits_generator",
        "generator_params": GENERATOR,
        "discriminator_type": "hifigan_multi_scale_multi_period_discriminator",
        "sampling_rate": 22_050,
        "lambda_adv": 1.0,
        "cache_generator_outputs": True,
    },
    "required": ["output_dir", "token_list"],
    "version": "0.10.3a2",
    "distributed": True,
}
META = {
    "espnet": "0.10.3a2",
    "files": {"model_file": WEIGHTS},
    "python": "3.7.3",
    "timestamp": 1_632_192_000.0,
    "torch": "1.7.1",
    "yaml_files": {"train_config": f"{RECIPE}/config.yaml"},
}


def build(root: Path) -> None:
    """Write the repository `root/MODEL`."""
    import torch
    import yaml

    folder = root / MODEL
    (folder / RECIPE / "images").mkdir(parents=True)
    (folder / RECIPE / "images" / "train_time.png").touch()
    (folder / RECIPE / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (folder / "meta.yaml").write_text(yaml.safe_dump(META))
    (folder / "README.md").write_text("---\ntags: [espnet, audio, text-to-speech]\nlanguage: en\n---\n")
    torch.save(weights(), folder / WEIGHTS)
    info = {"library_name": "espnet", "tags": ["espnet", "audio", "text-to-speech", "en"], "config": {}}
    (folder / ".hub.json").write_text(json.dumps({"info": info}))


def weights() -> dict[str, torch.Tensor]:
    """Make a state dict; loudness and durations are those of speech, which random weights do not give."""
    import torch

    noise = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for name, shape in _shapes():
        fan_in = math.prod(shape[1:]) or 1
        if ("norm" in name and name.endswith("weight")) or name.endswith((".2.weight", ".7.weight")):
            weight = torch.ones(shape)
        elif name.endswith("weight_g"):
            weight = 0.5 + torch.rand(shape, generator=noise)
        elif len(shape) == 1:
            weight = 0.02 * torch.randn(shape, generator=noise)
        else:
            weight = torch.randn(shape, generator=noise) / math.sqrt(fan_in)
        state[name] = weight
    durations = "tts.generator.duration_predictor.flows.0"
    state[f"{durations}.logs"] = torch.full((2, 1), 1.5)
    state[f"{durations}.m"] = torch.full((2, 1), -math.log(8.0) * math.exp(1.5))
    state["tts.generator.decoder.output_conv.1.weight_g"] *= 0.2
    return state


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights, in no order."""
    for name, shape in _generator():
        yield f"tts.generator.{name}", shape
    yield from _normed("tts.discriminator.msd.discriminators.0.layers.0.0", (4, 1, 15), 4)
    yield from _normed("tts.discriminator.mpd.discriminators.0.convs.0.0", (4, 1, 5, 1), 4)


def _generator() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _text_encoder()
    yield from _decoder()
    yield from _wavenet("posterior_encoder.encoder", 1)
    yield from _plain("posterior_encoder.input_conv", (HIDDEN, 513, 1))
    yield from _plain("posterior_encoder.proj", (2 * HIDDEN, HIDDEN, 1))
    for flow in range(FLOWS):
        prefix = f"flow.flows.{2 * flow}"
        yield from _plain(f"{prefix}.input_conv", (HIDDEN, HIDDEN // 2, 1))
        yield from _wavenet(f"{prefix}.encoder", FLOW_LAYERS)
        yield from _plain(f"{prefix}.proj", (HIDDEN // 2, HIDDEN, 1))
    for post in ("", "post_"):
        prefix = "duration_predictor."
        yield from _plain(f"{prefix}{post}pre", (HIDDEN, 1 if post else HIDDEN, 1))
        yield from _plain(f"{prefix}{post}proj", (HIDDEN, HIDDEN, 1))
        yield from _separable(f"{prefix}{post}dds")
        yield f"{prefix}{post}flows.0.m", (2, 1)
        yield f"{prefix}{post}flows.0.logs", (2, 1)
        for flow in range(FLOWS):
            inner = f"{prefix}{post}flows.{2 * flow + 1}"
            yield from _plain(f"{inner}.input_conv", (HIDDEN, 1, 1))
            yield from _separable(f"{inner}.dds_conv")
            yield from _plain(f"{inner}.proj", (29, HIDDEN, 1))


def _text_encoder() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "text_encoder.emb.weight", (len(TOKENS), HIDDEN)
    for block in range(2):
        prefix = f"text_encoder.encoder.encoders.{block}"
        yield f"{prefix}.self_attn.pos_bias_u", (HEADS, HIDDEN // HEADS)
        yield f"{prefix}.self_attn.pos_bias_v", (HEADS, HIDDEN // HEADS)
        yield f"{prefix}.self_attn.linear_pos.weight", (HIDDEN, HIDDEN)
        for part in ("q", "k", "v", "out"):
            yield from _plain(f"{prefix}.self_attn.linear_{part}", (HIDDEN, HIDDEN))
        for part in ("feed_forward", "feed_forward_macaron"):
            yield from _plain(f"{prefix}.{part}.w_1", (EXPAND * HIDDEN, HIDDEN, 3))
            yield from _plain(f"{prefix}.{part}.w_2", (HIDDEN, EXPAND * HIDDEN, 3))
        for part in ("norm_ff", "norm_mha", "norm_ff_macaron"):
            yield from _plain(f"{prefix}.{part}", (HIDDEN,))
    yield from _plain("text_encoder.encoder.after_norm", (HIDDEN,))
    yield from _plain("text_encoder.proj", (2 * HIDDEN, HIDDEN, 1))


def _decoder() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _normed("decoder.input_conv", (CHANNELS, HIDDEN, 7), CHANNELS)
    for level, kernel in enumerate((16, 16, 4, 4)):
        size = CHANNELS // 2 ** (level + 1)
        yield from _normed(f"decoder.upsamples.{level}.1", (2 * size, size, kernel), size)
        for block, width in enumerate((3, 7, 11)):
            for layer in range(3):
                for convs in ("convs1", "convs2"):
                    name = f"decoder.blocks.{3 * level + block}.{convs}.{layer}.1"
                    yield from _normed(name, (size, size, width), size)
    yield from _normed("decoder.output_conv.1", (1, size, 7), 1)


def _wavenet(prefix: str, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(layers):
        yield from _normed(f"{prefix}.conv_layers.{layer}.conv", (2 * HIDDEN, HIDDEN, 5), 2 * HIDDEN)
        yield from _normed(f"{prefix}.conv_layers.{layer}.conv1x1_out", (2 * HIDDEN, HIDDEN, 1), 2 * HIDDEN)


def _separable(prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(DDS_LAYERS):
        shapes = {0: (HIDDEN, 1, 3), 2: (HIDDEN,), 5: (HIDDEN, HIDDEN, 1), 7: (HIDDEN,)}
        for place, shape in shapes.items():
            yield from _plain(f"{prefix}.convs.{layer}.{place}", shape)


def _plain(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _normed(name: str, shape: tuple[int, ...], outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A weight kept apart from its norms, which go along its first dimension, whatever it is."""
    yield f"{name}.bias", (outputs,)
    yield f"{name}.weight_g", (shape[0], *(1 for _ in shape[1:]))
    yield f"{name}.weight_v", shape


def reference(root: Path, text: str, voice: str, seed: int) -> npt.NDArray[np.float32]:
    """Speak with `VitsModel.forward` around the mapped weights: the whole decoded at once."""
    import torch

    from worker.engines.espnet_vits import build as build_network
    from worker.text.arpabet import to_arpabet

    network = build_network(
        GENERATOR, len(TOKENS), 22_050, torch.load(root / MODEL / WEIGHTS, weights_only=True)
    ).eval()
    tokens = torch.tensor([[TOKENS.index(token) for token in to_arpabet(text)]])
    torch.manual_seed(seed)
    with torch.no_grad():
        samples: npt.NDArray[np.float32] = network(tokens).waveform[0].numpy()
    return samples


FAMILY = Family("espnet", MODEL, build, reference, tolerance=1e-5)
