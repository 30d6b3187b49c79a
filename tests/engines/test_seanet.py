"""The streaming decoder against the library's decode of the whole."""

import pytest
import torch
from transformers import MimiConfig, MimiModel, PocketTTSAudioTokenizerConfig, PocketTTSAudioTokenizerModel

from worker.engines.seanet import SeanetSlots
from worker.engines.stepwise import place
from worker.errors import UnsupportedModel

torch.set_num_threads(1)  # On small tensors threads cost more than they bring.

TINY = {
    "hidden_size": 16,
    "num_filters": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 16,
    "upsample_groups": 16,
    "layer_scale_initial_scale": 1.0,  # The default of 0.01 would hide a mistake in the transformer.
}
FRAMES = 20
CUTS = {
    "at once": [FRAMES],
    "frame by frame": [1] * FRAMES,
    "growing": [1, 2, 4, 8, 5],
    "uneven": [7, 1, 1, 11],
}


def mimi(**changes):
    torch.manual_seed(0)
    codebooks = {"codebook_size": 64, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 4}
    # The window is passed several times over: Mimi has 2 positions for each frame.
    return place(
        MimiModel(MimiConfig(**TINY, **codebooks, num_semantic_quantizers=1, sliding_window=8, **changes)), "cpu"
    )


def pocket(**changes):
    torch.manual_seed(0)
    # Here 16 positions for each frame.
    config = PocketTTSAudioTokenizerConfig(**TINY, latent_dim=8, sliding_window=50, **changes)
    return place(PocketTTSAudioTokenizerModel(config), "cpu")


CODECS = {
    "Mimi": mimi,
    "Mimi with shortcuts": lambda: mimi(use_conv_shortcut=True),
    "Mimi with dilations": lambda: mimi(num_residual_layers=3),
    "Pocket": pocket,
}


def stream(decoder, latents, cuts):
    decoding, rows = SeanetSlots(decoder, len(latents)), range(len(latents))
    return torch.cat([decoding.decode(rows, piece) for piece in latents.split(cuts, -1)], -1)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("build", CODECS.values(), ids=CODECS.keys())
def test_frames_decode_as_the_whole_does_however_they_are_cut(build, cuts):
    decoder = build().decoder
    latents = torch.randn(2, 16, FRAMES)
    whole = decoder(latents).audio_values
    streamed = stream(decoder, latents, cuts)
    assert streamed.shape == whole.shape == (2, 1, FRAMES * 1920)
    assert whole.std() > 0.01
    assert (streamed - whole).abs().max() < 1e-5 * whole.abs().max()


def test_two_streams_of_one_decoder_do_not_mix():
    decoder = mimi().decoder
    first, second = torch.randn(2, 1, 16, 6)
    streams = [SeanetSlots(decoder, 1), SeanetSlots(decoder, 1)]
    heard = [[], []]
    for frame in range(6):
        for stream_of, latents, parts in zip(streams, (first, second), heard, strict=True):
            parts.append(stream_of.decode([0], latents[..., frame : frame + 1]))
    for latents, parts in zip((first, second), heard, strict=True):
        assert torch.equal(torch.cat(parts, -1), stream(decoder, latents, [1] * 6))


@pytest.mark.parametrize("build", [mimi, pocket])
def test_utterances_that_have_come_different_ways_are_decoded_together(build):
    decoder = build().decoder
    slots, latents = SeanetSlots(decoder, 4), torch.randn(3, 16, FRAMES)
    heard = [[], [], []]
    done = [0, 0, 0]
    turns = [([2], 3), ([2, 0], 1), ([0, 2], 4), ([3, 2], 2), ([2, 3, 0], 1), ([0, 3], 4), ([3, 0, 2], 2), ([3], 7)]
    for order, count in turns:
        rows = [{2: 0, 0: 1, 3: 2}[slot] for slot in order]
        pieces = torch.stack([latents[row, :, done[row] : done[row] + count] for row in rows])
        for row, samples in zip(rows, slots.decode(order, pieces), strict=True):
            heard[row].append(samples)
            done[row] += count
    for row, parts in enumerate(heard):
        whole = decoder(latents[row : row + 1, :, : done[row]]).audio_values[0]
        assert done[row] > 8
        assert (torch.cat(parts, -1) - whole).abs().max() < 1e-5 * whole.abs().max()


def test_a_slot_that_is_cleared_begins_anew():
    slots, latents = SeanetSlots(mimi().decoder, 2), torch.randn(1, 16, 6)
    first = slots.decode([1], latents)
    assert not torch.equal(slots.decode([1], latents), first)
    slots.clear(1)
    assert torch.equal(slots.decode([1], latents), first)


def test_a_stream_leaves_the_latents_it_was_given_alone():
    decoder, latents = mimi().decoder, torch.randn(1, 16, 4)
    before = latents.clone()
    stream(decoder, latents, [2, 2])
    assert torch.equal(latents, before)


@pytest.mark.parametrize("change", [{"use_causal_conv": False}, {"pad_mode": "reflect"}])
def test_a_codec_that_looks_ahead_is_refused(change):
    with pytest.raises(UnsupportedModel, match="cannot be streamed"):
        SeanetSlots(mimi(**change).decoder, 1)
