import json

import numpy as np
import pytest
import torch

from tests.checkpoints import bark as tiny
from worker.audio import trim_silence
from worker.engines.bark import TOKENS_PER_TURN, BarkEngine
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.errors import UnspeakableText, UnsupportedModel

TEXT = "hello world, this is a test."
DEFAULT = "v2/en_speaker_6"


def load(root):
    return BarkEngine.load(Checkpoint(tiny.MODEL, root / tiny.MODEL, "0" * 40), "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bark")
    tiny.build(root)
    return root


@pytest.fixture(scope="module")
def model(root):
    return load(root)


def steps(model, text=TEXT, voice=DEFAULT, seed=1, index=0, **options):
    return list(model.speak(text, index, Settings(voice, 1.0, seed, options)))


def speak(model, *args, **settings):
    return np.concatenate(steps(model, *args, **settings))


@pytest.mark.parametrize(("voice", "seed"), [(DEFAULT, 1), (DEFAULT, 2), ("v2/en_speaker_0", 1), ("announcer", 4)])
def test_it_says_what_the_library_says_at_the_same_seed(root, model, voice, seed):
    expected = trim_silence(tiny.reference(root, TEXT, voice, seed), model.card.sample_rate_hz)
    said = speak(model, voice=voice, seed=seed)
    assert said.size
    np.testing.assert_array_equal(said, expected)


def test_the_presets_are_the_voices(model):
    voices = [(voice.id, voice.language) for voice in model.card.voices]
    assert voices[0] == (DEFAULT, "en")
    assert ("v2/ja_speaker_1", "ja") in voices
    assert {name for name, _ in voices} == set(tiny.PRESETS)
    assert len({speak(model, voice=name).tobytes() for name, _ in voices}) == len(voices)


def test_the_seed_and_the_number_of_the_segment_change_the_speech(model):
    assert len({speak(model, seed=seed, index=index).tobytes() for seed, index in [(1, 0), (2, 0), (5, 1)]}) == 3


def test_a_segment_gives_the_device_up_before_its_sound_and_sounds_once(model):
    made = steps(model)
    assert len(made) > 4
    assert [len(samples) for samples in made[:-1]] == [0] * (len(made) - 1)
    assert made[-1].size


def test_a_cancelled_segment_leaves_the_rest_undone(model):
    tokens = []
    counter = model._model.semantic.lm_head.register_forward_hook(lambda *_: tokens.append(1))
    try:
        speech = model.speak(TEXT, 0, Settings(DEFAULT, 1.0, 1))
        next(speech)
        at_cancel = len(tokens)
        speech.close()
        assert list(speech) == []
        assert len(tokens) == at_cancel <= TOKENS_PER_TURN
    finally:
        counter.remove()


def test_two_interleaved_utterances_say_what_they_say_alone(model):
    alone = [speak(model, seed=1), speak(model, voice="announcer", seed=2)]
    speeches = [
        model.speak(TEXT, 0, Settings(DEFAULT, 1.0, 1)),
        model.speak(TEXT, 0, Settings("announcer", 1.0, 2)),
    ]
    said = [[], []]
    running = {0, 1}
    while running:
        for i in sorted(running):
            samples = next(speeches[i], None)
            if samples is None:
                running.remove(i)
            else:
                said[i].append(samples)
    for together, apart in zip(said, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(together), apart)


@pytest.mark.parametrize(
    "options", [{"semantic_temperature": 1.2}, {"coarse_temperature": 0.3}, {"fine_temperature": 0.9}], ids=str
)
def test_every_temperature_changes_the_speech(model, options):
    changed = not np.array_equal(speak(model, **options), speak(model))
    assert changed


def test_a_low_bar_for_the_end_ends_the_speech_early(model):
    assert len(steps(model, min_eos_p=0.01)) < len(steps(model))


def test_speech_that_runs_away_goes_just_past_the_bound(tmp_path):
    tiny.build(tmp_path, ends=-100.0)
    model = load(tmp_path)
    length_s = len(speak(model, "hi.")) / model.card.sample_rate_hz
    bound_s = model.limits.longest_s("hi.")
    assert bound_s < length_s < bound_s + 1.1


def test_every_segment_can_reach_its_bound_before_the_model_is_full(model):
    assert model.limits.longest_s("a" * model.limits.longest) * 49.9 < 768
    assert model.limits.longest_s("日" * 40) == model.limits.longest_s("a" * 160)


def test_a_model_that_says_nothing_gives_nothing(tmp_path):
    tiny.build(tmp_path, ends=100.0)
    assert all(samples.size == 0 for samples in steps(load(tmp_path)))


def test_long_text_of_syllables_is_spoken_in_pieces(model):
    said = [samples for samples in steps(model, "日" * 70, voice="v2/ja_speaker_1") if samples.size]
    assert len(said) == 2


def test_characters_that_the_tokenizer_does_not_know_are_refused_by_name(model):
    with pytest.raises(UnspeakableText, match="'月'") as refused:
        model.check("hello 月", DEFAULT)
    assert refused.value.field == "input"


def test_a_picture_does_not_take_the_word_beside_it_away(model):
    model.check("hello🙂 world", DEFAULT)
    np.testing.assert_array_equal(speak(model, "hello🙂 world"), speak(model, "hello world"))


@pytest.mark.parametrize("text", ["", "...", "🙂"])
def test_text_without_a_word_is_refused(model, text):
    with pytest.raises(UnspeakableText):
        model.check(text, DEFAULT)


def test_a_preset_whose_files_are_missing_or_elsewhere_is_no_voice(root, tmp_path):
    folder = tmp_path / "bark"
    (folder / "speaker_embeddings").mkdir(parents=True)
    outside = tmp_path / "outside.npy"
    for path in (outside, folder / "speaker_embeddings/a.npy"):
        np.save(path, np.zeros(3))
    names = ("semantic_prompt", "coarse_prompt", "fine_prompt")
    presets = {"gone": "b.npy", "climbing": "../outside.npy", "absolute": str(outside)}
    content = {preset: dict.fromkeys(names, path) for preset, path in presets.items()}
    (folder / "speaker_embeddings_path.json").write_text(json.dumps(content))
    with pytest.raises(UnsupportedModel, match="no voices"):
        BarkEngine.load(Checkpoint("a/b", folder), "cpu")


def test_it_claims_bark_alone_and_leaves_the_weights_of_other_libraries():
    assert BarkEngine.claims(HubModel("a/b", model_type="bark"))
    assert not BarkEngine.claims(HubModel("a/b", model_type="vits"))
    files = BarkEngine.files(HubModel("a/b", files=["pytorch_model.bin", "text.pt"]))
    assert "pytorch_model*.bin*" in files
    assert not any(pattern.endswith(".pt") for pattern in files)
