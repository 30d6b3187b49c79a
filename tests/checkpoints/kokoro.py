"""A Kokoro with random weights. Its decoder's widths are written into the library, so it is not tiny: 100 MB."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints import Family
from worker.engines.kokoro import model_class

MODEL = "tiny-org/tiny-kokoro"
WEIGHTS = "kokoro-v1_0.pth"
VOICES = ("af_heart", "am_adam", "bf_emma", "ef_dora", "jf_alpha", "zf_xiaobei")
COMPONENTS = ("bert", "bert_encoder", "predictor", "decoder", "text_encoder")
ALPHABET = ';:,.!?—…"()“” ˈˌːAIOQWYTabdefhijklmnopstuvwzæðŋɐɑɒɔəɛɜɡɪɹɾʃʊʌʒʔʤʧθᵊᵻ'

# The fields of hexgrad/Kokoro-82M. What is no smaller than there is fixed in the library.
CONFIG: dict[str, Any] = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5]],
        "resblock_kernel_sizes": [3],
        "upsample_initial_channel": 512,
    },
    "dim_in": 8,
    "dropout": 0.2,
    "hidden_dim": 512,
    "max_conv_dim": 512,
    "max_dur": 4,
    "multispeaker": True,
    "n_layer": 1,
    "n_mels": 80,
    "n_token": 178,
    "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 24,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 192,
        "num_hidden_layers": 1,
        "dropout": 0.1,
    },
    "vocab": {char: number for number, char in enumerate(ALPHABET, start=1)},
}

HUB: dict[str, Any] = {
    "info": {
        "pipeline_tag": "text-to-speech",
        "tags": ["text-to-speech", "en", "arxiv:2306.07691", "arxiv:2203.02395", "license:apache-2.0"],
        "config": {},
    }
}


def load(folder: Path, name: str = MODEL) -> Any:
    """Load a Kokoro as its library does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model_class()(
            repo_id=name, config=str(folder / "config.json"), model=str(next(folder.glob("*.pth")))
        ).eval()


def write(folder: Path, config: dict[str, Any]) -> Any:
    """Write everything but weights and voices; returns a network with fresh weights."""
    import torch

    (folder / "voices").mkdir(parents=True)
    (folder / ".hub.json").write_text(json.dumps(HUB))
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({}, folder / WEIGHTS)  # The library insists on a file.
    return load(folder)


def build(root: Path) -> None:
    import torch

    folder = root / MODEL
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = write(folder, CONFIG).requires_grad_(False)
        last = network.decoder.generator.conv_post
        last.bias[: last.out_channels // 2].sub_(2.0)  # Log magnitudes: 18 dB less, well below full scale.
        # In half precision it takes half the disk; the library's copies are float32.
        weights = {name: getattr(network, name).half().state_dict() for name in COMPONENTS}
        torch.save(weights, folder / WEIGHTS)
        for voice in VOICES:
            torch.save(torch.randn(510, 1, 256), folder / "voices" / f"{voice}.pt")


def reference(root: Path, text: str, voice: str, seed: int) -> npt.NDArray[np.float32]:
    import torch
    from hibari.g2p import G2P

    network = load(root / MODEL)
    phonemes = G2P(british=voice.startswith("b"))(text)
    styles = torch.load(root / MODEL / "voices" / f"{voice}.pt", weights_only=True)
    torch.manual_seed(seed)
    samples: npt.NDArray[np.float32] = network(phonemes, styles[len(phonemes) - 1], 1).numpy()
    return samples


FAMILY = Family("kokoro", MODEL, build, reference)
