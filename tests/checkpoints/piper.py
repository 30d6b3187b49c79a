"""Voices of Piper with random weights: one alone, and a collection laid out as `rhasspy/piper-voices` is.

The graph has the inputs, the output and the two draws of noise of a VITS, and next to nothing in between: embeddings,
random durations, and a decoder of the shape of HiFi-GAN that upsamples latent frames to samples in two steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints import Family
from worker.text.espeak import from_misaki

MODEL = "tiny-org/tiny-piper"
COLLECTION = "tiny-org/tiny-piper-voices"
ALPHABET = "_^$ !'(),-.:;?abcdefhijklmnopqrstuvwxyzæðŋɐɑɒɔəɚɛɜɡɪɹɾʃʊʌʒʔˈˌːθᵻ"
UKRAINIAN = "_^$ !'(),-.:;?абвгґдеєжзиійклмнопрстуфхцчшщьюяї\u0306\u0308"
STRIDES = (8, 32)
CHANNELS = 16
SPEAKERS = ("p1", "p23", "p456")


def build(root: Path) -> None:
    folder = root / MODEL
    write_voice(folder, "en_US-tiny-medium", number=1)
    _tell_hub(folder)


def build_collection(root: Path) -> None:
    folder = root / COLLECTION
    voices: dict[str, Any] = {
        "en_US-lessac-medium": {},
        "en_GB-alan-low": {"rate_hz": 16_000},
        "en_US-libritts-high": {"speakers": SPEAKERS},
        "uk_UA-ukrainian_tts-medium": {"alphabet": UKRAINIAN, "reads": "text"},
        "de_DE-thorsten-medium": {},
    }
    told = {}
    for number, (voice, about) in enumerate(voices.items()):
        code, name, quality = voice.split("-")
        path = f"{code[:2]}/{code}/{name}/{quality}"
        config = write_voice(folder / path, voice, number=number, **about)
        told[voice] = {
            "key": voice,
            "name": name,
            "language": config["language"],
            "quality": quality,
            "num_speakers": config["num_speakers"],
            "speaker_id_map": config["speaker_id_map"],
            "files": {f"{path}/{voice}.{end}": {} for end in ("onnx", "onnx.json")},
            "aliases": [],
        }
    (folder / "voices.json").write_text(json.dumps(told))
    _tell_hub(folder)


def write_voice(
    folder: Path,
    voice: str,
    *,
    number: int,
    rate_hz: int = 22_050,
    speakers: tuple[str, ...] = (),
    alphabet: str = ALPHABET,
    reads: str = "espeak",
) -> dict[str, Any]:
    """Write one voice's graph and configuration; returns the latter."""
    import onnx

    code, name, quality = voice.split("-")
    config: dict[str, Any] = {
        "audio": {"sample_rate": rate_hz, "quality": quality},
        "espeak": {"voice": {"en_GB": "en-gb-x-rp", "en_US": "en-us"}.get(code, code[:2])},
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_type": reads,
        "phoneme_map": {},
        "phoneme_id_map": {char: [position] for position, char in enumerate(alphabet)},
        "num_symbols": 256,
        "num_speakers": max(1, len(speakers)),
        "speaker_id_map": {speaker: position for position, speaker in enumerate(speakers)},
        "piper_version": "1.0.0",
        "language": {"code": code, "family": code[:2], "region": code[3:], "name_english": ""},
        "dataset": name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(number, len(speakers)), folder / f"{voice}.onnx")
    (folder / f"{voice}.onnx.json").write_text(json.dumps(config))
    return config


def graph(number: int, num_speakers: int) -> Any:
    """Make a graph with Piper's inputs and output; `number` seeds its weights."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(number)

    def kernel(*shape: int, gain: float) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) * gain).astype(np.float32)

    first, second = STRIDES
    weights = {
        "enc_p.emb.weight": rng.standard_normal((256, CHANNELS)).astype(np.float32),
        "emb_g.weight": rng.standard_normal((max(1, num_speakers), CHANNELS)).astype(np.float32),
        "dec.conv_pre.weight": kernel(CHANNELS, CHANNELS, 7, gain=0.1),
        "dec.cond.weight": kernel(CHANNELS, CHANNELS, 1, gain=0.25),
        "dec.ups.0.weight": kernel(CHANNELS, 4, 2 * first, gain=0.2),
        "dec.resblock.weight": kernel(4, 4, 3, gain=0.2),
        "dec.ups.1.weight": kernel(4, 1, 2 * second, gain=0.4),
        "dec.conv_post.weight": kernel(1, 1, 7, gain=0.4),
        "frames": np.array(6.0, np.float32),
        "most_frames": np.array(24.0, np.float32),
        "least_frames": np.array(1.0, np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array(2),
        "first": np.array([0]),
        "second": np.array([1]),
        "third": np.array([2]),
        "both": np.array([0, 1]),
    }
    speaker = "sid" if num_speakers else "first"
    node = helper.make_node
    nodes = [
        node("Gather", ["scales", "zero"], ["noise_scale"]),
        node("Gather", ["scales", "one"], ["length_scale"]),
        node("Gather", ["scales", "two"], ["noise_w"]),
        node("Gather", ["enc_p.emb.weight", "input"], ["letters"]),
        node("Gather", ["emb_g.weight", speaker], ["speaker"]),
        node("Add", ["letters", "speaker"], ["embedded"]),
        node("Transpose", ["embedded"], ["encoded"], perm=[0, 2, 1]),  # [1, C, T]
        # Durations: 6 frames times the exponential of noise, [T].
        node("Gather", ["encoded", "both"], ["pair"], axis=1),
        node("RandomNormalLike", ["pair"], ["dp_noise"], name="/dp/RandomNormalLike", dtype=TensorProto.FLOAT),
        node("Mul", ["dp_noise", "noise_w"], ["dp_scaled"]),
        node("Gather", ["dp_scaled", "zero"], ["dp_first"], axis=1),
        node("Exp", ["dp_first"], ["spread"]),
        node("Mul", ["spread", "frames"], ["unscaled"]),
        node("Mul", ["unscaled", "length_scale"], ["scaled"]),
        node("Ceil", ["scaled"], ["whole"]),
        node("Mul", ["most_frames", "length_scale"], ["most"]),
        node("Max", ["most", "least_frames"], ["bound"]),
        node("Min", ["whole", "bound"], ["durations"]),
        # Latent frame f is that of the letter whose durations' sum it lies under.
        node("Squeeze", ["durations", "first"], ["durations_1d"]),
        node("CumSum", ["durations_1d", "zero"], ["ends"]),
        node("ReduceMax", ["ends"], ["num_frames"], keepdims=0),
        node("Cast", ["num_frames"], ["num_frames_int"], to=TensorProto.INT64),
        node("Range", ["zero", "num_frames_int", "one"], ["numbers"]),
        node("Cast", ["numbers"], ["numbers_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["numbers_float", "second"], ["column"]),
        node("GreaterOrEqual", ["column", "ends"], ["is_past"]),
        node("Cast", ["is_past"], ["is_past_int"], to=TensorProto.INT64),
        node("ReduceSum", ["is_past_int", "second"], ["position"], keepdims=0),
        node("Gather", ["encoded", "position"], ["mean"], axis=2),  # [1, C, F]
        node("RandomNormalLike", ["mean"], ["prior_noise"], name="/RandomNormalLike", dtype=TensorProto.FLOAT),
        node("Mul", ["prior_noise", "noise_scale"], ["prior_scaled"]),
        node("Add", ["mean", "prior_scaled"], ["latent"]),
        node("Conv", ["latent", "dec.conv_pre.weight"], ["pre"], pads=[3, 3]),
        node("Unsqueeze", ["speaker", "third"], ["speaker_column"]),
        node("Conv", ["speaker_column", "dec.cond.weight"], ["cond"]),
        node("Add", ["pre", "cond"], ["conditioned"]),
        node("LeakyRelu", ["conditioned"], ["coarse"]),
        node("ConvTranspose", ["coarse", "dec.ups.0.weight"], ["fine"], strides=[first], pads=[first // 2] * 2),
        node("LeakyRelu", ["fine"], ["activated"]),
        node("Conv", ["activated", "dec.resblock.weight"], ["convolved"], dilations=[12], pads=[12, 12]),
        node("Add", ["convolved", "fine"], ["blocked"]),
        node("ConvTranspose", ["blocked", "dec.ups.1.weight"], ["finest"], strides=[second], pads=[second // 2] * 2),
        node("Conv", ["finest", "dec.conv_post.weight"], ["decoded"], pads=[3, 3]),
        node("Tanh", ["decoded"], ["wave"]),
        node("Unsqueeze", ["wave", "third"], ["output"]),
    ]
    integers, floats = TensorProto.INT64, TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("input", integers, ["batch_size", "phonemes"]),
        helper.make_tensor_value_info("input_lengths", integers, ["batch_size"]),
        helper.make_tensor_value_info("scales", floats, [3]),
    ]
    if num_speakers:
        inputs.append(helper.make_tensor_value_info("sid", integers, ["batch_size"]))
    outputs = [helper.make_tensor_value_info("output", floats, ["batch_size", "time", 1, "samples"])]
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "tiny-piper", inputs, outputs, held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def reference(root: Path, text: str, voice: str, seed: int) -> npt.NDArray[np.float32]:
    """Run the graph with each draw of noise replaced by an input of just the shape that it draws.

    The library has no seed. Draw number n is from numpy's generator seeded with `[seed, n]`.
    """
    import onnx
    import onnxruntime
    from hibari.g2p import G2P
    from onnx import TensorProto, helper

    (path,) = root.glob(f"tiny-org/*/**/{voice}.onnx")
    config = json.loads(path.with_name(f"{path.name}.json").read_text())
    model = onnx.load(path)
    kept = [node for node in model.graph.node if node.op_type != "RandomNormalLike"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, shape in (("dp_noise", [1, 2, "phonemes"]), ("prior_noise", [1, CHANNELS, "frames"])):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model.graph.output.append(helper.make_tensor_value_info("num_frames", TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    phonemes = from_misaki(G2P(british=voice.startswith("en_GB"))(text), british=voice.startswith("en_GB"))
    table = config["phoneme_id_map"]
    ids = [1, 0] + [number for char in phonemes if char in table for number in (*table[char], 0)] + [2]
    feed = {
        "input": np.array([ids]),
        "input_lengths": np.array([len(ids)]),
        "scales": np.array([0.667, 1.0, 0.8], np.float32),
        "dp_noise": _noise(seed, 0, (1, 2, len(ids))),
        # To count the frames, the noise need not fit.
    }
    (num_frames,) = session.run(["num_frames"], {**feed, "prior_noise": _noise(seed, 1, (1, CHANNELS, 1))})
    feed["prior_noise"] = _noise(seed, 1, (1, CHANNELS, int(num_frames)))
    samples: npt.NDArray[np.float32] = session.run(["output"], feed)[0].ravel()
    return samples


def _noise(seed: int, number: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.random.default_rng([seed, number]).standard_normal(shape, np.float32)


def _tell_hub(folder: Path) -> None:
    told = {"library_name": "piper", "pipeline_tag": "text-to-speech", "tags": ["onnx", "text-to-speech"], "config": {}}
    (folder / ".hub.json").write_text(json.dumps({"info": told}))


FAMILIES = (
    Family("piper", MODEL, build, reference),
    Family("piper", COLLECTION, build_collection, reference),
)
