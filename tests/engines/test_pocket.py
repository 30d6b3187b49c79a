"""Engine `pocket` against the library, on tiny checkpoints of Pocket TTS and Phonon with random weights."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import pocket as checkpoint
from tests.engines.batches import Row, Run, together
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.pocket import PocketEngine
from worker.engines.pocket_network import Line
from worker.engines.recordings import Request
from worker.engines.seanet import MOST_FRAMES
from worker.engines.stages import alone
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel, UnsupportedOption

torch.set_num_threads(1)  # On small tensors threads cost more than they bring.

TEXT = "Hello there."
FRAME = 1920
CODECS = {checkpoint.POCKET: checkpoint.POCKET_CODEC, checkpoint.PHONON: checkpoint.PHONON_CODEC}
FAMILIES = {family.model: family for family in checkpoint.FAMILIES}
LATENTS = {checkpoint.POCKET: checkpoint.pocket_latents, checkpoint.PHONON: checkpoint.phonon_latents}
SPOKEN = [
    (checkpoint.POCKET, "alba"),
    (checkpoint.POCKET, "marius"),
    (checkpoint.POCKET, "jean"),
    (checkpoint.PHONON, "default"),
    (checkpoint.PHONON, "freya"),
]


def on_disk(root: Path, name: str) -> Checkpoint:
    return Checkpoint(name, root / name, "0" * 40, {CODECS[name]: root / CODECS[name]})


def load(root: Path, name: str):
    return PocketEngine.load(on_disk(root, name), "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pocket")
    for family in checkpoint.FAMILIES:
        family.build(root)
    return root


@pytest.fixture(scope="module")
def models(root):
    return {name: load(root, name) for name in FAMILIES}


@pytest.fixture(scope="module")
def model(models):
    return models[checkpoint.POCKET]


def settings(seed: int = 0, voice: str = "alba", **options) -> Settings:
    return Settings(voice, 1.0, seed, options)


def say(model, how: Settings, text: str = TEXT, index: int = 0):
    return np.concatenate(list(alone(model.speak(text, index, how))))


def test_the_engine_takes_the_models_of_transformers_alone():
    for name in ("PocketTTSForConditionalGeneration", "GradiumPhononTTSForConditionalGeneration"):
        assert PocketEngine.claims(HubModel("someone/tts", architectures=[name]))
    assert not PocketEngine.claims(HubModel("mlx-community/pocket-tts", model_type="pocket_tts"))
    assert not PocketEngine.claims(HubModel("gradium/phonon-mimi", architectures=["PocketTTSAudioTokenizerModel"]))


def test_the_codec_is_the_one_that_the_processor_names(root):
    for name, codec in CODECS.items():
        assert [part.name for part in PocketEngine.parts(on_disk(root, name))] == [codec]


@pytest.mark.parametrize("seed", [0, 2**40])
@pytest.mark.parametrize(("name", "voice"), SPOKEN)
def test_the_samples_are_those_of_the_library(root, models, name, voice, seed):
    family, model = FAMILIES[name], models[name]
    whole = family.reference(root, TEXT, voice, seed)
    streamed = say(model, settings(seed, voice))
    expected = trim_silence(whole, model.card.sample_rate_hz)
    assert streamed.dtype == np.float32
    assert streamed.shape == expected.shape
    assert np.abs(streamed - expected).max() < family.tolerance
    assert expected.std() > 0.005


def latents_of(model, rows: list[Row]) -> tuple[list[torch.Tensor], Sequence[Run]]:
    """Speak rows together; the frames of each, [T, D], and what ran."""
    frames = [[] for _ in rows]

    def note(stage, lines):
        if stage.name == "step":
            for number, line in lines.items():
                frames[number] += line.frames[-1:]
                assert len(line.frames) <= MOST_FRAMES

    runs = together(rows, note)
    return [torch.stack(each) for each in frames], runs


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "flow_steps": 3}], ids=["as the checkpoint says", "else"])
@pytest.mark.parametrize(("name", "voice"), SPOKEN)
def test_the_latents_are_those_of_the_library(root, models, name, voice, options):
    arguments = {{"flow_steps": "num_flow_steps"}.get(name, name): value for name, value in options.items()}
    expected = LATENTS[name](root, TEXT, voice, 5, **arguments)
    model = models[name]
    (frames,), _ = latents_of(model, [Row(model.speak(TEXT, 0, settings(5, voice, **options)))])
    assert frames.shape == expected.shape
    assert (model._network.model.denormalize_latents(frames) - expected).abs().max() < 1e-5


def test_a_voice_kept_as_keys_and_values_sounds_as_its_latents_do(root, model):
    """`jean` is what the transformer has made of these latents."""
    library, processor = model._network.model, model._read._processor
    latents = checkpoint.generate(library, processor, TEXT, checkpoint._voice(2, checkpoint.LATENT_DIM), 0)
    expected = trim_silence(processor.decode(latents).numpy(), model.card.sample_rate_hz)
    streamed = say(model, settings(0, "jean"))
    assert streamed.shape == expected.shape
    assert np.abs(streamed - expected).max() < 1e-4


@pytest.mark.parametrize(("number", "seed", "rate_hz"), [(1, 0, 24_000), (2, 2, 44_100)])
def test_a_recording_is_imitated_as_by_the_library(root, model, number, seed, rate_hz):
    heard = recording(number, rate_hz=rate_hz, transcript="")
    whole = checkpoint.pocket_imitation(root, TEXT, resample(heard.samples, rate_hz, 24_000), seed)
    expected = trim_silence(whole, model.card.sample_rate_hz)
    streamed = say(model, replace(settings(seed), reference=heard))
    assert model.card.cloning == "audio"
    assert streamed.shape == expected.shape
    assert np.abs(streamed - expected).max() < 2e-5
    for other in (recording(number + 1), None):
        assert not np.array_equal(streamed, say(model, replace(settings(seed), reference=other)))


def test_a_recording_is_encoded_once_and_in_a_step_of_its_own(model):
    encoded, steps = [], []
    encoder = model._read._processor.audio_tokenizer.encoder
    counting = encoder.register_forward_hook(lambda *_: encoded.append(1))
    how = replace(settings(), reference=recording(9))
    together([Row(model.speak(TEXT, 0, how))], lambda stage, _: steps.append((stage.name, len(encoded))))
    assert steps[:2] == [("read", 1), ("prefill", 1)]
    say(model, replace(how, seed=1), index=1)
    counting.remove()
    assert len(encoded) == 1


def test_a_model_imitates_nothing_whose_recordings_another_codec_reads_or_none(root, models, tmp_path):
    assert models[checkpoint.PHONON].card.cloning == ""
    copy(root, tmp_path, checkpoint.POCKET)
    weights = tmp_path / checkpoint.POCKET_CODEC / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("encoder.")}
    weights.unlink()
    save_file(tensors, weights, {"format": "pt"})
    halved = load(tmp_path, checkpoint.POCKET)
    assert halved.card.cloning == ""
    assert np.array_equal(say(halved, settings()), say(models[checkpoint.POCKET], settings()))


def test_every_step_is_a_frame_and_the_first_one_is_heard(root, model):
    heard = list(alone(model.speak(TEXT, 0, settings())))
    frames = len(checkpoint.pocket_reference(root, TEXT, "alba", 0)) // FRAME
    assert len(heard) == frames + 1
    assert len(heard[0]) > 0
    assert max(len(samples) for samples in heard) < 3 * FRAME


def test_frames_are_decoded_together_when_the_listener_can_wait(model):
    at_once, later = (Row(model.speak(TEXT, 0, settings()), lead_s=lead_s) for lead_s in (0.0, 5.0))
    together([at_once, later])
    assert later.samples.shape == at_once.samples.shape
    assert np.abs(later.samples - at_once.samples).max() < 1e-4
    sounding = [sum(len(part) > 0 for part in row.parts) for row in (at_once, later)]
    assert sounding[1] <= sounding[0] / 2


def test_closing_leaves_the_rest_undone_and_frees_the_place(model):
    frames = 0

    def count(*_):
        nonlocal frames
        frames += 1

    hook = model._network.model.flow_head.register_forward_hook(count)
    for _ in range(2 * model.slots):
        spoken = alone(model.speak(TEXT, 0, settings()))
        list(islice(spoken, 3))
        spoken.close()
    hook.remove()
    assert frames == 2 * model.slots * 3


def rows_of_pocket():
    return [
        (settings(0), TEXT),
        (settings(3, "jean", temperature=0.3), "And then a bell rang twice, and nobody came."),
        (settings(2, "jean", flow_steps=3), "Hm!"),
        (replace(settings(3), reference=recording(4)), TEXT),
        (replace(settings(3, flow_steps=3), reference=recording(5)), TEXT),
        (settings(0), TEXT),
    ]


def rows_of_phonon():
    return [
        (settings(0, "default"), TEXT),
        (settings(3, "freya", temperature=0.3), "And then a bell rang twice, and nobody came."),
        (settings(2, "freya", flow_steps=3), "Hm!"),
        (settings(4, "default", temperature=1.4), TEXT),
        (settings(5, "freya"), TEXT),
        (settings(0, "default"), TEXT),
    ]


JOINS = (0, 0, 9, 14, 20, 23)


@pytest.mark.parametrize(
    ("name", "spoken"), [(checkpoint.POCKET, rows_of_pocket()), (checkpoint.PHONON, rows_of_phonon())], ids=str
)
def test_rows_that_join_and_leave_say_what_they_say_alone(models, name, spoken):
    model, rows, expected = models[name], [], []
    for (how, text), joins in zip(spoken, JOINS, strict=True):
        by_itself = Row(model.speak(text, 0, how))
        (latents,), _ = latents_of(model, [by_itself])
        expected.append((latents, by_itself.samples))
        rows.append(Row(model.speak(text, 0, how), joins=joins))
    rows[1].leaves = 29
    frames, runs = latents_of(model, rows)
    assert max(len(run.rows) for run in runs if run.stage == "step") >= 3
    assert any(run.stage == "decode" and len(run.rows) >= 3 for run in runs)
    for number, (latents, samples) in enumerate(expected):
        said = rows[number].samples
        if number == 1:
            assert 0 < len(frames[1]) < len(latents)
            latents, samples = latents[: len(frames[1])], samples[: len(said)]
        assert frames[number].shape == latents.shape
        assert (frames[number] - latents).abs().max() < 1e-4
        assert said.shape == samples.shape
        assert np.abs(said - samples).max() < 1e-4
    assert rows[0].samples.shape == rows[5].samples.shape
    assert np.abs(rows[0].samples - rows[5].samples).max() < 1e-4


def test_rows_that_wait_at_the_same_stage_make_their_frames_in_one_run(model):
    rows = [Row(model.speak(TEXT, 0, settings(seed))) for seed in range(model.slots)]
    stepped = [run.rows for run in together(rows) if run.stage == "step"]
    frames = [sum(number in run for run in stepped) for number in range(model.slots)]
    assert max(map(len, stepped)) > model.slots / 2
    assert len(stepped) < max(frames) + model.slots  # They set out one by one.


def test_prompts_of_several_lengths_are_read_together(model):
    network, how = model._network, {"temperature": 0.7, "flow_steps": 1}
    texts = [("alba", TEXT), ("jean", "And then a bell rang twice."), ("marius", "Hm!")]
    prompts = model._read.run([Request(text, settings(0, voice)) for voice, text in texts], None)

    def lines():
        made = enumerate(prompts)
        return [Line(slot, prompt, torch.Generator().manual_seed(slot), **how) for slot, prompt in made]

    def frames(prefilled):
        for _ in range(6):
            network.step.run(prefilled, None)
        return [torch.stack(line.frames) for line in prefilled]

    batch = lines()
    assert len({network.prefill.size(line, 0.0) for line in batch}) == 1
    network.prefill.run(batch, 1)
    made = frames(batch)
    for number, expected in enumerate(made):
        single = lines()[number : number + 1]
        network.prefill.run(single, 1)
        assert (frames(single)[0] - expected).abs().max() < 1e-5


def test_a_checkpoint_that_draws_no_noise_sounds_the_same_with_every_seed(root, tmp_path):
    folder = copy(root, tmp_path, checkpoint.POCKET)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text()) | {"do_sample": False, "temperature": None}
    path.unlink()
    path.write_text(json.dumps(config))
    model = load(tmp_path, checkpoint.POCKET)
    longest = math.ceil(model.limits.bound_s(TEXT) * 12.5)
    expected = checkpoint.pocket_reference(tmp_path, TEXT, "alba", 0, max_new_tokens=longest)
    expected = trim_silence(expected, 24_000)
    for seed in (0, 1):
        said = say(model, settings(seed))
        assert said.shape == expected.shape
        assert np.abs(said - expected).max() < 2e-5


def test_speech_ends_where_the_checkpoint_says(root, tmp_path):
    path = copy(root, tmp_path, checkpoint.POCKET) / "generation_config.json"
    config = json.loads(path.read_text()) | {"_from_model_config": False}  # Or the library drops what is not its own.
    path.unlink()
    lengths = []
    for ends in ({}, {"eos_threshold": -30.0}, {"eos_threshold": -30.0, "min_frames_before_eos": 2}):
        path.write_text(json.dumps(config | ends))
        model = load(tmp_path, checkpoint.POCKET)
        for text in ("Hm.", TEXT):
            expected = checkpoint.pocket_latents(tmp_path, text, "alba", 0)
            (frames,), _ = latents_of(model, [Row(model.speak(text, 0, settings()))])
            assert len(frames) == len(expected)
            lengths.append(len(frames))
    assert lengths[2:] == [7 + 4, 7 + 2, 3 + 4, 3 + 2]  # The short text is followed by more.
    assert lengths[0] > lengths[2]


@pytest.mark.parametrize("voice", ["alba", "jean"])
def test_a_voice_that_leaves_no_room_for_the_text_is_refused(root, tmp_path, voice):
    path = copy(root, tmp_path, checkpoint.POCKET) / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": 90}
    path.unlink()
    path.write_text(json.dumps(config))
    model = load(tmp_path, checkpoint.POCKET)
    say(model, settings(0, voice), "Hm.")
    with pytest.raises(UnsupportedOption, match=f"the voice {voice!r} is too long .* leaves 2[0-9] of 90 positions"):
        say(model, settings(0, voice), "And then a bell rang twice, and nobody came in.")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_voice_and_every_seed_differs(models, name):
    model = models[name]
    said = [say(model, settings(0, voice.id)).tobytes() for voice in model.card.voices]
    said += [say(model, settings(seed, model.card.voices[0].id)).tobytes() for seed in (1, 2)]
    assert len(set(said)) == len(model.card.voices) + 2


def test_the_next_segment_has_a_seed_of_its_own(model):
    assert np.array_equal(say(model, settings(3), index=1), say(model, settings(seed_of(settings(3), 1))))


@pytest.mark.parametrize("options", [{"temperature": 0.1}, {"flow_steps": 4}, {"temperature": 1.5, "flow_steps": 2}])
def test_the_options_are_those_of_the_library(root, model, options):
    names = {"flow_steps": "num_flow_steps"}
    arguments = {names.get(name, name): value for name, value in options.items()}
    expected = trim_silence(checkpoint.pocket_reference(root, TEXT, "alba", 0, **arguments), 24_000)
    streamed = say(model, settings(0, **options))
    assert streamed.shape == expected.shape
    assert np.abs(streamed - expected).max() < 2e-5
    assert not np.array_equal(streamed, say(model, settings(0)))


def test_the_defaults_are_those_of_the_checkpoint(model):
    assert {name: option["default"] for name, option in model.card.options.items()} == {
        "temperature": 0.7,
        "flow_steps": 1,
    }


def test_the_default_voice_is_the_makers_own(models):
    assert [voice.id for voice in models[checkpoint.POCKET].card.voices] == ["alba", "jean", "marius"]
    assert [voice.id for voice in models[checkpoint.PHONON].card.voices] == ["default", "freya"]


def test_a_voice_speaks_each_language_of_its_model(tmp_path):
    checkpoint.build_phonon(tmp_path, languages=("en", "fr"))
    model = load(tmp_path, checkpoint.PHONON)
    voices = {voice.id: voice.language for voice in model.card.voices}
    assert voices == {"default": "en", "freya": "en", "default-fr": "fr", "freya-fr": "fr"}
    english, french = (say(model, settings(0, voice), "It was 80.") for voice in ("default", "default-fr"))
    assert not np.array_equal(english, french)


def test_a_model_of_kyutai_speaks_the_first_language_of_its_card(tmp_path):
    checkpoint.build_pocket(tmp_path)
    (tmp_path / checkpoint.POCKET / "README.md").write_text("---\nlanguage: [fr, en]\n---\n")
    voices = load(tmp_path, checkpoint.POCKET).card.voices
    assert [(voice.id, voice.language) for voice in voices] == [("alba", "fr"), ("jean", "fr"), ("marius", "fr")]


@pytest.mark.parametrize("text", ["", "...", " \n", "🎉!"])
def test_text_with_nothing_to_say_is_refused(models, text):
    for model in models.values():
        with pytest.raises(UnspeakableText, match="nothing to say"):
            model.check(text, model.card.voices[0].id)


def test_letters_without_a_token_are_refused_by_name(model):
    with pytest.raises(UnspeakableText, match="no tokens for 'п', 'р'"):
        model.check("Hello, пр", "alba")


def test_text_that_would_be_taken_for_an_order_is_refused(model):
    with pytest.raises(UnspeakableText, match=r"'<\|audio_bos\|>'"):
        model.check("Hello <|audio_bos|>", "alba")


def test_all_other_text_is_taken(models):
    for model in models.values():
        model.check("It is 4 o'clock, my friend! 🎉", model.card.voices[0].id)


def test_a_runaway_goes_just_past_what_is_allowed(tmp_path):
    checkpoint.build_pocket(tmp_path, ends=False)
    model = load(tmp_path, checkpoint.POCKET)
    seconds = len(say(model, settings(), "Hm.")) / model.card.sample_rate_hz
    allowed = model.limits.longest_s("Hm.")
    assert allowed < seconds < allowed + 2.0


def copy(root: Path, to: Path, name: str) -> Path:
    for source in (root / name, root / CODECS[name]):
        for path in source.rglob("*"):
            target = to / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                target.symlink_to(path)
    return to / name


def test_a_model_without_voices_is_refused(root, tmp_path):
    for path in (copy(root, tmp_path, checkpoint.POCKET) / "voices").iterdir():
        path.unlink()
    with pytest.raises(UnsupportedModel, match="no voices"):
        load(tmp_path, checkpoint.POCKET)


@pytest.mark.parametrize(
    "tensors",
    [
        {"audio_prompt_latents": torch.zeros(12, 5)},
        {"emb": torch.zeros(1, 12, 16)},
        {"transformer.layers.0.self_attn/cache": torch.zeros(2, 1, 12, 2, 8)},
        {"layers.0.keys": torch.zeros(1, 2, 12, 8), "layers.0.values": torch.zeros(1, 2, 12, 8)},
    ],
    ids=["of another size", "of Gradium's older kind", "of Kyutai's own package", "of another depth"],
)
def test_a_voice_of_a_form_that_is_not_known_is_refused_with_its_tensors(root, tmp_path, tensors):
    path = copy(root, tmp_path, checkpoint.POCKET) / "voices/jean.safetensors"
    path.unlink()
    save_file(tensors, path)
    with pytest.raises(UnsupportedModel, match=f"voice 'jean' .* it holds {sorted(tensors)[0]}"):
        load(tmp_path, checkpoint.POCKET)


def test_the_voices_on_disk_are_left_as_they_were(root, model):
    before = {name: tensor.clone() for name, tensor in _tensors(model, "jean")}
    say(model, settings(0, "jean"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in _tensors(model, "jean"))
    assert len(before) == len(load_file(root / checkpoint.POCKET / "voices/jean.safetensors"))


def _tensors(model, voice):
    layers = model._voices[voice].timbre.layers
    return [((n, m), tensor) for n, layer in enumerate(layers) for m, tensor in enumerate(layer)]
