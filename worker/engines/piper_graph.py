"""Runs the graphs of Piper's voices, with noise that comes from us; knows no repository and no text.

Piper draws its noise inside the graph, where nobody can seed it for one call. So the graph is changed when it is
loaded: each node that draws noise becomes an input.
"""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from worker.engines.base import Samples
from worker.errors import UnsupportedModel
from worker.text import espeak

if TYPE_CHECKING:
    import onnx

_SMALLEST_HOP = 256
_WIDEST_LATENT = 192


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
        graph = onnx.load(path)
        self._noises = draw_from_inputs(graph)
        self._session = _session(graph.SerializeToString(), device)
        self._has_speakers = any(each.name == "sid" for each in self._session.get_inputs())

    def noises(self, seed: int) -> list[np.random.Generator]:
        """Start what each node's noise is drawn from."""
        return [np.random.default_rng([seed, number]) for number in range(len(self._noises))]

    def run(
        self,
        phonemes: str,
        speaker: int,
        scales: Sequence[float],
        noises: Sequence[np.random.Generator],
        bound_s: float,
    ) -> Samples:
        """Speak phonemes.

        Args:
            phonemes: As the voice's reader gives them.
            speaker: Number of the speaker.
            scales: How much the sound varies, how slow it is, how much the durations vary.
            noises: What each node's noise is drawn from.
            bound_s: Noise is drawn for as many seconds; in speech that is longer it repeats.

        Returns:
            float32 [S] at the voice's own rate, nominally in [-1, 1].
        """
        ids = to_ids(phonemes, self.config.ids)
        num_frames = int(bound_s * self.config.sample_rate_hz / _SMALLEST_HOP)
        feed: dict[str, npt.NDArray[Any]] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        if self._has_speakers:
            feed["sid"] = np.array([speaker], np.int64)
        for name, source in zip(self._noises, noises, strict=True):
            feed[name] = source.standard_normal(_WIDEST_LATENT * num_frames, np.float32)
        audio: Samples = self._session.run(["output"], feed)[0].ravel()
        return audio


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


def draw_from_inputs(model: onnx.ModelProto) -> list[str]:
    """Let the nodes of a graph that draw normal noise take it from new inputs, float32 [N], N > 0.

    The noise is laid into the shape that the node would have drawn; where it is too short, it repeats.

    Args:
        model: Changed in place.

    Returns:
        Names of the inputs, in the order of the nodes.

    Raises:
        UnsupportedModel: It draws noise in another way.
    """
    from onnx import TensorProto, helper

    names: list[str] = []
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if not node.op_type.startswith("Random"):
            nodes.append(node)
            continue
        if node.op_type != "RandomNormalLike":
            raise UnsupportedModel(f"its graph draws noise by {node.op_type}", field="model")
        name = f"sonorant_noise_{len(names)}"
        names.append(name)
        part = [f"{name}_{each}" for each in ("shape", "size", "range", "length", "index", "flat")]
        shape, size, numbers, length, index, flat = part
        nodes += [
            helper.make_node("Shape", [node.input[0]], [shape]),
            helper.make_node("Size", [node.input[0]], [size]),
            helper.make_node("Range", [f"{name}_0", size, f"{name}_1"], [numbers]),
            helper.make_node("Size", [name], [length]),
            helper.make_node("Mod", [numbers, length], [index]),
            helper.make_node("Gather", [name, index], [flat]),
            helper.make_node("Reshape", [flat, shape], [node.output[0]]),
        ]
        model.graph.initializer.extend(
            helper.make_tensor(f"{name}_{value}", TensorProto.INT64, [], [value]) for value in (0, 1)
        )
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["noise"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return names


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
    # Beyond four threads the graphs gain nothing, and every voice has threads of its own.
    options.intra_op_num_threads = min(4, os.cpu_count() or 1)
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
