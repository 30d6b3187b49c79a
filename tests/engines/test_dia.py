"""The engine `dia` against transformers' own generation and decoding."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoints.dia import CODEC, FAMILY, MAX_LENGTH, MODEL
from tests.engines.batches import Row, Run, together
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Samples, SegmentLimits, Settings
from worker.engines.dia import DiaEngine, DiaModel
from worker.engines.dia_network import FIRST_WINDOW, LONGEST_WINDOW, Line, Sampling, dac_halo
from worker.engines.sampling import Draws
from worker.engines.stages import Stage, alone
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption
from worker.text.segment import Break, segment

TEXT = "Hello world, this is a test."
SETTINGS = Settings("default", 1.0, 5)
HALO, LONGEST_DELAY, SAMPLES_PER_FRAME = 10, 15, 512

torch.set_num_threads(1)  # Tiny models gain nothing by more, and lose much on a busy machine.


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    return np.concatenate(list(alone(model.speak(text, 0, settings))))


@pytest.mark.parametrize("seed", [5, 6])  # The model ends the first by itself, and the second at its longest.
def test_the_samples_are_those_of_the_library(root: Path, model: DiaModel, seed: int) -> None:
    untrimmed = FAMILY.reference(root, TEXT, "default", seed)
    assert 0.1 < np.abs(untrimmed).max() < 1
    spoken = speak(model, settings=replace(SETTINGS, seed=seed))
    np.testing.assert_allclose(spoken, trim_silence(untrimmed, 44_100), rtol=0, atol=FAMILY.tolerance)


def library_codes(model: DiaModel, text: str, seed: int, **options: float) -> torch.Tensor:
    """Tokens of the library, int64 [T, C], the codebooks behind the first one as far as they are."""
    inputs = model._read._processor(text=[f"[S1] {text}"], padding=False, return_tensors="pt")
    torch.manual_seed(seed)
    rows = model._network.model.generate(**inputs, **options, max_new_tokens=MAX_LENGTH + LONGEST_DELAY)
    return rows[0, 1:]


def codes_of(rows: list[Row]) -> tuple[list[torch.Tensor], Sequence[Run]]:
    """Speak rows together; the tokens of each, int64 [T, C], and what ran."""
    drawn: list[Sequence[torch.Tensor]] = [[] for _ in rows]

    def note(stage: Stage, lines: Mapping[int, Any]) -> None:
        if stage.name == "step":
            for number, line in lines.items():
                drawn[number] = line.rows

    runs = together(rows, note)
    return [torch.stack(list(each)) for each in drawn], runs


HOWS: Sequence[dict[str, float]] = (
    {},
    {"guidance_scale": 1},
    {"guidance_scale": 1, "top_k": 5, "top_p": 1.0, "temperature": 1.0},
    {"guidance_scale": 8.0, "top_k": 1024, "top_p": 0.3, "temperature": 2.5},
)


@pytest.mark.parametrize("options", HOWS, ids=str)
def test_the_tokens_are_exactly_those_of_the_library(model: DiaModel, options: dict[str, float]) -> None:
    for seed in (5, 6):
        expected = library_codes(model, TEXT, seed, **options)
        (drawn,), _ = codes_of([Row(model.speak(TEXT, 0, replace(SETTINGS, seed=seed, options=options)))])
        # The last row of the library only ends the last codebook, and what comes before a codebook is not heard.
        assert len(drawn) == len(expected) - 1
        assert torch.equal(drawn, expected[:-1])


def test_what_is_likeliest_is_taken_where_the_checkpoint_says_so(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / MODEL, tmp_path / "greedy")
    path = tmp_path / "greedy" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": False}))
    model = DiaEngine.load(Checkpoint(MODEL, tmp_path / "greedy", "0" * 40, {CODEC: root / CODEC}), "cpu")
    expected = library_codes(model, TEXT, 0)
    (drawn,), _ = codes_of([Row(model.speak(TEXT, 0, SETTINGS))])
    assert torch.equal(drawn, expected[:-1])


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


def test_a_recording_is_encoded_once_and_in_a_run_of_its_own(roomy: tuple[Path, DiaModel]) -> None:
    _, model = roomy
    encoded: list[str] = []
    counting = model._network.codec.encoder.register_forward_hook(lambda *_: encoded.append("encoded"))
    settings = replace(SETTINGS, seed=21, reference=recording(4, seconds=1.0))
    together([Row(model.speak("Hello there.", 0, settings))], lambda stage, _: encoded.append(stage.name))
    assert encoded[:4] == ["encoded", "read", "prefill", "step"]
    speak(model, "Hello there.", settings)
    counting.remove()
    assert encoded.count("encoded") == 1


def test_imitations_do_not_disturb_each_other_nor_other_voices(roomy: tuple[Path, DiaModel]) -> None:
    _, model = roomy
    every = [replace(SETTINGS, seed=21), *(replace(SETTINGS, seed=21, reference=recording(n)) for n in (5, 6))]
    every[1] = replace(every[1], options={"guidance_scale": 1})
    expected = [speak(model, "Hello.", settings) for settings in every]
    rows = [Row(model.speak("Hello.", 0, settings)) for settings in every]
    runs = together(rows)
    assert any(run.stage == "step" and len(run.rows) == 3 for run in runs)
    for row, samples in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row.samples, samples, rtol=0, atol=1e-4)


def test_text_for_which_a_recording_leaves_no_room_is_spoken_in_pieces(roomy: tuple[Path, DiaModel]) -> None:
    """Each continues the recording anew, with the seed of the segment; between two sentences is a pause."""
    _, model = roomy
    text = "This is more than can be said. It goes on, and it ends here."
    settings = replace(SETTINGS, seed=21, reference=recording(1, seconds=1.0, rate_hz=44_100))
    pieces = list(segment(text, "en", first=43, longest=43, joins=True))
    assert [piece.ends_at for piece in pieces[:-1]] == [Break.SENTENCE]
    every = [speak(model, piece.text, replace(settings, seed=seed_of(settings, 2))) for piece in pieces]
    pause = np.zeros(round(Break.SENTENCE.value * 44_100), np.float32)
    spoken = np.concatenate(list(alone(model.speak(text, 2, settings))))
    np.testing.assert_array_equal(spoken, np.concatenate([every[0], pause, every[1]]))


@pytest.mark.parametrize("changes", [{"seconds": 3.0}, {"seconds": 1.0, "transcript": "so " * 400}])
def test_a_recording_that_leaves_no_room_at_all_is_refused(roomy: tuple[Path, DiaModel], changes: dict) -> None:
    heard = recording(1, rate_hz=44_100, **changes)
    with pytest.raises(UnsupportedOption, match="'voice-1' is too long for the model"):
        speak(roomy[1], "Hello there.", replace(SETTINGS, reference=heard))


@pytest.mark.parametrize("lead_s", [0.0, 0.5, 9.0])
def test_windows_decode_to_what_the_whole_does(model: DiaModel, lead_s: float) -> None:
    frames, network = 150, model._network
    line = Line(0, torch.zeros(1), torch.zeros(1, 9), frames, Draws(0, "cpu"), Sampling(1, 1, 5, 1))
    codes = torch.randint(1024, (9, frames), generator=torch.Generator().manual_seed(0))
    rows = torch.full((frames + LONGEST_DELAY, 9), 1025)
    for k, delay in enumerate(network.delays):
        rows[delay : delay + frames, k] = codes[k]
    network.codec.double()
    try:
        heard: list[Samples] = []
        for number, row in enumerate(rows):
            line.rows.append(row)
            line.num_complete = max(0, number + 1 - LONGEST_DELAY)
            if network.decode.is_worthwhile(line):
                heard += network.decode.run([line], network.decode.size(line, lead_s))
        whole = network.codec.decode(audio_codes=codes[None])[0].flatten().float().numpy()
    finally:
        network.codec.float()
    np.testing.assert_array_equal(np.concatenate(heard), whole)
    sizes = [len(samples) // SAMPLES_PER_FRAME for samples in heard if len(samples)]
    assert sizes[0] == {0.0: FIRST_WINDOW, 0.5: 2 * FIRST_WINDOW, 9.0: LONGEST_WINDOW}[lead_s]
    assert len(set(sizes[:-1])) == 1  # And the last one is what is left.


def test_the_halo_follows_from_the_ratios() -> None:
    assert dac_halo((8, 8, 4, 2)) == HALO
    assert dac_halo((2,)) > dac_halo((64,))


def test_every_row_is_a_step_and_every_window_gives_audio(root: Path, model: DiaModel) -> None:
    heard: list[int] = []
    row = Row(model.speak(TEXT, 0, SETTINGS))
    # What has been handed over before a step.
    runs = together([row], lambda stage, _: heard.append(sum(map(len, row.parts))) if stage.name == "step" else None)
    frames = len(FAMILY.reference(root, TEXT, "default", SETTINGS.seed)) // SAMPLES_PER_FRAME
    assert [run.stage for run in runs[:2]] == ["read", "prefill"]
    assert len(heard) == frames + LONGEST_DELAY
    with_audio = [step for step in range(1, len(heard)) if heard[step] > heard[step - 1]]
    assert with_audio[0] == FIRST_WINDOW + HALO + LONGEST_DELAY
    assert with_audio[1] == with_audio[0] + FIRST_WINDOW
    assert len(with_audio) > 2


def test_frames_are_decoded_together_when_the_listener_can_wait(model: DiaModel) -> None:
    rows = [Row(model.speak(TEXT, 0, replace(SETTINGS, seed=6)), lead_s=lead_s) for lead_s in (0.0, 5.0)]
    together(rows)
    at_once, later = rows
    np.testing.assert_allclose(later.samples, at_once.samples, rtol=0, atol=1e-4)
    sounding = [sum(len(part) > 0 for part in row.parts) for row in rows]
    assert sounding[1] <= sounding[0] / 3


def test_a_closed_utterance_generates_no_further_row_and_frees_its_place(model: DiaModel) -> None:
    rows: list[int] = []
    counting = model._network.model.model.decoder.norm.register_forward_hook(lambda *_: rows.append(1))
    steps = FIRST_WINDOW + HALO + LONGEST_DELAY
    for _ in range(2 * model.slots):
        speech = alone(model.speak(TEXT, 0, SETTINGS))
        list(islice(speech, 1))
        speech.close()
    counting.remove()
    assert len(rows) == 2 * model.slots * steps


TEXTS = (TEXT, "Hm!", "A bell rang twice, and nobody came, for it was much too late for that. " * 2, TEXT, TEXT)


def test_rows_that_join_and_leave_say_what_they_say_alone(model: DiaModel) -> None:
    every = [
        replace(SETTINGS, seed=seed, options=options)
        for seed, options in zip((6, 7, 8, 6, 6), (*HOWS, HOWS[0]), strict=True)
    ]
    expected, rows = [], []
    for settings, text, joins in zip(every, TEXTS, (0, 0, 9, 14, 23), strict=True):
        row = Row(model.speak(text, 0, settings))
        (drawn,), _ = codes_of([row])
        expected.append((drawn, row.samples))
        rows.append(Row(model.speak(text, 0, settings), joins=joins))
    rows[2].leaves = 120
    drawn, runs = codes_of(rows)
    assert max(len(run.rows) for run in runs if run.stage == "step") >= 4
    for number, (codes, samples) in enumerate(expected):
        said = rows[number].samples
        if number == 2:
            assert LONGEST_DELAY < len(drawn[2]) < len(codes)
            codes, samples = codes[: len(drawn[2])], samples[: len(said)]
        assert torch.equal(drawn[number], codes)
        np.testing.assert_allclose(said, samples, rtol=0, atol=1e-4)
    np.testing.assert_allclose(rows[0].samples, rows[4].samples, rtol=0, atol=1e-4)


def test_rows_that_set_out_together_are_stepped_and_decoded_together(model: DiaModel) -> None:
    rows = [Row(model.speak(TEXT, 0, replace(SETTINGS, seed=seed))) for seed in range(model.slots)]
    batches: list[int] = []
    decoding = model._network.codec.decoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    runs = together(rows)
    decoding.remove()
    stepped = [run.rows for run in runs if run.stage == "step"]
    assert [(run.stage, len(run.rows)) for run in runs[:2]] == [("read", model.slots), ("prefill", model.slots)]
    assert len(stepped) == max(sum(number in run for run in stepped) for number in range(model.slots))
    assert max(batches) > model.slots / 2


def test_prompts_of_several_lengths_are_read_together(roomy: tuple[Path, DiaModel]) -> None:
    _, model = roomy
    network = model._network
    prompts = [
        *model._read.prompt("Hello.", replace(SETTINGS, reference=recording(5, seconds=0.4))),
        *model._read.prompt("How is it going? " * 9, SETTINGS),
        *model._read.prompt("It is.", replace(SETTINGS, reference=recording(6, seconds=0.3))),
    ]

    def lines() -> list[Line]:
        how = Sampling(3.0, 1.2, 45, 0.95)
        return [
            Line(slot, prompt.text, prompt.given, 50, Draws(slot, "cpu"), how) for slot, prompt in enumerate(prompts)
        ]

    def rows(prefilled: list[Line]) -> list[torch.Tensor]:
        for _ in range(20):
            network.step.run(prefilled, None)
        return [torch.stack(line.rows) for line in prefilled]

    batch = lines()
    assert len({network.prefill.size(line, 0.0) for line in batch}) == 1
    network.prefill.run(batch, None)
    at_once = rows(batch)
    for number, drawn in enumerate(at_once):
        one = lines()[number : number + 1]
        network.prefill.run(one, None)
        assert torch.equal(rows(one)[0], drawn)


def test_all_segments_of_an_utterance_start_from_its_seed(model: DiaModel) -> None:
    later = np.concatenate(list(alone(model.speak(TEXT, 3, SETTINGS))))
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
    loaded = DiaEngine.load(checkpoint, "cpu")

    class Impatient(DiaModel):
        limits = SegmentLimits(patience_s=0.2, patience_s_per_char=0.0)

    model = Impatient(loaded._network.model, loaded._network.codec, loaded._read._processor, "0" * 40, "cpu")
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
