"""Engine `pocket` against the library, on tiny checkpoints of Pocket TTS and Phonon with random weights."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import pocket as checkpoint
from tests.engines.recordings import recording
from worker.audio import resample, trim_silence
from worker.engines.base import Checkpoint, HubModel, Settings
from worker.engines.pocket import PocketEngine
from worker.engines.stepwise import seed_of
from worker.errors import UnspeakableText, UnsupportedModel

torch.set_num_threads(1)  # On small tensors threads cost more than they bring.

TEXT = "Hello there."
FRAME = 1920
CODECS = {checkpoint.POCKET: checkpoint.POCKET_CODEC, checkpoint.PHONON: checkpoint.PHONON_CODEC}
FAMILIES = {family.model: family for family in checkpoint.FAMILIES}
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
    return np.concatenate(list(model.speak(text, index, how)))


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


@pytest.mark.parametrize(("name", "voice"), SPOKEN)
def test_the_latents_are_exactly_those_of_the_library(models, name, voice):
    model, frames = models[name], []
    torch.manual_seed(5)
    model._generate(TEXT, settings(0, voice), frames.append)
    torch.manual_seed(5)
    made = model._model.generate(**model._inputs(TEXT, voice))
    assert torch.equal(model._model.denormalize_latents(torch.cat(frames)), made.audio_latents[0])


def test_a_voice_kept_as_keys_and_values_sounds_as_its_latents_do(root, model):
    """`jean` is what the transformer has made of these latents."""
    library = model._model
    reference = checkpoint._speak(library, model._processor, TEXT, checkpoint._voice(2, checkpoint.LATENT_DIM), 0)
    expected = trim_silence(reference, model.card.sample_rate_hz)
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
    encoded = []
    counting = model._codec.encoder.register_forward_hook(lambda *_: encoded.append(1))
    how = replace(settings(), reference=recording(9))
    first, *_ = model.speak(TEXT, 0, how)
    assert (len(first), len(encoded)) == (0, 1)
    second, *_ = model.speak(TEXT, 1, replace(how, seed=1))
    counting.remove()
    assert (len(second) > 0, len(encoded)) == (True, 1)


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
    steps = list(model.speak(TEXT, 0, settings()))
    frames = len(checkpoint.pocket_reference(root, TEXT, "alba", 0)) // FRAME
    assert len(steps) == frames + 1
    assert len(steps[0]) > 0
    assert max(len(step) for step in steps) < 3 * FRAME


def test_closing_leaves_the_rest_undone(model):
    frames = 0

    def count(*_):
        nonlocal frames
        frames += 1

    hook = model._model.flow_head.register_forward_hook(count)
    spoken = model.speak(TEXT, 0, settings())
    list(islice(spoken, 3))
    spoken.close()
    hook.remove()
    assert frames == 3


def test_interleaved_utterances_sound_as_they_do_alone(model):
    hows = [settings(0), settings(3, "jean", temperature=0.3), settings(2, "jean", flow_steps=3)]
    hows += [replace(settings(3), reference=recording(number)) for number in (4, 5)]
    alone = [say(model, how) for how in hows]
    spoken = [model.speak(TEXT, 0, how) for how in hows]
    parts = [[] for _ in hows]
    while any(spoken):
        for number, stream in enumerate(spoken):
            part = next(stream, None) if stream else None
            if part is None:
                spoken[number] = None
            else:
                parts[number].append(part)
    for part, expected in zip(parts, alone, strict=True):
        assert np.array_equal(np.concatenate(part), expected)


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
    prompt, _ = model._prompts[voice]
    return [((n, m), tensor) for n, layer in enumerate(prompt.layers) for m, tensor in enumerate(layer)]
