"""Bark: three transformers, EnCodec and a few speaker presets, as in the repositories of Suno."""

import json
import string
from pathlib import Path

import numpy as np

from tests.checkpoints import Family

MODEL = "tiny-org/tiny-bark"
PRESETS = ("v2/en_speaker_0", "v2/en_speaker_6", "v2/ja_speaker_1", "en_speaker_6", "announcer")

# The codebooks have 16 entries instead of 1024, and the vocabularies hold as many tokens as that needs.
SEMANTIC = {
    "semantic_vocab_size": 32,
    "text_encoding_offset": 40,
    "text_pad_token": 120,
    "semantic_infer_token": 121,
    "semantic_pad_token": 32,
    "eos_token_id": 32,
    "max_input_semantic_length": 200,
    "semantic_rate_hz": 49.9,
    "max_new_tokens": 768,
    "temperature": 0.7,
    "do_sample": True,
}
COARSE = {
    "coarse_semantic_pad_token": 64,
    "coarse_infer_token": 65,
    "coarse_rate_hz": 75,
    "n_coarse_codebooks": 2,
    "max_coarse_input_length": 64,
    "max_coarse_history": 96,
    "sliding_window_len": 60,
    "temperature": 0.7,
    "do_sample": True,
}
FINE = {"max_fine_history_length": 32, "max_fine_input_length": 64, "n_fine_codebooks": 8, "temperature": 0.5}


def build(root: Path, *, ends: float = 0.0) -> None:
    """Write the repository.

    Args:
        root: Where.
        ends: How likely the end of the speech is at each token: the logit's advantage over the others. Far below 0
            the model never ends, far above it says nothing.
    """
    import torch
    from transformers import BarkConfig, BarkModel, BertTokenizer, EncodecConfig
    from transformers.models.bark.configuration_bark import BarkCoarseConfig, BarkFineConfig, BarkSemanticConfig

    folder = root / MODEL
    folder.mkdir(parents=True)
    info = {
        "library_name": "transformers",
        "pipeline_tag": "text-to-speech",
        "tags": ["transformers", "pytorch", "bark", "text-to-audio", "audio", "text-to-speech", "license:mit"],
        "config": {"model_type": "bark", "architectures": ["BarkModel"]},
    }
    (folder / ".hub.json").write_text(json.dumps({"info": info}))

    torch.manual_seed(0)
    size = {"block_size": 512, "num_layers": 1, "num_heads": 2, "hidden_size": 16}
    model = BarkModel(
        BarkConfig(
            semantic_config=BarkSemanticConfig(input_vocab_size=128, output_vocab_size=33, **size).to_dict(),
            coarse_acoustics_config=BarkCoarseConfig(input_vocab_size=80, output_vocab_size=64, **size).to_dict(),
            fine_acoustics_config=BarkFineConfig(
                input_vocab_size=17, output_vocab_size=17, n_codes_total=8, n_codes_given=1, **size
            ).to_dict(),
            codec_config=EncodecConfig(
                target_bandwidths=[6.0],
                num_filters=4,
                hidden_size=8,
                codebook_size=16,
                codebook_dim=8,
                num_lstm_layers=1,
            ).to_dict(),
        )
    ).eval()
    # As drawn by the library, the weights leave no trace of the text and of the voice in the speech.
    for stage in (model.semantic, model.coarse_acoustics, model.fine_acoustics):
        for weight in stage.layers.parameters():
            if weight.ndim == 2:
                weight.data.mul_(20.0)
    for stage in (model.semantic, model.coarse_acoustics):
        stage.lm_head.weight.data.mul_(10.0)
    _lean_to_the_end(model, ends)
    for layer in model.codec_model.quantizer.layers:  # Empty before training.
        layer.codebook.embed.normal_()
    model.config.architectures = ["BarkModel"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    # The library cannot write a generation configuration of three parts.
    generation = {
        "model_type": "bark",
        "semantic_config": SEMANTIC,
        "coarse_acoustics_config": COARSE,
        "fine_acoustics_config": FINE,
        "sample_rate": 24_000,
        "codebook_size": 16,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))

    letters = string.ascii_lowercase + string.digits + ".,!?'"
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        "日",
        *(f"##{c}" for c in string.ascii_lowercase + string.digits),
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    _write_presets(folder)


def reference(root: Path, text: str, voice: str, seed: int) -> np.ndarray:
    """The library's own `generate`, as its documentation calls it."""
    import torch
    from transformers import BarkModel, BarkProcessor

    model = BarkModel.from_pretrained(root / MODEL)
    length = SEMANTIC["max_input_semantic_length"]
    inputs = BarkProcessor.from_pretrained(root / MODEL)(text, voice_preset=voice, max_length=length)
    torch.manual_seed(seed)
    return model.generate(**inputs)[0].numpy()


def _lean_to_the_end(model, ends: float) -> None:
    """Give the end-of-speech token a logit of its own; the head has no bias, so its direction is that of the norm's."""
    norm = model.semantic.layernorm_final
    norm.bias.data = norm.bias.data.clone()
    norm.bias.data[0] = 10.0
    norm.weight.data[0] = 0.0
    head = model.semantic.lm_head.weight.data
    head[:, 0] = 0.0
    head[SEMANTIC["eos_token_id"]] = 0.0
    head[SEMANTIC["eos_token_id"], 0] = ends / 10.0


def _write_presets(folder: Path) -> None:
    draw = np.random.default_rng(0)
    paths: dict[str, object] = {"repo_or_path": "suno/bark"}
    for preset in PRESETS:
        prompts = {
            "semantic_prompt": draw.integers(0, 32, 20),
            "coarse_prompt": draw.integers(0, 16, (2, 30)),
            "fine_prompt": draw.integers(0, 16, (8, 30)),
        }
        paths[preset] = {name: f"speaker_embeddings/{preset}_{name}.npy" for name in prompts}
        for name, prompt in prompts.items():
            path = folder / f"speaker_embeddings/{preset}_{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, prompt)
    (folder / "speaker_embeddings_path.json").write_text(json.dumps(paths))


FAMILY = Family("bark", MODEL, build, reference)
