"""Engine `csm` against the library, on a tiny checkpoint with random weights."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import csm as checkpoint
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.csm import CsmEngine
from worker.engines.recordings import MOST_KEPT
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
    return np.concatenate(list(model.speak(text, index, how)))


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


def test_the_codes_are_exactly_those_of_the_library(model):
    library, frames = model._model, []
    torch.manual_seed(5)
    model._generate(TEXT, settings(), frames.append)
    turn = {"role": "0", "content": [{"type": "text", "text": TEXT}]}
    prompt = model._processor.apply_chat_template([turn], tokenize=True, return_dict=True)
    torch.manual_seed(5)
    codes = library.generate(**prompt, max_new_tokens=600)[0]
    assert (codes[-1] == checkpoint.END).all()
    assert torch.equal(torch.cat(frames), codes[:-1])


def test_every_step_is_a_frame_and_the_first_one_is_heard(root, model):
    steps = list(model.speak(TEXT, 0, settings()))
    frames = len(checkpoint.reference(root, TEXT, "speaker-0", 0)) // FRAME
    assert len(steps) == frames + 1
    assert len(steps[0]) > 0
    assert max(len(step) for step in steps) < 3 * FRAME


def test_closing_leaves_the_rest_undone(model):
    frames = 0

    def count(*_):
        nonlocal frames
        frames += 1

    hook = model._model.backbone_model.register_forward_hook(count)
    spoken = model.speak(TEXT, 0, settings())
    list(islice(spoken, 3))
    spoken.close()
    hook.remove()
    assert frames == 3


def test_interleaved_utterances_sound_as_they_do_alone(model):
    hows = [settings(0), settings(3, "speaker-1", depth_temperature=0.3), settings(2, depth_top_k=2, top_k=9)]
    alone = [say(model, how) for how in hows]
    spoken = [model.speak(TEXT, 0, how) for how in hows]
    parts = [[] for _ in hows]
    while any(spoken):
        for number, stream in enumerate(spoken):
            part = next(stream, None) if stream else None
            if part is None:
                spoken[number] = None
            else:
                parts[number].append(part)
    for part, expected in zip(parts, alone, strict=True):
        assert np.array_equal(np.concatenate(part), expected)


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


def test_a_recording_is_encoded_once_and_in_a_step_of_its_own(root):
    model, encoded = load(root), []
    counting = model._model.codec_model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    how = replace(settings(), reference=recording(1))
    first, *_ = model.speak(TEXT, 0, how)
    assert (len(first), len(encoded)) == (0, 1)
    again = list(model.speak(TEXT, 1, replace(how, seed=1)))
    assert (len(again[0]) > 0, len(encoded)) == (True, 1)
    for number in range(2, 2 + MOST_KEPT):
        next(model.speak(TEXT, 0, replace(how, reference=recording(number))))
    assert len(encoded) == 1 + MOST_KEPT
    say(model, replace(how, reference=recording(3)))
    assert len(encoded) == 1 + MOST_KEPT
    say(model, how)
    counting.remove()
    assert len(encoded) == 2 + MOST_KEPT


def test_imitations_do_not_disturb_each_other_nor_other_voices(model):
    hows = [settings(3), *(replace(settings(3), reference=recording(number)) for number in (5, 6))]
    alone = [say(model, how) for how in hows]
    spoken = [list(parts) for parts in zip(*(model.speak(TEXT, 0, how) for how in hows), strict=False)]
    for parts, expected in zip(zip(*spoken, strict=True), alone, strict=True):
        samples = np.concatenate(parts)
        assert len(samples) > FRAME
        assert np.array_equal(samples[:-FRAME], expected[: len(samples) - FRAME])


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


def test_a_codec_that_looks_ahead_is_refused(root, tmp_path):
    folder = tmp_path / checkpoint.MODEL
    folder.mkdir(parents=True)
    for path in (root / checkpoint.MODEL).iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    config["codec_config"]["use_causal_conv"] = False
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="cannot be streamed"):
        load(tmp_path)
