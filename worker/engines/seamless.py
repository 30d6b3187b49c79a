"""Engine `seamless`: SeamlessM4T v2 (Meta 2023), speech in three dozen languages and two hundred voices.

The model is made to translate; here it translates text into speech of the same language. In the middle it writes the
text anew, token by token, so numbers and names now and then come out in other words. Two networks that are not
autoregressive make sound of it at once: one gives units of speech (20 ms each), UnitY2's decoder from characters, and
the other is a HiFi-GAN on these units. So a segment is heard when it is complete; the device is given up every few
tokens all the same. Nothing is drawn at random, unless the checkpoint's generation configuration says so.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from worker.audio import trim_silence
from worker.engines.base import Card, Checkpoint, HubModel, Model, Samples, SegmentLimits, Settings, Voice
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, seed_of, stepwise
from worker.errors import EngineFailure, UnspeakableText, UnsupportedModel
from worker.text.phonemes import quote

if TYPE_CHECKING:
    import torch

DEFAULT_VOICE = "eng"

TOKENS_PER_TURN = 4
"""After how many tokens of text somebody else may use the device."""

ARCHITECTURES = ("SeamlessM4Tv2Model", "SeamlessM4Tv2ForTextToSpeech")
TOKENIZERS = ("sentencepiece.bpe.model", "tokenizer.json")

# What the library looks the language of the speech up in, and reads the text by.
LANGUAGE_MAPS = ("text_decoder_lang_to_code_id", "t2u_lang_code_to_id", "vocoder_lang_code_to_id")
TEXT_MAPS = ("id_to_text", "char_to_id")

# The languages that Meta's checkpoint speaks, by its own codes.
NAMES = {
    "arb": "Arabic",
    "ben": "Bengali",
    "cat": "Catalan",
    "ces": "Czech",
    "cmn": "Mandarin Chinese",
    "cym": "Welsh",
    "dan": "Danish",
    "deu": "German",
    "eng": "English",
    "est": "Estonian",
    "fin": "Finnish",
    "fra": "French",
    "hin": "Hindi",
    "ind": "Indonesian",
    "ita": "Italian",
    "jpn": "Japanese",
    "kor": "Korean",
    "mlt": "Maltese",
    "nld": "Dutch",
    "pes": "Persian",
    "pol": "Polish",
    "por": "Portuguese",
    "ron": "Romanian",
    "rus": "Russian",
    "slk": "Slovak",
    "spa": "Spanish",
    "swe": "Swedish",
    "swh": "Swahili",
    "tel": "Telugu",
    "tgl": "Filipino",
    "tha": "Thai",
    "tur": "Turkish",
    "ukr": "Ukrainian",
    "urd": "Urdu",
    "uzn": "Uzbek",
    "vie": "Vietnamese",
}

_NO_SAMPLES = np.zeros(0, np.float32)


class _NothingSaid(Exception):
    """The text decoder ended before it began."""


class SeamlessEngine(TorchEngine):
    """Runs `facebook/seamless-m4t-v2-large` and what was fine-tuned from it."""

    name = "seamless"
    requires: ClassVar[Sequence[str]] = (*TorchEngine.requires, "sentencepiece", "langcodes")

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Claim the whole model and the part that speaks; others of the family only read, or listen."""
        return model.model_type == "seamless_m4t_v2" and any(name in ARCHITECTURES for name in model.architectures)

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """Leave out the weights for Meta's own library that lie in the same repository."""
        has_safetensors = any(re.fullmatch(r"model[^/]*\.safetensors", path) for path in model.files)
        return (
            "config.json",
            "generation_config.json",
            "model*.safetensors*" if has_safetensors else "pytorch_model*.bin*",
            "sentencepiece.bpe.model",
            "tokenizer*.json",
            "special_tokens_map.json",
            "added_tokens.json",
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> SeamlessModel:
        """Load what makes speech of text; the speech encoder, which only listens, stays on disk.

        Raises:
            UnsupportedModel: The repository has no tokenizer, or does not say what languages it speaks.
        """
        import transformers

        class TextToSpeech(transformers.SeamlessM4Tv2ForTextToSpeech):  # type: ignore[misc]  # It is not typed.
            # The library would warn of every weight that is not loaded.
            _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^speech_encoder\."]

        if not any((checkpoint.folder / name).exists() for name in TOKENIZERS):
            raise UnsupportedModel(f"{checkpoint.name} has no tokenizer: {TOKENIZERS[0]} is missing", field="model")
        codes = _spoken_languages(checkpoint)
        tokenizer = transformers.SeamlessM4TTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
        known = tokenizer.get_vocab()
        voices = [_voice(code) for code in codes if f"__{code}__" in known]
        if not voices:
            raise UnsupportedModel(
                f"{checkpoint.name} has no voices: its tokenizer knows none of {', '.join(codes)}", field="model"
            )
        model = from_disk(TextToSpeech, checkpoint.folder, device)
        return SeamlessModel(place(model, device), tokenizer, voices, checkpoint.revision)


class SeamlessModel(Model):
    """The model on one device.

    Args:
        model: `transformers.SeamlessM4Tv2ForTextToSpeech`.
        tokenizer: `SeamlessM4TTokenizer`.
        voices: The languages, the default one first.
        revision: Of the checkpoint.
    """

    # The model was trained on sentences. Its text ends at 256 tokens, of at least a character each.
    limits = SegmentLimits(first=80, longest=200)

    def __init__(self, model: Any, tokenizer: Any, voices: Sequence[Voice], revision: str) -> None:  # noqa: ANN401
        self._model, self._tokenizer = model, tokenizer
        self._device = str(model.device)
        self._unit_s = math.prod(model.config.upsample_rates) / model.config.sampling_rate
        self._reads = cache(self._has_token)
        speakers = model.config.vocoder_num_spkrs
        options = {
            "speaker": {
                "type": "integer",
                "minimum": 0,
                "maximum": speakers - 1,
                "default": 0,
                "description": f"Number of the speaker, of the {speakers} that the vocoder has for every language.",
            }
        }
        self.card = Card(model.config.sampling_rate, voices, revision=revision, options=options)
        model.text_decoder.register_forward_hook(lambda *_: _run.get().count_token())
        model.t2u_model.register_forward_pre_hook(lambda _, __, given: _run.get().begin_sound(given), with_kwargs=True)
        model.vocoder.register_forward_pre_hook(lambda *_: _run.get().give_turn())
        for predictor in (model.t2u_model.model.decoder.duration_predictor, model.vocoder.dur_predictor):
            predictor.register_forward_hook(lambda _, __, durations: _run.get().bound(durations))

    def check(self, text: str, voice: str) -> None:
        """Refuse letters and digits that the tokenizer does not know, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        plain = unicodedata.normalize("NFKC", text)
        if strange := [char for char in dict.fromkeys(plain) if _has_meaning(char) and not self._reads(char)]:
            raise UnspeakableText(f"the model cannot read {quote(strange)}; it knows no such letters", field="input")
        if not any(char.isalnum() for char in plain):
            raise UnspeakableText(f"there is no word in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; steps without samples come before its sound, which is given at once.

        Raises:
            EngineFailure: The model found nothing to say, or no end.
        """

        def run(emit: Callable[[Samples], None]) -> None:
            spoken = self._clean(text)
            if not any(char.isalnum() for char in spoken):
                return
            # Past the bound by a little, since the worker cuts what runs away, and says so.
            longest = math.ceil(self.limits.bound_s(text) / self._unit_s)
            _run.set(_Run(lambda: emit(_NO_SAMPLES), longest))
            try:
                waveform, has_ended = self._generate(spoken, settings)
            except _NothingSaid:
                raise EngineFailure(f"the model found nothing to say for {spoken[:40]!r}") from None
            emit(trim_silence(waveform, self.card.sample_rate_hz))
            if not has_ended:
                # Here only if the sound was within its bound, and has been heard: the rest of the text is missing.
                raise EngineFailure(f"the model found no end for {spoken[:40]!r}")

        return stepwise(run, Noise(seed_of(settings, index), self._device))

    def _generate(self, text: str, settings: Settings) -> tuple[Samples, bool]:
        """Give the waveform, float32 [S], and whether the text in the middle came to an end."""
        # Names of special tokens in somebody's text, such as `</s>`, are text.
        inputs = self._tokenizer(text, src_lang=settings.voice, split_special_tokens=True, return_tensors="pt")
        output = self._model.generate(
            **inputs.to(self._device),
            tgt_lang=settings.voice,
            speaker_id=settings.options.get("speaker", 0),
            return_intermediate_token_ids=True,
        )
        has_ended = bool(np.isin(output.sequences[0, -1].item(), self._model.generation_config.eos_token_id))
        return np.asarray(output.waveform[0].float().cpu().numpy()), has_ended

    def _clean(self, text: str) -> str:
        """Leave out what the tokenizer does not know: pictures, rare signs, marks that only choose a glyph."""
        plain = unicodedata.normalize("NFKC", text)
        kept = (char if char.isspace() or self._reads(char) else _gap(char) for char in plain)
        return re.sub(r"\s+", " ", "".join(kept)).strip()

    def _has_token(self, char: str) -> bool:
        tokens = self._tokenizer(char, add_special_tokens=False, split_special_tokens=True).input_ids
        return self._tokenizer.unk_token_id not in tokens


class _Run:
    """What the hooks in the model do for the segment that is being spoken.

    Args:
        give_turn: Gives the device up.
        longest: How long the segment may sound, in units.
    """

    def __init__(self, give_turn: Callable[[], None], longest: int) -> None:
        self.give_turn = give_turn
        self._longest = longest
        self._tokens = 0

    def count_token(self) -> None:
        """Give the device up every few tokens."""
        self._tokens += 1
        if self._tokens % TOKENS_PER_TURN == 0:
            self.give_turn()

    def begin_sound(self, given: Mapping[str, Any]) -> None:
        """Stop where there is no character to sound; the library would trip over it."""
        if not given["char_count_per_id"].sum():
            raise _NothingSaid
        self.give_turn()

    def bound(self, log_durations: torch.Tensor) -> torch.Tensor:
        """Hurry through what comes after the bound, so that it is passed, but not by much.

        Args:
            log_durations: [1, N]; what a duration predictor says of N characters or units: log(1 + duration), of which
                the library makes at least 1.

        Returns:
            The same, but cut where the sum reaches the bound, and of the shortest durations from there.
        """
        import torch

        durations = log_durations.float().expm1().round().clamp(1, self._longest)
        left = (self._longest - durations.cumsum(dim=1) + durations).clamp(min=1)
        held = left.log1p().to(log_durations.dtype)
        return torch.where(log_durations > held, held, log_durations)


_run: ContextVar[_Run] = ContextVar("run")
"""A context variable, since each utterance runs in a greenlet of its own."""


def _spoken_languages(checkpoint: Checkpoint) -> list[str]:
    """Give the languages that all parts of the model have, by its own codes; the default one first."""
    path = checkpoint.folder / "generation_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    if missing := [name for name in (*LANGUAGE_MAPS, *TEXT_MAPS) if not config.get(name)]:
        raise UnsupportedModel(
            f"{checkpoint.name} does not say how it speaks: generation_config.json has no {', '.join(missing)}",
            field="model",
        )
    codes = set.intersection(*(set(config[name]) for name in LANGUAGE_MAPS))
    return sorted(codes, key=lambda code: (code != DEFAULT_VOICE, code))


def _voice(code: str) -> Voice:
    import langcodes

    return Voice(code, NAMES.get(code, code), langcodes.standardize_tag(code, macro=True))


def _has_meaning(char: str) -> bool:
    category = unicodedata.category(char)
    if category in ("Mn", "Mc"):
        return "VARIATION SELECTOR" not in unicodedata.name(char, "")
    return category[0] in "LN"


def _gap(char: str) -> str:
    """What is left in the place of a character that is not read; a sign parts two words, and a mark does not."""
    return "" if unicodedata.category(char)[0] in "CM" else " "
