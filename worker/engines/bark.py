"""Engine `bark`: Bark (Suno 2023), speech, laughter and song in thirteen languages, in the voices of its presets.

Three transformers in a row: from text to semantic tokens, from these to the two coarse codebooks of EnCodec, and to the
six fine ones. The last works on the whole, so a segment is heard when it is complete; the device is given up every few
tokens all the same. The model holds 15 s at most and forgets what is beyond, so segments are short.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from worker.audio import trim_silence
from worker.engines.base import Card, Checkpoint, HubModel, Model, Samples, SegmentLimits, Settings, Voice
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, seed_of, stepwise
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text.phonemes import quote
from worker.text.segment import segment

DEFAULT_VOICE = "v2/en_speaker_6"
PRESETS = "speaker_embeddings_path.json"
PROMPTS = ("semantic_prompt", "coarse_prompt", "fine_prompt")

TOKENS_PER_TURN = 16
"""After how many tokens somebody else may use the device."""

WIDE_PIECE = 40
"""The most characters at once of a language whose characters are syllables or words; about 10 s."""

OPTIONS = {
    "semantic_temperature": {
        "type": "number",
        "minimum": 0.1,
        "maximum": 1.5,
        "description": "How freely the model chooses what is said and how; the checkpoint's own (0.7) by default.",
    },
    "coarse_temperature": {
        "type": "number",
        "minimum": 0.1,
        "maximum": 1.5,
        "description": "How freely it chooses the sound of it; the checkpoint's own (0.7) by default.",
    },
    "fine_temperature": {
        "type": "number",
        "minimum": 0.1,
        "maximum": 1.5,
        "description": "How freely it chooses the details of the sound; the checkpoint's own (0.5) by default.",
    },
    "min_eos_p": {
        "type": "number",
        "minimum": 0.01,
        "maximum": 1.0,
        "description": "Ends the speech as soon as the end is this likely. Lower values (0.2, 0.05) keep the model "
        "from adding sounds and words of its own; by default it ends when the end is drawn.",
    },
}

_PRESET = re.compile(r"(?:v2/)?([a-z]{2})_speaker_\d+")
_NO_SAMPLES = np.zeros(0, np.float32)


class _NothingSaid(Exception):
    """The first model ended before it began."""


class BarkLimits(SegmentLimits):
    """Counts a character that is a syllable or a word, as in Chinese, as four letters."""

    def longest_s(self, text: str, speed: float = 1.0) -> float:
        """How long a segment may sound, in seconds; never more than the model holds."""
        wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
        return (self.patience_s + self.patience_s_per_char * (len(text) + 3 * wide)) / min(speed, 1.0)


class BarkEngine(TorchEngine):
    """Runs `suno/bark`, `suno/bark-small` and what was fine-tuned from them."""

    name = "bark"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Claim by the type in the configuration."""
        return model.model_type == "bark"

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """Leave out the weights for Suno's own library that lie in the same repositories."""
        has_safetensors = any(re.fullmatch(r"model[^/]*\.safetensors", path) for path in model.files)
        return (
            "config.json",
            "generation_config.json",
            "model*.safetensors*" if has_safetensors else "pytorch_model*.bin*",
            "tokenizer*.json",
            "special_tokens_map.json",
            "vocab.txt",
            PRESETS,
            "speaker_embeddings/*.npy",
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> BarkModel:
        """Load the three transformers, the codec and the list of presets.

        Raises:
            UnsupportedModel: The repository has no presets.
        """
        import transformers

        voices = _voices(checkpoint.folder)
        if not voices:
            raise UnsupportedModel(f"{checkpoint.name} has no voices: {PRESETS} names none", field="model")
        model = from_disk(transformers.BarkModel, checkpoint.folder, device)
        processor = transformers.BarkProcessor.from_pretrained(checkpoint.folder, local_files_only=True)
        return BarkModel(place(model, device), processor, voices, checkpoint.revision)


class BarkModel(Model):
    """The model on one device.

    Args:
        model: `transformers.BarkModel`.
        processor: `BarkProcessor`: the tokenizer, and the reader of the presets.
        voices: The presets, the default one first.
        revision: Of the checkpoint.
    """

    # 160 characters are 10 to 12 s of speech.
    limits = BarkLimits(first=80, longest=160, patience_s=4.0, patience_s_per_char=0.07)

    def __init__(self, model: Any, processor: Any, voices: Sequence[Voice], revision: str) -> None:  # noqa: ANN401
        self._model, self._processor = model, processor
        self._device = str(model.device)
        self._semantic = model.generation_config.semantic_config
        self.card = Card(model.generation_config.sample_rate, voices, revision=revision, options=OPTIONS)

    def check(self, text: str, voice: str) -> None:
        """Refuse words that the tokenizer does not know, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        if not any(char.isalnum() for char in text):
            raise UnspeakableText(f"there is no word in {text.strip()[:40]!r}", field="input")
        words = dict.fromkeys(re.findall(r"\w+", self._clean(text)))
        if strange := [word for word in words if not self._reads(word)]:
            raise UnspeakableText(f"the model cannot read {quote(strange)}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; steps without samples come before its sound, which is given at once."""
        language = next(voice.language for voice in self.card.voices if voice.id == settings.voice)
        longest = WIDE_PIECE if language in ("ja", "ko", "zh") else self.limits.longest
        pieces = [piece.text for piece in segment(self._clean(text), language, first=longest, longest=longest)]

        def run(emit: Callable[[Samples], None]) -> None:
            for piece in pieces:
                try:
                    waveform = self._generate(piece, settings, _Turns(lambda: emit(_NO_SAMPLES)))
                except _NothingSaid:
                    continue
                emit(trim_silence(waveform, self.card.sample_rate_hz))

        return stepwise(run, Noise(seed_of(settings, index), self._device))

    def _generate(self, piece: str, settings: Settings, turns: _Turns) -> Samples:
        inputs = self._processor(
            piece, voice_preset=settings.voice, max_length=self._semantic["max_input_semantic_length"]
        )
        prompt = {name: prompt.to(self._device) for name, prompt in inputs.pop("history_prompt").items()}
        # Past the bound by a little, since the worker cuts what runs away, and says so.
        longest = math.ceil(self.limits.bound_s(piece) * self._semantic["semantic_rate_hz"])
        waveform = self._model.generate(
            **inputs.to(self._device),
            history_prompt=prompt,
            semantic_max_new_tokens=min(longest, self._semantic["max_new_tokens"]),
            semantic_streamer=turns,
            coarse_streamer=turns,
            **settings.options,
        )
        return np.asarray(waveform[0].float().cpu().numpy())

    def _clean(self, text: str) -> str:
        """Leave out pictures and signs without a token; the tokenizer would take the word beside them for unknown."""
        dropped = {char for char in set(text) if not (char.isalnum() or char.isspace() or self._reads(char))}
        return "".join(" " if char in dropped else char for char in text)

    def _reads(self, word: str) -> bool:
        tokenizer = self._processor.tokenizer
        return tokenizer.unk_token_id not in tokenizer(word, add_special_tokens=False).input_ids


class _Turns:
    """A streamer that gives the device up every few tokens, and notices where the first model said nothing.

    `generate` hands over the prompt and then the tokens of each of its runs: one of the semantic model, and one of the
    coarse model for each of its windows.
    """

    def __init__(self, give_turn: Callable[[], None]) -> None:
        self._give_turn = give_turn
        self._tokens = 0
        self._calls = 0

    def put(self, value: Any) -> None:  # noqa: ANN401  # A tensor.
        """Take the next token, or a prompt."""
        self._calls += 1
        self._tokens += 1
        if self._tokens % TOKENS_PER_TURN == 0:
            self._give_turn()

    def end(self) -> None:
        """Take note of the end of a run."""
        if self._calls <= 2:
            # Prompt and end alone. The library would trip over it in the next model.
            raise _NothingSaid


def _voices(folder: Path) -> list[Voice]:
    """List the presets whose files are there, the default one first."""
    path = folder / PRESETS
    presets = json.loads(path.read_text()) if path.exists() else {}
    presets.pop("repo_or_path", None)
    names = [name for name, prompts in presets.items() if all(_is_here(folder, prompts.get(key)) for key in PROMPTS)]
    return [
        Voice(name, name, match[1] if (match := _PRESET.fullmatch(name)) else "en")
        for name in sorted(names, key=lambda name: (name != DEFAULT_VOICE, not name.startswith("v2/"), _natural(name)))
    ]


def _is_here(folder: Path, name: object) -> bool:
    if not isinstance(name, str):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and (folder / path).is_file()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `en_speaker_10` after `en_speaker_9`, and English first."""
    parts = re.findall(r"\d+|\D+", name.removeprefix("v2/"))
    return [(0 if name.removeprefix("v2/").startswith("en_") else 1, "")] + [
        (int(part), "") if part.isdigit() else (0, part) for part in parts
    ]
