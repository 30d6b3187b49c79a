"""Engine `kokoro`: Kokoro-82M and its kin (StyleTTS 2 with an iSTFTNet vocoder), on torch.

A segment is read as phonemes (`worker.text.phonemes`, `worker.text.misaki`) and spoken at once. A voice is a table of
style vectors, one for each number of phonemes; any of them can speak any language, and they can be blended:

    voice    = blend [ "@" language ]          am_adam, jf_alpha@en-US
    blend    = part { "+" part }               af_heart+am_adam
    part     = id [ "(" weight ")" ]           af_heart+am_adam(0.3)

Weights are 1 unless given, and between a millionth and a million; only their ratio counts. Without `@`, the language
is that of the first voice.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import structlog

from worker.audio import trim_silence
from worker.engines.base import (
    Card,
    Checkpoint,
    HubModel,
    Model,
    Samples,
    SegmentLimits,
    Settings,
    Voice,
    is_same_language,
)
from worker.engines.stages import Speech, Stage
from worker.engines.stepwise import TorchEngine, drawing_from, place, require_all, seed_of
from worker.errors import UnsupportedModel, VoiceNotFound
from worker.text import misaki
from worker.text.phonemes import Reader, cut

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 24_000
SPEEDS = (0.5, 2.0)
DEFAULT = "af_heart"
PIECE_PAUSE_S = 0.15

_LANGUAGES = dict(zip("abefhijpz", ("en-US", "en-GB", "es", "fr-FR", "hi", "it", "ja", "pt-BR", "zh"), strict=True))
_GENDERS = {"f": "female", "m": "male"}
_TAGS = {language.lower(): language for language in misaki.LANGUAGES}
_VOICE = re.compile(r"([a-z])([fm])_(\w+)")
_PART = re.compile(r"(\w+)(?:\((\d+(?:\.\d+)?|\.\d+)\))?")
_MOST_PARTS = 16
_LEAST_WEIGHT = 1e-6

log = structlog.get_logger(__name__)


class KokoroEngine(TorchEngine):
    """Runs `hexgrad/Kokoro-82M` and repositories of the same layout."""

    name = "kokoro"
    # Not `kokoro` itself, since these are imported; see `model_class`.
    requires: ClassVar[Sequence[str]] = ("torch", "transformers", "loguru")
    extra = "kokoro"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By its layout: config.json of no transformers model, weights beside it, voices that Kokoro would name so."""
        return (
            not model.model_type
            and "config.json" in model.files
            and bool(_weights(model.files))
            and any(re.fullmatch(r"voices/[a-z][fm]_\w+\.pt", path) for path in model.files)
        )

    @classmethod
    def refuse(cls, model: HubModel) -> str:
        return super().refuse(model) if importlib.util.find_spec("kokoro") else f"needs the extra {cls.extra}"

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        return ("config.json", _weights(model.files) or "kokoro*.pth", "voices/*.pt")

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> KokoroModel:
        """Load the network and the voices.

        Raises:
            UnsupportedModel: It is no Kokoro, or not all of one.
        """
        config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        if missing := [key for key in ("istftnet", "plbert", "vocab") if key not in config]:
            raise UnsupportedModel(f"its config.json has no {', '.join(missing)}: not a Kokoro", field="model")
        weights = _weights([path.name for path in checkpoint.folder.glob("*.pth")])
        if not weights:
            raise UnsupportedModel("it has no weights of the name kokoro*.pth, and not just one .pth", field="model")
        with warnings.catch_warnings():
            # Its LSTMs of one layer name a dropout that has no layer to act between, and its weight norm is an old one.
            warnings.filterwarnings("ignore", "dropout option adds dropout", UserWarning)
            warnings.filterwarnings("ignore", r".*weight_norm.* is deprecated", FutureWarning)
            network = model_class()(repo_id=checkpoint.name, config=config, model=str(checkpoint.folder / weights))
        require_all(network, _missing(network, checkpoint.folder / weights))
        return KokoroModel(checkpoint, place(network, device), device)


class KokoroModel(Model):
    """A network and its voices' style vectors."""

    # The network takes 510 phonemes and hurries from 400 on; of most languages that is 300 characters.
    limits = SegmentLimits(first=80, longest=300)
    is_staged = True

    def __init__(self, checkpoint: Checkpoint, network: Any, device: str) -> None:  # noqa: ANN401  # No types.
        self._synthesize = Synthesis(network, device)
        self._device = device
        self._styles = _load_styles(checkpoint.folder / "voices")
        self._longest = network.context_length - 2  # Each end is marked.
        self._bopomofo = "ㄅ" in network.vocab
        self._reader = cache(self._load_reader)
        self._parse = lru_cache(256)(self._parse_voice)
        self._blend = lru_cache(16)(self._blend_styles)
        voices = _offered(checkpoint.name, self._styles)
        for language in {voice.language for voice in voices}:
            self._reader(language)  # A dictionary takes seconds to load, and the device thread has no time for it.
        self.languages = [language for language in misaki.LANGUAGES if not misaki.lacks(language)]
        self.card = Card(SAMPLE_RATE_HZ, voices, revision=checkpoint.revision, speeds=SPEEDS)

    def find_voice(self, voice: str) -> Voice | None:
        """Look up a voice of the card, a blend or a voice told to speak another language."""
        parsed = self._parse(voice)
        return parsed[0] if parsed else None

    def voice_in(self, voice: Voice, language: str) -> Voice | None:
        """Any voice speaks every language and dialect that can be read here: the grammar's `@` says so."""
        if voice.language.lower() == language.lower():
            return voice
        blend = voice.id.partition("@")[0]
        if dialect := self.find_voice(f"{blend}@{language}"):
            return dialect
        if is_same_language(voice.language, language):
            return voice
        known = [each for each in self.languages if is_same_language(each, language)]
        return self.find_voice(f"{blend}@{known[0]}") if known else None

    def check(self, text: str, voice: str) -> None:
        self._reader(self._language_of(voice)).check(text, voice)

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment, in pieces of at most 510 phonemes (nearly always one).

        A piece is made in one go, at most 1.25 s for each phoneme at speed 1: the network's own bound.
        """
        import torch

        noise = torch.Generator(self._device).manual_seed(seed_of(settings, index))
        styles = self._blend(settings.voice)
        pause = np.zeros(round(PIECE_PAUSE_S / settings.speed * SAMPLE_RATE_HZ), np.float32)
        is_first = True
        for sentence in self._reader(self._language_of(settings.voice)).read(text):
            for phonemes in cut(sentence, self._longest):
                samples = yield from self._synthesize(Piece(phonemes, styles[len(phonemes) - 1], settings.speed, noise))
                yield samples if is_first else np.concatenate([pause, samples])
                is_first = False

    def _load_reader(self, language: str) -> Reader:
        return misaki.reader(language, bopomofo=self._bopomofo)

    def _language_of(self, voice: str) -> str:
        described, _ = self._parse(voice) or _no_voice(voice)
        return described.language

    def _blend_styles(self, voice: str) -> torch.Tensor:
        """Mix the style vectors of a voice's parts; float32 [510, 1, 256]."""
        import torch

        _, weights = self._parse(voice) or _no_voice(voice)
        if len(weights) == 1:
            return self._styles[next(iter(weights))]
        shares = torch.tensor(list(weights.values()))
        styles = torch.stack([self._styles[part] for part in weights])
        blend: torch.Tensor = torch.tensordot(shares / shares.sum(), styles, dims=1)
        return blend

    def _parse_voice(self, voice: str) -> tuple[Voice, Mapping[str, float]] | None:
        """Read a voice by the grammar above: what it is, and the weights of its parts; None if it is none."""
        blend, at, tag = voice.partition("@")
        weights: dict[str, float] = {}
        parts = blend.split("+")
        for part in parts:
            found = _PART.fullmatch(part)
            if not found or found[1] not in self._styles:
                return None
            weight = float(found[2] or 1)
            if not _LEAST_WEIGHT <= weight <= 1 / _LEAST_WEIGHT:  # Beyond, float32 would make 0 or infinity of it.
                return None
            weights[found[1]] = weights.get(found[1], 0.0) + weight
        first = _describe(parts[0].partition("(")[0])
        language = _TAGS.get(tag.lower()) if at else first.language
        if not language or len(parts) > _MOST_PARTS or misaki.lacks(language):
            return None
        name = " + ".join(_describe(part).name for part in weights)
        genders = {_describe(part).gender for part in weights}
        return Voice(voice, name, language, genders.pop() if len(genders) == 1 else ""), weights


@dataclass(frozen=True, slots=True)
class Piece:
    """What the network speaks at once.

    Attributes:
        phonemes: At least one, at most as many as it takes.
        style: float32 [1, 256].
        speed: Pace.
        noise: What its noise is drawn from.
    """

    phonemes: str
    style: torch.Tensor
    speed: float
    noise: torch.Generator


class Synthesis(Stage[Piece, Samples]):
    """The whole network.

    Pieces go through it one by one: its decoder normalises over time (AdaIN, Huang and Belongie 2017), so the padding
    of a batch would be heard. On a CPU several threads do so at once.

    Args:
        network: `KModel`.
        device: Where it is.
    """

    name = "synthesis"

    def __init__(self, network: Any, device: str) -> None:  # noqa: ANN401  # No types.
        self.is_reentrant = device == "cpu"
        self._network = network

    def run(self, items: Sequence[Piece], size: Hashable) -> Sequence[Samples]:
        """Speak a piece; its silence at both ends is cut."""
        (piece,) = items
        with drawing_from(piece.noise):
            audio = self._network(piece.phonemes, piece.style, piece.speed).numpy()
        return [trim_silence(limit(audio), SAMPLE_RATE_HZ)]


def _weights(files: Sequence[str]) -> str:
    """Find the weights among the files of a repository; empty if there are none, or one cannot tell which they are."""
    paths = sorted(path for path in files if path.endswith(".pth") and "/" not in path)
    named = [path for path in paths if path.startswith("kokoro")]
    if named:
        return named[0]
    return paths[0] if len(paths) == 1 else ""


def _missing(network: Any, path: Path) -> set[str]:  # noqa: ANN401  # No types.
    """Names of what the library has not found in a file of weights; it goes on with noise where they do not fit."""
    import torch

    missing = set(network.state_dict())
    for part, found in torch.load(path, map_location="cpu", weights_only=True).items():
        wanted = set(getattr(network, part).state_dict())
        # Where the names differ, it takes them for those of a module in a `DataParallel`, which begin with `module.`.
        taken = wanted if set(found) == wanted else {name[7:] for name in found}
        missing -= {f"{part}.{name}" for name in taken}
    return missing


def _no_voice(voice: str) -> NoReturn:
    raise VoiceNotFound(f"there is no voice {voice!r}", field="voice")


def limit(audio: Samples) -> Samples:
    """Bring a segment to full scale if it exceeds it, as male voices do; clipping it would be heard.

    Args:
        audio: float32 [S], finite.

    Returns:
        float32 [S] in [-1, 1].
    """
    peak = float(np.abs(audio).max(initial=1.0))
    return audio if peak == 1.0 else audio / np.float32(peak)


@cache
def model_class() -> Any:  # noqa: ANN401  # The library has no types.
    """Import `kokoro.model.KModel` without running `kokoro/__init__.py`.

    That would import the readers with spaCy and espeak-ng, and replace the log handlers of the whole process. So the
    package is entered as one without code, and taken out of the table of modules again when the class is there.
    """
    from loguru import logger

    logger.disable("kokoro")  # It logs the phonemes of every text.
    mine = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "kokoro"}
    if "kokoro.model" in mine:
        return mine["kokoro.model"].KModel
    spec = importlib.util.find_spec("kokoro")
    if spec is None:
        raise ModuleNotFoundError("No module named 'kokoro'", name="kokoro")
    sys.modules["kokoro"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("kokoro.model").KModel
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "kokoro"]:
            del sys.modules[name]
        sys.modules.update(mine)


def _load_styles(folder: Path) -> dict[str, torch.Tensor]:
    """Read the voices' style vectors, float32 [510, 1, 256] each: row n is for n + 1 phonemes."""
    import torch

    paths = sorted(folder.glob("*.pt"))
    return {
        path.stem: torch.load(path, map_location="cpu", weights_only=True)
        for path in paths
        if _VOICE.fullmatch(path.stem) and path.stem[0] in _LANGUAGES
    }


def _describe(voice: str) -> Voice:
    """Say what the id of a voice tells: `jf_alpha` is a Japanese woman."""
    return Voice(voice, voice[3:].replace("_", " ").title(), _LANGUAGES[voice[0]], _GENDERS[voice[1]])


def _offered(model: str, ids: Sequence[str] | Mapping[str, object]) -> list[Voice]:
    """List the voices whose language can be read here; if there are none, all of them, to speak English."""
    voices = sorted((_describe(each) for each in ids), key=lambda voice: (voice.id != DEFAULT, voice.id))
    if not voices:
        raise UnsupportedModel("its repository holds no voices of a known language", field="model")
    silent = {voice.language for voice in voices if misaki.lacks(voice.language)}
    for language in sorted(silent):
        log.warning(
            "voices left out: their language cannot be read; they still speak English as VOICE@en-US",
            model=model,
            language=language,
            voices=[voice.id for voice in voices if voice.language == language],
            install=misaki.lacks(language),
        )
    return [voice for voice in voices if voice.language not in silent] or [
        Voice(f"{voice.id}@en-US", voice.name, "en-US", voice.gender) for voice in voices
    ]
