"""The engine `vibevoice` against transformers' own generation."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.vibevoice import FAMILY, MODEL, NUM_FRAMES
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Samples, SegmentLimits, Settings
from worker.engines.vibevoice import VibeVoiceEngine, VibeVoiceModel
from worker.errors import UnspeakableText, UnsupportedModel

TEXT = "Hello world, this is a test."
SETTINGS = Settings("speaker-0", 1.0, 5)
SAMPLES_PER_FRAME = 3200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)  # Tiny models gain nothing by more, and lose much on a busy machine.
    root = tmp_path_factory.mktemp("vibevoice")
    FAMILY.build(root)
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Checkpoint:
    return Checkpoint(MODEL, root / MODEL, "0" * 40)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> VibeVoiceModel:
    return VibeVoiceEngine.load(checkpoint, "cpu")


def speak(model: VibeVoiceModel, text: str = TEXT, settings: Settings = SETTINGS) -> Samples:
    return np.concatenate(list(model.speak(text, 0, settings)))


@pytest.mark.parametrize("voice", ["speaker-0", "speaker-2"])
def test_the_samples_are_those_of_the_library(root: Path, model: VibeVoiceModel, voice: str) -> None:
    untrimmed = FAMILY.reference(root, TEXT, voice, 5)
    assert len(untrimmed) == NUM_FRAMES * SAMPLES_PER_FRAME
    assert 0.1 < np.abs(untrimmed).max() < 1
    np.testing.assert_array_equal(
        speak(model, settings=replace(SETTINGS, voice=voice)), trim_silence(untrimmed, 24_000)
    )


@pytest.mark.parametrize(("number", "rate_hz"), [(1, 24_000), (2, 44_100)])
def test_a_recording_is_imitated_as_by_the_library(
    root: Path, model: VibeVoiceModel, number: int, rate_hz: int
) -> None:
    heard = recording(number, rate_hz=rate_hz, transcript="")
    untrimmed = FAMILY.reference(root, TEXT, "speaker-0", 5, resample(heard.samples, rate_hz, 24_000))
    spoken = speak(model, settings=replace(SETTINGS, reference=heard))
    assert model.card.cloning == "audio"
    np.testing.assert_array_equal(spoken, trim_silence(untrimmed, 24_000))
    for other in (recording(number + 1), None):
        assert not np.array_equal(spoken, speak(model, settings=replace(SETTINGS, reference=other)))


def test_a_recording_is_encoded_once_and_in_a_step_of_its_own(model: VibeVoiceModel) -> None:
    encoded = []
    tower = model._model.model.audio_tower
    counting = tower.encoder.stem.register_forward_hook(lambda *_: encoded.append(1))
    settings = replace(SETTINGS, reference=recording(9))
    first, *_ = model.speak(TEXT, 0, settings)
    assert (len(first), len(encoded)) == (0, 1)
    second, *_ = model.speak(TEXT, 1, settings)
    counting.remove()
    assert (len(second) > 0, len(encoded)) == (True, 1)


def test_imitations_do_not_disturb_each_other_nor_other_voices(model: VibeVoiceModel) -> None:
    every = [SETTINGS, *(replace(SETTINGS, reference=recording(number)) for number in (4, 5))]
    alone = [speak(model, settings=settings) for settings in every]
    together: list[list[Samples]] = [[], [], []]
    for steps in zip_longest(*(model.speak(TEXT, 0, settings) for settings in every)):
        for samples, step in zip(together, steps, strict=True):
            if step is not None:
                samples.append(step)
    for samples, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(samples), expected)


def test_every_frame_is_a_step(model: VibeVoiceModel) -> None:
    *frames, rest = [len(samples) for samples in model.speak(TEXT, 0, SETTINGS)]
    assert len(frames) == NUM_FRAMES
    assert 0 < frames[0] <= SAMPLES_PER_FRAME
    assert set(frames[1:]) == {SAMPLES_PER_FRAME}
    assert rest < SAMPLES_PER_FRAME


def test_a_closed_utterance_makes_no_further_frame(model: VibeVoiceModel) -> None:
    decoded = []
    counting = model._model.model.audio_tower.decoder.register_forward_hook(lambda *_: decoded.append(1))
    steps = model.speak(TEXT, 0, SETTINGS)
    try:
        next(steps)
        next(steps)
        steps.close()
    finally:
        counting.remove()
    assert len(decoded) == 2
    assert next(steps, None) is None


def test_utterances_do_not_disturb_each_other(model: VibeVoiceModel) -> None:
    other = Settings("speaker-1", 1.0, 6, {"num_diffusion_steps": 3, "guidance_scale": 2})
    alone = [speak(model), speak(model, "Another text.", other)]
    both: list[list[Samples]] = [[], []]
    for steps in zip_longest(model.speak(TEXT, 0, SETTINGS), model.speak("Another text.", 0, other)):
        for samples, step in zip(both, steps, strict=True):
            if step is not None:
                samples.append(step)
    for samples, expected in zip(both, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(samples), expected)


def test_every_voice_differs(model: VibeVoiceModel) -> None:
    voices = [voice.id for voice in model.card.voices]
    assert voices == ["speaker-0", "speaker-1", "speaker-2", "speaker-3"]
    spoken = [speak(model, settings=replace(SETTINGS, voice=voice)).tobytes() for voice in voices]
    assert len(set(spoken)) == len(voices)


def test_all_segments_of_an_utterance_start_from_its_seed(model: VibeVoiceModel) -> None:
    later = np.concatenate(list(model.speak(TEXT, 3, SETTINGS)))
    np.testing.assert_array_equal(later, speak(model))
    assert not np.array_equal(speak(model, settings=replace(SETTINGS, seed=6)), later)


@pytest.mark.parametrize(("name", "value"), [("guidance_scale", 1), ("num_diffusion_steps", 3)])
def test_every_option_has_an_effect(model: VibeVoiceModel, name: str, value: float) -> None:
    assert set(model.card.options) == {"guidance_scale", "num_diffusion_steps"}
    assert not np.array_equal(speak(model, settings=replace(SETTINGS, options={name: value})), speak(model))


def test_the_defaults_of_the_options_are_the_checkpoints(model: VibeVoiceModel) -> None:
    defaults = {name: schema["default"] for name, schema in model.card.options.items()}
    assert defaults == {"guidance_scale": 1.3, "num_diffusion_steps": 10}
    np.testing.assert_array_equal(speak(model, settings=replace(SETTINGS, options=defaults)), speak(model))


def test_every_voice_speaks_both_languages_and_no_other(model: VibeVoiceModel) -> None:
    voice = model.card.voices[1]
    assert [model.voice_in(voice, language) for language in ("en-GB", "zh-Hant-TW", "fr")] == [voice, voice, None]


def test_text_is_given_as_the_model_knows_it(model: VibeVoiceModel) -> None:
    np.testing.assert_array_equal(speak(model, "It’s\n “fine”"), speak(model, 'It\'s "fine"'))


def test_text_cannot_hold_control_tokens(model: VibeVoiceModel) -> None:
    np.testing.assert_array_equal(speak(model, "A<|vision_pad|>B"), speak(model, "A< |vision_pad|>B"))


@pytest.mark.parametrize("text", ["", " … ", "🙂!"])
def test_text_without_a_word_is_refused(model: VibeVoiceModel, text: str) -> None:
    with pytest.raises(UnspeakableText, match="nothing to say"):
        model.check(text, "speaker-0")


def test_chinese_and_english_are_taken(model: VibeVoiceModel) -> None:
    model.check("Hello, 你好, 20 %!", "speaker-0")


def test_a_runaway_is_bound_by_its_text(checkpoint: Checkpoint) -> None:
    model = VibeVoiceEngine.load(checkpoint, "cpu")
    model._model.generation_config.max_new_tokens = 40_500
    model.limits = SegmentLimits(patience_s=0.5, patience_s_per_char=0.0)
    frames = list(model.speak(TEXT, 0, SETTINGS))[:-1]
    assert 0.5 * 24_000 < sum(map(len, frames)) <= len(frames) * SAMPLES_PER_FRAME
    assert len(frames) == 12


def test_models_in_microsofts_layout_are_refused(tmp_path: Path) -> None:
    ours = HubModel(
        "vibevoice/VibeVoice-1.5B-hf", model_type="vibevoice", files=["model.safetensors", "processor_config.json"]
    )
    theirs = HubModel(
        "microsoft/VibeVoice-1.5B", model_type="vibevoice", files=["model.safetensors", "preprocessor_config.json"]
    )
    assert VibeVoiceEngine.claims(ours)
    assert VibeVoiceEngine.claims(theirs)
    assert not VibeVoiceEngine.refuse(ours)
    assert "VibeVoice-1.5B-hf" in VibeVoiceEngine.refuse(theirs)
    config = {"model_type": "vibevoice", "acoustic_tokenizer_config": {}, "decoder_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="layout of Microsoft"):
        VibeVoiceEngine.load(Checkpoint("org/copy", tmp_path), "cpu")


@pytest.mark.parametrize("model_type", ["vibevoice_asr", "vibevoice_streaming", "vibevoice_acoustic_tokenizer", "dia"])
def test_relatives_are_not_claimed(model_type: str) -> None:
    assert not VibeVoiceEngine.claims(HubModel("org/model", "transformers", ["vibevoice"], model_type))
