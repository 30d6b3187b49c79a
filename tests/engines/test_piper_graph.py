import dataclasses
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from tests.checkpoints.piper import SPEAKERS, graph, write_voice
from worker.audio import Trimmer
from worker.engines.onnx_parts import IndivisibleGraph, split
from worker.engines.piper_graph import (
    FIRST_FRAMES,
    LATER_FRAMES,
    LONGEST_RUN_S,
    Config,
    Decode,
    Graph,
    Latents,
    Piece,
    Rest,
    window,
)
from worker.engines.stages import Call, alone

FRAMES = 150
FRAME_S = 0.001


def make(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


def tiny(instead=None, *, num_speakers=0):
    """The graph of a tiny voice; `instead` are the nodes that make some of its tensors in another way."""
    model = graph(1, num_speakers)
    nodes = [new for node in model.graph.node for new in (instead or {}).get(node.output[0], [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def latents_of(parts, speaker=0):
    channels = parts.decoder.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return Latents(np.random.default_rng(0).standard_normal((1, channels, FRAMES), np.float32), speaker)


def decode(parts, latents, cuts=()):
    stage = Decode(parts, "cpu")
    spans = pairwise([0, *cuts, latents.num_frames])
    return np.concatenate([stage.run([Rest(latents, start)], stop - start)[0] for start, stop in spans])


def decode_whole(model, latents, name):
    """Run a graph on latents, in one go, in the library itself."""
    names = [name, *(each.name for each in model.graph.input if each.name == "sid")]
    model.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", None, "t"]))
    whole = onnx.utils.Extractor(model).extract_model(names, ["output"])
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: latents.frames, "sid": np.array([latents.speaker])}
    return session.run(None, {each: feed[each] for each in names})[0].ravel()


UP = {"strides": [32], "pads": [16, 16]}
DECODERS = {
    "as it is": ({}, "latent"),
    "without a convolution before the first upsampling": (
        {"pre": [], "cond": [], "conditioned": [], "coarse": [make("LeakyRelu", ["latent"], "coarse")]},
        "coarse",
    ),
    "with two ways to the sound": (
        {
            "finest": [
                make("LeakyRelu", ["blocked"], "softened"),
                make("ConvTranspose", ["softened", "dec.ups.1.weight"], "finest_0", **UP),
                make("ConvTranspose", ["blocked", "dec.ups.1.weight"], "finest_1", **UP),
                make("Add", ["finest_0", "finest_1"], "finest"),
            ]
        },
        "latent",
    ),
    "padded unevenly": (
        {"convolved": [make("Conv", ["activated", "dec.resblock.weight"], "convolved", pads=[2, 0])]},
        "latent",
    ),
}
"""Nodes in place of some of the tiny decoder's, and the name of the latents that are to be found then."""


@pytest.mark.parametrize("cuts", [(), (1,), (16, 48), (149,), (5, 6, 7, 8, 9, 20, 21), (70, 80, 90)])
@pytest.mark.parametrize("decoder", DECODERS)
def test_windows_of_a_decoder_are_the_whole_decode(decoder, cuts):
    instead, name = DECODERS[decoder]
    parts = split(tiny(instead))
    latents = latents_of(parts)
    expected = decode_whole(tiny(instead), latents, name)
    assert (parts.latents, len(expected)) == (name, FRAMES * parts.hop_length)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(decode(parts, latents, cuts), expected, atol=1e-5)


@pytest.mark.parametrize("speaker", range(len(SPEAKERS)))
def test_every_window_is_of_the_speaker_that_was_asked_for(speaker):
    parts = split(tiny(num_speakers=len(SPEAKERS)))
    latents = latents_of(parts, speaker)
    expected = decode_whole(tiny(num_speakers=len(SPEAKERS)), latents, "latent")
    np.testing.assert_allclose(decode(parts, latents, (16, 48)), expected, atol=1e-5)
    other = decode(parts, dataclasses.replace(latents, speaker=(speaker + 1) % 3))
    assert np.abs(other - expected).max() > 0.01


def test_the_halo_has_no_frame_too_many_and_the_crop_no_step():
    parts = split(tiny())
    latents = latents_of(parts)
    expected = decode(parts, latents)
    (crop,), (before, after), (first, last) = parts.crops, parts.halo, parts.crops[0].span
    narrower = [
        *({"halo": halo} for halo in ((before - 1, after), (before, after - 1))),
        *({"crops": [dataclasses.replace(crop, span=span)]} for span in ((first + 1, last), (first, last - 1))),
    ]
    for change in narrower:
        assert np.abs(decode(dataclasses.replace(parts, **change), latents, (70,)) - expected).max() > 1e-5


@pytest.mark.parametrize(
    ("instead", "cause"),
    [
        ({"wave": [make("CumSum", ["decoded", "two"], "wave")]}, "CumSum"),
        ({"finest": [make("Conv", ["blocked", "dec.resblock.weight"], "finest", pads=[0, 0])]}, "length"),
        ({"blocked": [make("Mul", ["convolved", "noise_w"], "blocked")]}, "scales"),
        (
            {"convolved": [make("Conv", ["activated", "dec.resblock.weight"], "convolved", auto_pad="SAME_UPPER")]},
            "plain",
        ),
    ],
)
def test_a_graph_whose_decoder_cannot_be_cut_is_not_split(instead, cause):
    with pytest.raises(IndivisibleGraph, match=cause):
        split(tiny(instead))


def test_a_graph_that_is_not_split_is_run_whole_and_says_the_same(tmp_path):
    write_voice(tmp_path, "en_US-tiny-medium", number=1)
    path = tmp_path / "en_US-tiny-medium.onnx"
    config = Config.read(tmp_path / "en_US-tiny-medium.onnx.json")
    split_up = Graph(path, config, "cpu")
    # A second name for the sum, by an operation that nothing is known of.
    odd = {"decoded": [make("Conv", ["finest", "dec.conv_post.weight"], "plain", pads=[3, 3])]}
    odd["decoded"].append(make("Einsum", ["plain"], "decoded", equation="bct->bct"))
    onnx.save(tiny(odd), path)
    unsplit = Graph(path, config, "cpu")
    spoken, stages = [], []
    for each in (split_up, unsplit):
        piece = Piece("həlˈoʊ", 0, [0.667, 1.0, 0.8], each.noises(7), 5.0)
        stages.append([])
        speech = each.speak(piece, Trimmer(22_050))
        spoken.append(np.concatenate(list(alone(noting(speech, stages[-1])))))
    np.testing.assert_allclose(spoken[0], spoken[1], atol=1e-4)
    assert stages[0][:2] == ["encode", "decode"]
    assert stages[1] == ["encode"]


def noting(speech, stages):
    """Pass a segment on, and note the stages that it calls."""
    result = None
    try:
        while True:
            made = speech.send(result)
            if isinstance(made, Call):
                stages.append(made.stage.name)
            result = yield made
    except StopIteration:
        return


def rest(num_frames, start=0):
    return Rest(Latents(np.zeros((1, 1, start + num_frames), np.float32), 0), start)


@pytest.mark.parametrize(
    ("num_left", "start", "lead_s", "frame_s", "frames"),
    [
        (1000, 0, 0.0, FRAME_S, FIRST_FRAMES),
        (1000, 0, 10.0, 0.0, FIRST_FRAMES),
        (1000, 16, 0.0, FRAME_S, LATER_FRAMES),
        (1000, 16, 0.2, FRAME_S, 100),
        (1000, 16, 99.0, FRAME_S, LONGEST_RUN_S / FRAME_S),
        (120, 16, 0.2, FRAME_S, 120),
        (1, 16, 0.0, FRAME_S, 1),
    ],
)
def test_a_window_is_what_the_listeners_lead_allows(num_left, start, lead_s, frame_s, frames):
    assert window(rest(num_left, start), lead_s, frame_s) == frames
