import io
import zipfile

import numpy as np
import pytest
import torch

from tests.checkpoints import speecht5 as tiny
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.speecht5 import SpeechT5Engine, XVectors
from worker.errors import UnspeakableText, UnsupportedModel

TEXT = "Hello world, this is a test."
REVISION = "0" * 40


def checkpoint(root):
    parts = {tiny.VOCODER: root / tiny.VOCODER, tiny.XVECTORS: root / "datasets" / tiny.XVECTORS}
    return Checkpoint(tiny.MODEL, root / tiny.MODEL, REVISION, parts)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("speecht5")
    tiny.build(root)
    return root


@pytest.fixture(scope="module")
def model(root):
    return SpeechT5Engine.load(checkpoint(root), "cpu")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """A model that never ends its speech."""
    root = tmp_path_factory.mktemp("talkative")
    tiny.build(root, stops=False)
    return SpeechT5Engine.load(checkpoint(root), "cpu")


def speak(model, text=TEXT, voice="slt", seed=1, index=0):
    return np.concatenate(list(model.speak(text, index, Settings(voice, 1.0, seed))))


@pytest.mark.parametrize(("voice", "seed"), [("slt", 1), ("slt", 2), ("clb", 1), ("jmk", 1), ("ksp", 3)])
def test_it_says_what_the_library_says_at_the_same_seed(root, model, voice, seed):
    expected = trim_silence(tiny.reference(root, TEXT, voice, seed), model.card.sample_rate_hz)
    np.testing.assert_array_equal(speak(model, voice=voice, seed=seed), expected)


def test_the_seed_and_the_number_of_the_segment_change_the_speech(model):
    said = {speak(model, seed=seed, index=index).tobytes() for seed, index in [(1, 0), (2, 0), (5, 1)]}
    assert len(said) == 3


def test_every_speaker_of_cmu_arctic_is_a_voice_of_its_own(model):
    assert [voice.id for voice in model.card.voices] == ["slt", "clb", "bdl", "rms", "jmk", "awb", "ksp"]
    assert (model.card.voices[0].language, model.card.voices[0].gender) == ("en-US", "female")
    assert len({speak(model, voice=voice.id).tobytes() for voice in model.card.voices}) == 7


def test_any_utterance_of_the_archive_is_a_voice(model):
    assert model.find_voice("slt_a0001").language == "en-US"
    assert model.find_voice("slt_a9999") is None
    assert model.find_voice("nobody_a0001") is None
    np.testing.assert_array_equal(speak(model, voice="slt_a0508"), speak(model, voice="slt"))
    assert speak(model, voice="slt_a0001").tobytes() != speak(model, voice="slt").tobytes()


def test_a_segment_gives_the_device_up_before_its_sound_and_sounds_once(talkative):
    steps = list(talkative.speak("Hi.", 0, Settings("slt", 1.0, 1)))
    assert [len(samples) for samples in steps[:-1]] == [0] * (len(steps) - 1)
    assert len(steps) > 10
    assert steps[-1].size


def test_a_cancelled_segment_leaves_the_rest_undone(model):
    taken = []
    counter = model._model.speech_decoder_postnet.feat_out.register_forward_hook(lambda *_: taken.append(1))
    try:
        speech = model.speak(TEXT, 0, Settings("slt", 1.0, 1))
        next(speech)
        at_cancel = len(taken)
        speech.close()
        assert list(speech) == []
        assert len(taken) == at_cancel <= 8
    finally:
        counter.remove()


def test_two_interleaved_utterances_say_what_they_say_alone(model):
    alone = [speak(model, seed=1), speak(model, voice="clb", seed=2)]
    speeches = [
        model.speak(TEXT, 0, Settings("slt", 1.0, 1)),
        model.speak(TEXT, 0, Settings("clb", 1.0, 2)),
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


def test_speech_that_runs_away_goes_just_past_the_bound(talkative):
    length_s = len(speak(talkative, "Hi.")) / talkative.card.sample_rate_hz
    bound_s = talkative.limits.longest_s("Hi.")
    assert bound_s < length_s < bound_s + 1.1


def test_numbers_are_read_though_the_model_knows_no_digits(model):
    model.check("7", "slt")
    np.testing.assert_array_equal(speak(model, "7"), speak(model, "seven"))


def test_an_accent_that_the_model_does_not_know_is_left_out_of_the_letter(model):
    model.check("café", "slt")
    np.testing.assert_array_equal(speak(model, "café"), speak(model, "cafe"))


def test_pictures_and_unknown_signs_are_passed_over(model):
    model.check("Hello 🙂 world", "slt")
    np.testing.assert_array_equal(speak(model, "Hello 🙂 world"), speak(model, "Hello world"))


def test_a_sign_that_the_model_does_not_know_does_not_glue_two_words_together(model):
    assert model._pieces("Yes\N{WHITE SMILING FACE}no") == ["Yes no"]


def test_letters_that_the_model_does_not_know_are_refused_by_name(model):
    with pytest.raises(UnspeakableText, match="'世'") as refused:
        model.check("Hello 世界", "slt")
    assert refused.value.field == "input"


@pytest.mark.parametrize("text", ["", "...", "🙂"])
def test_text_without_a_word_is_refused(model, text):
    with pytest.raises(UnspeakableText):
        model.check(text, "slt")


def test_text_that_grows_when_spelled_out_is_cut_to_what_the_encoder_takes(model):
    pieces = model._pieces("hippopotamus " * 100)
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= 598
    assert " ".join(pieces).split() == ["hippopotamus"] * 100


def test_it_claims_the_speaking_models_of_the_family_alone():
    def claims(model_type, architecture):
        return SpeechT5Engine.claims(HubModel("a/b", model_type=model_type, architectures=[architecture]))

    assert claims("speecht5", "SpeechT5ForTextToSpeech")
    assert not claims("speecht5", "SpeechT5ForSpeechToText")
    assert not claims("speecht5", "SpeechT5ForSpeechToSpeech")
    assert not claims("vits", "VitsModel")


def test_it_asks_for_pickles_only_where_there_are_no_safetensors():
    assert "pytorch_model*.bin*" in SpeechT5Engine.files(HubModel("a/b", files=["pytorch_model.bin"]))
    files = SpeechT5Engine.files(HubModel("a/b", files=["pytorch_model.bin", "model.safetensors"]))
    assert not any(".bin" in pattern for pattern in files)
    files = SpeechT5Engine.files(HubModel("a/b", files=["pytorch_model.bin", "checkpoint-9/model.safetensors"]))
    assert "pytorch_model*.bin*" in files


def test_a_model_card_says_what_language_the_voices_speak(root, tmp_path):
    folder = tmp_path / "fine-tuned"
    folder.mkdir()
    for file in (root / tiny.MODEL).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "README.md").write_text("---\nlanguage:\n- nl\n---\n")
    parts = checkpoint(root).parts
    model = SpeechT5Engine.load(Checkpoint("a/b", folder, REVISION, parts), "cpu")
    assert {voice.language for voice in model.card.voices} == {"nl"}


def test_a_repository_without_a_tokenizer_is_refused(root, tmp_path):
    with pytest.raises(UnsupportedModel, match=r"spm_char\.model"):
        SpeechT5Engine.load(Checkpoint("a/b", tmp_path, REVISION, checkpoint(root).parts), "cpu")


@pytest.mark.parametrize("content", [np.zeros(3), np.array([{}], dtype=object), np.zeros(1 << 17)])
def test_what_is_no_x_vector_is_not_read(tmp_path, content):
    path = tmp_path / "vectors.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        file = io.BytesIO()
        np.save(file, content, allow_pickle=True)
        archive.writestr("spkrec-xvect/cmu_us_slt_arctic-wav-arctic_a0508.npy", file.getvalue())
    vectors = XVectors(path)
    assert "slt_a0508" in vectors
    with pytest.raises(ValueError, match=r"a0508\.npy|pickle"):
        vectors.read("slt_a0508")
