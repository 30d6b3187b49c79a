"""The engine `espnet` against a decode of the whole, and its network against arithmetic written here once more.

ESPnet is no dependency. Against its own modules, at the size of the published model and with random weights, the
network gave the same samples to the last bit; the numbers stored here are those that ESPnet gave for the tiny one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.checkpoints.espnet import CONFIG, FAMILY, GENERATOR, HIDDEN, MODEL, RECIPE, TOKENS, WEIGHTS, weights
from worker.audio import trim_silence
from worker.engines.base import Checkpoint, HubModel, Samples, SegmentLimits, Settings
from worker.engines.espnet import EspnetEngine
from worker.engines.stages import alone
from worker.engines.vits import Vits, VitsEngine
from worker.engines.vits_network import Reading
from worker.errors import UnspeakableText, UnsupportedModel
from worker.text.arpabet import to_arpabet

TEXT = "Hello world, this is a short test."
SETTINGS = Settings("default", 1.0, 5)

# ESPnet's own `VITSGenerator.inference` with the tiny weights, after torch.manual_seed(5).
ESPNET_IDS = [2 + 7 * k % 60 for k in range(30)]
ESPNET_NUM_SAMPLES = 58_112
ESPNET_SAMPLES = [0.00673745, 0.00871179, -0.0040128, -0.00990355, 0.00535572, 0.00982754, 0.00266236, 0.015001]
ESPNET_STRIDE = 1999


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)  # Threads that wait for each other are slower than these small models.
    root = tmp_path_factory.mktemp("espnet")
    FAMILY.build(root)
    return root


def load(root: Path) -> Vits:
    return EspnetEngine.load(Checkpoint(MODEL, root / MODEL, "0" * 40), "cpu")


@pytest.fixture(scope="module")
def model(root: Path) -> Vits:
    return load(root)


@pytest.fixture
def change(root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Gives a copy of the checkpoint with other values in its configuration, or in its generator's parameters."""

    def changed(generator: dict[str, Any] | None = None, **config: Any) -> Path:
        shutil.copytree(root, tmp_path, dirs_exist_ok=True)
        new = CONFIG | config
        if generator:
            new["tts_conf"] = CONFIG["tts_conf"] | {"generator_params": GENERATOR | generator}
        (tmp_path / MODEL / RECIPE / "config.yaml").write_text(yaml.safe_dump(new))
        return tmp_path

    return changed


def speak(model: Vits, text: str = TEXT, settings: Settings = SETTINGS) -> Samples:
    return np.concatenate(list(alone(model.speak(text, 0, settings))))


def reading(tokens: list[int], seed: int) -> Reading:
    return Reading(tokens, seed, None, 1.0, noise_scale=0.667, noise_scale_duration=0.8, max_frames=1000)


def test_the_samples_are_those_of_a_decode_of_the_whole(root: Path, model: Vits) -> None:
    expected = trim_silence(FAMILY.reference(root, TEXT, "default", 5), 22_050)
    assert 0.3 * 22_050 < len(expected) < 10 * 22_050
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(speak(model), expected, rtol=0, atol=FAMILY.tolerance)


def test_the_samples_are_those_that_espnet_gave(model: Vits) -> None:
    (latents,) = model._network.encode([reading(ESPNET_IDS, seed=5)])
    samples = model._network.decode(latents.frames, latents.speaker)[0].numpy()
    assert len(samples) == ESPNET_NUM_SAMPLES
    given = samples[::ESPNET_STRIDE][: len(ESPNET_SAMPLES)]
    np.testing.assert_allclose(given, ESPNET_SAMPLES, rtol=0, atol=1e-5)


def test_attention_weighs_distances_as_transformer_xl_does(model: Vits) -> None:
    import torch

    attention = model._network._model.text_encoder.encoder.encoders[0].self_attn
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 5, HIDDEN, generator=generator)
    size = HIDDEN // attention.heads

    def heads(states: Any) -> Any:
        return states.view(-1, attention.heads, size)

    def position(distance: int) -> Any:
        angles = [distance / 10_000 ** (2 * k / HIDDEN) for k in range(HIDDEN // 2)]
        return torch.tensor([wave(angle) for angle in angles for wave in (math.sin, math.cos)])

    query, key, value = (
        heads(layer(hidden)[0]) for layer in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    mixed = torch.zeros(5, attention.heads, size)
    for head in range(attention.heads):
        for i in range(5):
            scores = torch.zeros(5)
            for j in range(5):
                distance = heads(attention.linear_pos(position(i - j)))[0, head]
                content = (query[i, head] + attention.pos_bias_u[head]) @ key[j, head]
                scores[j] = content + (query[i, head] + attention.pos_bias_v[head]) @ distance
            mixed[i, head] = torch.softmax(scores / math.sqrt(size), 0) @ value[:, head]
    expected = attention.linear_out(mixed.flatten(1))

    from worker.engines.espnet_vits import relative_positions

    given = attention(hidden, relative_positions(5, HIDDEN), torch.ones(1, 5, 1))[0]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_padding_does_not_reach_the_tokens_before_it(model: Vits) -> None:
    import torch

    encoder = model._network._model.text_encoder.encoder.encoders[0].self_attn
    from worker.engines.espnet_vits import relative_positions

    hidden = torch.randn(1, 6, HIDDEN, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0]).view(1, 6, 1)
    alone = encoder(hidden[:, :4], relative_positions(4, HIDDEN), mask[:, :4])
    padded = encoder(hidden, relative_positions(6, HIDDEN), mask)[:, :4]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


def test_padding_does_not_reach_the_tokens_before_it_through_convolutions() -> None:
    import torch

    from worker.engines.espnet_vits import DEFAULTS, Convolution, FeedForward

    params = {**DEFAULTS, "hidden_channels": HIDDEN, "text_encoder_positionwise_conv_kernel_size": 3}
    hidden = torch.randn(1, 6, HIDDEN, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0]).view(1, 6, 1)
    for layer in FeedForward(params), Convolution(params):
        layer.eval()
        alone = layer(hidden[:, :4], mask[:, :4])
        torch.testing.assert_close(layer(hidden, mask)[:, :4], alone, rtol=0, atol=1e-6)


def test_segments_in_a_batch_are_what_they_are_alone(model: Vits) -> None:
    readings = [reading(ESPNET_IDS[:count], seed=count) for count in (30, 7, 18)]
    for together, single in zip(model._network.encode(readings), readings, strict=True):
        (expected,) = model._network.encode([single])
        np.testing.assert_allclose(together.frames.numpy(), expected.frames.numpy(), rtol=0, atol=1e-5)


def test_weights_kept_apart_from_their_norms_are_put_together(model: Vits) -> None:
    state = weights()
    name = "tts.generator.decoder.blocks.4.convs2.1.1"
    direction, norms = state[f"{name}.weight_v"].numpy(), state[f"{name}.weight_g"].numpy()
    expected = norms * direction / np.sqrt((direction**2).sum((1, 2), keepdims=True))
    given = model._network._model.decoder.resblocks[4].convs2[1].weight.numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_what_only_training_needs_is_not_kept(model: Vits) -> None:
    names = [name for name, _ in model._network._model.named_parameters()]
    assert names
    assert not [name for name in names if "posterior" in name or "post_flows" in name or "discriminator" in name]


def test_the_generator_of_random_numbers_is_left_alone_by_loading(root: Path) -> None:
    import torch

    before = torch.get_rng_state()
    load(root)
    assert torch.equal(before, torch.get_rng_state())


def test_text_is_read_as_the_phonemes_of_the_token_list(model: Vits) -> None:
    ids = model._frontend.tokenize("Hello, world!")
    assert [TOKENS[k] for k in ids] == ["HH", "AH0", "L", "OW1", ",", "W", "ER1", "L", "D", "!"]


def test_a_stress_that_the_token_list_lacks_is_another(model: Vits) -> None:
    assert "OY2" not in TOKENS
    assert "OY2" in to_arpabet("cowboy")
    assert "OY1" in [TOKENS[k] for k in model._frontend.tokenize("cowboy")]


def test_speech_comes_window_by_window_and_ends_when_closed(model: Vits) -> None:
    assert len(list(alone(model.speak(TEXT, 0, SETTINGS)))) > 2
    decoded: list[object] = []
    hook = model._network._model.decoder.conv_pre.register_forward_hook(lambda *_: decoded.append(None))
    try:
        speech = alone(model.speak(TEXT, 0, SETTINGS))
        next(speech)
        speech.close()
    finally:
        hook.remove()
    assert len(decoded) == 1


def test_two_utterances_in_turns_are_what_they_are_alone(model: Vits) -> None:
    requests = [(TEXT, SETTINGS), ("Good morning.", replace(SETTINGS, seed=6))]
    turns = list(zip_longest(*(alone(model.speak(text, 0, settings)) for text, settings in requests)))
    for mixed, (text, settings) in zip(zip(*turns, strict=True), requests, strict=True):
        steps = [samples for samples in mixed if samples is not None]
        np.testing.assert_allclose(np.concatenate(steps), speak(model, text, settings), rtol=0, atol=1e-5)


def test_speed_and_options_have_effect(model: Vits) -> None:
    usual = speak(model)
    assert len(speak(model, TEXT, replace(SETTINGS, speed=0.5))) > 1.5 * len(usual)
    for name in model.card.options:
        assert speak(model, TEXT, replace(SETTINGS, options={name: 0.0})).tobytes() != usual.tobytes()


def test_runaway_speech_ends_a_little_beyond_the_bound(root: Path) -> None:
    model = load(root)
    model.limits = SegmentLimits(patience_s=0.1, patience_s_per_char=0.0)
    assert 0.1 + 0.5 < len(speak(model)) / 22_050 <= 0.1 + 1.0 + 0.02


def test_the_card_says_what_the_recipe_does(model: Vits) -> None:
    assert model.card.sample_rate_hz == 22_050
    assert [(voice.id, voice.language) for voice in model.card.voices] == [("default", "en-US")]


def test_text_that_english_cannot_read_is_refused(model: Vits) -> None:
    model.check("It's 5 o'clock – “really” 🙂", "default")
    with pytest.raises(UnspeakableText, match="cannot say '你', '好'"):
        model.check("hello 你好", "default")
    with pytest.raises(UnspeakableText, match="nothing to say"):
        model.check("?!", "default")


def test_recipes_of_characters_read_characters(change: Callable[..., Path]) -> None:
    characters = [*"<>", "<space>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'.,!?"]
    tokens = characters + [f"<{k}>" for k in range(len(TOKENS) - len(characters))]
    model = load(change(token_type="char", g2p=None, token_list=tokens))
    ids = model._frontend.tokenize("Oh; two-way!")
    assert "".join(tokens[k] for k in ids) == "OH,<space>TWO<space>WAY!"
    assert speak(model).size
    with pytest.raises(UnspeakableText, match="'б'"):
        model.check("oh б", "default")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"g2p": "pyopenjtalk_prosody"}, "'pyopenjtalk_prosody'"),
        ({"token_type": "bpe"}, "'bpe'"),
        ({"cleaner": "jaconv"}, "'jaconv'"),
        ({"tts": "tacotron2"}, "'tacotron2'"),
        ({"generator": {"spk_embed_dim": 512}}, "x-vector"),
        ({"generator": {"langs": 3}}, "3 languages"),
        ({"generator": {"text_encoder_self_attention_layer_type": "selfattn"}}, "'selfattn'"),
    ],
)
def test_other_recipes_are_refused_with_the_reason(
    change: Callable[..., Path], config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        load(change(**config))
    assert caught.value.field == "model"


def test_a_repository_without_meta_yaml_is_found_its_way_in(change: Callable[..., Path], model: Vits) -> None:
    root = change()
    (root / MODEL / "meta.yaml").unlink()
    np.testing.assert_array_equal(speak(load(root)), speak(model))
    (root / MODEL / WEIGHTS).unlink()
    with pytest.raises(UnsupportedModel, match="with weights"):
        load(root)


def test_the_hub_s_own_words_decide_what_is_claimed(root: Path) -> None:
    info = json.loads((root / MODEL / ".hub.json").read_text())["info"]
    folder = root / MODEL
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    real = HubModel(MODEL, info["library_name"], info["tags"], files=files)
    assert EspnetEngine.claims(real)
    assert not VitsEngine.claims(real)
    assert list(EspnetEngine.files(real)) == ["meta.yaml", f"{RECIPE}/config.yaml", f"{RECIPE}/*ave*.pth"]
    assert not EspnetEngine.claims(replace(real, tags=["espnet", "automatic-speech-recognition"]))
    assert not EspnetEngine.claims(replace(real, files=["exp/tts_train_tacotron2/config.yaml", "exp/x.pth"]))


def recipe(name: str, *weights: str) -> HubModel:
    files = [f"exp/{name}/{file}" for file in ("config.yaml", *weights)]
    return HubModel("espnet/x", "espnet", ["text-to-speech"], files=files)


@pytest.mark.parametrize(
    ("reads", "reason"),
    [
        ("phn_tacotron_g2p_en_no_space", ""),
        ("char_tacotron", ""),
        ("phn_jaconv_pyopenjtalk_prosody", "pyopenjtalk_prosody"),
        ("phn_tacotron_g2p_en", "'phn_tacotron_g2p_en'"),
        ("phn_none_pypinyin_g2p_phone", "pypinyin_g2p_phone"),
    ],
)
def test_recipes_that_read_otherwise_are_refused_before_they_are_fetched(reads: str, reason: str) -> None:
    refused = EspnetEngine.refuse(recipe(f"tts_train_vits_raw_{reads}", "latest.pth"))
    assert reason in refused
    assert bool(refused) == bool(reason)


def test_of_the_weights_only_averages_are_fetched_where_there_are_any() -> None:
    def asked(*weights: str) -> list[str]:
        return list(EspnetEngine.files(recipe("tts_vits", *weights)))[2:]

    assert asked("1epoch.pth", "train.total_count.ave_10best.pth") == ["exp/tts_vits/*ave*.pth"]
    assert asked("1epoch.pth") == ["exp/tts_vits/*.pth"]


@pytest.mark.parametrize("name", ["../other/config.yaml", "/etc/passwd", "exp/../../x"])
def test_meta_yaml_names_only_files_of_its_own_repository(change: Callable[..., Path], name: str) -> None:
    root = change()
    meta = {"yaml_files": {"train_config": name}, "files": {"model_file": WEIGHTS}}
    (root / MODEL / "meta.yaml").write_text(yaml.safe_dump(meta))
    with pytest.raises(UnsupportedModel, match="none of its own files"):
        load(root)
