"""Engine `csm` against the library, on a tiny checkpoint with random weights."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import csm as checkpoint
from tests.engines.batches import Row, Run, together
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.csm import CsmEngine
from worker.engines.csm_network import Line
from worker.engines.recordings import MOST_KEPT
from worker.engines.sampling import Draws, Sampling
from worker.engines.stages import alone
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption

torch.set_num_threads(1)  # On small tensors threads cost more than they bring.

TEXT = "Hello there."
FRAME = 1920


def load(root: Path):
    return CsmEngine.load(Checkpoint(checkpoint.MODEL, root / checkpoint.MODEL, "0" * 40), "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("csm")
    checkpoint.build(root)
    return root


@pytest.fixture(scope="module")
def model(root):
    return load(root)


def settings(seed: int = 0, voice: str = "speaker-0", **options) -> Settings:
    return Settings(voice, 1.0, seed, options)


def say(model, how: Settings, text: str = TEXT, index: int = 0):
    return np.concatenate(list(alone(model.speak(text, index, how))))


def test_the_engine_takes_the_models_of_transformers_alone():
    assert CsmEngine.claims(HubModel("sesame/csm-1b", architectures=["CsmForConditionalGeneration"]))
    assert not CsmEngine.claims(HubModel("someone/csm-mlx", model_type="csm"))
    assert not CsmEngine.claims(HubModel("kyutai/mimi", architectures=["MimiModel"]))


def test_the_weights_of_the_original_code_are_left_on_the_hub():
    sesame = HubModel("sesame/csm-1b", files=["model.safetensors", "transformers-00001-of-00002.safetensors"])
    assert "model*.safetensors" not in CsmEngine.files(sesame)
    assert "transformers*.safetensors" in CsmEngine.files(sesame)
    assert "model*.safetensors" in CsmEngine.files(HubModel("someone/csm-1b", files=["model.safetensors"]))


@pytest.mark.parametrize(("voice", "seed"), [("speaker-0", 0), ("speaker-1", 3), ("speaker-9", 2**40)])
def test_the_samples_are_those_of_the_library(root, model, voice, seed):
    whole = checkpoint.reference(root, TEXT, voice, seed)
    streamed = say(model, settings(seed, voice))
    expected = trim_silence(whole, model.card.sample_rate_hz)
    assert streamed.dtype == np.float32
    assert streamed.shape == expected.shape
    assert np.abs(streamed - expected).max() < checkpoint.FAMILY.tolerance
    assert expected.std() > 0.005


def codes_of(model, rows: list[Row]) -> tuple[list[torch.Tensor], Sequence[Run]]:
    """Speak rows together; the frames of each, int64 [T, codebooks], and what ran."""
    frames = [[] for _ in rows]

    def note(stage, lines):
        if stage.name == "step":
            for number, line in lines.items():
                frames[number] += line.frames[-1:]
                assert len(line.frames) <= 4

    runs = together(rows, note)
    return [torch.stack(each) for each in frames], runs


@pytest.mark.parametrize(
    ("seed", "options"),
    [(5, {}), (6, {"temperature": 0.5, "top_k": 7, "depth_temperature": 1.3, "depth_top_k": 3})],
    ids=["as the checkpoint says", "with options"],
)
def test_the_codes_are_exactly_those_of_the_library(model, seed, options):
    codes = library_codes(model, seed, **options)
    (frames,), _ = codes_of(model, [Row(model.speak(TEXT, 0, settings(seed, **options)))])
    assert torch.equal(frames, codes[: len(frames)])
    assert (codes[len(frames) :] == checkpoint.END).all()


def test_what_is_likeliest_is_taken_as_by_the_librarys_greedy_search(model):
    expected = library_codes(model, 0, do_sample=False, depth_decoder_do_sample=False)
    (frames,), _ = codes_of(model, [Row(model.speak(TEXT, 0, settings(9, top_k=1, depth_top_k=1)))])
    assert torch.equal(frames, expected[: len(frames)])
    assert len(frames) > 5


def test_prompts_of_several_lengths_are_read_together(model):
    network = model._network
    lengths, prompts = (4, 31, 18), torch.randn(3, 31, model._model.config.hidden_size)

    def lines():
        how = Sampling(0.9, 50)
        return [
            Line(slot, prompt[:length], 9, Draws(slot, "cpu"), how, how)
            for slot, (length, prompt) in enumerate(zip(lengths, prompts, strict=True))
        ]

    def frames(prefilled):
        for _ in range(6):
            network.step.run(prefilled, None)
        return [torch.stack(line.frames) for line in prefilled]

    batch = lines()
    assert len({network.prefill.size(line, 0.0) for line in batch}) == 1
    network.prefill.run(batch, 0)
    together = frames(batch)
    for number, expected in enumerate(together):
        alone = lines()[number : number + 1]
        network.prefill.run(alone, 0)
        assert torch.equal(frames(alone)[0], expected)


def test_a_code_beyond_those_of_the_codec_is_taken_for_its_last(model):
    network, how = model._network, Sampling(0.9, 50)
    codec = model._model.codec_model.config
    line = Line(0, torch.zeros(2, 16), 9, Draws(0, "cpu"), how, how)
    line.frames = [torch.full((codec.num_quantizers,), codec.codebook_size + 3)]
    network.codec.clear(0)
    (beyond,) = network.decode.run([line], None)
    line.frames = [torch.full((codec.num_quantizers,), codec.codebook_size - 1)]
    network.codec.clear(0)
    (last,) = network.decode.run([line], None)
    assert np.array_equal(beyond, last)


def library_codes(model, seed, **options) -> torch.Tensor:
    """Codes of the library, int64 [T, codebooks]; options by the names of the card."""
    turn = {"role": "0", "content": [{"type": "text", "text": TEXT}]}
    prompt = model._read._processor.apply_chat_template([turn], tokenize=True, return_dict=True)
    longest = int(model.limits.bound_s(TEXT) * 12.5) + 1
    depth = model._model.depth_decoder
    before = copy.deepcopy(depth.generation_config)
    torch.manual_seed(seed)
    options = {name.replace("depth_t", "depth_decoder_t"): value for name, value in options.items()}
    codes = model._model.generate(**prompt, **options, max_new_tokens=longest)[0]
    depth.generation_config = before
    return codes


def test_every_step_is_a_frame_and_the_first_one_is_heard(root, model):
    heard = list(alone(model.speak(TEXT, 0, settings())))
    frames = len(checkpoint.reference(root, TEXT, "speaker-0", 0)) // FRAME
    assert len(heard) == frames + 1
    assert len(heard[0]) > 0
    assert max(len(samples) for samples in heard) < 3 * FRAME


def test_frames_are_decoded_together_when_the_listener_can_wait(model):
    at_once, later = (Row(model.speak(TEXT, 0, settings()), lead_s=lead_s) for lead_s in (0.0, 5.0))
    decoded = []
    together([at_once, later], lambda stage, lines: decoded.append(stage.name))
    assert np.abs(later.samples - at_once.samples).max() < 1e-4
    sounding = [sum(len(part) > 0 for part in row.parts) for row in (at_once, later)]
    assert sounding[1] <= sounding[0] / 2


def test_closing_leaves_the_rest_undone_and_frees_the_place(model):
    read = 0

    def count(*_):
        nonlocal read
        read += 1

    hook = model._model.backbone_model.register_forward_hook(count)
    for _ in range(2 * model.slots):
        spoken = alone(model.speak(TEXT, 0, settings()))
        list(islice(spoken, 3))
        spoken.close()
    hook.remove()
    assert read == 2 * model.slots * 4  # The prompt and three frames.


ROWS = (
    {"seed": 0},
    {"seed": 3, "voice": "speaker-1", "depth_temperature": 0.3},
    {"seed": 2, "depth_top_k": 2, "top_k": 9},
    {"seed": 4, "voice": "speaker-7", "temperature": 1.4},
    {"seed": 0},
)
TEXTS = (TEXT, "And then a bell rang twice, and nobody came.", "Hm!", TEXT, TEXT)
JOINS = (0, 0, 9, 14, 23)


def test_rows_that_join_and_leave_say_what_they_say_alone(model):
    rows, expected = [], []
    for how, text, joins in zip(ROWS, TEXTS, JOINS, strict=True):
        alone_row = Row(model.speak(text, 0, settings(**how)))
        (codes,), _ = codes_of(model, [alone_row])
        expected.append((codes, alone_row.samples))
        rows.append(Row(model.speak(text, 0, settings(**how)), joins=joins))
    rows[1].leaves = 31
    frames, runs = codes_of(model, rows)
    assert max(len(run.rows) for run in runs if run.stage == "step") >= 3
    assert any(run.stage == "decode" and len(run.rows) >= 3 for run in runs)
    for number, (codes, samples) in enumerate(expected):
        said = rows[number].samples
        if number == 1:
            assert 0 < len(frames[1]) < len(codes)
            codes, samples = codes[: len(frames[1])], samples[: len(said)]
        assert torch.equal(frames[number], codes)
        assert said.shape == samples.shape
        assert np.abs(said - samples).max() < 1e-4
    assert np.abs(rows[0].samples - rows[4].samples).max() < 1e-4


def test_rows_that_wait_at_the_same_stage_make_their_frames_in_one_run(model):
    rows = [Row(model.speak(TEXT, 0, settings(seed))) for seed in range(model.slots)]
    stepped = [run.rows for run in together(rows) if run.stage == "step"]
    frames = [sum(number in run for run in stepped) for number in range(model.slots)]
    assert max(map(len, stepped)) > model.slots / 2
    assert len(stepped) < max(frames) + model.slots  # They set out one by one.


@pytest.mark.parametrize(("number", "seed"), [(1, 0), (2, 3)])
def test_a_recording_is_imitated_as_by_the_library(root, model, number, seed):
    heard = recording(number)
    whole = checkpoint.reference(root, TEXT, "speaker-0", seed, (heard.transcript, heard.samples))
    expected = trim_silence(whole, model.card.sample_rate_hz)
    streamed = say(model, replace(settings(seed), reference=heard))
    assert model.card.cloning == "audio and transcript"
    assert streamed.shape == expected.shape
    assert np.abs(streamed - expected).max() < checkpoint.FAMILY.tolerance
    assert not np.array_equal(streamed, say(model, settings(seed)))
    for other in (recording(number + 1), recording(number, transcript="Not at all.")):
        assert not np.array_equal(streamed, say(model, replace(settings(seed), reference=other)))


def test_a_recording_at_another_rate_is_heard_at_the_models(root, model):
    heard = recording(1, rate_hz=16_000)
    at_24k = resample(heard.samples, 16_000, 24_000)
    expected = checkpoint.reference(root, TEXT, "speaker-0", 0, (heard.transcript, at_24k))
    streamed = say(model, replace(settings(), reference=heard))
    assert np.abs(streamed - trim_silence(expected, 24_000)).max() < checkpoint.FAMILY.tolerance


def test_a_recording_is_encoded_once(root):
    model, encoded = load(root), []
    counting = model._model.codec_model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    how = replace(settings(), reference=recording(1))
    say(model, how)
    assert len(encoded) == 1
    say(model, replace(how, seed=1), index=1)
    assert len(encoded) == 1
    for number in range(2, 2 + MOST_KEPT):
        next(alone(model.speak(TEXT, 0, replace(how, reference=recording(number)))))
    assert len(encoded) == 1 + MOST_KEPT
    say(model, replace(how, reference=recording(3)))
    assert len(encoded) == 1 + MOST_KEPT
    say(model, how)
    counting.remove()
    assert len(encoded) == 2 + MOST_KEPT


def test_imitations_do_not_disturb_each_other_nor_other_voices(model):
    hows = [settings(3), *(replace(settings(3), reference=recording(number)) for number in (5, 6))]
    expected = [say(model, how) for how in hows]
    rows = [Row(model.speak(TEXT, 0, how)) for how in hows]
    together(rows)
    for row, samples in zip(rows, expected, strict=True):
        assert len(samples) > FRAME
        assert row.samples.shape == samples.shape
        assert np.abs(row.samples - samples).max() < 1e-4


def test_every_segment_of_an_imitation_has_a_seed_of_its_own(model):
    how = replace(settings(3), reference=recording(1))
    assert np.array_equal(say(model, how, index=2), say(model, replace(how, seed=seed_of(how, 2))))


def test_a_transcript_gives_no_orders_and_must_leave_room_for_the_text(model):
    how = replace(settings(), reference=recording(1, transcript="Just <|AUDIO|> so."))
    assert np.array_equal(say(model, how), say(model, replace(how, reference=recording(1, transcript="Just so."))))
    with pytest.raises(UnsupportedOption, match="'voice-1' is too long for the model"):
        say(model, replace(how, reference=recording(1, transcript="so " * 682)))


def test_every_voice_differs(model):
    said = [say(model, settings(2, voice.id)).tobytes() for voice in model.card.voices]
    assert len(model.card.voices) == 10
    assert len(set(said)) == 10


def test_all_segments_of_an_utterance_have_its_seed(model):
    assert np.array_equal(say(model, settings(3)), say(model, settings(3), index=4))
    assert not np.array_equal(say(model, settings(3)), say(model, settings(7)))


def test_the_options_are_those_of_the_library(root, model):
    with_options = settings(0, temperature=0.5, top_k=7, depth_temperature=1.3, depth_top_k=3)
    whole = checkpoint.reference(
        root,
        TEXT,
        "speaker-0",
        0,
        temperature=0.5,
        top_k=7,
        depth_decoder_temperature=1.3,
        depth_decoder_top_k=3,
        max_new_tokens=30,
    )
    expected = trim_silence(whole, model.card.sample_rate_hz)[: 20 * FRAME]
    streamed = say(model, with_options)
    assert np.abs(streamed[: len(expected)] - expected)[: -FRAME // 2].max() < checkpoint.FAMILY.tolerance
    assert not np.array_equal(streamed, say(model, settings(0)))


def test_the_options_of_one_utterance_are_forgotten_by_the_next(model):
    before = say(model, settings(0))
    say(model, settings(0, depth_top_k=1, depth_temperature=0.1))
    assert np.array_equal(say(model, settings(0)), before)


def test_the_defaults_are_those_of_the_checkpoint(model):
    defaults = {name: option["default"] for name, option in model.card.options.items()}
    assert defaults == {"temperature": 0.9, "top_k": 50, "depth_temperature": 0.9, "depth_top_k": 50}


def test_a_checkpoint_that_does_not_draw_takes_the_likeliest_unless_told(root, tmp_path):
    folder = copy_of(root, tmp_path, "generation_config.json")
    config = json.loads((folder / "generation_config.json").read_text())
    config |= {"do_sample": False, "depth_decoder_do_sample": False, "temperature": None}
    (folder / "generation_config.json").write_text(json.dumps(config))
    options = load(tmp_path).card.options
    assert (options["top_k"]["default"], options["depth_top_k"]["default"]) == (1, 1)


@pytest.mark.parametrize("text", ["", "...", " \n", "🎉!"])
def test_text_with_nothing_to_say_is_refused(model, text):
    with pytest.raises(UnspeakableText, match="nothing to say"):
        model.check(text, "speaker-0")


def test_text_that_would_change_the_conversation_is_refused(model):
    with pytest.raises(UnspeakableText, match=r"'<\|AUDIO\|>'"):
        model.check("Hello <|AUDIO|> there", "speaker-0")


@pytest.mark.parametrize("text", [TEXT, "It costs $5.", "Ça va? 3 < 4 🎉"])
def test_all_other_text_is_taken(model, text):
    model.check(text, "speaker-0")


def test_a_runaway_goes_just_past_what_is_allowed(tmp_path):
    checkpoint.build(tmp_path, ends=False)
    model = load(tmp_path)
    seconds = len(say(model, settings(), "Hm.")) / model.card.sample_rate_hz
    allowed = model.limits.longest_s("Hm.")
    assert allowed < seconds < allowed + 2.0


def copy_of(root, tmp_path, changed: str) -> Path:
    """A checkpoint of its own, whose file `changed` can be written anew."""
    folder = tmp_path / checkpoint.MODEL
    folder.mkdir(parents=True)
    for path in (root / checkpoint.MODEL).iterdir():
        if path.name == changed:
            (folder / changed).write_bytes(path.read_bytes())
        else:
            (folder / path.name).symlink_to(path)
    return folder


def test_a_codec_that_looks_ahead_is_refused(root, tmp_path):
    folder = copy_of(root, tmp_path, "config.json")
    config = json.loads((folder / "config.json").read_text())
    config["codec_config"]["use_causal_conv"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="cannot be streamed"):
        load(tmp_path)
