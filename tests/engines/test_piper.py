import json
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.piper import COLLECTION, FAMILIES, MODEL, SPEAKERS, reference, write_voice
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.piper import MOST_GRAPHS, LetterReader, PiperEngine, PiperModel
from worker.engines.piper_graph import Graphs, resample, to_ids
from worker.engines.stages import alone as drive
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text import espeak

TEXT = "Hello there, world."
LONG = "one million two hundred thousand three hundred and forty five " * 11


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for family in FAMILIES:
        family.build(root)
    return root


@pytest.fixture(scope="module")
def alone(root) -> PiperModel:
    return PiperEngine.load(Checkpoint(MODEL, root / MODEL, "0" * 40), "cpu")


@pytest.fixture(scope="module")
def collection(root) -> PiperModel:
    model = PiperEngine.load(Checkpoint(COLLECTION, root / COLLECTION, "0" * 40), "cpu")
    for voice in model.card.voices:
        if model.lacks(voice.id):
            model.prepare(voice.id)
    return model


def speak(model, text=TEXT, voice=None, speed=1.0, seed=0, index=0, **options):
    settings = Settings(voice or model.card.voices[0].id, speed, seed, options)
    return np.concatenate(list(drive(model.speak(text, index, settings))))


def test_a_voice_alone_makes_the_samples_of_its_graph(alone, root):
    expected = reference(root, TEXT, "en_US-tiny-medium", 7)
    np.testing.assert_allclose(speak(alone, seed=7), trim_silence(expected, 22_050), atol=1e-4)
    assert 1.0 < len(expected) / 22_050 < 6.0
    assert np.abs(expected).max() > 0.1


def test_a_voice_of_another_rate_is_brought_to_that_of_the_model(collection, root):
    expected = reference(root, TEXT, "en_GB-alan-low", 7)
    spoken = speak(collection, voice="en_GB-alan-low", seed=7)
    assert collection.card.sample_rate_hz == 22_050
    np.testing.assert_allclose(spoken, trim_silence(resample(expected, 16_000, 22_050), 22_050), atol=1e-4)


def test_the_same_seed_gives_the_same_noise_whatever_else_is_spoken(alone):
    first = speak(alone, seed=1)
    assert not np.array_equal(first, speak(alone, seed=2))
    assert np.array_equal(speak(alone, seed=1), first)
    assert not np.array_equal(speak(alone, seed=1, index=1), first)


def test_interleaved_utterances_are_those_of_single_runs(collection):
    voices = ("en_US-lessac-medium", "en_US-libritts-high")
    spoken = [drive(collection.speak(LONG, 0, Settings(voice, 4.0, 7))) for voice in voices]
    pairs = list(zip_longest(*spoken, fillvalue=np.zeros(0, np.float32)))
    assert len(pairs) > 4
    for number, voice in enumerate(voices):
        together = np.concatenate([pair[number] for pair in pairs])
        np.testing.assert_allclose(together, speak(collection, LONG, voice, 4.0, 7), atol=1e-4)


def test_utterances_on_several_threads_are_those_of_single_runs(collection):
    voices = ("en_US-libritts-high", "en_US-libritts-high#p456", "en_GB-alan-low", "en_US-lessac-medium") * 3
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda each: speak(collection, voice=each[1], seed=each[0]), enumerate(voices)))
    for seed, voice in enumerate(voices):
        np.testing.assert_allclose(together[seed], speak(collection, voice=voice, seed=seed), atol=1e-4)


@pytest.mark.parametrize("voice", ["en_US-lessac-medium", "en_US-libritts-high#p23", "en_GB-alan-low"])
def test_the_listeners_lead_changes_the_windows_and_not_the_samples(collection, voice):
    settings = Settings(voice, 0.5, 7)
    windows = {lead_s: list(drive(collection.speak(TEXT, 0, settings), lead_s)) for lead_s in (0.0, 1000.0)}
    assert len(windows[0.0]) > len(windows[1000.0])
    np.testing.assert_allclose(np.concatenate(windows[0.0]), np.concatenate(windows[1000.0]), atol=1e-4)


def test_the_first_samples_come_before_the_rest_is_decoded(alone):
    first = next(
        samples for samples in drive(alone.speak(TEXT, 0, Settings("en_US-tiny-medium", 0.5, 7))) if len(samples)
    )
    assert len(first) < 0.3 * 22_050 < 2 * 22_050 < len(speak(alone, speed=0.5, seed=7))


def test_a_long_sentence_is_spoken_in_steps_and_ends_where_it_is_cancelled(alone):
    steps = drive(alone.speak(LONG, 0, Settings("en_US-tiny-medium", 4.0, 0)))
    assert len(next(steps))
    steps.close()
    assert list(steps) == []


def test_every_voice_and_every_speaker_sounds_different(collection):
    sounds = [
        speak(collection, "Hi.", voice.id).tobytes() for voice in collection.card.voices if voice.language[0] == "e"
    ]
    assert len(set(sounds)) == len(sounds) == 3 + len(SPEAKERS) - 1


def test_a_voice_of_many_speakers_is_its_first_one_unless_another_is_named(collection):
    first = speak(collection, voice="en_US-libritts-high")
    assert np.array_equal(first, speak(collection, voice="en_US-libritts-high#p1"))
    assert not np.array_equal(first, speak(collection, voice="en_US-libritts-high#p456"))
    listed = [voice.id for voice in collection.card.voices if "libritts" in voice.id]
    assert listed == ["en_US-libritts-high", "en_US-libritts-high#p23", "en_US-libritts-high#p456"]
    found = collection.find_voice("en_US-libritts-high#p23")
    assert (found.name, found.language) == ("Libritts (high) p23", "en-US")


@pytest.mark.parametrize("voice", ["", "joe", "en_US-libritts-high#", "en_US-libritts-high#p9", "en_GB-alan-low#p1"])
def test_what_is_no_voice_is_not_found(collection, voice):
    assert collection.find_voice(voice) is None


def test_voices_whose_phonemes_cannot_be_had_are_left_out(collection):
    assert bool(collection.find_voice("de_DE-thorsten-medium")) == espeak.can_read("de")
    assert collection.find_voice("uk_UA-ukrainian_tts-medium").language == "uk-UA"


def test_the_default_voice_comes_first_and_the_others_with_their_first_use(root):
    files = [str(path.relative_to(root / COLLECTION)) for path in (root / COLLECTION).rglob("*.*")]
    asked = PiperEngine.files(HubModel(COLLECTION, files=files))
    assert not any("alan" in pattern for pattern in asked)
    model = PiperEngine.load(Checkpoint(COLLECTION, root / COLLECTION), "cpu")
    assert model.card.voices[0].id == "en_US-lessac-medium"
    assert model.lacks("en_US-lessac-medium") == ()
    assert "*/en_US-libritts-high.onnx" in model.lacks("en_US-libritts-high#p23")
    model.prepare("en_US-libritts-high#p23")
    assert model.lacks("en_US-libritts-high") == ()


def test_a_collection_is_loaded_from_its_list_and_its_default_voice_alone(root, tmp_path):
    for path in (
        "voices.json",
        *(f"en/en_US/lessac/medium/en_US-lessac-medium.{end}" for end in ("onnx", "onnx.json")),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(root / COLLECTION / path)
    model = PiperEngine.load(Checkpoint(COLLECTION, tmp_path), "cpu")
    assert model.find_voice("en_GB-alan-low")
    assert len(speak(model))


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_speed_changes_the_length_by_its_factor(alone, speed):
    # Durations are whole frames, rounded up: compare what is left of that.
    assert len(speak(alone, speed=speed)) == pytest.approx(len(speak(alone)) / speed, rel=0.3)


def test_options_set_how_much_the_speech_varies(alone):
    still = speak(alone, noise_scale=0.0, noise_w=0.0)
    assert np.array_equal(still, speak(alone, seed=3, noise_scale=0.0, noise_w=0.0))
    assert len(still) == len(speak(alone, noise_w=0.0)) != len(speak(alone))
    assert not np.array_equal(still, speak(alone, noise_w=0.0))
    assert alone.card.options["noise_scale"]["default"] == 0.667


def test_letters_are_read_by_a_voice_that_was_trained_on_them(collection):
    voice = "uk_UA-ukrainian_tts-medium"
    collection.check("Привіт, Київ!", voice)
    assert len(speak(collection, "Привіт, Київ!", voice)) > 0.3 * 22_050
    with pytest.raises(UnspeakableText, match="'w'"):
        collection.check("Привіт, world", voice)
    with pytest.raises(UnspeakableText, match="nothing to say"):
        collection.check("…!", voice)


@pytest.mark.parametrize("text", ["你好", "Hello Привет", "...", "😀"])
def test_text_that_cannot_be_read_is_refused(alone, text):
    with pytest.raises(UnspeakableText):
        alone.check(text, "en_US-tiny-medium")


def test_ids_are_written_with_a_blank_after_each(root):
    ids = {"^": [1], "_": [0], "$": [2], "a": [3], "\u0327": [4], "c": [5]}
    assert to_ids("a?ç^", ids) == [1, 0, 3, 0, 5, 0, 4, 0, 2]


def test_resampling_keeps_what_both_rates_can_hold():
    time = np.arange(16_000) / 16_000
    window = np.hanning(16_000)
    tone = (np.sin(2 * np.pi * 440 * time) * window).astype(np.float32)
    later = np.arange(22_050) / 22_050
    expected = np.sin(2 * np.pi * 440 * later) * np.interp(later, time, window)
    assert np.abs(resample(tone, 16_000, 22_050) - expected).max() < 1e-4


def test_what_is_no_voice_of_piper_is_refused(tmp_path):
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.onnx.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="phoneme_id_map"):
        PiperEngine.load(Checkpoint("org/other", tmp_path), "cpu")


def test_a_voice_that_reads_what_nobody_here_writes_is_refused(root, tmp_path):
    path = root / MODEL / "en_US-tiny-medium.onnx"
    (tmp_path / "zh.onnx").symlink_to(path)
    config = json.loads(path.with_name(f"{path.name}.json").read_text())
    (tmp_path / "zh.onnx.json").write_text(json.dumps({**config, "phoneme_type": "pinyin"}))
    with pytest.raises(UnsupportedModel, match="phonemes"):
        PiperEngine.load(Checkpoint("org/zh", tmp_path), "cpu")


def test_repositories_are_claimed_by_the_configuration_beside_each_graph():
    assert PiperEngine.claims(HubModel("org/joe", files=("en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json")))
    both = ("config.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.json")
    assert not PiperEngine.claims(HubModel("org/vits", model_type="vits", files=both))
    assert not PiperEngine.claims(HubModel("org/other", files=("onnx/model.onnx", "config.json")))
    assert not PiperEngine.claims(HubModel("org/other"))


def test_of_a_small_repository_only_voices_are_fetched():
    files = ("a.onnx", "a.onnx.json", "half.onnx", "x/b.onnx", "x/b.onnx.json", "lost.onnx.json")
    asked = PiperEngine.files(HubModel("org/few", files=files))
    assert list(asked) == ["a.onnx", "a.onnx.json", "x/b.onnx", "x/b.onnx.json"]


def test_a_few_graphs_are_in_memory_and_the_others_are_loaded_again(tmp_path):
    voices = [f"en_US-v{number}-low" for number in range(MOST_GRAPHS + 3)]
    for number, voice in enumerate(voices):
        write_voice(tmp_path, voice, number=number)
    model = PiperEngine.load(Checkpoint("org/many", tmp_path), "cpu")
    default, *others = (voice.id for voice in model.card.voices)
    before = speak(model, "Hi.", default)
    for voice in others:
        model.prepare(voice)
    assert [voice for voice in others if model.lacks(voice)] == others[:-MOST_GRAPHS]
    assert model.lacks(default) == ()
    assert np.array_equal(speak(model, "Hi.", default), before)
    # One that was dropped before its turn came is read and spoken all the same, and is then the last one used.
    model.check("Hi.", others[0])
    assert len(speak(model, "Hi.", others[0]))
    assert model.lacks(others[0]) == ()
    assert model.lacks(others[-MOST_GRAPHS])


def test_a_graph_in_use_is_kept():
    loaded = []
    graphs = Graphs(lambda voice: loaded.append(voice) or voice, most=1)
    for voice in ("default", "used"):
        graphs.load(voice)
    with graphs.using("used") as graph:
        for voice in ("b", "c"):
            graphs.load(voice)
        assert graph == "used"
        assert "used" in graphs
    assert [voice for voice in ("default", "used", "b", "c") if voice in graphs] == ["default", "c"]
    assert loaded == ["default", "used", "b", "c"]


def test_letters_are_read_without_gluing_words_together():
    reader = LetterReader({letter: [0] for letter in "абвік' "}, "uk")
    assert reader.read("каб—ві") == ["каб ві"]
    assert reader.read("ка’ба") == ["ка'ба"]
