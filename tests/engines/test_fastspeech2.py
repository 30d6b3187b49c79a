import json

import numpy as np
import pytest
import torch

from tests.checkpoints import fastspeech2 as tiny
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.fastspeech2 import FastSpeech2Engine
from worker.errors import UnspeakableText, UnsupportedModel

TEXT = "Hello world, this is a test."
REVISION = "0" * 40


def checkpoint(root, name):
    alone = Checkpoint(name, root / name, REVISION)
    return Checkpoint(name, root / name, REVISION, {p.name: root / p.name for p in FastSpeech2Engine.parts(alone)})


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    torch.set_num_threads(1)
    roots = {name: tmp_path_factory.mktemp("fastspeech2") for name in (tiny.COMPLETE, tiny.ALONE)}
    tiny.build_complete(roots[tiny.COMPLETE])
    tiny.build_alone(roots[tiny.ALONE])
    return roots


@pytest.fixture(scope="module")
def models(roots):
    return {name: FastSpeech2Engine.load(checkpoint(root, name), "cpu") for name, root in roots.items()}


@pytest.fixture
def model(models):
    return models[tiny.COMPLETE]


def speak(model, text=TEXT, voice="default", seed=1, speed=1.0):
    return np.concatenate(list(model.speak(text, 0, Settings(voice, speed, seed))))


@pytest.mark.parametrize("family", tiny.FAMILIES, ids=lambda family: family.model)
def test_it_says_what_the_library_says(roots, models, family):
    model = models[family.model]
    said = family.reference(roots[family.model], TEXT, "default", 1)
    assert len(said) > 0.5 * model.card.sample_rate_hz
    np.testing.assert_array_equal(speak(model), trim_silence(said, model.card.sample_rate_hz))


def test_the_parts_are_what_the_repository_lacks(roots):
    def parts(name):
        return [part.name for part in FastSpeech2Engine.parts(Checkpoint(name, roots[name] / name))]

    assert parts(tiny.COMPLETE) == [tiny.ACOUSTIC_MODEL]
    assert parts(tiny.ALONE) == [tiny.VOCODER]


def test_the_rate_is_that_of_ljspeech(model):
    assert model.card.sample_rate_hz == 22_050


def test_nothing_depends_on_the_seed(model):
    np.testing.assert_array_equal(speak(model, seed=1), speak(model, seed=2))


def test_a_segment_is_one_step(model):
    assert len(list(model.speak(TEXT, 0, Settings("default", 1.0, 1)))) == 1


def test_nothing_is_done_before_the_first_step(model):
    calls = []
    counter = model._vocoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        model.speak(TEXT, 0, Settings("default", 1.0, 1)).close()
        assert not calls
    finally:
        counter.remove()


def test_speed_changes_the_length_and_is_forgotten_by_the_next_utterance(model):
    length = len(speak(model))
    assert len(speak(model, speed=0.5)) == pytest.approx(2 * length, rel=0.05)
    assert len(speak(model, speed=2.0)) == pytest.approx(length / 2, rel=0.15)
    assert len(speak(model)) == length


def test_interleaved_utterances_keep_their_pace(model):
    paces = (0.5, 1.0, 2.0)
    speeches = [model.speak(TEXT, 0, Settings("default", speed, 1)) for speed in paces]
    for speech, speed in zip(speeches, paces, strict=True):
        np.testing.assert_array_equal(next(speech), speak(model, speed=speed))


def test_numbers_are_read(model):
    np.testing.assert_array_equal(speak(model, "7"), speak(model, "seven"))


def test_speakers_of_a_model_with_many_are_voices_by_their_numbers(tmp_path):
    tiny.build_alone(tmp_path, num_speakers=3)
    model = FastSpeech2Engine.load(checkpoint(tmp_path, tiny.ALONE), "cpu")
    assert [voice.id for voice in model.card.voices] == ["0", "1", "2"]
    assert len({speak(model, voice=voice.id).tobytes() for voice in model.card.voices}) == 3


@pytest.mark.parametrize("change", [{"speaker_embed_dim": 8}, {"num_languages": 2}], ids=str)
def test_a_model_that_wants_what_no_repository_offers_is_refused(tmp_path, change):
    tiny.build_alone(tmp_path, **change)
    with pytest.raises(UnsupportedModel, match="speaker embedding or a language"):
        FastSpeech2Engine.load(checkpoint(tmp_path, tiny.ALONE), "cpu")


def test_a_model_that_reads_other_phonemes_is_refused(tmp_path):
    tiny.build_alone(tmp_path)
    (tmp_path / tiny.ALONE / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    with pytest.raises(UnsupportedModel, match="ARPAbet"):
        FastSpeech2Engine.load(checkpoint(tmp_path, tiny.ALONE), "cpu")


def test_letters_of_other_scripts_are_refused_by_name(model):
    with pytest.raises(UnspeakableText, match="'世'") as refused:
        model.check("Hello 世界", "default")
    assert refused.value.field == "input"


@pytest.mark.parametrize("text", ["", "...", "?!"])
def test_text_without_a_word_is_refused(model, text):
    with pytest.raises(UnspeakableText):
        model.check(text, "default")
    assert list(model.speak(text, 0, Settings("default", 1.0, 1))) == []


def test_what_it_can_say_is_let_through(model):
    model.check("Café: 5 € & more - isn't it?", "default")


def test_it_claims_both_shapes_and_not_the_vocoder():
    def claims(model_type):
        return FastSpeech2Engine.claims(HubModel("a/b", model_type=model_type))

    assert claims("fastspeech2_conformer")
    assert claims("fastspeech2_conformer_with_hifigan")
    assert not claims("fastspeech2_conformer_hifigan")
    assert not claims("hifigan")


def test_a_vowel_that_the_vocabulary_lacks_with_its_stress_is_given_another(tmp_path):
    tiny.build_alone(tmp_path)
    path = tmp_path / tiny.ALONE / "vocab.json"
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps({token: number for token, number in vocabulary.items() if token != "OY2"}))
    model = FastSpeech2Engine.load(checkpoint(tmp_path, tiny.ALONE), "cpu")
    model.check("cowboy", "default")
    assert "OY1" in model._read("cowboy")
    assert len(speak(model, "cowboy"))


@pytest.mark.parametrize("lost", ["ZH", "OY"])
def test_a_vocabulary_without_a_phoneme_of_english_is_refused(tmp_path, lost):
    tiny.build_alone(tmp_path)
    path = tmp_path / tiny.ALONE / "vocab.json"
    kept = {token: number for token, number in json.loads(path.read_text()).items() if token.rstrip("012") != lost}
    path.write_text(json.dumps(kept))
    with pytest.raises(UnsupportedModel, match=f"lacks '{lost}"):
        FastSpeech2Engine.load(checkpoint(tmp_path, tiny.ALONE), "cpu")
