"""Engine `piper`: Piper's voices (VITS as ONNX graphs), alone or in the collection `rhasspy/piper-voices`.

A voice is a graph of its own, `X.onnx` with its `X.onnx.json`, and its id is X. A graph of many speakers is one voice
for each of them: `en_US-libritts-high` is the first, `en_US-libritts-high#p123` the one named p123. Of the collection
only the default voice comes with the model; the others are fetched when they are first asked for.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from worker.audio import Trimmer, trim_silence
from worker.engines.base import Card, Checkpoint, Engine, HubModel, Model, Samples, SegmentLimits, Settings, Voice
from worker.engines.piper_graph import Config, Graph, Graphs, Piece, resample, speakers_of, tag_of
from worker.engines.stages import Speech
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text import espeak
from worker.text.normalise import normalise
from worker.text.phonemes import Reader, cut, quote
from worker.text.signs import APOSTROPHES, leave_out

COLLECTION = "voices.json"
DEFAULT = "en_US-lessac-medium"
SPEEDS = (0.25, 4.0)
LONGEST_PHONEMES = 600
PIECE_PAUSE_S = 0.15
MOST_GRAPHS = 8
"""Graphs in memory beside the default voice's, of some 60 MB each."""

LISTED_SPEAKERS = 32
"""Of a graph with more speakers only the first is listed; the others are found by their names."""

_TEXT_VOICES = frozenset({"uk_UA-ukrainian_tts-medium"})
"""Voices of the collection that read letters and not phonemes, which its list does not tell."""

log = structlog.get_logger(__name__)


class PiperEngine(Engine):
    """Runs `rhasspy/piper-voices` and repositories with voices of that kind."""

    name = "piper"
    requires = ("onnx", "onnxruntime")
    extra = "worker"

    @classmethod
    def claims(cls, model: HubModel) -> bool:
        """By the configuration that lies beside each graph; a model of transformers may have such graphs as well."""
        return not model.model_type and bool(_graphs(model.files))

    @classmethod
    def files(cls, model: HubModel) -> Sequence[str]:
        """All voices of a small repository; of the collection, its list and its default voice."""
        if COLLECTION not in model.files:
            return [f"{path}{end}" for path in _graphs(model.files) for end in ("", ".json")]
        voices = [Path(path).stem for path in _graphs(model.files)]
        return (COLLECTION, *_patterns(DEFAULT if DEFAULT in voices else voices[0]))

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str) -> PiperModel:
        return PiperModel(checkpoint, device)


class PiperModel(Model):
    """The graphs that have been asked for, and what all of them can say."""

    limits = SegmentLimits(first=80, longest=300)
    is_staged = True

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self._folder = checkpoint.folder
        self._device = device
        self._reader = cache(espeak.reader)
        self._graphs = Graphs(self._load_graph, MOST_GRAPHS)
        self._configs: dict[str, Config] = {}  # Of all voices that were prepared, also of those out of memory.
        told = checkpoint.folder / COLLECTION
        listed = _of_collection(told) if told.exists() else _of_folder(checkpoint.folder)
        if not listed:
            raise UnsupportedModel("its voices need phonemes of espeak-ng: the extra espeak", field="model")
        self._speakers = {voice: speakers for voice, (_, speakers) in listed.items()}
        self._languages = {voice: language for voice, (language, _) in listed.items()}
        first = min(listed, key=lambda voice: (not self._is_on_disk(voice), voice != DEFAULT))
        self.prepare(first)
        config = self._configs[first]
        voices = sorted(listed, key=lambda voice: voice != first)
        self.card = Card(
            config.sample_rate_hz,
            [voice for each in voices for voice in self._list(each)],
            revision=checkpoint.revision,
            speeds=SPEEDS,
            options={
                "noise_scale": _share("How much the sound varies.", config.noise_scale),
                "noise_w": _share("How much the durations vary.", config.noise_w),
            },
        )

    def find_voice(self, voice: str) -> Voice | None:
        """Look up a voice, with or without the name of a speaker."""
        graph, mark, speaker = voice.partition("#")
        if graph not in self._speakers or (mark and speaker not in self._speakers[graph]):
            return None
        return Voice(voice, _name(graph) + (f" {speaker}" if mark else ""), self._languages[graph])

    def lacks(self, voice: str) -> Sequence[str]:
        graph = voice.partition("#")[0]
        return () if graph in self._graphs else _patterns(graph)

    def prepare(self, voice: str) -> None:
        """Load the graph of a voice, and the reader that it needs.

        Raises:
            UnsupportedModel: It reads something that we have no reader for.
        """
        self._graphs.load(voice.partition("#")[0])
        self._reader_of(voice)

    def _load_graph(self, graph: str) -> Graph:
        path = _path(self._folder, f"{graph}.onnx")
        config = Config.read(path.with_name(f"{path.name}.json"))
        if not config.can_be_read():
            raise UnsupportedModel(
                f"the voice {graph!r} reads {config.reads!r} of {config.espeak_voice!r}, and there is no reader for "
                "that here",
                field="voice",
            )
        self._configs[graph] = config
        return Graph(path, config, self._device)

    def check(self, text: str, voice: str) -> None:
        self._reader_of(voice).check(text, voice)

    def speak(self, text: str, index: int, settings: Settings) -> Speech:
        """Speak one segment, in pieces of at most 600 phonemes (nearly always one)."""
        with self._graphs.using(settings.voice.partition("#")[0]) as graph:
            yield from self._speak(graph, text, index, settings)

    def _speak(self, graph: Graph, text: str, index: int, settings: Settings) -> Speech:
        name, _, speaker = settings.voice.partition("#")
        number = self._speakers[name].get(speaker, 0)
        noises = graph.noises(seed_of(settings, index))
        scales = [
            settings.options.get("noise_scale", graph.config.noise_scale),
            graph.config.length_scale / settings.speed,
            settings.options.get("noise_w", graph.config.noise_w),
        ]
        rate_hz, own_hz = self.card.sample_rate_hz, graph.config.sample_rate_hz
        pause = np.zeros(round(PIECE_PAUSE_S / settings.speed * rate_hz), np.float32)
        bound_s = self.limits.bound_s(text, settings.speed)
        is_first = True
        for sentence in self._reader_of(settings.voice).read(text):
            for phonemes in cut(sentence, LONGEST_PHONEMES):
                if not is_first:
                    yield pause
                sound = Trimmer(rate_hz) if own_hz == rate_hz else Resampled(own_hz, rate_hz)
                yield from graph.speak(Piece(phonemes, number, scales, noises, bound_s), sound)
                is_first = False

    def close(self) -> None:
        self._graphs.clear()

    def _reader_of(self, voice: str) -> Reader:
        config = self._configs[voice.partition("#")[0]]
        if config.reads == "text":
            return LetterReader(config.ids, config.language)
        return self._reader(config.espeak_voice)

    def _is_on_disk(self, voice: str) -> bool:
        return any(self._folder.glob(f"**/{voice}.onnx"))

    def _list(self, graph: str) -> Iterator[Voice]:
        speakers = self._speakers[graph]
        names = [name for name in list(speakers)[1:] if len(speakers) <= LISTED_SPEAKERS]
        for voice in (graph, *(f"{graph}#{name}" for name in names)):
            if found := self.find_voice(voice):
                yield found


class Resampled:
    """Gathers a piece whose rate is not the model's, to bring it to that and trim it as a whole.

    Args:
        from_hz: Rate of the piece.
        to_hz: Rate of the model.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz = from_hz
        self._to_hz = to_hz
        self._gathered: list[Samples] = []

    def feed(self, samples: Samples) -> Samples:
        """Take the next samples, float32 [S]; nothing can be heard yet."""
        self._gathered.append(samples)
        return samples[:0]

    def flush(self) -> Samples:
        """Give all of them, float32 [T] in [-1, 1]."""
        return trim_silence(resample(np.concatenate(self._gathered), self._from_hz, self._to_hz), self._to_hz)


class LetterReader(Reader):
    """Gives letters to voices that read them.

    Args:
        ids: Ids of the letters that the voice knows.
        language: BCP 47 tag.
    """

    def __init__(self, ids: Mapping[str, Sequence[int]], language: str) -> None:
        self._ids = ids
        self._language = language

    def check(self, text: str, voice: str) -> None:
        """Refuse letters that the voice does not know, and text without one."""
        signs = [c for c in dict.fromkeys(self._spell(text)) if unicodedata.category(c)[0] in "LN"]
        if strange := [c for c in signs if c not in self._ids]:
            raise UnspeakableText(f"the voice {voice!r} cannot say {quote(strange)}", field="input")
        if not signs:
            raise UnspeakableText(
                f"there is nothing to say in {text.strip()[:40]!r}; the voice {voice!r} needs letters or digits",
                field="input",
            )

    def read(self, text: str) -> list[str]:
        spelled = self._spell(text)
        unknown = {c for c in spelled if c not in self._ids}
        return [leave_out(spelled, unknown, " " if " " in self._ids else "")]

    def _spell(self, text: str) -> str:
        spelled = unicodedata.normalize("NFD", normalise(text, self._language).casefold())
        return "".join(c if c in self._ids else APOSTROPHES.get(c, c) for c in spelled)


def _graphs(files: Sequence[str]) -> list[str]:
    there = set(files)
    return sorted(path for path in there if path.endswith(".onnx") and f"{path}.json" in there)


def _patterns(voice: str) -> tuple[str, ...]:
    return (f"{voice}.onnx", f"{voice}.onnx.json", f"*/{voice}.onnx", f"*/{voice}.onnx.json")


def _path(folder: Path, name: str) -> Path:
    return next(path for path in sorted(folder.glob("**/*.onnx")) if path.name == name)


def _of_folder(folder: Path) -> dict[str, tuple[str, Mapping[str, int]]]:
    """Language and speakers of the voices of a folder that can be read, by id."""
    paths = [path for path in sorted(folder.glob("**/*.onnx")) if path.with_name(f"{path.name}.json").exists()]
    configs = {path.stem: Config.read(path.with_name(f"{path.name}.json")) for path in paths}
    return {voice: (config.language, config.speakers) for voice, config in configs.items() if config.can_be_read()}


def _of_collection(path: Path) -> dict[str, tuple[str, Mapping[str, int]]]:
    """Language and speakers of the voices of a collection that can be read, by id."""
    told = json.loads(path.read_text(encoding="utf-8"))
    here: dict[str, tuple[str, Mapping[str, int]]] = {}
    left_out: set[str] = set()
    for voice, about in told.items():
        language = tag_of(about["language"]["code"])
        # Its languages have the names that espeak-ng gives them.
        if voice in _TEXT_VOICES or espeak.can_read(language):
            here[voice] = (language, speakers_of(about) if about["num_speakers"] > 1 else {})
        else:
            left_out.add(language)
    if left_out:
        log.warning("voices left out: espeak-ng is not installed (extra espeak)", languages=sorted(left_out))
    return here


def _name(voice: str) -> str:
    """Say a voice's name: `en_US-joe-medium` is Joe (medium)."""
    _, _, rest = voice.partition("-")
    name, _, quality = rest.rpartition("-")
    return f"{name.replace('_', ' ').title()} ({quality})" if name else voice


def _share(description: str, default: float) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 2, "default": default, "description": description}
