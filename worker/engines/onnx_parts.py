"""Takes the ONNX graph of a VITS apart, so that its decoder can be run window by window; knows no session and no text.

The decoder (HiFi-GAN generator, Kong et al. 2020) makes sound of latent frames, `hop_length` samples of each. It is
found by its structure: it begins with the convolution before the first upsampling, and nothing that it does to the
latents on their way to the sound reaches further than convolutions do. How far these reach (the halo) follows from
their attributes. Most of the halo is there for the first, cheap layers; so before each later upsampling the decoder
gets a crop, which leaves what the rest of the way needs. With it a cut costs a sixth of what it does without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.errors import UnsupportedModel

if TYPE_CHECKING:
    import onnx

_POINTWISE = {
    "Add", "Cast", "Clip", "Div", "Elu", "Exp", "Identity", "LeakyRelu", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Sin",
    "Sqrt", "Sub", "Tanh", "Unsqueeze",
}  # fmt: skip
"""Operations that make every sample from those at the same place. `Unsqueeze` only says that there is one channel."""

_SPEAKER = "sid"


class IndivisibleGraph(Exception):
    """The decoder was not found, or does something whose reach is unknown; the message says which."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A place in the decoder where the halo is cut back.

    Attributes:
        start: Name of an input, int64 [1]: the first step that is kept.
        stop: Name of an input, int64 [1]: the step after the last one that is kept.
        rate: Steps that a frame has here.
        span: First and last step that the samples of frame 0 depend on; of frame n, n * rate later.
    """

    start: str
    stop: str
    rate: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Parts:
    """A graph in two parts.

    Attributes:
        encoder: Takes the inputs of the whole graph and gives the latents.
        decoder: Takes the latents, the crops and, where it depends on the speaker, `sid`; gives the output of the whole
            graph.
        latents: Name of the latents in both, float32 [1, C, T].
        hop_length: Samples that one of the T frames makes.
        halo: Frames before and frames after a window that its samples depend on.
        crops: In their order.
    """

    encoder: onnx.ModelProto
    decoder: onnx.ModelProto
    latents: str
    hop_length: int
    halo: tuple[int, int]
    crops: Sequence[Crop]


def split(model: onnx.ModelProto) -> Parts:
    """Take a graph apart where its decoder begins.

    Args:
        model: A graph with one output, the sound; time is the last axis in all of its decoder.

    Raises:
        IndivisibleGraph: It has no such decoder.
    """
    from onnx import helper
    from onnx.utils import Extractor

    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        raise IndivisibleGraph("it branches")
    inputs = [each.name for each in graph.input]
    output = graph.output[0].name
    weights = {each.name: each for each in graph.initializer}
    timed = _following(graph.node, {name for name in inputs if name != _SPEAKER})
    latents, dtype, channels = _boundary(_leading_to(graph.node, output, ""), timed, weights)
    nodes = _leading_to(graph.node, output, latents)
    read = {name for node in nodes for name in node.input}
    if astray := [name for name in inputs if name != _SPEAKER and name in read]:
        raise IndivisibleGraph(f"its decoder reads {astray[0]!r}")
    rates = _rates(nodes, latents, weights)
    spans = _spans(nodes, output, rates, weights)
    crops = _insert_crops(graph, nodes, rates, spans)
    graph.value_info.append(helper.make_tensor_value_info(latents, dtype, ["batch", channels, "frames"]))
    steps = [name for crop in crops for name in (crop.start, crop.stop)]
    extractor = Extractor(model)
    return Parts(
        encoder=extractor.extract_model(inputs, [latents]),
        decoder=extractor.extract_model([latents, *steps, *(name for name in inputs if name in read)], [output]),
        latents=latents,
        hop_length=rates[output],
        halo=(-spans[latents][0], spans[latents][1]),
        crops=crops,
    )


def _following(nodes: Sequence[onnx.NodeProto], names: set[str]) -> set[str]:
    """Names of all that is made from some tensors, and of these."""
    reached = set(names)
    for node in nodes:
        if reached.intersection(node.input):
            reached.update(node.output)
    return reached


def _leading_to(nodes: Sequence[onnx.NodeProto], name: str, source: str) -> list[onnx.NodeProto]:
    """Nodes that a tensor is made by, back to another one, in their order."""
    wanted = {name}
    found = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(each for each in node.input if each != source)
    return found[::-1]


def _boundary(
    nodes: Sequence[onnx.NodeProto], timed: set[str], weights: Mapping[str, onnx.TensorProto]
) -> tuple[str, int, int]:
    """Find what the decoder takes: the input of the convolution before the first upsampling, else of the latter.

    Returns:
        Its name, the type of its numbers (as ONNX numbers types) and how many channels it has.
    """
    makers = {name: node for node in nodes for name in node.output}
    first = next((node for node in nodes if node.op_type == "ConvTranspose" and node.input[0] in timed), None)
    if first is None:
        raise IndivisibleGraph("it upsamples nothing")
    node: onnx.NodeProto | None = first
    while node and (node is first or node.op_type in _POINTWISE):
        # What is added for the speaker is the same at all times.
        name, *others = [name for name in node.input if name in timed]
        node = None if others else makers.get(name)
    if node is None or node.op_type != "Conv":
        node = first
    weight = weights.get(node.input[1])
    if weight is None:
        raise IndivisibleGraph(f"{node.name or node.op_type} has no weights")
    groups = _attributes(node).get("group", [1])[0]
    channels = weight.dims[0] if node is first else weight.dims[1] * groups
    return node.input[0], weight.data_type, channels


def _rates(nodes: Sequence[onnx.NodeProto], latents: str, weights: Mapping[str, onnx.TensorProto]) -> dict[str, int]:
    """Count the steps that a frame has in each tensor of the decoder that has time."""
    rates = {latents: 1}
    for node in nodes:
        if at := {rates[name] for name in node.input if name in rates}:
            if len(at) > 1 or node.op_type not in ("Conv", "ConvTranspose", *_POINTWISE):
                raise IndivisibleGraph(f"its decoder has {node.name or node.op_type}")
            stride = _Kernel.of(node, weights).stride if node.op_type == "ConvTranspose" else 1
            rates.update(dict.fromkeys(node.output, at.pop() * stride))
    return rates


def _spans(
    nodes: Sequence[onnx.NodeProto], output: str, rates: Mapping[str, int], weights: Mapping[str, onnx.TensorProto]
) -> dict[str, tuple[int, int]]:
    """Find the first and the last step of each of these tensors that the samples of frame 0 are computed from."""
    spans = {output: (0, rates[output] - 1)}
    for node in reversed(nodes):
        if node.output[0] in rates:
            span = spans[node.output[0]]
            if node.op_type in ("Conv", "ConvTranspose"):
                span = _Kernel.of(node, weights).reach(span)
            for name in rates.keys() & set(node.input):
                first, last = spans.get(name, span)
                spans[name] = min(first, span[0]), max(last, span[1])
    return spans


def _insert_crops(
    graph: onnx.GraphProto,
    nodes: Sequence[onnx.NodeProto],
    rates: Mapping[str, int],
    spans: Mapping[str, tuple[int, int]],
) -> list[Crop]:
    """Put a crop before each upsampling but the first, where all that comes after depends on that alone."""
    from onnx import TensorProto, helper

    crops: list[Crop] = []
    for position, node in enumerate(nodes):
        name = node.input[0]
        passed = set(rates) - {name} - {each for later in nodes[position:] for each in later.output}
        is_way = not any(passed.intersection(later.input) for later in nodes[position:])
        if node.op_type != "ConvTranspose" or rates.get(name, 1) == 1 or not is_way:
            continue
        start, stop, axis, cropped = (f"sonorant_crop_{len(crops)}_{each}" for each in ("start", "stop", "axis", "out"))
        graph.input.extend(helper.make_tensor_value_info(each, TensorProto.INT64, [1]) for each in (start, stop))
        graph.initializer.append(helper.make_tensor(axis, TensorProto.INT64, [1], [2]))
        graph.node.insert(list(graph.node).index(node), helper.make_node("Slice", [name, start, stop, axis], [cropped]))
        node.input[0] = cropped
        crops.append(Crop(start, stop, rates[name], spans[name]))
    return crops


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What a convolution over time reaches.

    Attributes:
        width: Steps from the first to the last input of one output: the dilated kernel's size, less 1.
        before: Zeros before the input, or samples cut from the beginning of the output if it upsamples.
        stride: By which it upsamples; 1 for a plain convolution.
        upsamples: Whether it is transposed.
    """

    width: int
    before: int
    stride: int
    upsamples: bool

    @classmethod
    def of(cls, node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> _Kernel:
        """Read the attributes of a `Conv` or a `ConvTranspose`.

        Raises:
            IndivisibleGraph: It does not multiply the length by its stride, or is none over time alone.
        """
        told = _attributes(node)
        weight = weights.get(node.input[1])
        if weight is None or len(weight.dims) != 3 or "output_shape" in told or "auto_pad" in told:
            raise IndivisibleGraph(f"{node.name or node.op_type} is no plain convolution over time")
        width = (weight.dims[2] - 1) * told.get("dilations", [1])[0]
        before, after = told.get("pads", [0, 0])
        stride = told.get("strides", [1])[0]
        upsamples = node.op_type == "ConvTranspose"
        if upsamples:
            is_even = width + 1 + told.get("output_padding", [0])[0] - before - after == stride
        else:
            is_even = stride == 1 and before + after == width
        if not is_even:
            raise IndivisibleGraph(f"{node.name or node.op_type} does not multiply the length by {stride}")
        return cls(width, before, stride, upsamples)

    def reach(self, span: tuple[int, int]) -> tuple[int, int]:
        """Find the first and the last input that some outputs are computed from."""
        first, last = span
        if self.upsamples:
            # output[t] is the sum of weight[j] * input[(t + before - j) / stride], 0 <= j <= width.
            return -((self.width - self.before - first) // self.stride), (last + self.before) // self.stride
        return first - self.before, last - self.before + self.width


def _attributes(node: onnx.NodeProto) -> dict[str, list[int]]:
    """Attributes of a node that are whole numbers or lists of such; and `auto_pad` if it asks for something."""
    told = {each.name: list(each.ints) or [each.i] for each in node.attribute if each.ints or each.name == "group"}
    if any(each.name == "auto_pad" and each.s not in (b"", b"NOTSET") for each in node.attribute):
        told["auto_pad"] = []
    return told


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
