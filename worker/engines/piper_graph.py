"""Runs the graphs of Piper's voices in two stages, with noise that comes from us; knows no repository and no text.

Piper draws its noise inside the graph, where nobody can seed it for one call. So the graph is changed when it is
loaded: each node that draws noise becomes an input. And it is taken apart where its decoder begins: the encoder makes
the latent frames of a whole piece, the decoder makes sound of them in windows, of which the first is small and the
others are as long as the listener can wait. A window is decoded with its halo, so the samples are those of a decode in
one go, to rounding.
"""

from __future__ import annotations

import json
import os
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from worker.engines.base import Samples
from worker.engines.onnx_parts import IndivisibleGraph, Parts, draw_from_inputs, split
from worker.engines.stages import Speech, Stage
from worker.errors import UnsupportedModel
from worker.text import espeak

FIRST_FRAMES = 16
"""Frames of the first window of a piece, of some 12 ms each, for a listener who has nothing in hand."""

LATER_FRAMES = 32
"""No later window is smaller, but for the last one."""

LONGEST_RUN_S = 0.3
"""How long a window may take: until its end, nobody more urgent gets the thread."""

MEMORY_FRAMES = 500
"""Frames after which a measurement of the pace counts half."""

_SMALLEST_HOP = 256
_WIDEST_LATENT = 192

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """What a voice's `.onnx.json` says.

    Attributes:
        sample_rate_hz: Rate of its sound.
        reads: `espeak` or `text`.
        espeak_voice: Voice of espeak-ng whose phonemes it takes.
        ids: Ids of each phoneme or letter.
        noise_scale: Default of the option.
        noise_w: Default of the option.
        length_scale: Its pace at speed 1; the smaller, the faster.
        speakers: Numbers of its speakers by name, the first one first; empty if it has but one.
        language: BCP 47 tag.
    """

    sample_rate_hz: int
    reads: str
    espeak_voice: str
    ids: Mapping[str, Sequence[int]]
    noise_scale: float
    noise_w: float
    length_scale: float
    speakers: Mapping[str, int]
    language: str

    @classmethod
    def read(cls, path: Path) -> Config:
        told = json.loads(path.read_text(encoding="utf-8"))
        if missing := [key for key in ("audio", "phoneme_id_map", "inference") if key not in told]:
            raise UnsupportedModel(f"{path.name} has no {', '.join(missing)}: not a voice of Piper", field="model")
        voice = told.get("espeak", {}).get("voice", "")
        inference = told["inference"]
        return cls(
            sample_rate_hz=told["audio"]["sample_rate"],
            reads=told.get("phoneme_type", "espeak"),
            espeak_voice=voice,
            ids=told["phoneme_id_map"],
            noise_scale=inference.get("noise_scale", 0.667),
            noise_w=inference.get("noise_w", 0.8),
            length_scale=inference.get("length_scale", 1.0),
            speakers=speakers_of(told) if told.get("num_speakers", 1) > 1 else {},
            language=tag_of(told.get("language", {}).get("code") or voice or "und"),
        )

    def can_be_read(self) -> bool:
        return self.reads == "text" or (self.reads == "espeak" and espeak.can_read(self.espeak_voice))


@dataclass(frozen=True, slots=True)
class Piece:
    """What is spoken at once.

    Attributes:
        phonemes: As the voice's reader gives them.
        speaker: Number of the speaker.
        scales: How much the sound varies, how slow it is, how much the durations vary.
        noises: What each node's noise is drawn from; nobody else draws from them meanwhile.
        bound_s: Noise is drawn for as many seconds; in speech that is longer it repeats.
    """

    phonemes: str
    speaker: int
    scales: Sequence[float]
    noises: Sequence[np.random.Generator]
    bound_s: float


@dataclass(frozen=True, slots=True)
class Latents:
    """What the sound of a piece is made of.

    Attributes:
        frames: [1, C, T].
        speaker: Number of the speaker.
    """

    frames: npt.NDArray[Any]
    speaker: int

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.frames.shape[-1])


@dataclass(frozen=True, slots=True)
class Rest:
    """What is still to be decoded of a piece.

    Attributes:
        latents: Of the piece.
        start: First of their frames that has not been decoded.
    """

    latents: Latents
    start: int

    @property
    def num_frames(self) -> int:
        """Frames that are left."""
        return self.latents.num_frames - self.start


class Sound(Protocol):
    """What becomes of samples, at the voice's own rate, before they are heard; such as `worker.audio.Trimmer`."""

    def feed(self, samples: Samples, /) -> Samples:
        """Take the next samples, and give those that can be heard now."""

    def flush(self) -> Samples:
        """Give what is left."""


class Graph:
    """One ONNX graph, whose noise comes from us.

    Args:
        path: The `.onnx` file.
        config: Of that voice.
        device: `cpu` or `cuda:N`.
    """

    def __init__(self, path: Path, config: Config, device: str) -> None:
        import onnx

        self.config = config
        model = onnx.load(path)
        noises = draw_from_inputs(model)
        self._num_noises = len(noises)
        self._decode: Decode | None = None
        try:
            parts = split(model)
        except IndivisibleGraph as cause:
            log.info("graph runs whole: no decoder found", path=path.name, cause=str(cause))
        else:
            self._decode = Decode(parts, device)
            model = parts.encoder
        self._encode = Encode(_session(model.SerializeToString(), device), noises, config)

    def noises(self, seed: int) -> list[np.random.Generator]:
        """Start what each node's noise is drawn from."""
        return [np.random.default_rng([seed, number]) for number in range(self._num_noises)]

    def speak(self, piece: Piece, sound: Sound) -> Speech:
        """Speak phonemes.

        Args:
            piece: These, and how.
            sound: Takes the samples, nominally in [-1, 1], as they come.

        Yields:
            What that gives, and calls of stages.
        """
        latents = yield from self._encode(piece)
        if not self._decode:
            yield np.concatenate([sound.feed(latents.frames.ravel()), sound.flush()])
            return
        rest = Rest(latents, 0)
        while rest.num_frames:
            decoded = yield from self._decode(rest)
            rest = Rest(latents, rest.start + len(decoded) // self._decode.hop_length)
            samples = sound.feed(decoded)
            yield samples if rest.num_frames else np.concatenate([samples, sound.flush()])


class Encode(Stage[Piece, Latents]):
    """Runs all of a graph that comes before the decoder; of one without a decoder, all, so the latents are the sound.

    A run takes one core, and several go on at once: two threads of one core each make 1.1 times the audio that one
    session of two threads makes.

    Args:
        session: Of the graph.
        noises: Names of the inputs that noise is taken from.
        config: Of the voice.
    """

    name = "encode"
    is_reentrant = True
    takes_threads = False

    def __init__(self, session: Any, noises: Sequence[str], config: Config) -> None:  # noqa: ANN401  # Has no types.
        self._session = session
        self._noises = noises
        self._config = config
        self._has_speakers = any(each.name == "sid" for each in session.get_inputs())

    def run(self, items: Sequence[Piece], size: Hashable) -> Sequence[Latents]:
        (piece,) = items
        ids = to_ids(piece.phonemes, self._config.ids)
        num_frames = int(piece.bound_s * self._config.sample_rate_hz / _SMALLEST_HOP)
        feed: dict[str, npt.NDArray[Any]] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(piece.scales, np.float32),
        }
        if self._has_speakers:
            feed["sid"] = np.array([piece.speaker], np.int64)
        for name, source in zip(self._noises, piece.noises, strict=True):
            feed[name] = source.standard_normal(_WIDEST_LATENT * num_frames, np.float32)
        return [Latents(self._session.run(None, feed)[0], piece.speaker)]


class Decode(Stage[Rest, Samples]):
    """Turns latent frames into sound, window by window; one core each, as `Encode`.

    Batches are not formed: on a CPU a frame takes as long in any company.

    Args:
        parts: Of the graph.
        device: `cpu` or `cuda:N`.
    """

    name = "decode"
    is_reentrant = True
    takes_threads = False

    def __init__(self, parts: Parts, device: str) -> None:
        self.hop_length = parts.hop_length
        self._latents = parts.latents
        self._halo = parts.halo
        self._crops = parts.crops
        self._session = _session(parts.decoder.SerializeToString(), device)
        self._has_speakers = any(each.name == "sid" for each in self._session.get_inputs())
        self._frame_s = 0.0  # Written by several threads: at worst a measurement is lost.

    def size(self, item: Rest, lead_s: float) -> int:
        """Choose how many frames are decoded next."""
        return window(item, lead_s, self._frame_s)

    def run(self, items: Sequence[Rest], size: Hashable) -> Sequence[Samples]:
        """Decode that many frames."""
        assert isinstance(size, int)
        (rest,) = items
        started = time.perf_counter()
        samples = self._window(rest.latents, rest.start, rest.start + size)
        weight = 1.0 - 0.5 ** (size / MEMORY_FRAMES) if self._frame_s else 1.0
        self._frame_s += weight * ((time.perf_counter() - started) / size - self._frame_s)
        return [samples]

    def _window(self, latents: Latents, start: int, stop: int) -> Samples:
        first, last, rate = max(0, start - self._halo[0]), min(latents.num_frames, stop + self._halo[1]), 1
        feed: dict[str, npt.NDArray[Any]] = {self._latents: np.ascontiguousarray(latents.frames[..., first:last])}
        if self._has_speakers:
            feed["sid"] = np.array([latents.speaker], np.int64)
        for crop in self._crops:
            first, last, rate = first * crop.rate // rate, last * crop.rate // rate, crop.rate
            kept = max(first, start * rate + crop.span[0]), min(last, (stop - 1) * rate + crop.span[1] + 1)
            feed[crop.start], feed[crop.stop] = (np.array([step - first], np.int64) for step in kept)
            first, last = kept
        samples: Samples = self._session.run(None, feed)[0].ravel()
        before = first * self.hop_length // rate
        return samples[start * self.hop_length - before : stop * self.hop_length - before]


def window(rest: Rest, lead_s: float, frame_s: float) -> int:
    """Choose how many frames are decoded next: few where nothing has been heard, else as few cuts as can be.

    Args:
        rest: What is left of a piece.
        lead_s: Seconds of audio that the listener has in hand. A window is to take half of it, since others may come in
            between.
        frame_s: Seconds that a frame takes; 0 while nobody knows.

    Returns:
        From 1 to all of the rest.
    """
    # Who has begun and is late would only be later with the smallest windows: their halos cost the most.
    least = LATER_FRAMES if rest.start else FIRST_FRAMES
    fitting = max(least, int(min(0.5 * lead_s, LONGEST_RUN_S) / frame_s) if frame_s else 0)
    # A little more is cheaper than another cut.
    return rest.num_frames if rest.num_frames <= 1.25 * fitting else fitting


class Graphs:
    """Keeps the graph that was loaded first, those in use, and the few that were used last; any thread may ask.

    A voice may be prepared, and its graph dropped for others before its speech begins: then it is loaded again there.

    Args:
        load: Loads the graph of a voice.
        most: How many are kept beside the first.
    """

    def __init__(self, load: Callable[[str], Graph], most: int) -> None:
        self._load = load
        self._most = most
        self._first = ""
        self._kept: dict[str, Graph] = {}  # The one used last is the last.
        self._users: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __contains__(self, voice: str) -> bool:
        return voice in self._kept

    def load(self, voice: str) -> Graph:
        graph = self._load(voice)
        with self._lock:
            self._first = self._first or voice
            self._kept.pop(voice, None)
            self._kept[voice] = graph
            self._drop()
        return graph

    @contextmanager
    def using(self, voice: str) -> Iterator[Graph]:
        """Give the graph of a voice, and keep it until it has been used."""
        with self._lock:
            self._users[voice] += 1
            graph = self._kept.pop(voice, None)
            if graph:
                self._kept[voice] = graph
        try:
            yield graph or self.load(voice)
        finally:
            with self._lock:
                self._users[voice] -= 1
                self._drop()

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def _drop(self) -> None:
        others = [voice for voice in self._kept if voice != self._first]
        for voice in others[: max(0, len(others) - self._most)]:
            if not self._users[voice]:
                del self._kept[voice]


def to_ids(phonemes: str, ids: Mapping[str, Sequence[int]]) -> list[int]:
    """Number phonemes as Piper does: marks at both ends and a blank after each; what a voice does not know is left out.

    Args:
        phonemes: Any text; it is decomposed (NFD).
        ids: Ids of each phoneme, with `^`, `_` and `$` for the beginning, the blank and the end.
    """
    known = [ids[char] for char in unicodedata.normalize("NFD", phonemes) if char in ids and char not in "^_$"]
    return [*ids["^"], *ids["_"], *(number for each in known for number in (*each, *ids["_"])), *ids["$"]]


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the rate of a whole segment, by its spectrum; exact below the lower Nyquist frequency.

    Args:
        samples: float32 [S] at `from_hz`, near silence at both ends.
        from_hz: Their rate.
        to_hz: The rate wanted.

    Returns:
        float32 [round(S * to_hz / from_hz)], within rounding.
    """
    if from_hz == to_hz:
        return samples
    count = round(len(samples) * to_hz / from_hz)
    # A multiple of both rates' ratio, so that the padded segment has a whole number of samples at either.
    step = from_hz // np.gcd(from_hz, to_hz)
    padded = np.pad(samples, (0, -len(samples) % step + step))
    size = len(padded) // step * (to_hz // np.gcd(from_hz, to_hz))
    changed: Samples = np.fft.irfft(np.fft.rfft(padded), size)[:count].astype(np.float32)
    return changed * np.float32(size / len(padded))


def _session(graph: bytes, device: str) -> Any:  # noqa: ANN401  # The library has no types.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Beside a GPU there is one thread to run them. Beyond four they gain nothing, and each session has its own.
    options.intra_op_num_threads = 1 if device == "cpu" else min(4, os.cpu_count() or 1)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        # Every segment has a shape of its own, and an exhaustive search for each would take seconds.
        about = {"device_id": int(device.partition(":")[2] or 0), "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", about))
    return onnxruntime.InferenceSession(graph, options, providers=providers)


def speakers_of(about: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of a voice's speakers by name, the first one first; as told by `voices.json` or a configuration."""
    return dict(sorted(about.get("speaker_id_map", {}).items(), key=lambda item: item[1]))


def tag_of(code: str) -> str:
    """Write a language as BCP 47 does: `en_US` and `en-us` are en-US."""
    language, _, region = code.replace("_", "-").partition("-")
    return f"{language.lower()}-{region.upper()}" if region else language.lower()
