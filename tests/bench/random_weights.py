"""Checkpoints of full size with random weights: they cost what trained ones cost, and no hub is needed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tests.checkpoints import csm as tiny_csm
from tests.checkpoints import vits as tiny_vits
from worker.engines.base import Checkpoint

VITS, CSM = "bench/vits", "bench/csm"

FRAMES_PER_TOKEN = 2.2
SPREAD = 4.0
"""Random durations explode: this scale, a logarithm, holds them together."""


def vits(root: Path, *, is_small: bool = False) -> Checkpoint:
    """Write a VITS as large as `facebook/mms-tts-eng`, or a tiny one, to `root/bench/vits`.

    Weights are scaled so that durations, latents and waveform stay in the range of a trained model's.
    """
    import torch
    import transformers
    from transformers import VitsConfig, VitsModel

    transformers.logging.disable_progress_bar()
    if is_small:
        tiny_vits.build(root, VITS)
    else:
        full = VitsConfig()
        names = ("hidden_size", "num_hidden_layers", "ffn_dim", "flow_size", "spectrogram_bins")
        names += ("upsample_initial_channel", "duration_predictor_filter_channels", "prior_encoder_num_flows")
        names += ("prior_encoder_num_wavenet_layers", "posterior_encoder_num_wavenet_layers")
        tiny_vits.build(root, VITS, **{name: getattr(full, name) for name in names})
        network: Any = VitsModel.from_pretrained(root / VITS)
        with torch.no_grad():
            flow = network.duration_predictor.flows[0]
            flow.log_scale.fill_(SPREAD)
            flow.translate.fill_(-math.log(FRAMES_PER_TOKEN) * math.exp(SPREAD))
            network.text_encoder.project.weight.mul_(0.1)
            for coupling in network.flow.flows:
                coupling.conv_post.weight.mul_(0.1)
            for block in network.decoder.resblocks:
                for conv in (*block.convs1, *block.convs2):
                    conv.weight.mul_(0.3)
            network.decoder.conv_post.weight.mul_(2.0)
        network.save_pretrained(root / VITS)
    return Checkpoint(VITS, root / VITS)


def csm(root: Path, *, is_small: bool = False, device: str = "cpu") -> Checkpoint:
    """Write a CSM as large as `sesame/csm-1b`, or a tiny one, to `root/bench/csm`.

    A frame of random codes does not end the speech, so each utterance is as long as the worker lets it be.
    """
    import torch
    import transformers
    from transformers import CsmConfig, CsmForConditionalGeneration

    transformers.logging.disable_progress_bar()
    tiny_csm.build(root, ends=False)
    folder = root / CSM
    (root / tiny_csm.MODEL).rename(_made(folder))
    if not is_small:
        tiny = CsmConfig.from_pretrained(folder)
        tokens = ("bos_token_id", "pad_token_id", "audio_token_id", "audio_eos_token_id")
        config = CsmConfig(**{name: getattr(tiny, name) for name in tokens})
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        with torch.device(device):
            network: Any = CsmForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        network.generation_config._from_model_config = False
        network.depth_decoder.generation_config._from_model_config = False
        network.generation_config.update(do_sample=True, temperature=0.9, max_new_tokens=125)
        network.depth_decoder.generation_config.update(do_sample=True, temperature=0.9)
        network.save_pretrained(folder)
    return Checkpoint(CSM, folder)


def _made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder
