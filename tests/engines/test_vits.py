"""The engine `vits` against transformers' own forward pass, which decodes a segment at once."""

from __future__ import annotations

import json
import shutil
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects

from tests.checkpoints import Family
from tests.checkpoints.vits import FAMILIES, MODEL, PHONEMES, ROMANISED, SPEAKERS, SYMBOLS, TOLERANCE, build
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Samples, SegmentLimits, Settings
from worker.engines.stages import Call, Speech, alone
from worker.engines.vits import Vits, VitsEngine, bcp47, spell
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text import espeak

TEXT = "hello world, this is a rather short test of what it can say"
KOREAN = "안녕하세요 세계"
SETTINGS = Settings("default", 1.0, 5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)  # Threads that wait for each other are slower than these small models.
    root = tmp_path_factory.mktemp("vits")
    for family in FAMILIES:
        family.build(root)
    return root


def load(root: Path, name: str = MODEL) -> Vits:
    return VitsEngine.load(Checkpoint(name, root / name, "0" * 40), "cpu")


@pytest.fixture(scope="module")
def model(root: Path) -> Vits:
    return load(root)


@pytest.fixture(scope="module")
def choir(root: Path) -> Vits:
    return load(root, SPEAKERS)


def speak(model: Vits, text: str = TEXT, settings: Settings = SETTINGS) -> Samples:
    return np.concatenate(list(alone(model.speak(text, 0, settings))))


def assert_same(given: Samples, expected: Samples) -> None:
    """Compare what may have been decoded in other windows: these depend on how long the last ones took."""
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "text", "voice"),
    list(zip(FAMILIES, (TEXT, TEXT, KOREAN, TEXT), ("default", "speaker-2", "default", "default"), strict=True)),
)
def test_the_samples_are_those_of_the_library(root: Path, family: Family, text: str, voice: str) -> None:
    spoken = load(root, family.model)
    expected = trim_silence(family.reference(root, text, voice, 5), 16_000)
    assert 0.3 * 16_000 < len(expected) < 30 * 16_000
    assert np.abs(expected).max() > 0.05
    given = speak(spoken, text, replace(SETTINGS, voice=voice))
    np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE)


def test_a_decoder_whose_frames_differ_in_length_is_refused(root: Path, tmp_path: Path) -> None:
    build(tmp_path, "tiny-org/uneven", upsample_kernel_sizes=[15, 16, 4, 4])
    with pytest.raises(UnsupportedModel, match="upsamples by 8 with a kernel of 15"):
        load(tmp_path, "tiny-org/uneven")


def test_speech_comes_window_by_window(model: Vits) -> None:
    steps = list(alone(model.speak(TEXT, 0, SETTINGS)))
    assert len(steps) > 2
    assert 0 < len(steps[0]) <= 32 * 256
    assert sum(map(len, steps)) > 40 * 256


@pytest.mark.parametrize("lead_s", [0.1, 1.0, 100.0])
def test_the_samples_do_not_depend_on_how_long_the_listener_can_wait(model: Vits, lead_s: float) -> None:
    steps = list(alone(model.speak(TEXT, 0, SETTINGS), lead_s))
    np.testing.assert_allclose(np.concatenate(steps), speak(model), rtol=0, atol=TOLERANCE)


def test_whoever_can_wait_gets_larger_windows(model: Vits) -> None:
    numbers = [len(list(alone(model.speak(f"{TEXT} and {TEXT}", 0, SETTINGS), lead_s))) for lead_s in (0.0, 100.0)]
    assert numbers[0] > numbers[1]


def together(speeches: Mapping[str, Speech]) -> dict[str, list[Samples]]:
    """Drive utterances in step, each of its calls in one run with all others of the same stage and size."""
    made: dict[str, list[Samples]] = {name: [] for name in speeches}
    waiting: dict[str, Call[Any, Any]] = {}
    results: dict[str, Any] = dict.fromkeys(speeches)
    while results:
        for name, result in results.items():
            try:
                step = speeches[name].send(result)
                while not isinstance(step, Call):
                    made[name].append(step)
                    step = next(speeches[name])
                waiting[name] = step
            except StopIteration:
                pass
        results = {}
        for stage in {call.stage for call in waiting.values()}:
            calls = {name: call for name, call in waiting.items() if call.stage is stage}
            sizes = {name: stage.size(call.item, 1.0) for name, call in calls.items()}
            for size in set(sizes.values()):
                same = {name: call for name, call in calls.items() if sizes[name] == size}
                results |= dict(zip(same, stage.run([call.item for call in same.values()], size), strict=True))
        waiting.clear()
    return made


def test_utterances_in_one_batch_are_what_they_are_alone(choir: Vits) -> None:
    settings = {f"speaker-{k}": Settings(f"speaker-{k}", 1.0 + k / 4, seed=k) for k in range(4)}
    texts = {f"speaker-{k}": TEXT[: 60 - 14 * k] for k in range(4)}
    made = together({name: choir.speak(texts[name], 0, settings[name]) for name in texts})
    for name, steps in made.items():
        expected = speak(choir, texts[name], settings[name])
        np.testing.assert_allclose(np.concatenate(steps), expected, rtol=0, atol=TOLERANCE)


def test_two_threads_speak_at_once_as_one_does(model: Vits) -> None:
    import torch

    seeds = [5, 6, 7, 8]
    expected = [speak(model, TEXT, replace(SETTINGS, seed=seed)) for seed in seeds]
    at_once = threading.Barrier(2)

    def work(mine: Sequence[int]) -> list[Samples]:
        torch.set_num_threads(1)  # Of this thread.
        at_once.wait(60)
        return [speak(model, TEXT, replace(SETTINGS, seed=seed)) for seed in mine]

    with ThreadPoolExecutor(2) as threads:
        halves = list(threads.map(work, (seeds[:2], seeds[2:])))
    for given, single in zip([*halves[0], *halves[1]], expected, strict=True):
        np.testing.assert_allclose(given, single, rtol=0, atol=TOLERANCE)


def test_torch_s_own_random_numbers_are_left_alone(model: Vits) -> None:
    import torch

    before = torch.get_rng_state()
    speak(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_closing_leaves_the_other_windows_undecoded(model: Vits) -> None:
    decoded: list[object] = []
    hook = model._network._model.decoder.conv_pre.register_forward_hook(lambda *_: decoded.append(None))
    try:
        speech = alone(model.speak(TEXT, 0, SETTINGS))
        next(speech)
        next(speech)
        speech.close()
    finally:
        hook.remove()
    assert len(decoded) == 2
    assert list(speech) == []


def test_a_cancelled_utterance_leaves_nothing_behind(model: Vits) -> None:
    speech = model.speak(TEXT, 0, SETTINGS)
    encode = speech.send(None)
    assert isinstance(encode, Call)
    (latents,) = encode.stage.run([encode.item], None)
    decode = speech.send(latents)
    assert isinstance(decode, Call)
    left = weakref.ref(latents.frames)
    speech.close()
    del encode, decode, latents
    assert left() is None


def test_two_utterances_in_turns_are_what_they_are_alone(model: Vits) -> None:
    requests = [(TEXT, SETTINGS), (TEXT[:30], replace(SETTINGS, seed=6))]
    turns = list(zip_longest(*(alone(model.speak(text, 0, settings)) for text, settings in requests)))
    for mixed, (text, settings) in zip(zip(*turns, strict=True), requests, strict=True):
        steps = [samples for samples in mixed if samples is not None]
        np.testing.assert_allclose(np.concatenate(steps), speak(model, text, settings), rtol=0, atol=1e-5)


def test_segments_of_an_utterance_differ_and_repeat(model: Vits) -> None:
    first, second = (np.concatenate(list(alone(model.speak(TEXT, index, SETTINGS)))) for index in (0, 1))
    assert len(first) != len(second) or not np.array_equal(first, second)
    assert_same(first, speak(model))


def test_every_speaker_has_a_voice_of_its_own(choir: Vits, model: Vits) -> None:
    assert [voice.id for voice in model.card.voices] == ["default"]
    ids = [voice.id for voice in choir.card.voices]
    assert ids == ["speaker-0", "speaker-1", "speaker-2", "speaker-3"]
    spoken = {speak(choir, "hello", replace(SETTINGS, voice=voice)).tobytes() for voice in ids}
    assert len(spoken) == len(ids)


def test_speed_scales_the_durations(model: Vits) -> None:
    lengths = [len(speak(model, TEXT, replace(SETTINGS, speed=speed))) for speed in (0.5, 1.0, 2.0)]
    assert lengths[0] > 1.5 * lengths[1] > 1.5 * lengths[2]


def test_options_have_effect_and_defaults_of_the_checkpoint(model: Vits) -> None:
    defaults = {name: option["default"] for name, option in model.card.options.items()}
    assert defaults == {"noise_scale": 0.667, "noise_scale_duration": 0.8}
    usual = speak(model)
    assert_same(speak(model, TEXT, replace(SETTINGS, options=defaults)), usual)
    for name in defaults:
        changed = speak(model, TEXT, replace(SETTINGS, options={name: 0.0}))
        assert len(changed) != len(usual) or np.abs(changed - usual).max() > 0.01
    calm = {"noise_scale": 0.0, "noise_scale_duration": 0.0}
    runs = [speak(model, TEXT, replace(SETTINGS, seed=seed, options=calm)) for seed in (1, 2)]
    assert_same(*runs)


def test_runaway_speech_ends_a_little_beyond_the_bound(root: Path) -> None:
    model = load(root)
    model.limits = SegmentLimits(patience_s=0.2, patience_s_per_char=0.0)
    spoken_s = len(speak(model)) / model.card.sample_rate_hz
    assert 0.2 + 0.5 < spoken_s <= 0.2 + 1.0 + 0.02


def test_text_is_brought_to_the_characters_there_are(model: Vits) -> None:
    assert_same(speak(model, "HÉLLO (World)!"), speak(model, "hello world"))
    assert_same(speak(model, "3 cats"), speak(model, "three cats"))


@pytest.mark.parametrize("text", ["", "  ", "!?", "🙂", "'", "- -"])
def test_text_with_nothing_to_say_is_refused(model: Vits, text: str) -> None:
    with pytest.raises(UnspeakableText, match="nothing to say") as caught:
        model.check(text, "default")
    assert caught.value.field == "input"


def test_letters_without_a_token_are_refused_by_name(model: Vits) -> None:
    model.check("Hello, wörld – it's “fine” 🙂!", "default")
    with pytest.raises(UnspeakableText, match="speaks 'en' and cannot say '你', '好'"):
        model.check("hello 你好", "default")


def test_other_scripts_are_romanised_where_the_model_was_trained_so(root: Path) -> None:
    romanised = load(root, ROMANISED)
    romanised.check(KOREAN, "default")
    assert romanised.card.voices[0].language == "ko"
    assert_same(speak(romanised, KOREAN), speak(romanised, "annyeonghaseyo segye"))


def test_english_phonemes_are_read_without_espeak(root: Path) -> None:
    model = load(root, PHONEMES)
    assert [(voice.id, voice.language) for voice in model.card.voices] == [("default", "en-US")]
    ids = model._frontend.tokenize("Hello, world!")
    assert ids[::2] == [0] * len(ids[::2])
    assert "".join(dict(enumerate(dict.fromkeys(SYMBOLS)))[number] for number in ids[1::2]) == "həlˈoʊ, wˈɜːld!"
    model.check("It costs $5 – “really”! 🙂", "default")
    with pytest.raises(UnspeakableText, match="'你', '好'"):
        model.check("hello 你好", "default")
    with pytest.raises(UnspeakableText, match="nothing to say"):
        model.check("?!", "default")


@pytest.mark.parametrize(
    ("language", "tag"), [("en", "en-US"), (None, "en-US"), ("en-us", "en-US"), ("en-gb", "en-GB")]
)
def test_phonemes_are_read_in_the_english_of_the_tokenizer(tmp_path: Path, language: str | None, tag: str) -> None:
    build(tmp_path, phonemize=True, language=language, characters=SYMBOLS)
    assert load(tmp_path).card.voices[0].language == tag


def test_a_phoneme_without_a_token_is_refused_unless_it_is_a_mark_of_stress_or_length(tmp_path: Path) -> None:
    build(tmp_path, phonemize=True, language="en-us", characters=[c for c in SYMBOLS if c not in "ˈˌːʒ,"])
    model = load(tmp_path)
    model.check("Hello, father", "default")
    assert len(model._frontend.tokenize("Hello, father")) == 2 * len("həloʊ fɑðɚ") + 1
    with pytest.raises(UnspeakableText, match="'ʒ'"):
        model.check("a vision", "default")


def test_phonemes_of_another_language_need_espeak(tmp_path: Path) -> None:
    build(tmp_path, phonemize=True, language="de", characters=SYMBOLS)
    if espeak.can_read("de"):
        assert load(tmp_path).card.voices[0].language == "de"
        return
    with pytest.raises(UnsupportedModel, match="extra espeak") as caught:
        load(tmp_path)
    assert caught.value.field == "model"


def test_pickled_weights_of_old_repositories_load(root: Path, tmp_path: Path, model: Vits) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / MODEL
    shutil.copytree(root / MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    # Before torch 2.1 the two parts of a normalised weight had other names.
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weight
        for name, weight in weights.items()
    }
    assert old.keys() != weights.keys()
    torch.save(old, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_same(speak(load(tmp_path)), speak(model))


def test_the_hub_s_own_words_decide_what_is_claimed(root: Path) -> None:
    info = json.loads((root / MODEL / ".hub.json").read_text())["info"]
    files = [path.name for path in (root / MODEL).iterdir()]
    real = HubModel(MODEL, info["library_name"], info["tags"], "vits", ["VitsModel"], files)
    assert VitsEngine.claims(real)
    assert set(VitsEngine.files(real)) == {"*.json", "model*.safetensors", "*.model", "*.txt", "*.jinja"}
    assert not VitsEngine.claims(replace(real, library="transformers.js", files=["config.json", "onnx/model.onnx"]))
    assert not VitsEngine.claims(replace(real, model_type="speecht5"))


def test_languages_are_named_as_the_web_names_them() -> None:
    tags = {"deu": "de", "en": "en", "azj-script_latin": "az-Latn", "cmn": "zh", "hak": "hak", "quz-dialect_x": "qu"}
    assert {code: bcp47(code) for code in tags} == tags
    assert bcp47(None) == "und"


def test_spelling_keeps_what_the_vocabulary_has_and_names_what_is_lost() -> None:
    assert spell("Une  crème\nbrûlée", "bcelmnruû ") == ("une creme brûlee", [])
    assert spell("Été", "été ") == ("été", [])
    assert spell("Été", "et ") == ("ete", [])
    assert spell("straße", "arset") == ("strasse", [])
    assert spell("abc", "ABC") == ("ABC", [])
    assert spell("aбc 5!", "ac ") == ("ac", ["б", "5"])
    assert spell("नमस्ते", "नमसत ") == ("नमसत", ["्", "े"])


def test_a_sign_without_a_token_does_not_glue_two_words_together() -> None:
    letters = "adehnorstwxy '"
    assert spell('yes—and/or … (not) "so"', letters) == ("yes and or  not so", [])
    assert spell("yes—no", letters.replace(" ", "")) == ("yesno", [])
    assert spell("don’t sho\N{ZERO WIDTH JOINER}w", letters) == ("don't show", [])
    assert spell("don’t", "dont ") == ("dont", [])


def test_the_weights_of_a_trainer_s_checkpoints_are_left_alone() -> None:
    def wanted(*files: str) -> list[str]:
        return list(filter_repo_objects(files, allow_patterns=list(VitsEngine.files(HubModel("a/b", files=files)))))

    trained = ("model.safetensors", "checkpoint-5/model.safetensors", "checkpoint-5/optimizer.bin", "training_args.bin")
    assert wanted(*trained) == ["model.safetensors"]
    # Safetensors in a folder do not stand in for the model's own pickle.
    assert wanted("pytorch_model.bin", "voices/a.safetensors", "optimizer.bin") == ["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"files": ["config.json", "vits.gguf"]}, "no torch weights"),
        ({"library": "mlx-audio"}, "converted"),
        ({"tags": ["4-bit", "bitsandbytes"]}, "converted"),
        ({"tags": ["text-to-speech"]}, ""),
        ({"files": []}, ""),
    ],
)
def test_conversions_for_other_runtimes_are_refused_before_they_are_fetched(more, reason) -> None:
    model = HubModel(**{"name": "a/b", "model_type": "vits", "files": ["config.json", "model.safetensors"], **more})
    refused = VitsEngine.refuse(model)
    assert reason in refused
    assert bool(refused) == bool(reason)
