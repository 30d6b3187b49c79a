"""A tiny Dia with the DAC codec in a repository of its own, as `nari-labs/Dia-1.6B-0626` has it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints import Family

MODEL = "tiny-org/tiny-dia"
CODEC = "tiny-org/tiny-dac-44khz"
MAX_LENGTH = 110
"""Frames, 1.3 s, but for the row that ends them."""

LONGEST_DELAY = 15

TOKENS = {"bos_token_id": 1026, "eos_token_id": 1024, "pad_token_id": 1025}


def build(root: Path) -> None:
    """Write the model and the codec."""
    import torch
    from transformers import (
        DiaConfig,
        DiaDecoderConfig,
        DiaEncoderConfig,
        DiaFeatureExtractor,
        DiaForConditionalGeneration,
        DiaProcessor,
        DiaTokenizer,
    )

    torch.manual_seed(0)
    layer = {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    cross = {"num_attention_heads": 2, "head_dim": 8, "num_key_value_heads": 1, "hidden_size": 16}
    model = DiaForConditionalGeneration(
        DiaConfig(
            encoder_config=DiaEncoderConfig(num_key_value_heads=2, **layer).to_dict(),
            decoder_config=DiaDecoderConfig(
                num_key_value_heads=1, **layer, **{f"cross_{name}": value for name, value in cross.items()}, **TOKENS
            ).to_dict(),
        )
    )
    # Random weights hardly prefer one token to another, so neither text nor guidance would make a difference.
    model.logits_dense.weight.data.mul_(40.0)
    model.model.encoder.embedding.weight.data.mul_(40.0)
    model.generation_config.update(
        do_sample=True,
        temperature=1.2,
        top_p=0.95,
        top_k=45,
        guidance_scale=3.0,
        max_length=MAX_LENGTH,
        decoder_start_token_id=TOKENS["bos_token_id"],
        **TOKENS,
    )
    folder = root / MODEL
    model.save_pretrained(folder)
    processor = DiaProcessor(DiaFeatureExtractor(sampling_rate=44100), DiaTokenizer(), _build_codec(root))
    processor.save_pretrained(folder)
    config = json.loads((folder / "processor_config.json").read_text())
    config["audio_tokenizer"]["audio_tokenizer_name_or_path"] = CODEC
    (folder / "processor_config.json").write_text(json.dumps(config))
    _describe(folder, "dia", "DiaForConditionalGeneration", ["safetensors", "text-to-speech"])
    _describe(root / CODEC, "dac", "DacModel", ["safetensors", "feature-extraction"])


def _build_codec(root: Path) -> Any:
    """Write the codec, loud enough to be heard, with the ratios and thus the halo of the real one."""
    import torch
    from transformers import DacConfig, DacModel

    codec = DacModel(
        DacConfig(encoder_hidden_size=4, decoder_hidden_size=32, codebook_dim=4, sampling_rate=44100, n_codebooks=9)
    )
    for quantizer in codec.quantizer.quantizers:
        torch.nn.init.normal_(quantizer.codebook.weight, std=1.0)
    for weight in (parameter for parameter in codec.decoder.parameters() if parameter.ndim == 3):
        torch.nn.init.kaiming_normal_(weight, a=1.0)
    with torch.no_grad():
        codec.decoder.conv2.weight.mul_(1e-6)  # Far from where the last tanh bends, to measure the level.
        audio = codec.decode(audio_codes=torch.randint(1024, (1, 9, 20))).audio_values
        codec.decoder.conv2.weight.mul_(0.2 / audio.std())
    codec.save_pretrained(root / CODEC)
    return DacModel.from_pretrained(root / CODEC)


def _describe(folder: Path, model_type: str, architecture: str, tags: list[str]) -> None:
    config = {"model_type": model_type, "architectures": [architecture]}
    info = {"library_name": "transformers", "tags": ["transformers", *tags, model_type], "config": config}
    (folder / ".hub.json").write_text(json.dumps({"info": info}))


def reference(
    root: Path, text: str, voice: str, seed: int, recording: tuple[str, npt.NDArray[np.float32]] | None = None
) -> npt.NDArray[np.float32]:
    """Speak as the model's card shows it; `recording` is what is said in one and its samples."""
    import torch
    from transformers import DacModel, DiaFeatureExtractor, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer

    load = partial(dict, local_files_only=True)
    model = DiaForConditionalGeneration.from_pretrained(root / MODEL, **load()).eval()
    processor = DiaProcessor(
        DiaFeatureExtractor.from_pretrained(root / MODEL, **load()),
        DiaTokenizer.from_pretrained(root / MODEL, **load()),
        DacModel.from_pretrained(root / CODEC, **load()).eval(),
    )
    spoken, heard, num_rows = f"[S1] {text}", None, None
    if recording:
        spoken, heard = f"[S1] {recording[0]} {spoken}", [recording[1]]
    # To pad the text, too, makes the library warn.
    rate = {"sampling_rate": 44_100}
    inputs = processor(
        text=[spoken], audio=heard, text_kwargs={"padding": False}, audio_kwargs=rate, return_tensors="pt"
    )
    if recording:
        num_rows = processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
    torch.manual_seed(seed)
    with torch.no_grad():
        # This length is what the library makes of the checkpoint's `max_length`, with a warning.
        longest = model.generation_config.max_length + LONGEST_DELAY - (num_rows or 1) + 1
        rows = model.generate(**inputs, max_new_tokens=longest)
        return processor.batch_decode(rows, audio_prompt_len=num_rows)[0].numpy()


FAMILY = Family("dia", MODEL, build, reference, tolerance=5e-6)
