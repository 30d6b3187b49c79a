"""Engine `fastspeech2`: FastSpeech2 with Conformer blocks, as trained by ESPnet (Guo et al. 2021), with HiFi-GAN.

The model reads English phonemes, predicts how long each of them lasts, and makes the whole spectrogram at once; nothing
in it is random. The library's tokenizer would fetch a dictionary when it is made, so the phonemes come from
`worker.text.arpabet`, and only their numbers from the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from worker.audio import trim_silence
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    Part,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
)
from worker.engines.stepwise import TorchEngine, from_disk, place
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text.arpabet import CONSONANTS, PUNCTUATION, VOWELS, restress, to_arpabet, unreadable
from worker.text.phonemes import quote

ALONE, COMPLETE = "fastspeech2_conformer", "fastspeech2_conformer_with_hifigan"
ACOUSTIC_MODEL = "espnet/fastspeech2_conformer"
VOCODER = "espnet/fastspeech2_conformer_hifigan"

VOCABULARY, UNKNOWN, END = "vocab.json", "<unk>", "<sos/eos>"

# The configuration of the vocoder has no field for it; all of these models were made from LJSpeech at this rate.
SAMPLE_RATE_HZ = 22_050

# Phonemes last for whole frames of 11.6 ms, 7 of them on average: at twice the pace the shortest are lost.
SPEEDS = (0.5, 2.0)


class FastSpeech2Engine(TorchEngine):
    """Runs `espnet/fastspeech2_conformer`, with its vocoder or as `espnet/fastspeech2_conformer_with_hifigan`."""

    name = "fastspeech2"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Claim by the type in the configuration."""
        return model.model_type in (ALONE, COMPLETE)

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> Sequence[Part]:
        """Ask for what the repository lacks: the vocoder, or the numbers of the phonemes."""
        parts = []
        if _read_json(checkpoint, "config.json")["model_type"] == ALONE:
            parts.append(Part(VOCODER, ("config.json", "pytorch_model.bin")))
        if not (checkpoint.folder / VOCABULARY).exists():
            parts.append(Part(ACOUSTIC_MODEL, (VOCABULARY,)))
        return parts

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> FastSpeech2Model:
        """Load the model and its vocoder.

        Raises:
            UnsupportedModel: It needs a speaker embedding or a language, or does not read ARPAbet.
        """
        from transformers import (
            FastSpeech2ConformerHifiGan,
            FastSpeech2ConformerModel,
            FastSpeech2ConformerWithHifiGan,
        )

        if _read_json(checkpoint, "config.json")["model_type"] == COMPLETE:
            whole = from_disk(FastSpeech2ConformerWithHifiGan, checkpoint.folder, device)
            model, vocoder = whole.model, whole.vocoder
        else:
            model = from_disk(FastSpeech2ConformerModel, checkpoint.folder, device)
            vocoder = from_disk(FastSpeech2ConformerHifiGan, checkpoint.parts[VOCODER], device)
        if model.config.speaker_embed_dim or (model.config.num_languages or 1) > 1:
            raise UnsupportedModel(
                f"{checkpoint.name} wants a speaker embedding or a language, and its repository offers none",
                field="model",
            )
        vocabulary = _read_json(checkpoint, VOCABULARY)
        phonemes = [*CONSONANTS.values(), *(f"{vowel}1" for vowel in VOWELS.values())]
        if missing := [each for each in dict.fromkeys([*phonemes, END]) if not restress(each, vocabulary)]:
            raise UnsupportedModel(
                f"{checkpoint.name} does not read ARPAbet: its {VOCABULARY} lacks {quote(missing)}",
                field="model",
            )
        return FastSpeech2Model(place(model, device), place(vocoder, device), vocabulary, checkpoint.revision)


class FastSpeech2Model(Model):
    """The model and its vocoder on one device.

    Args:
        model: `FastSpeech2ConformerModel`.
        vocoder: `FastSpeech2ConformerHifiGan`.
        vocabulary: Number of each phoneme and sign.
        revision: Of the checkpoint.
    """

    limits = SegmentLimits(first=80, longest=300)

    def __init__(self, model: Any, vocoder: Any, vocabulary: Mapping[str, int], revision: str) -> None:  # noqa: ANN401
        self._model, self._vocoder, self._vocabulary = model, vocoder, vocabulary
        self._slowness = model.config.speaking_speed  # What the checkpoint multiplies its durations by.
        num_speakers = model.config.num_speakers or 1
        names = [str(i) for i in range(num_speakers)] if num_speakers > 1 else ["default"]
        self.card = Card(
            getattr(vocoder.config, "sampling_rate", SAMPLE_RATE_HZ),
            [Voice(name, name.capitalize(), "en-US") for name in names],
            revision=revision,
            speeds=SPEEDS,
        )

    def check(self, text: str, voice: str) -> None:
        """Refuse letters of scripts that English does not use, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        if strange := unreadable(text):
            raise UnspeakableText(f"the model speaks English and cannot read {quote(strange)}", field="input")
        if not any(token not in PUNCTUATION for token in self._read(text)):
            raise UnspeakableText(f"there is no word in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment, at once."""
        import torch

        tokens = self._read(text)
        if all(token in PUNCTUATION for token in tokens):
            return
        numbers = [self._vocabulary[token] for token in [*tokens, END]]
        speakers = {}
        if settings.voice.isdecimal():
            speakers["speaker_ids"] = torch.tensor([[int(settings.voice)]], device=self._model.device)
        # The library reads it from the configuration, for each call anew.
        self._model.config.speaking_speed = self._slowness / settings.speed
        spectrogram = self._model(
            torch.tensor([numbers], device=self._model.device), return_dict=True, **speakers
        ).spectrogram
        waveform = self._vocoder(spectrogram)[0]
        yield trim_silence(np.asarray(waveform.float().cpu().numpy()), self.card.sample_rate_hz)

    def _read(self, text: str) -> list[str]:
        """Read text as phonemes that the model has a number for; signs that it has none for are passed over."""
        return [known for token in to_arpabet(text) if (known := restress(token, self._vocabulary))]


def _read_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    folder = checkpoint.folder
    if not (folder / name).exists():
        folder = checkpoint.parts[ACOUSTIC_MODEL]
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content
