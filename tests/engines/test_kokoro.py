import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints.kokoro import FAMILY, MODEL, VOICES
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.kokoro import KokoroEngine, KokoroModel, limit
from worker.engines.stages import alone
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text import misaki

TEXT = "Hello there, world."
LONG = "one million two hundred thousand three hundred and forty five " * 4


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("hub")
    FAMILY.build(root)
    return root


@pytest.fixture(scope="module")
def model(root) -> KokoroModel:
    return KokoroEngine.load(Checkpoint(MODEL, root / MODEL, "0" * 40), "cpu")


def speak(model, text=TEXT, voice="af_heart", speed=1.0, seed=0, index=0):
    return np.concatenate(list(alone(model.speak(text, index, Settings(voice, speed, seed)))))


@pytest.mark.parametrize("voice", ["af_heart", "bf_emma"])
def test_the_samples_are_those_of_the_library(model, root, voice):
    expected = trim_silence(FAMILY.reference(root, TEXT, voice, 5), 24_000)
    assert np.array_equal(speak(model, voice=voice, seed=5), expected)
    assert np.abs(expected).max() > 0.05


def test_the_seed_and_the_number_of_the_segment_set_the_noise(model):
    assert not np.array_equal(speak(model, "Hi.", seed=1), speak(model, "Hi.", seed=2))
    assert np.array_equal(
        speak(model, "Hi.", seed=1, index=1), speak(model, "Hi.", seed=seed_of(Settings("", 1.0, 1), 1))
    )


def test_every_voice_sounds_different(model):
    sounds = [speak(model, "Hello.", voice.id).tobytes() for voice in model.card.voices]
    assert len(set(sounds)) == len(sounds) >= 3


def test_the_voices_are_described_by_their_ids_and_the_default_is_first(model):
    voices = {voice.id: voice for voice in model.card.voices}
    assert model.card.voices[0].id == "af_heart"
    assert (voices["am_adam"].name, voices["am_adam"].language, voices["am_adam"].gender) == ("Adam", "en-US", "male")
    assert voices["bf_emma"].language == "en-GB"


def test_voices_of_languages_that_cannot_be_read_here_are_left_out(model):
    languages = {"a": "en-US", "b": "en-GB", "e": "es", "j": "ja", "z": "zh"}
    readable = {voice for voice in VOICES if not misaki.lacks(languages[voice[0]])}
    assert {voice.id for voice in model.card.voices} == readable
    assert all(bool(model.find_voice(voice)) == (voice in readable) for voice in VOICES)


def test_any_voice_speaks_a_language_that_it_is_told_to(model):
    voice = model.find_voice("jf_alpha@en-gb")
    assert (voice.id, voice.language, voice.name) == ("jf_alpha@en-gb", "en-GB", "Alpha")
    model.check(TEXT, "jf_alpha@en-gb")
    assert not np.array_equal(speak(model, "bath", "af_heart@en-GB"), speak(model, "bath", "af_heart"))


@pytest.mark.parametrize(
    ("voice", "language", "spoken"),
    [
        ("af_heart", "en-US", "af_heart"),
        ("af_heart", "en", "af_heart"),
        ("af_heart", "en-AU", "af_heart"),
        ("af_heart", "EN-gb", "af_heart@EN-gb"),
        ("af_heart+am_adam(0.3)", "en-GB", "af_heart+am_adam(0.3)@en-GB"),
        ("jf_alpha@en-GB", "en-GB", "jf_alpha@en-GB"),
        ("jf_alpha@en-GB", "en-US", "jf_alpha@en-US"),
        ("jf_alpha@en-US", "en", "jf_alpha@en-US"),
    ],
)
def test_a_voice_is_told_the_language_and_the_dialect_that_is_asked_for(model, voice, language, spoken):
    assert model.voice_in(model.find_voice(voice), language).id == spoken


def test_no_voice_speaks_a_language_that_cannot_be_read_here(model):
    assert set(model.languages) >= {"en-US", "en-GB"}
    for language in ("de", "xx", "", "en_GB", *(each for each in misaki.LANGUAGES if misaki.lacks(each))):
        assert model.voice_in(model.find_voice("af_heart"), language) is None


def test_a_blend_lies_between_its_parts_and_only_the_ratio_of_its_weights_counts(model):
    half, one = speak(model, "Hi.", "af_heart+am_adam"), speak(model, "Hi.")
    assert np.array_equal(half, speak(model, "Hi.", "af_heart(2)+am_adam(2.0)"))
    assert not np.array_equal(half, speak(model, "Hi.", "af_heart+am_adam(0.3)"))
    assert np.array_equal(one, speak(model, "Hi.", "af_heart(0.3)"))
    assert np.array_equal(one, speak(model, "Hi.", "af_heart+af_heart"))
    blend = model.find_voice("bf_emma+am_adam(.5)")
    assert (blend.name, blend.language, blend.gender) == ("Emma + Adam", "en-GB", "")


@pytest.mark.parametrize(
    "voice",
    [
        *("", "heart", "af_heart+", "+af_heart", "af_heart+nobody", "af_heart(0)", "af_heart(-1)", "af_heart(x)"),
        *("af_heart (1)", "af_heart@", "af_heart@tlh", "af_heart@en-US@en-GB", "../af_heart"),
        "+".join(["af_heart"] * 17),
        *(f"af_heart+am_adam({'9' * 40})", f"af_heart(0.{'0' * 50}1)"),
    ],
)
def test_what_is_no_voice_is_not_found(model, voice):
    assert model.find_voice(voice) is None


def test_speed_shortens_the_speech(model):
    assert len(speak(model, speed=0.5)) > 1.3 * len(speak(model)) > 1.3 * 1.3 * len(speak(model, speed=2.0))


def test_interleaved_utterances_are_those_of_single_runs(model):
    pair = [alone(model.speak(LONG, 0, Settings(voice, 2.0, 7))) for voice in ("af_heart", "am_adam")]
    pieces = list(zip(*pair, strict=True))
    assert len(pieces) == 2
    for number, voice in enumerate(("af_heart", "am_adam")):
        assert np.array_equal(np.concatenate([piece[number] for piece in pieces]), speak(model, LONG, voice, 2.0, 7))


def test_two_threads_speak_at_once_each_with_random_numbers_of_its_own(model):
    voices = ("af_heart", "am_adam")
    expected = [speak(model, LONG, voice, 2.0, 7) for voice in voices]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            spoken = threads.map(lambda voice: speak(model, LONG, voice, 2.0, 7), voices)
            assert all(np.array_equal(mine, its) for mine, its in zip(spoken, expected, strict=True))


def test_what_lies_beyond_the_context_is_spoken_in_a_step_of_its_own(model):
    steps = [len(samples) for samples in alone(model.speak(LONG, 0, Settings("af_heart", 2.0, 0)))]
    assert len(steps) == 2
    steps = alone(model.speak(LONG, 0, Settings("af_heart", 2.0, 0)))
    assert len(list(islice(steps, 1))) == 1
    steps.close()
    assert list(steps) == []


def test_what_exceeds_full_scale_is_scaled_and_not_clipped():
    loud = np.array([0.5, -2.0, 1.0], np.float32)
    assert limit(loud).tolist() == [0.25, -1.0, 0.5]
    assert limit(loud / 4) is not loud
    assert limit(loud / 4).tolist() == [0.125, -0.5, 0.25]


@pytest.mark.parametrize("text", ["你好", "Hello Привет", "...", "😀"])
def test_text_that_cannot_be_read_is_refused(model, text):
    with pytest.raises(UnspeakableText):
        model.check(text, "af_heart")


def test_a_repository_of_voices_that_cannot_be_read_offers_them_for_english(root, tmp_path):
    for path in ("config.json", "kokoro-v1_0.pth"):
        (tmp_path / path).symlink_to(root / MODEL / path)
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "ef_dora.pt").symlink_to(root / MODEL / "voices" / "ef_dora.pt")
    card = KokoroEngine.load(Checkpoint(MODEL, tmp_path), "cpu").card
    assert [voice.id for voice in card.voices] == (["ef_dora@en-US"] if misaki.lacks("es") else ["ef_dora"])


def test_a_config_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab": {}}')
    with pytest.raises(UnsupportedModel, match="istftnet, plbert"):
        KokoroEngine.load(Checkpoint("org/other", tmp_path), "cpu")


def test_repositories_are_claimed_by_their_layout():
    files = ("config.json", "kokoro-v1_0.pth", "voices/af_heart.pt", "VOICES.md")
    assert KokoroEngine.claims(HubModel("hexgrad/Kokoro-82M", files=files))
    assert not KokoroEngine.claims(HubModel("org/other", model_type="vits", files=files))
    assert not KokoroEngine.claims(HubModel("onnx/kokoro", files=("config.json", "onnx/model.onnx", "voices/af.bin")))
    assert not KokoroEngine.claims(HubModel("coqui/XTTS-v2", files=("config.json", "model.pth", "speakers_xtts.pth")))


def test_entering_the_package_leaves_no_trace_in_the_table_of_modules():
    code = (
        "import sys; from worker.engines.kokoro import model_class; assert model_class().__name__ == 'KModel'; "
        "print([name for name in sys.modules if name.split('.')[0] in ('kokoro', 'misaki', 'spacy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def copy_without_weights(root, folder):
    (folder / "config.json").symlink_to(root / MODEL / "config.json")
    (folder / "voices").symlink_to(root / MODEL / "voices")
    return torch.load(root / MODEL / "kokoro-v1_0.pth", weights_only=True)


def test_the_weights_are_those_of_the_name_or_the_only_ones(root, tmp_path):
    def asked(*weights):
        model = HubModel("org/k", files=("config.json", *weights, "voices/af_heart.pt"))
        assert KokoroEngine.claims(model)
        return KokoroEngine.files(model)[1]

    assert asked("a_discriminator.pth", "kokoro-v1_0.pth") == "kokoro-v1_0.pth"
    assert asked("model.pth", "old/model.pth") == "model.pth"
    assert not KokoroEngine.claims(HubModel("org/k", files=("config.json", "a.pth", "b.pth", "voices/af_heart.pt")))
    weights = copy_without_weights(root, tmp_path)
    torch.save(weights, tmp_path / "kokoro-v1_0.pth")
    torch.save({}, tmp_path / "a_discriminator.pth")
    assert np.array_equal(
        speak(KokoroEngine.load(Checkpoint(MODEL, tmp_path), "cpu"), "Hi."),
        speak(KokoroEngine.load(Checkpoint(MODEL, root / MODEL), "cpu"), "Hi."),
    )


@pytest.mark.parametrize("lost", ["a part", "a weight", "the names"])
def test_weights_that_do_not_fit_are_refused_and_not_filled_up_with_noise(root, tmp_path, lost):
    weights = copy_without_weights(root, tmp_path)
    if lost == "a part":
        del weights["text_encoder"]
    elif lost == "a weight":
        del weights["bert_encoder"]["bias"]
    else:
        weights["bert_encoder"] = {f"another.{name}": weight for name, weight in weights["bert_encoder"].items()}
    torch.save(weights, tmp_path / "kokoro-v1_0.pth")
    with pytest.raises(UnsupportedModel, match=r"a KModel has (bert|text)_encoder\."):
        KokoroEngine.load(Checkpoint(MODEL, tmp_path), "cpu")


def test_weights_saved_from_several_devices_load(root, tmp_path, model):
    weights = copy_without_weights(root, tmp_path)
    parallel = {part: {f"module.{name}": w for name, w in found.items()} for part, found in weights.items()}
    torch.save(parallel, tmp_path / "kokoro-v1_0.pth")
    loaded = KokoroEngine.load(Checkpoint(MODEL, tmp_path), "cpu")
    assert np.array_equal(speak(loaded, "Hi."), speak(model, "Hi."))


def test_the_readers_of_all_listed_voices_are_there_before_anything_is_spoken(root):
    model = KokoroEngine.load(Checkpoint(MODEL, root / MODEL), "cpu")
    before = model._reader.cache_info().misses
    for voice in model.card.voices:
        model._reader(voice.language)
    assert model._reader.cache_info().misses == before == len({voice.language for voice in model.card.voices})
