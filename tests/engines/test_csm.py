"""Engine `csm` against the library, on a tiny checkpoint with random weights."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import csm as checkpoint
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.csm import CsmEngine
from worker.errors import UnspeakableText, UnsupportedModel

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
