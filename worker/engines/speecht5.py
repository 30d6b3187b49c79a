"""Engine `speecht5`: SpeechT5 (Ao et al. 2021) with its HiFi-GAN vocoder, in the voices of CMU ARCTIC.

The model reads characters and draws a mel spectrogram two frames at a time, after a speaker embedding (an x-vector).
Its post-net needs the whole spectrogram, so a segment is heard when it is complete; the device is given up every few
frames all the same. The dropout in its pre-net stays on (as in Tacotron 2), so speech depends on the seed.

The checkpoint brings no voices: they are the x-vectors of `Matthijs/cmu-arctic-xvectors`, one for every utterance of
seven speakers. The script that made them scaled them to length 1, and the model does so again; they are used as read.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from worker.engines.stepwise import Noise, TorchEngine, from_disk, place, seed_of, stepwise
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text.normalise import normalise
from worker.text.phonemes import quote
from worker.text.signs import APOSTROPHES, leave_out

if TYPE_CHECKING:
    import torch

VOCODER = "microsoft/speecht5_hifigan"
XVECTORS = "Matthijs/cmu-arctic-xvectors"
ARCHIVE = "spkrec-xvect.zip"

# Speaker: accent, gender and the utterance whose x-vector is the voice. These utterances are those of the public
# demonstration of the model; it leaves out jmk, who has his first one.
SPEAKERS = {
    "slt": ("en-US", "female", "a0508"),
    "clb": ("en-US", "female", "a0144"),
    "bdl": ("en-US", "male", "a0009"),
    "rms": ("en-US", "male", "b0353"),
    "jmk": ("en-CA", "male", "a0001"),
    "awb": ("en-GB", "male", "a0002"),
    "ksp": ("en-IN", "male", "b0087"),
}

STEPS_PER_TURN = 8
"""After how many steps of the decoder (32 ms of speech each) somebody else may use the device."""

_MEMBER = re.compile(r"(?:.*/)?cmu_us_([a-z]+)_arctic-wav-arctic_([ab]\d{4})\.npy")
_LARGEST_MEMBER = 1 << 16  # Bytes; an x-vector has 2 KiB. What unpacks to more is none.
_NO_SAMPLES = np.zeros(0, np.float32)

_give_turn: ContextVar[Callable[[], None]] = ContextVar("give_turn")
"""Called at every step of the decoder. A context variable, since each utterance runs in a greenlet of its own."""


class SpeechT5Engine(TorchEngine):
    """Runs `microsoft/speecht5_tts` and what was fine-tuned from it."""

    name = "speecht5"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """Claim the text-to-speech models; the family has others for recognition and voice conversion."""
        return model.model_type == "speecht5" and "SpeechT5ForTextToSpeech" in model.architectures

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """Ask for the files at the top alone: fine-tuned repositories often hold the trainer's checkpoints, too."""
        has_safetensors = any(re.fullmatch(r"model[^/]*\.safetensors", path) for path in model.files)
        return (
            "README.md",
            "config.json",
            "generation_config.json",
            "model*.safetensors*" if has_safetensors else "pytorch_model*.bin*",
            "spm_char.model",
            "tokenizer*.json",
            "special_tokens_map.json",
            "added_tokens.json",
        )

    @classmethod
    def parts(cls, checkpoint: Checkpoint) -> Sequence[Part]:
        """Ask for the vocoder and the voices."""
        return (
            Part(VOCODER, ("config.json", "pytorch_model.bin")),
            Part(XVECTORS, (ARCHIVE,), kind="dataset"),
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> SpeechT5Model:
        """Load the model, the vocoder and the list of voices.

        Raises:
            UnsupportedModel: The repository has no tokenizer, or embeddings of another size than the x-vectors.
        """
        from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5Tokenizer

        if not (checkpoint.folder / "spm_char.model").exists():
            raise UnsupportedModel(f"{checkpoint.name} has no tokenizer: spm_char.model is missing", field="model")
        model = from_disk(SpeechT5ForTextToSpeech, checkpoint.folder, device)
        if model.config.speaker_embedding_dim != XVectors.SIZE:
            raise UnsupportedModel(
                f"{checkpoint.name} wants speaker embeddings of {model.config.speaker_embedding_dim} numbers; "
                f"the x-vectors that this engine has are of {XVectors.SIZE}",
                field="model",
            )
        vocoder = from_disk(SpeechT5HifiGan, checkpoint.parts[VOCODER], device)
        return SpeechT5Model(
            place(model, device),
            place(vocoder, device),
            SpeechT5Tokenizer.from_pretrained(checkpoint.folder, local_files_only=True),
            XVectors(checkpoint.parts[XVECTORS] / ARCHIVE),
            language=_language(checkpoint.folder / "README.md"),
            revision=checkpoint.revision,
        )


class XVectors:
    """The speaker embeddings of the utterances of CMU ARCTIC, read from their archive when asked for.

    Args:
        path: The archive; it holds an `.npy` file for each utterance.
    """

    SIZE = 512

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            found = ((member, _MEMBER.fullmatch(member.filename)) for member in archive.infolist())
            self._members: Mapping[str, zipfile.ZipInfo] = {
                f"{match[1]}_{match[2]}": member for member, match in found if match
            }

    def __contains__(self, utterance: str) -> bool:
        return utterance in self._members

    def first(self, speaker: str) -> str:
        """Name the first utterance of a speaker; empty if there is none."""
        return min((name for name in self._members if name.startswith(f"{speaker}_")), default="")

    def read(self, utterance: str) -> Samples:
        """Read an embedding.

        Args:
            utterance: Speaker and utterance, such as `slt_a0508`.

        Returns:
            float32 [512].

        Raises:
            ValueError: The archive holds something else there.
        """
        member = self._members[utterance]
        if member.file_size > _LARGEST_MEMBER:
            raise ValueError(f"{member.filename} in {self._path.name} has {member.file_size} bytes")
        with zipfile.ZipFile(self._path) as archive:
            vector = np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
        if vector.shape != (self.SIZE,) or not np.isfinite(vector).all():
            raise ValueError(
                f"{member.filename} in {self._path.name} is no x-vector, but {vector.dtype} {vector.shape}"
            )
        return np.asarray(vector, np.float32)


class SpeechT5Model(Model):
    """The model and its vocoder on one device.

    Args:
        model: `SpeechT5ForTextToSpeech`.
        vocoder: `SpeechT5HifiGan`.
        tokenizer: `SpeechT5Tokenizer`, a token for each character.
        xvectors: The voices.
        language: What the model speaks; a BCP 47 tag.
        revision: Of the checkpoint.
    """

    # The decoder has positions for 60 s, and loses its way in long text before that.
    limits = SegmentLimits(first=80, longest=200)

    def __init__(
        self,
        model: Any,  # noqa: ANN401  # Libraries' own classes, here and below.
        vocoder: Any,  # noqa: ANN401
        tokenizer: Any,  # noqa: ANN401
        xvectors: XVectors,
        *,
        language: str,
        revision: str,
    ) -> None:
        self._model, self._vocoder, self._tokenizer, self._xvectors = model, vocoder, tokenizer, xvectors
        self._language = language
        self._device = str(model.device)
        self._utterances = {
            speaker: name
            for speaker, (_, _, utterance) in SPEAKERS.items()
            if (name := f"{speaker}_{utterance}" if f"{speaker}_{utterance}" in xvectors else xvectors.first(speaker))
        }
        voices = [self._voice(speaker, speaker, speaker.upper()) for speaker in self._utterances]
        self.card = Card(vocoder.config.sampling_rate, voices, revision=revision)
        self._embed = cache(self._read_embedding)
        self._reads = cache(self._has_token)
        model.speecht5.decoder.wrapped_decoder.register_forward_hook(lambda *_: _give_turn.get()())

    def find_voice(self, voice: str) -> Voice | None:
        """Look a voice up; beside the listed ones any utterance of the archive is one, such as `slt_a0001`."""
        speaker, _, utterance = voice.partition("_")
        if speaker in SPEAKERS and voice in self._xvectors:
            return self._voice(voice, speaker, f"{speaker.upper()} {utterance}")
        return super().find_voice(voice)

    def check(self, text: str, voice: str) -> None:
        """Refuse letters and digits that the model has no token for, and text with nothing to say.

        Raises:
            UnspeakableText: Names the characters.
        """
        spelled = self._fold(text)
        if strange := [c for c in dict.fromkeys(spelled) if c.isalnum() and not self._reads(c)]:
            raise UnspeakableText(f"the model cannot read {quote(strange)}; it knows no such letters", field="input")
        if not any(c.isalnum() for c in spelled):
            raise UnspeakableText(f"there is no word in {text.strip()[:40]!r}", field="input")

    def speak(self, text: str, index: int, settings: Settings) -> Iterator[Samples]:
        """Speak one segment; steps without samples come before its sound, which is given at once."""

        def run(emit: Callable[[Samples], None]) -> None:
            steps = 0

            def give_turn() -> None:
                nonlocal steps
                steps += 1
                if steps % STEPS_PER_TURN == 0:
                    emit(_NO_SAMPLES)

            _give_turn.set(give_turn)
            for piece in self._pieces(text):
                samples = self._generate(piece, settings.voice, self.limits.bound_s(text))
                emit(trim_silence(samples, self.card.sample_rate_hz))

        return stepwise(run, Noise(seed_of(settings, index), self._device))

    def _generate(self, piece: str, voice: str, bound_s: float) -> Samples:
        tokens = self._tokenizer(piece, return_tensors="pt").input_ids.to(self._device)
        config = self._model.config
        step_s = config.reduction_factor * math.prod(self._vocoder.config.upsample_rates) / self.card.sample_rate_hz
        # Past the bound by a little, since the worker cuts what runs away, and says so.
        steps = min(math.ceil(bound_s / step_s), config.max_speech_positions)
        waveform = self._model.generate(
            tokens,
            speaker_embeddings=self._embed(voice),
            vocoder=self._vocoder,
            maxlenratio=(steps + 0.5) * config.reduction_factor / tokens.shape[1],
        )
        return np.asarray(waveform.float().cpu().numpy())

    def _pieces(self, text: str) -> list[str]:
        """Cut spelled text to what the encoder has positions for; nearly always one piece."""
        folded = self._fold(text)
        unknown = {c for c in set(folded) if not (c.isspace() or self._reads(c))}
        spelled = " ".join(leave_out(folded, unknown).split())
        # Two more tokens: the space before the first word, and the end.
        pieces = textwrap.wrap(spelled, self._model.config.max_text_positions - 2, break_on_hyphens=False)
        return [piece for piece in pieces if any(c.isalnum() for c in piece)]

    def _fold(self, text: str) -> str:
        """Spell numbers out; letters without a token lose their accents if they can be read without."""
        return "".join(map(self._plain, unicodedata.normalize("NFC", normalise(text, self._language))))

    def _plain(self, char: str) -> str:
        if char.isspace() or self._reads(char):
            return char
        char = APOSTROPHES.get(char, char)
        base = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
        return base if all(c.isspace() or self._reads(c) for c in base) else char

    def _has_token(self, char: str) -> bool:
        tokens = self._tokenizer(char, add_special_tokens=False).input_ids
        return self._tokenizer.unk_token_id not in tokens and not char.isspace()

    def _read_embedding(self, voice: str) -> torch.Tensor:
        import torch

        vector = torch.from_numpy(self._xvectors.read(self._utterances.get(voice, voice)))
        return vector[None].to(self._model.device, self._model.dtype)

    def _voice(self, name: str, speaker: str, title: str) -> Voice:
        accent, gender, _ = SPEAKERS[speaker]
        return Voice(name, title, accent if self._language == "en" else self._language, gender)


def _language(readme: Path) -> str:
    """What a model speaks, by its model card: its first language, and English where none is given."""
    from huggingface_hub import metadata_load

    about = (metadata_load(readme) if readme.exists() else None) or {}
    named = about.get("language") or "en"
    first = named if isinstance(named, str) else str(named[0])
    return first if re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?", first) else "en"
