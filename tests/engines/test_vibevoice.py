"""The engine `vibevoice` against transformers' own generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints.vibevoice import FAMILY, MODEL, NUM_FRAMES
from tests.engines.batches import Row, together
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Samples, SegmentLimits, Settings
from worker.engines.stages import Stage, alone
from worker.engines.vibevoice import VibeVoiceEngine, VibeVoiceModel
from worker.engines.vibevoice_network import Line
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
    return np.concatenate(list(alone(model.speak(text, 0, settings))))


def assert_same(samples: Samples, expected: Samples) -> None:
    """Compare what is the same but for the rounding of batches, which comes back with every frame that is heard."""
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() <= FAMILY.tolerance


def changed(root: Path, to: Path, **config: Any) -> Path:
    """Copy the checkpoint with other values in its generation config."""
    shutil.copytree(root / MODEL, to / MODEL)
    path = to / MODEL / "generation_config.json"
    # What is not of every model's is read of a config that its checkpoint brings, as the published ones do.
    path.write_text(json.dumps(json.loads(path.read_text()) | config | {"_from_model_config": False}))
    return to


@pytest.mark.parametrize("voice", ["speaker-0", "speaker-2"])
def test_the_samples_are_those_of_the_library(root: Path, model: VibeVoiceModel, voice: str) -> None:
    untrimmed = FAMILY.reference(root, TEXT, voice, 5)
    assert len(untrimmed) == NUM_FRAMES * SAMPLES_PER_FRAME
    assert 0.1 < np.abs(untrimmed).max() < 1
    assert_same(speak(model, settings=replace(SETTINGS, voice=voice)), trim_silence(untrimmed, 24_000))


@pytest.mark.parametrize(("number", "rate_hz"), [(1, 24_000), (2, 44_100)])
def test_a_recording_is_imitated_as_by_the_library(
    root: Path, model: VibeVoiceModel, number: int, rate_hz: int
) -> None:
    heard = recording(number, rate_hz=rate_hz, transcript="")
    untrimmed = FAMILY.reference(root, TEXT, "speaker-0", 5, resample(heard.samples, rate_hz, 24_000))
    spoken = speak(model, settings=replace(SETTINGS, reference=heard))
    assert model.card.cloning == "audio"
    assert_same(spoken, trim_silence(untrimmed, 24_000))
    for other in (recording(number + 1), None):
        assert not np.array_equal(spoken, speak(model, settings=replace(SETTINGS, reference=other)))


def test_a_recording_is_encoded_once_and_in_a_step_of_its_own(model: VibeVoiceModel) -> None:
    encoded = []
    tower = model._model.model.audio_tower
    counting = tower.encoder.stem.register_forward_hook(lambda *_: encoded.append(1))
    rows = [Row(model.speak(TEXT, index, replace(SETTINGS, reference=recording(9)))) for index in range(2)]
    counts = []
    runs = together(rows, lambda *_: counts.append(len(encoded)))
    counting.remove()
    assert [run.stage for run in runs].count("read") == 2
    assert (runs[0].stage, set(counts)) == ("read", {1})


def test_imitations_do_not_disturb_each_other_nor_other_voices(model: VibeVoiceModel) -> None:
    every = [SETTINGS, *(replace(SETTINGS, reference=recording(number)) for number in (4, 5))]
    rows = [Row(model.speak(TEXT, 0, settings)) for settings in every]
    together(rows)
    for row, settings in zip(rows, every, strict=True):
        assert_same(row.samples, speak(model, settings=settings))


def test_every_frame_is_a_step(model: VibeVoiceModel) -> None:
    *frames, rest = [len(samples) for samples in alone(model.speak(TEXT, 0, SETTINGS))]
    assert len(frames) == NUM_FRAMES
    assert 0 < frames[0] <= SAMPLES_PER_FRAME
    assert set(frames[1:]) == {SAMPLES_PER_FRAME}
    assert rest < SAMPLES_PER_FRAME


def test_a_closed_utterance_makes_no_further_frame_and_frees_its_place(model: VibeVoiceModel) -> None:
    decoded = []
    counting = model._model.model.audio_tower.decoder.register_forward_hook(lambda *_: decoded.append(1))
    assert model.slots
    for _ in range(2 * model.slots):
        steps = alone(model.speak(TEXT, 0, SETTINGS))
        list(islice(steps, 2))
        steps.close()
        assert next(steps, None) is None
    counting.remove()
    assert len(decoded) == 2 * model.slots * 2


OTHERS = (
    (TEXT, SETTINGS),
    ("And then a bell rang twice, and nobody came.", Settings("speaker-1", 1.0, 6, {"num_diffusion_steps": 3})),
    ("Hm!", Settings("speaker-3", 1.0, 7, {"num_diffusion_steps": 3, "guidance_scale": 2})),
    ("Another text.", Settings("speaker-0", 1.0, 8, reference=recording(3))),
    (TEXT, SETTINGS),
)


def test_rows_that_join_and_leave_say_what_they_say_alone(model: VibeVoiceModel) -> None:
    rows = [
        Row(model.speak(text, 0, settings), joins=joins)
        for (text, settings), joins in zip(OTHERS, (0, 0, 9, 11, 13), strict=True)
    ]
    rows[1].leaves = 12
    runs = together(rows)
    steps = [run.rows for run in runs if run.stage == "step"]
    assert any({0, 2, 3} <= set(step) for step in steps)
    assert any({3, 4} <= set(step) for step in steps)
    for number, (row, (text, settings)) in enumerate(zip(rows, OTHERS, strict=True)):
        expected = speak(model, text, settings)
        if number == 1:
            assert SAMPLES_PER_FRAME < len(row.samples) < len(expected)
            expected = expected[: len(row.samples)]
        assert_same(row.samples, expected)
    assert_same(rows[0].samples, rows[4].samples)


def test_rows_that_wait_make_their_frames_in_one_run(model: VibeVoiceModel) -> None:
    assert model.slots
    rows = [Row(model.speak(TEXT, 0, replace(SETTINGS, seed=seed))) for seed in range(model.slots)]
    steps = [run.rows for run in together(rows) if run.stage == "step"]
    assert max(map(len, steps)) == model.slots
    assert len(steps) < NUM_FRAMES + model.slots  # They set out one by one.


def test_prompts_of_several_lengths_are_read_together(model: VibeVoiceModel) -> None:
    import torch

    prompts = [torch.randn(length, 16, generator=torch.Generator().manual_seed(length)) for length in (4, 31, 18)]

    def lines() -> list[Line]:
        noise = [torch.Generator().manual_seed(seed) for seed in range(3)]
        return [Line(slot, prompt, 9, noise[slot], 1.3, 4) for slot, prompt in enumerate(prompts)]

    def frames(prefilled: list[Line]) -> list[Samples]:
        steps = [model._network.step.run(prefilled, None) for _ in range(3)]
        return [np.concatenate(samples) for samples in zip(*steps, strict=True)]

    batch = lines()
    assert len({model._network.prefill.size(line, 0.0) for line in batch}) == 1
    model._network.prefill.run(batch, 0)
    for number, samples in enumerate(frames(batch)):
        single = lines()[number : number + 1]
        model._network.prefill.run(single, 0)
        assert_same(samples, frames(single)[0])


@pytest.mark.parametrize(
    ("words", "scale", "num_tokens", "num_anew"),
    [(1, 1.3, 31, 10), (1, 1.0, 12, 4), (5, 1.3, 14, 0), (5, 1.0, 55, 0)],
)
def test_speech_that_pauses_begins_anew_and_ends_does_so_as_in_the_library(
    root: Path, tmp_path: Path, words: int, scale: float, num_tokens: int, num_anew: int
) -> None:
    import torch
    from transformers import VibeVoiceForConditionalGeneration

    changed(root, tmp_path)
    talkative: Any = VibeVoiceForConditionalGeneration.from_pretrained(root / MODEL)
    # With random scores what is said next is any of the four tokens.
    torch.nn.init.normal_(talkative.lm_head.weight, std=1.0, generator=torch.Generator().manual_seed(words))
    talkative.lm_head.weight.data[talkative.config.eos_token_id] *= 0.6
    talkative.generation_config.update(max_new_tokens=60, guidance_scale=scale)
    talkative.save_pretrained(tmp_path / MODEL)
    model = VibeVoiceEngine.load(Checkpoint(MODEL, tmp_path / MODEL), "cpu")
    row, kept = Row(model.speak(TEXT, 0, SETTINGS)), []

    def note(stage: Stage[Any, Any], lines: Mapping[int, Any]) -> None:
        if stage.name == "step":
            kept.append(lines[0].num_frames)

    together([row], note)
    assert (len(kept), sum(now < before for before, now in pairwise(kept))) == (num_tokens, num_anew)
    assert_same(row.samples, trim_silence(FAMILY.reference(tmp_path, TEXT, "speaker-0", 5), 24_000))


@pytest.mark.parametrize("algorithm", ["sde-dpmsolver++", "dpmsolver++"])
def test_schedulers_that_draw_random_numbers_are_refused(root: Path, tmp_path: Path, algorithm: str) -> None:
    scheduler = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "algorithm_type": algorithm}
    changed(root, tmp_path, noise_scheduler_config=scheduler)
    with VibeVoiceEngine.loading():
        if algorithm == "dpmsolver++":
            VibeVoiceEngine.load(Checkpoint(MODEL, tmp_path / MODEL), "cpu")
            return
        with pytest.raises(UnsupportedModel, match="DPMSolverMultistepScheduler"):
            VibeVoiceEngine.load(Checkpoint(MODEL, tmp_path / MODEL), "cpu")


def test_every_voice_differs(model: VibeVoiceModel) -> None:
    voices = [voice.id for voice in model.card.voices]
    assert voices == ["speaker-0", "speaker-1", "speaker-2", "speaker-3"]
    spoken = [speak(model, settings=replace(SETTINGS, voice=voice)).tobytes() for voice in voices]
    assert len(set(spoken)) == len(voices)


def test_all_segments_of_an_utterance_start_from_its_seed(model: VibeVoiceModel) -> None:
    later = np.concatenate(list(alone(model.speak(TEXT, 3, SETTINGS))))
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
    frames = list(alone(model.speak(TEXT, 0, SETTINGS)))[:-1]
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
