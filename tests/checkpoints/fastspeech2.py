"""FastSpeech2 with Conformer blocks: complete with its vocoder, and with the vocoder in a repository of its own."""

import json
from pathlib import Path

import numpy as np

from tests.checkpoints import Family

COMPLETE = "tiny-org/tiny-fastspeech2"
ALONE = "tiny-org/tiny-fastspeech2-alone"
VOCODER = "espnet/fastspeech2_conformer_hifigan"
ACOUSTIC_MODEL = "espnet/fastspeech2_conformer"

VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
VOCABULARY = {
    token: number
    for number, token in enumerate(
        [
            "<blank>",
            "<unk>",
            *(v + stress for v in VOWELS.split() for stress in "012"),
            *CONSONANTS.split(),
            *",.?!'",
            "..",
            "<sos/eos>",
        ]
    )
}


def build_complete(root: Path, **changes: object) -> None:
    """Write the model with its vocoder in one repository. It has no vocabulary: that is in ESPnet's other one."""
    from transformers import FastSpeech2ConformerWithHifiGan, FastSpeech2ConformerWithHifiGanConfig

    model, vocoder = _parts(**changes)
    config = FastSpeech2ConformerWithHifiGanConfig(
        model_config=model.config.to_dict(), vocoder_config=vocoder.config.to_dict()
    )
    whole = FastSpeech2ConformerWithHifiGan(config).eval()
    whole.model.load_state_dict(model.state_dict())
    whole.vocoder.load_state_dict(vocoder.state_dict())
    _save(whole, root, COMPLETE, "fastspeech2_conformer_with_hifigan")
    _write_vocabulary(_repository(root, ACOUSTIC_MODEL))


def build_alone(root: Path, **changes: object) -> None:
    """Write the model and the vocoder in two repositories."""
    model, vocoder = _parts(**changes)
    _save(model, root, ALONE, "fastspeech2_conformer")
    _write_vocabulary(root / ALONE)
    _save(vocoder, root, VOCODER, "hifigan")


def reference_complete(root: Path, text: str, voice: str, seed: int) -> np.ndarray:
    """The library's own call, but for the phonemes: its tokenizer would fetch a dictionary."""
    from transformers import FastSpeech2ConformerWithHifiGan

    model = FastSpeech2ConformerWithHifiGan.from_pretrained(root / COMPLETE)
    return model(_tokens(text), return_dict=True).waveform[0].detach().numpy()


def reference_alone(root: Path, text: str, voice: str, seed: int) -> np.ndarray:
    """The library's own two calls."""
    from transformers import FastSpeech2ConformerHifiGan, FastSpeech2ConformerModel

    model = FastSpeech2ConformerModel.from_pretrained(root / ALONE)
    vocoder = FastSpeech2ConformerHifiGan.from_pretrained(root / VOCODER)
    return vocoder(model(_tokens(text), return_dict=True).spectrogram)[0].detach().numpy()


def _tokens(text: str):
    import torch

    from worker.text.arpabet import to_arpabet

    return torch.tensor([[VOCABULARY[token] for token in [*to_arpabet(text), "<sos/eos>"]]])


def _parts(**changes: object):
    import torch
    from transformers import (
        FastSpeech2ConformerConfig,
        FastSpeech2ConformerHifiGan,
        FastSpeech2ConformerHifiGanConfig,
        FastSpeech2ConformerModel,
    )

    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "num_mel_bins": 20,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_linear_units": 16,
        "decoder_linear_units": 16,
        "duration_predictor_channels": 16,
        "energy_predictor_channels": 16,
        "pitch_predictor_channels": 16,
        "speech_decoder_postnet_units": 16,
        "speech_decoder_postnet_layers": 2,
    }
    model = FastSpeech2ConformerModel(FastSpeech2ConformerConfig(vocab_size=len(VOCABULARY), **size, **changes)).eval()
    model.duration_predictor.linear.bias.data.fill_(1.8)  # Some five frames for each phoneme.
    vocoder = FastSpeech2ConformerHifiGan(
        FastSpeech2ConformerHifiGanConfig(model_in_dim=20, upsample_initial_channel=16)
    ).eval()
    for name, weight in vocoder.named_parameters():
        if weight.ndim == 3:  # As drawn by the library, the weights are next to silent.
            torch.nn.init.kaiming_normal_(weight, a=0.1)
            weight.data.mul_(0.2 if "conv_post" in name else 0.7)
    return model, vocoder


def _save(model, root: Path, name: str, model_type: str) -> None:
    """The real repositories hold pickles, which the library writes no more."""
    import torch

    folder = _repository(root, name, model_type=model_type, architectures=[type(model).__name__])
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _repository(root: Path, name: str, **config: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    info = {"library_name": "transformers", "tags": ["transformers", "pytorch", "text-to-audio"], "config": config}
    (folder / ".hub.json").write_text(json.dumps({"info": info}))
    return folder


def _write_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    config = {"tokenizer_class": "FastSpeech2ConformerTokenizer", "should_strip_spaces": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


FAMILIES = (
    Family("fastspeech2", COMPLETE, build_complete, reference_complete),
    Family("fastspeech2", ALONE, build_alone, reference_alone),
)
