"""The engine `dia` against transformers' own generation and decoding."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.dia import CODEC, FAMILY, MAX_LENGTH, MODEL
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Samples, SegmentLimits, Settings
from worker.engines.dia import FIRST_WINDOW, DelayedDecoder, DiaEngine, DiaModel, dac_halo
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption
from worker.text.segment import Break, segment

TEXT = "Hello world, this is a test."
SETTINGS = Settings("default", 1.0, 5)
HALO, LONGEST_DELAY, SAMPLES_PER_FRAME = 10, 15, 512


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)  # Tiny models gain nothing by more, and lose much on a busy machine.
    root = tmp_path_factory.mktemp("dia")
    FAMILY.build(root)
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Checkpoint:
    return Checkpoint(MODEL, root / MODEL, "0" * 40, {CODEC: root / CODEC})


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> DiaModel:
    return DiaEngine.load(checkpoint, "cpu")


def speak(model: DiaModel, text: str = TEXT, settings: Settings = SETTINGS) -> Samples:
    return np.concatenate(list(model.speak(text, 0, settings)))


@pytest.mark.parametrize("seed", [5, 6])  # The model ends the first by itself, and the second at its longest.
def test_the_samples_are_those_of_the_library(root: Path, model: DiaModel, seed: int) -> None:
    untrimmed = FAMILY.reference(root, TEXT, "default", seed)
    assert 0.1 < np.abs(untrimmed).max() < 1
    spoken = speak(model, settings=replace(SETTINGS, seed=seed))
    np.testing.assert_allclose(spoken, trim_silence(untrimmed, 44_100), rtol=0, atol=FAMILY.tolerance)


@pytest.fixture(scope="module")
def roomy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DiaModel]:
    """The same model with room for a recording of a second and 43 characters of text, and its root."""
    folder = tmp_path_factory.mktemp("roomy")
    shutil.copytree(root, folder, dirs_exist_ok=True)
    path = folder / MODEL / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": 400}))
    return folder, DiaEngine.load(Checkpoint(MODEL, folder / MODEL, "0" * 40, {CODEC: folder / CODEC}), "cpu")


@pytest.mark.parametrize(("number", "seed", "rate_hz"), [(1, 21, 44_100), (1, 5, 44_100), (2, 6, 24_000)])
def test_a_recording_is_continued_as_by_the_library(
    roomy: tuple[Path, DiaModel], number: int, seed: int, rate_hz: int
) -> None:
    """With 21 the model ends by itself, with the others at its longest; nothing of the recording is heard."""
    root, model = roomy
    heard = recording(number, seconds=1.0, rate_hz=rate_hz)
    samples = resample(heard.samples, rate_hz, 44_100)
    untrimmed = FAMILY.reference(root, "Hello there.", "default", seed, (heard.transcript, samples))
    settings = replace(SETTINGS, seed=seed, reference=heard)
    spoken = speak(model, "Hello there.", settings)
    assert model.card.cloning == "audio and transcript"
    np.testing.assert_allclose(spoken, trim_silence(untrimmed, 44_100), rtol=0, atol=FAMILY.tolerance)
    for other in (recording(3, seconds=1.0, rate_hz=rate_hz), None):
        assert not np.array_equal(spoken, speak(model, "Hello there.", replace(settings, reference=other)))


def test_a_recording_is_encoded_once_and_in_a_step_of_its_own(roomy: tuple[Path, DiaModel]) -> None:
    _, model = roomy
    encoded = []
    counting = model._codec.encoder.register_forward_hook(lambda *_: encoded.append(1))
    settings = replace(SETTINGS, seed=21, reference=recording(4, seconds=1.0))
    speech = model.speak("Hello there.", 0, settings)
    assert len(next(speech)) == 0
    assert len(encoded) == 1
    speech.close()
    speak(model, "Hello there.", settings)
    counting.remove()
    assert len(encoded) == 1


def test_imitations_do_not_disturb_each_other_nor_other_voices(roomy: tuple[Path, DiaModel]) -> None:
    _, model = roomy
    every = [replace(SETTINGS, seed=21), *(replace(SETTINGS, seed=21, reference=recording(n)) for n in (5, 6))]
    every[1] = replace(every[1], options={"guidance_scale": 1})
    alone = [speak(model, "Hello.", settings) for settings in every]
    together: list[list[Samples]] = [[], [], []]
    for steps in zip_longest(*(model.speak("Hello.", 0, settings) for settings in every)):
        for samples, step in zip(together, steps, strict=True):
            if step is not None:
                samples.append(step)
    for samples, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(samples), expected)


def test_text_for_which_a_recording_leaves_no_room_is_spoken_in_pieces(roomy: tuple[Path, DiaModel]) -> None:
    """Each continues the recording anew, with the seed of the segment; between two sentences is a pause."""
    _, model = roomy
    text = "This is more than can be said. It goes on, and it ends here."
    settings = replace(SETTINGS, seed=21, reference=recording(1, seconds=1.0, rate_hz=44_100))
    pieces = list(segment(text, "en", first=43, longest=43, joins=True))
    assert [piece.ends_at for piece in pieces[:-1]] == [Break.SENTENCE]
    alone = [speak(model, piece.text, replace(settings, seed=seed_of(settings, 2))) for piece in pieces]
    pause = np.zeros(round(Break.SENTENCE.value * 44_100), np.float32)
    spoken = np.concatenate(list(model.speak(text, 2, settings)))
    np.testing.assert_array_equal(spoken, np.concatenate([alone[0], pause, alone[1]]))


@pytest.mark.parametrize("changes", [{"seconds": 3.0}, {"seconds": 1.0, "transcript": "so " * 400}])
def test_a_recording_that_leaves_no_room_at_all_is_refused(roomy: tuple[Path, DiaModel], changes: dict) -> None:
    heard = recording(1, rate_hz=44_100, **changes)
    with pytest.raises(UnsupportedOption, match="'voice-1' is too long for the model"):
        speak(roomy[1], "Hello there.", replace(SETTINGS, reference=heard))


def test_windows_decode_to_what_the_whole_does(model: DiaModel) -> None:
    import torch

    frames, delays = 50, model._delays
    codes = torch.randint(1024, (9, frames), generator=torch.Generator().manual_seed(0))
    rows = torch.full((frames + LONGEST_DELAY + 1, 9), 1025)
    for k, delay in enumerate(delays):
        rows[delay : delay + frames, k] = codes[k]
        rows[delay + frames, k] = 1024
    codec = model._codec.double()
    try:
        decoder = DelayedDecoder(codec, delays, 1024)
        streamed = np.concatenate([*(decoder.push(row) for row in rows), decoder.flush()])
        whole = codec.decode(audio_codes=codes[None])[0].flatten().float().numpy()
    finally:
        codec.float()
    np.testing.assert_array_equal(streamed, whole)


def test_the_halo_follows_from_the_ratios() -> None:
    assert dac_halo((8, 8, 4, 2)) == HALO
    assert dac_halo((2,)) > dac_halo((64,))


def test_every_row_is_a_step_and_every_window_gives_audio(root: Path, model: DiaModel) -> None:
    steps = [len(samples) for samples in model.speak(TEXT, 0, SETTINGS)]
    frames = len(FAMILY.reference(root, TEXT, "default", SETTINGS.seed)) // SAMPLES_PER_FRAME
    end, flush = 1, 1
    assert len(steps) == frames + LONGEST_DELAY + end + flush
    with_audio = [step for step, size in enumerate(steps) if size]
    assert with_audio[0] == FIRST_WINDOW + HALO + LONGEST_DELAY - 1
    assert with_audio[1] == with_audio[0] + 2 * FIRST_WINDOW
    assert len(with_audio) > 2


def test_a_closed_utterance_generates_no_further_row(model: DiaModel) -> None:
    rows = []
    counting = model._model.register_forward_hook(lambda *_: rows.append(1))
    steps = model.speak(TEXT, 0, SETTINGS)
    try:
        for _ in range(5):
            next(steps)
        steps.close()
    finally:
        counting.remove()
    assert len(rows) == 5
    assert next(steps, None) is None


def test_utterances_do_not_disturb_each_other(model: DiaModel) -> None:
    # One with guidance and one without: the library keeps which of the two it is in the model.
    plain = replace(SETTINGS, seed=6, options={"guidance_scale": 1})
    alone = [speak(model), speak(model, "Another text.", plain)]
    both: list[list[Samples]] = [[], []]
    for steps in zip_longest(model.speak(TEXT, 0, SETTINGS), model.speak("Another text.", 0, plain)):
        for samples, step in zip(both, steps, strict=True):
            if step is not None:
                samples.append(step)
    for samples, expected in zip(both, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(samples), expected)


def test_all_segments_of_an_utterance_start_from_its_seed(model: DiaModel) -> None:
    later = np.concatenate(list(model.speak(TEXT, 3, SETTINGS)))
    np.testing.assert_array_equal(later, speak(model))
    assert not np.array_equal(speak(model, settings=replace(SETTINGS, seed=6)), later)


@pytest.mark.parametrize(("name", "value"), [("guidance_scale", 1), ("temperature", 1.0), ("top_p", 0.5), ("top_k", 5)])
def test_every_option_has_an_effect(model: DiaModel, name: str, value: float) -> None:
    assert set(model.card.options) == {"guidance_scale", "temperature", "top_p", "top_k"}
    assert not np.array_equal(speak(model, settings=replace(SETTINGS, options={name: value})), speak(model))


def test_the_defaults_of_the_options_are_the_checkpoints(model: DiaModel) -> None:
    defaults = {name: schema["default"] for name, schema in model.card.options.items()}
    assert defaults == {"guidance_scale": 3.0, "temperature": 1.2, "top_p": 0.95, "top_k": 45}
    np.testing.assert_array_equal(speak(model, settings=replace(SETTINGS, options=defaults)), speak(model))


def test_a_speaker_is_named_where_the_text_names_none(model: DiaModel) -> None:
    np.testing.assert_array_equal(speak(model, "[S1]  Hello\nthere."), speak(model, "Hello there."))
    assert not np.array_equal(speak(model, "[S2] Hello there."), speak(model, "Hello there."))


@pytest.mark.parametrize("text", ["", "...", "[S1] [S2]", "🙂"])
def test_text_without_a_word_is_refused(model: DiaModel, text: str) -> None:
    with pytest.raises(UnspeakableText, match="nothing to say"):
        model.check(text, "default")


def test_letters_of_other_scripts_are_refused_by_name(model: DiaModel) -> None:
    with pytest.raises(UnspeakableText, match="'你', '好'"):
        model.check("[S1] Hello 你好", "default")
    model.check("[S1] Café, 20 %! (laughs) 🙂 [S2] Yes.", "default")


def test_a_runaway_is_bound_by_its_text(checkpoint: Checkpoint) -> None:
    model = DiaEngine.load(checkpoint, "cpu")
    model.limits = SegmentLimits(patience_s=0.2, patience_s_per_char=0.0)
    longest = math.ceil(1.2 * 44_100 / SAMPLES_PER_FRAME)
    assert longest < MAX_LENGTH
    samples = speak(model, settings=replace(SETTINGS, seed=6))
    assert 0.2 * 44_100 < len(samples) <= longest * SAMPLES_PER_FRAME


def test_only_models_in_the_layout_of_transformers_are_claimed() -> None:
    assert DiaEngine.claims(HubModel("nari-labs/Dia-1.6B-0626", "transformers", model_type="dia"))
    assert not DiaEngine.claims(HubModel("nari-labs/Dia2-2B", "dia2", ["dia"]))
    assert not DiaEngine.claims(HubModel("sesame/csm-1b", "transformers", model_type="csm"))


def test_the_codec_is_a_part_wherever_the_repository_names_it(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert [part.name for part in DiaEngine.parts(checkpoint)] == [CODEC]
    with pytest.raises(UnsupportedModel, match="codec"):
        DiaEngine.parts(Checkpoint(MODEL, tmp_path))
    (tmp_path / "audio_tokenizer_config.json").write_text('{"audio_tokenizer_name_or_path": "descript/dac_44khz"}')
    assert [part.name for part in DiaEngine.parts(Checkpoint(MODEL, tmp_path))] == ["descript/dac_44khz"]


def test_a_codec_whose_frames_have_no_fixed_length_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from transformers import DacConfig, DacModel

    codec = DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=32, downsampling_ratios=[2, 4, 5, 8]))
    codec.save_pretrained(tmp_path / "odd")
    shutil.copytree(checkpoint.folder, tmp_path / "model")
    odd = Checkpoint(MODEL, tmp_path / "model", parts={CODEC: tmp_path / "odd"})
    with pytest.raises(UnsupportedModel, match=r"\[8, 5, 4, 2\]"):
        DiaEngine.load(odd, "cpu")
