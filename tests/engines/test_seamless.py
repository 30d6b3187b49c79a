import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import seamless as tiny
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.seamless import SeamlessEngine
from worker.errors import EngineFailure, UnspeakableText, UnsupportedModel

TEXT = "Hello world, this is a test."
REVISION = "0" * 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("seamless")
    tiny.build(root)
    return root


@pytest.fixture(scope="module")
def model(root):
    return load(root)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """A model whose text never ends."""
    root = tmp_path_factory.mktemp("talkative")
    tiny.build(root, ends=False)
    return load(root)


@pytest.fixture
def copy(root, tmp_path):
    """The repository, to be changed."""
    shutil.copytree(root / tiny.MODEL, tmp_path / tiny.MODEL)
    return tmp_path


def load(root):
    return SeamlessEngine.load(Checkpoint(tiny.MODEL, root / tiny.MODEL, REVISION), "cpu")


def change(root, file, **values):
    path = root / tiny.MODEL / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def steps(model, text=TEXT, voice="eng", seed=1, index=0, **options):
    return model.speak(text, index, Settings(voice, 1.0, seed, options))


def speak(*args, **kwargs):
    return np.concatenate(list(steps(*args, **kwargs)))


@pytest.mark.parametrize("voice", tiny.LANGUAGES)
@pytest.mark.parametrize("text", [TEXT, "hallo welt", "Is this a short sentence?"])
def test_it_says_what_the_library_says(root, model, text, voice):
    expected = trim_silence(tiny.reference(root, text, voice, 1), model.card.sample_rate_hz)
    assert expected.size
    np.testing.assert_array_equal(speak(model, text, voice), expected)


def test_where_the_checkpoint_wants_tokens_drawn_the_seed_draws_those_of_the_library(copy):
    change(copy, "generation_config.json", do_sample=True, temperature=3.0)
    model = load(copy)
    expected = trim_silence(tiny.reference(copy, TEXT, "eng", 7), model.card.sample_rate_hz)
    np.testing.assert_array_equal(speak(model, seed=7), expected)
    assert len({speak(model, seed=seed, index=index).tobytes() for seed, index in [(7, 0), (8, 0), (7, 1)]}) == 3


def test_where_the_checkpoint_wants_beams_they_are_those_of_the_library(copy):
    change(copy, "generation_config.json", num_beams=3)
    model = load(copy)
    expected = trim_silence(tiny.reference(copy, TEXT, "eng", 1), model.card.sample_rate_hz)
    np.testing.assert_array_equal(speak(model), expected)


def test_every_language_of_the_speech_is_a_voice_of_its_own(model):
    voices = model.card.voices
    assert [voice.id for voice in voices] == ["eng", "deu", "fra", "pes"]
    assert [voice.language for voice in voices] == ["en", "de", "fr", "fa"]
    assert [voice.name for voice in voices] == ["English", "German", "French", "Persian"]
    assert len({speak(model, voice=voice.id).tobytes() for voice in voices}) == 4


def test_every_speaker_of_the_vocoder_sounds_different(model):
    speaker = model.card.options["speaker"]
    assert (speaker["minimum"], speaker["maximum"], speaker["default"]) == (0, 4, 0)
    assert len({speak(model, speaker=number).tobytes() for number in range(5)}) == 5
    np.testing.assert_array_equal(speak(model, speaker=0), speak(model))


def test_a_segment_gives_the_device_up_before_its_sound_and_sounds_once(talkative):
    taken = []
    hook = talkative._model.text_decoder.register_forward_hook(lambda *_: taken.append(1))
    try:
        speech = steps(talkative, "Hi.")
        assert next(speech).size == 0
        assert len(taken) <= 4
        sizes = []
        for samples in speech:
            sizes.append(samples.size)
            if samples.size:
                break
    finally:
        hook.remove()
    assert len(sizes) > 256 // 4
    assert sizes[:-1] == [0] * (len(sizes) - 1)
    assert sizes[-1] > 0


def test_a_cancelled_segment_leaves_the_rest_undone(talkative):
    taken, sounded = [], []
    hooks = [
        talkative._model.text_decoder.register_forward_hook(lambda *_: taken.append(1)),
        talkative._model.vocoder.register_forward_hook(lambda *_: sounded.append(1)),
    ]
    try:
        speech = steps(talkative)
        next(speech)
        at_cancel = len(taken)
        speech.close()
        assert list(speech) == []
    finally:
        for hook in hooks:
            hook.remove()
    assert len(taken) == at_cancel <= 4
    assert not sounded


def test_two_interleaved_utterances_say_what_they_say_alone(model):
    alone = [speak(model), speak(model, "hallo welt", "deu", speaker=3)]
    speeches = [steps(model), steps(model, "hallo welt", "deu", speaker=3)]
    said = [[], []]
    running = {0, 1}
    turns = []
    while running:
        for i in sorted(running):
            samples = next(speeches[i], None)
            if samples is None:
                running.remove(i)
            else:
                turns.append(i)
                said[i].append(samples)
    assert turns[:6] == [0, 1] * 3
    for together, apart in zip(said, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(together), apart)


def test_speech_that_runs_away_goes_past_the_bound_and_not_far(copy):
    weights = copy / tiny.MODEL / "model.safetensors"
    tensors = load_file(weights)
    tensors["t2u_model.model.decoder.duration_predictor.proj.bias"].fill_(5.0)  # Three seconds to a letter.
    tensors["vocoder.dur_predictor.proj.bias"].fill_(600.0)
    save_file(tensors, weights, metadata={"format": "pt"})
    model = load(copy)
    speech = steps(model, "Hi.")
    length_s = len(next(samples for samples in speech if samples.size)) / model.card.sample_rate_hz
    bound_s = model.limits.longest_s("Hi.")
    speech.close()
    assert bound_s < length_s < 2.5 * model.limits.bound_s("Hi.")


def test_text_without_an_end_is_heard_and_then_told_of(talkative):
    speech = steps(talkative)
    assert next(samples for samples in speech if samples.size).size
    with pytest.raises(EngineFailure, match="no end"):
        next(speech)


def test_a_model_that_says_nothing_to_a_word_has_failed(copy):
    change(copy, "generation_config.json", forced_eos_token_id=3, max_new_tokens=1)
    with pytest.raises(EngineFailure, match="nothing to say"):
        speak(load(copy))


def test_a_segment_without_a_word_is_passed_over(model):
    assert list(steps(model, "—!")) == []


def test_names_of_special_tokens_are_text(root, model):
    model.check("a </s> b", "eng")
    assert speak(model, "a </s> b").tobytes() != speak(model, "a").tobytes()
    np.testing.assert_array_equal(speak(model, "a <mask> b"), speak(model, "a mask b"))


@pytest.mark.parametrize("text", ["Hello 🙂 world", "Hello🙂world", "Hello\n\u2028world", "Hello ❤️ wor\u200dld"])
def test_pictures_and_what_only_shapes_glyphs_are_passed_over(model, text):
    model.check(text, "eng")
    np.testing.assert_array_equal(speak(model, text), speak(model, "Hello world"))


def test_letters_in_another_form_are_read_as_the_plain_ones(model):
    model.check("ｈｅｌｌｏ ②", "eng")
    np.testing.assert_array_equal(speak(model, "ｈｅｌｌｏ ②"), speak(model, "hello 2"))
    np.testing.assert_array_equal(speak(model, "u\u0308"), speak(model, "ü"))


def test_letters_that_the_model_does_not_know_are_refused_by_name(model):
    with pytest.raises(UnspeakableText, match="'世', '界'") as refused:
        model.check("Hello 世界", "eng")
    assert refused.value.field == "input"


@pytest.mark.parametrize("text", ["", "...", "🙂", " \n"])
def test_text_without_a_word_is_refused(model, text):
    with pytest.raises(UnspeakableText, match="no word"):
        model.check(text, "eng")


def test_it_claims_the_models_that_speak():
    def claims(model_type, architecture):
        return SeamlessEngine.claims(HubModel("a/b", model_type=model_type, architectures=[architecture]))

    assert claims("seamless_m4t_v2", "SeamlessM4Tv2Model")
    assert claims("seamless_m4t_v2", "SeamlessM4Tv2ForTextToSpeech")
    assert not claims("seamless_m4t_v2", "SeamlessM4Tv2ForSpeechToText")
    assert not claims("seamless_m4t_v2", "SeamlessM4Tv2ForTextToText")
    assert not claims("seamless_m4t", "SeamlessM4TModel")


def test_it_asks_for_pickles_only_where_there_are_no_safetensors():
    real = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "seamlessM4T_v2_large.pt",
        "vocoder_v2.pt",
    ]
    assert not any(".bin" in pattern for pattern in SeamlessEngine.files(HubModel("a/b", files=real)))
    assert "pytorch_model*.bin*" in SeamlessEngine.files(HubModel("a/b", files=["pytorch_model.bin"]))


def test_what_hears_is_left_on_disk(model):
    names = {name.split(".")[0] for name, _ in model._model.named_parameters()}
    assert names == {"shared", "text_encoder", "text_decoder", "t2u_model", "vocoder"}


def test_a_repository_without_a_tokenizer_is_refused(copy):
    (copy / tiny.MODEL / "sentencepiece.bpe.model").unlink()
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        load(copy)


@pytest.mark.parametrize("missing", ["vocoder_lang_code_to_id", "t2u_lang_code_to_id", "id_to_text", "char_to_id"])
def test_a_repository_that_does_not_say_how_it_speaks_is_refused(copy, missing):
    change(copy, "generation_config.json", **{missing: None})
    with pytest.raises(UnsupportedModel, match=missing) as refused:
        load(copy)
    assert refused.value.field == "model"


def test_languages_that_its_tokenizer_does_not_know_are_no_voices(copy):
    for name in ("text_decoder_lang_to_code_id", "t2u_lang_code_to_id", "vocoder_lang_code_to_id"):
        change(copy, "generation_config.json", **{name: {"xho": 0}})
    with pytest.raises(UnsupportedModel, match="xho"):
        load(copy)
