"""Engine `vits`: the VITS and MMS models of transformers, such as `facebook/mms-tts-eng`.

VITS is Kim et al. 2021, MMS with its thousand languages Pratap et al. 2023. `Vits` speaks with any such network behind
any reader of text; the engine brings those of transformers together.
"""

from __future__ import annotations

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from worker.audio import Trimmer
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    SegmentLimits,
    Settings,
    Voice,
    transformers_files,
)
from worker.engines.stages import Speech
from worker.engines.stepwise import TorchEngine, from_disk, seed_of
from worker.engines.vits_network import Network, Reading
from worker.engines.vits_stages import Decode, Encode, Rest
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text import espeak
from worker.text.normalise import normalise
from worker.text.phonemes import quote, sounds
from worker.text.signs import APOSTROPHES, leave_out

SPEEDS = (0.25, 2.0)  # Every token lasts a frame or more, so there is little left to gain beyond 2.

STRESS_AND_LENGTH = "ˈˌːˑ"
"""Marks of IPA that a phoneme is itself without."""

_SCRIPTS = {"arabic": "Arab", "cyrillic": "Cyrl", "devanagari": "Deva", "khmer": "Khmr", "latin": "Latn"}
_OPTIONAL_MARKS = ("COMBINING", "ARABIC", "HEBREW")


class VitsEngine(TorchEngine):
    """Runs checkpoints of transformers' `VitsModel`."""

    name = "vits"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Claim torch weights only: conversions to ONNX carry the same config."""
        has_weights = not model.files or any(path.endswith((".safetensors", ".bin")) for path in model.files)
        return model.model_type == "vits" and model.library in ("", "transformers") and has_weights

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        return transformers_files(model)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> Vits:
        """Load the tokenizer and the network.

        Raises:
            UnsupportedModel: The tokenizer needs espeak-ng, which is not installed.
        """
        import transformers

        library: Any = transformers  # Which is typed in parts only.
        tokenizer = library.VitsTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
        frontend: Frontend = PhonemeFrontend(tokenizer) if tokenizer.phonemize else CharacterFrontend(tokenizer)
        network = from_disk(library.VitsModel, checkpoint.folder, device)
        return Vits(Network(network, device, checkpoint.vocoder_dtype), frontend, checkpoint.revision)


class Frontend(ABC):
    """Turns text into the token ids that a network was trained with.

    Attributes:
        language: BCP 47 tag of what it reads.
    """

    language: str

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Turn text into token ids; empty where there is nothing to say."""

    @abstractmethod
    def lost(self, text: str) -> Sequence[str]:
        """Find the letters and digits that have no token; those of `spell`."""

    def check(self, text: str, voice: str) -> None:
        """Refuse text with letters or digits that have no token, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        if lost := self.lost(text):
            raise UnspeakableText(
                f"the voice {voice!r} speaks {self.language!r} and cannot say {quote(lost)}", field="input"
            )
        if not self.tokenize(text):
            raise UnspeakableText(
                f"there is nothing to say in {text.strip()[:40]!r} for the voice {voice!r}, which speaks "
                f"{self.language!r}",
                field="input",
            )


class Vits(Model):
    """A VITS network behind a reader of text; whoever trained it.

    Args:
        network: What speaks.
        frontend: What reads.
        revision: Revision of the checkpoint.
    """

    limits = SegmentLimits(first=80, longest=300)
    is_staged = True

    def __init__(self, network: Network, frontend: Frontend, revision: str) -> None:
        self._network = network
        self._encode = Encode(network)
        self._decode = Decode(network)
        self._frontend = frontend
        names = [f"speaker-{k}" for k in range(network.num_speakers)] if network.num_speakers > 1 else ["default"]
        self._speakers = {name: k if network.num_speakers > 1 else None for k, name in enumerate(names)}
        self.card = Card(
            network.sample_rate_hz,
            [Voice(name, name.replace("-", " ").capitalize(), frontend.language) for name in names],
            revision=revision,
            speeds=SPEEDS,
            options=self._options(),
        )

    def _options(self) -> Mapping[str, Mapping[str, Any]]:
        def number(default: float, description: str) -> Mapping[str, Any]:
            return {"type": "number", "minimum": 0, "maximum": 2, "default": default, "description": description}

        return {
            "noise_scale": number(self._network.noise_scale, "how much the voice varies; 0 is monotonous"),
            "noise_scale_duration": number(self._network.noise_scale_duration, "how much the rhythm varies"),
        }

    def check(self, text: str, voice: str) -> None:
        self._frontend.check(text, voice)

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment: encode it, and decode it window by window."""
        network = self._network
        tokens = self._frontend.tokenize(text)
        if not tokens:
            return
        bound_s = self.limits.bound_s(text, settings.speed)
        latents = yield from self._encode(
            Reading(
                tokens,
                seed_of(settings, index),
                speaker=self._speakers[settings.voice],
                speed=settings.speed,
                noise_scale=settings.options.get("noise_scale", network.noise_scale),
                noise_scale_duration=settings.options.get("noise_scale_duration", network.noise_scale_duration),
                max_frames=math.ceil(bound_s * network.sample_rate_hz / network.hop_length),
            )
        )
        trimmer = Trimmer(network.sample_rate_hz)
        start = 0
        while start < latents.num_frames:
            window = yield from self._decode(Rest(latents, start))
            start = window.stop
            samples = trimmer.feed(window.samples)
            yield samples if start < latents.num_frames else np.concatenate([samples, trimmer.flush()])


class CharacterFrontend(Frontend):
    """Reads with a tokenizer whose tokens are characters.

    The text is spelled out, romanised for the languages whose model was trained so, and brought to the characters that
    there are: lower case where there is no upper case, letters without accents where there are none.

    Args:
        tokenizer: A `VitsTokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401  # transformers is not typed.
        self.language = bcp47(tokenizer.language)
        self._tokenizer = tokenizer
        self._romanise = romaniser().romanize_string if tokenizer.is_uroman else None
        # It would build a romaniser for every segment, which takes seconds.
        tokenizer.is_uroman = False
        special = {tokenizer.unk_token}
        self._vocabulary = frozenset(tokenizer.get_vocab()) - special

    def tokenize(self, text: str) -> list[int]:
        spelled, _ = self._spell(text)
        if not any(char.isalnum() for char in spelled):
            return []
        return list(self._tokenizer(spelled)["input_ids"])

    def lost(self, text: str) -> Sequence[str]:
        return self._spell(text)[1]

    def _spell(self, text: str) -> tuple[str, list[str]]:
        text = normalise(text, self.language)
        if self._tokenizer.language == "ron":
            text = text.replace("ț", "ţ")  # As the tokenizer does, but before the cedilla is taken for an accent.
        if self._romanise and not text.isascii():
            text = self._romanise(text.lower())
        return spell(text, self._vocabulary)


class PhonemeFrontend(Frontend):
    """Reads with a tokenizer whose tokens are the phonemes of espeak-ng; English without it.

    Args:
        tokenizer: A `VitsTokenizer`.

    Raises:
        UnsupportedModel: The language needs espeak-ng, and it is not installed.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401  # transformers is not typed.
        import langcodes

        language = (tokenizer.language or "en").lower()
        if language in ("en", "eng"):
            language = "en-us"  # What the library reads English as.
        if not espeak.can_read(language):
            raise UnsupportedModel(f"its phonemes are those of {language!r}: needs the extra espeak", field="model")
        self.language = langcodes.standardize_tag(language)
        self._reader = espeak.reader(language)
        # It would call the phonemizer, which is GPL, and lower the case, which tells phonemes apart.
        tokenizer.phonemize = tokenizer.normalize = False
        self._tokenizer = tokenizer
        self._vocabulary = frozenset(tokenizer.get_vocab()) - {tokenizer.unk_token}

    def check(self, text: str, voice: str) -> None:
        self._reader.check(text, voice)
        super().check(text, voice)

    def tokenize(self, text: str) -> list[int]:
        phonemes = self._read(text)
        unknown = {sign for sign in phonemes if sign not in self._vocabulary}
        kept = leave_out(phonemes, unknown, " " if " " in self._vocabulary else "")
        return list(self._tokenizer(kept)["input_ids"]) if sounds(kept) else []

    def lost(self, text: str) -> Sequence[str]:
        """Find the phonemes that have no token; stress and length may be left out."""
        missing = [sign for sign in dict.fromkeys(self._read(text)) if sign not in self._vocabulary]
        return [sign for sign in missing if unicodedata.category(sign)[0] in "LM" and sign not in STRESS_AND_LENGTH]

    def _read(self, text: str) -> str:
        return " ".join(self._reader.read(text))


def spell(text: str, vocabulary: Collection[str]) -> tuple[str, list[str]]:
    """Bring text to the characters of a vocabulary.

    Args:
        text: Any text.
        vocabulary: Characters.

    Returns:
        The text in these characters, and the characters with a meaning that it lacks: letters, digits and the vowel
        signs of Indic scripts, each once. Other signs are left out, with a space in place of one that parts two words.
    """
    composed = " ".join(unicodedata.normalize("NFC", text).split())
    respelled = {char: _respell(char, vocabulary) for char in dict.fromkeys(composed)}
    lost = [char for char, new in respelled.items() if not new and _has_meaning(char)]
    kept = leave_out(composed, {char for char, new in respelled.items() if not new}, " " if " " in vocabulary else "")
    return "".join(respelled[char] for char in kept).strip(), lost


def _respell(char: str, vocabulary: Collection[str]) -> str:
    for same in (char, char.lower(), char.upper(), APOSTROPHES.get(char, char)):
        if same in vocabulary:
            return same
    folded = unicodedata.normalize("NFKD", char).casefold()
    for parts in (folded, folded.upper()):
        kept = [part for part in parts if part in vocabulary]
        if kept and all(part in vocabulary or unicodedata.combining(part) for part in parts):
            return "".join(kept)
    return ""


def _has_meaning(char: str) -> bool:
    if unicodedata.category(char)[0] == "M":
        return not unicodedata.name(char, "").startswith(_OPTIONAL_MARKS)
    return unicodedata.category(char)[0] in "LN"


def bcp47(language: str | None) -> str:
    """Turn the language of an MMS tokenizer into a BCP 47 tag: `deu` is `de`, `uig-script_arabic` is `ug-Arab`."""
    import langcodes

    code, *details = (language or "und").split("-")
    script = next((_SCRIPTS.get(detail.removeprefix("script_")) for detail in details if "script_" in detail), None)
    tag = langcodes.standardize_tag(code, macro=True)
    if tag == "zh" and code not in ("zh", "zho", "cmn"):
        tag = code  # Hakka, say: written like Mandarin, and no more than that.
    return f"{tag}-{script}" if script else tag


@cache
def romaniser() -> Any:  # noqa: ANN401  # uroman is not typed.
    """Give the universal romaniser (Hermjakob et al. 2018), one for all models: it takes seconds to build."""
    return import_module("uroman").Uroman()
