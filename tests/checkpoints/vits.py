"""Tiny VITS models as `facebook/mms-tts-eng` and `facebook/mms-tts-kor` (romanised), `kakao-enterprise/vits-vctk`
(many speakers) and `kakao-enterprise/vits-ljs` (phonemes) have them."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints import Family
from worker.text.espeak import reader

MODEL = "tiny-org/tiny-vits"
SPEAKERS = "tiny-org/tiny-vits-speakers"
ROMANISED = "tiny-org/tiny-vits-romanised"
PHONEMES = "tiny-org/tiny-vits-phonemes"

# The blank that goes between the characters is token 0: in MMS a letter, which the tokenizer names as its padding.
CHARACTERS = "k'z-unabcdefghijlmopqrstvwxy "
# The symbols of the original VITS, of which kakao-enterprise's repositories have all.
SYMBOLS = (
    '_;:,.!?¡¿—…"«»“” ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
    "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'̩ᵻ"
)
FRAMES_PER_TOKEN = 2.5


def build(root: Path, model: str = MODEL, **settings: Any) -> None:  # Fields of VitsConfig.
    """Write the repository `root/model`."""
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder = root / model
    folder.mkdir(parents=True)
    characters = list(dict.fromkeys(settings.pop("characters", CHARACTERS)))
    (folder / "vocab.json").write_text(json.dumps({char: k for k, char in enumerate(characters)}))
    language = settings.pop("language", "eng")
    tokenizer = VitsTokenizer(
        folder / "vocab.json",
        pad_token=characters[0],
        language=language,
        add_blank=True,
        normalize=True,
        phonemize=settings.pop("phonemize", False),
        is_uroman=settings.pop("is_uroman", False),
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    network = VitsModel(VitsConfig(vocab_size=len(tokenizer), **(_SIZES | settings)))
    with torch.no_grad():
        _tame(network)
    network.save_pretrained(folder)
    info = {
        "library_name": "transformers",
        "tags": ["transformers", "pytorch", "safetensors", "vits", "text-to-audio", "mms", "text-to-speech"],
        "config": {"model_type": "vits", "architectures": ["VitsModel"]},
    }
    (folder / ".hub.json").write_text(json.dumps({"info": info}))


_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "ffn_dim": 16,
    "flow_size": 16,
    "spectrogram_bins": 9,
    "upsample_initial_channel": 32,
    "duration_predictor_filter_channels": 16,
    "prior_encoder_num_flows": 2,
    "prior_encoder_num_wavenet_layers": 2,
    "posterior_encoder_num_wavenet_layers": 1,
    "sampling_rate": 16_000,
}


def _tame(network: Any) -> None:  # transformers is not typed.
    """Bring durations and loudness to those of speech: random ones explode and hiss."""
    predictor = network.duration_predictor
    if network.config.use_stochastic_duration_prediction:
        scale = 3.0
        predictor.flows[0].log_scale.fill_(scale)
        predictor.flows[0].translate.fill_(-math.log(FRAMES_PER_TOKEN) * math.exp(scale))
    else:
        predictor.proj.bias.fill_(math.log(FRAMES_PER_TOKEN))
        predictor.proj.weight.mul_(0.1)
    network.decoder.conv_post.weight.mul_(0.05)


def reference(model: str, root: Path, text: str, voice: str, seed: int) -> npt.NDArray[np.float32]:
    """Speak with `VitsModel.forward`, which decodes the whole at once."""
    import torch
    from transformers import VitsModel, VitsTokenizer

    tokenizer = VitsTokenizer.from_pretrained(root / model)
    network = VitsModel.from_pretrained(root / model).eval()
    if tokenizer.phonemize:  # It would call a phonemizer that is GPL; what that would write comes from us.
        tokenizer.phonemize = tokenizer.normalize = False
        text = " ".join(reader("en-us").read(text))
    speaker = {"speaker_id": int(voice.removeprefix("speaker-"))} if voice != "default" else {}
    torch.manual_seed(seed)
    with torch.no_grad():
        samples: npt.NDArray[np.float32] = (
            network(**tokenizer(text, return_tensors="pt"), **speaker).waveform[0].numpy()
        )
    return samples


TOLERANCE = 1e-5
"""Windows of other sizes are convolved in another order of additions."""

FAMILIES = (
    Family("vits", MODEL, partial(build, model=MODEL), partial(reference, MODEL), TOLERANCE),
    Family(
        "vits",
        SPEAKERS,
        partial(
            build,
            model=SPEAKERS,
            num_speakers=4,
            speaker_embedding_size=8,
            use_stochastic_duration_prediction=False,
            upsample_rates=[8, 8, 4, 2],
            upsample_kernel_sizes=[16, 16, 8, 4],
        ),
        partial(reference, SPEAKERS),
        TOLERANCE,
    ),
    Family(
        "vits",
        ROMANISED,
        partial(build, model=ROMANISED, language="kor", is_uroman=True),
        partial(reference, ROMANISED),
        TOLERANCE,
    ),
    Family(
        "vits",
        PHONEMES,
        partial(build, model=PHONEMES, language="en-us", phonemize=True, characters=SYMBOLS),
        partial(reference, PHONEMES),
        TOLERANCE,
    ),
)
