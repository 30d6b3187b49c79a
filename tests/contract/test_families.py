"""Every model family from the hub through the whole stack: found, fetched, loaded, and heard to be itself.

The checkpoints are tiny and random, the way they take is the real one: a hub that serves them over HTTP, the library's
own `from_pretrained`, the worker, the gateway. What comes out is compared with what the library makes by itself.
"""

import json
import math
import subprocess
import threading

import grpc
import httpx
import numpy as np
import pytest
import torch

from protos.tts.v1 import speech_pb2, speech_pb2_grpc
from tests.checkpoints import Family, families
from tests.engines.recordings import recording
from tests.hub import Hub
from tests.stack import PATIENCE_S, eventually, running
from worker.audio import to_s16le, trim_silence

TEXT = "Hello there, my friend."
LONG = "The harbour was quiet, and nobody came. Then a bell rang twice! Was it noon?"
SEED = 7
IMITATORS = ("csm", "dia", "pocket", "vibevoice")
REFUSALS = {"tiny-org/tiny-phonon-en": "cannot imitate a recording", "tiny-org/tiny-dia": "too long for the model"}
F32 = speech_pb2.AUDIO_ENCODING_PCM_F32LE
ROUNDING = 1e-4

every_family = pytest.mark.parametrize("family", families(), ids=lambda family: family.model)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("hub"))
    for family in families():
        family.build(hub.root)
    yield hub
    hub.end()


@pytest.fixture(scope="module")
def stack(hub, tmp_path_factory):
    # Products of threads differ in the last bit with their number; here and in the reference it is one.
    settings = {"SONORANT_ENGINES": "", "SONORANT_PRELOAD": "", "SONORANT_THREADS": "1", **hub.environment}
    settings["SONORANT_FIRST_AUDIO_TIMEOUT_S"] = "300"
    gateway = {**hub.environment, "SONORANT_FIRST_AUDIO_TIMEOUT_S": "300", "SONORANT_CATALOGUE_TTL_S": "0"}
    with running(tmp_path_factory.mktemp("families"), worker_settings=settings, **gateway) as stack:
        yield stack


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spoken(stack, family: Family, text: str = TEXT, **more) -> tuple[np.ndarray, object, object]:
    """What the worker says: float32 samples, header and summary."""
    with stack.worker.client() as client:
        speech = client.synthesize(text, model=family.model, **{"seed": SEED, "encoding": F32, **more})
        samples = np.concatenate([np.frombuffer(pcm, "<f4") for pcm in speech])
        return samples, speech.header, speech.summary


def assert_same_pcm(pcm: bytes, expected: bytes) -> None:
    """Compare what is the same but for the rounding of batches and windows, which depend on who else is speaking."""
    samples, wanted = (np.frombuffer(each, "<i2").astype(int) for each in (pcm, expected))
    assert len(samples) == len(wanted)
    assert np.abs(samples - wanted).max() <= math.ceil(ROUNDING * 32768)


@every_family
def test_a_family_is_listed_with_its_engine(stack, hub, family):
    listed = httpx.get(f"{stack.url}/api/models", params={"search": family.model}, timeout=PATIENCE_S).json()
    models = [model for model in listed["models"] if model["id"] == family.model]
    about = json.loads((hub.root / family.model / ".hub.json").read_text())
    if about["info"].get("pipeline_tag", "text-to-speech") != "text-to-speech":
        assert not models  # The hub lists it under another task; it is served by its id all the same.
        return
    (model,) = models
    assert (model["servable"], model["engine"], model["reason"]) == (True, family.engine, None)
    assert model["download_bytes"] > 1000


@every_family
def test_a_family_speaks_as_its_library_does(stack, hub, family):
    samples, header, summary = spoken(stack, family)
    own = trim_silence(
        family.reference(hub.root, TEXT, header.voice, SEED).astype(np.float32), header.format.sample_rate_hz
    )
    assert len(samples) > header.format.sample_rate_hz / 20
    if summary.finish_reason == speech_pb2.FINISH_REASON_END:
        assert len(samples) == len(own)
    else:  # It ran away, as random weights do, and was cut where the library goes on.
        assert summary.finish_reason == speech_pb2.FINISH_REASON_LENGTH
        assert len(samples) <= len(own)
    assert np.abs(samples - own[: len(samples)]).max() <= family.tolerance
    assert np.abs(samples).max() <= 1.0
    whole = stack.speak(model=family.model, input=TEXT, seed=SEED, stream=False)
    assert (whole.status_code, whole.headers["x-sonorant-model"]) == (200, family.model)
    assert whole.headers["x-sonorant-voice"] == header.voice
    assert int(whole.headers["x-sonorant-sample-rate"]) == header.format.sample_rate_hz
    assert_same_pcm(whole.content[44:], to_s16le(samples))
    is_cut = summary.finish_reason == speech_pb2.FINISH_REASON_LENGTH
    assert whole.headers.get("x-sonorant-finish") == ("length" if is_cut else None)


@every_family
def test_the_same_seed_says_the_same_whatever_else_is_said(stack, family):
    alone, _, _ = spoken(stack, family)
    results = {}

    def speak(name: str, **more: object) -> None:
        results[name] = spoken(stack, family, **more)[0]

    threads = [
        threading.Thread(target=speak, args=["same"]),
        threading.Thread(target=speak, args=["other"], kwargs={"seed": 12, "text": LONG}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results["same"]) == len(alone)
    assert np.abs(results["same"] - alone).max() <= ROUNDING
    assert len(results["other"])


@every_family
def test_the_voice_that_is_asked_for_is_the_one_that_speaks(stack, family):
    voices = httpx.get(f"{stack.url}/v1/audio/voices", params={"model": family.model}, timeout=PATIENCE_S).json()
    names = [voice["id"] for voice in voices["voices"]]
    assert names
    heard = set()
    for name in names[:3]:
        samples, header, _ = spoken(stack, family, voice=name)
        assert (header.voice, header.model) == (name, family.model)
        heard.add(samples.tobytes())
    assert len(heard) == len(names[:3])
    refused = stack.speak(model=family.model, input=TEXT, voice="nobody-of-that-name")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "voice_not_found")


@pytest.mark.parametrize(
    "family", [each for each in families() if each.engine in IMITATORS], ids=lambda each: each.model
)
def test_a_recording_is_imitated_or_refused_by_name(stack, family):
    """Phonon imitates none; the tiny Dia has too little room for a second of speech."""

    def imitate(number: int) -> bytes:
        heard = recording(number, seconds=1.0)
        reference = speech_pb2.ReferenceAudio(
            voice=heard.voice, pcm=to_s16le(heard.samples), sample_rate_hz=24_000, transcript=heard.transcript
        )
        request = speech_pb2.SynthesizeRequest(model=family.model, input=TEXT, seed=SEED, reference=reference)
        with grpc.insecure_channel(stack.worker.address) as channel:
            first, *rest = speech_pb2_grpc.SpeechServiceStub(channel).Synthesize(request)
        assert first.header.voice == f"voice-{number}"
        return first.audio.pcm + b"".join(message.audio.pcm for message in rest)

    if refusal := REFUSALS.get(family.model):
        with pytest.raises(grpc.RpcError, match=refusal) as caught:
            imitate(1)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert len({imitate(1), imitate(2), to_s16le(spoken(stack, family)[0])}) == 3
        assert_same_pcm(imitate(1), imitate(1))


@every_family
def test_a_listener_who_leaves_ends_the_work(stack, family):
    with stack.worker.client() as client:
        speech = client.synthesize(f"{LONG} " * 30, model=family.model)
        next(iter(speech))
        speech.cancel()
        eventually(lambda: not stack.worker.running, "the worker is idle")
    assert stack.speak(model=family.model, input="Hello.").status_code == 200


def test_the_request_of_our_documentation_speaks(stack, tmp_path):
    """As people run it, with curl."""
    request = (
        '{"model": "espnet/kan-bayashi_ljspeech_vits", "input": "Hello from the Multi-Model TTS API!", "format": "wav"}'
    )
    command = ["curl", "-sS", "-f", "-X", "POST", "-H", "Content-Type: application/json", "-o", "output.wav"]
    subprocess.run([*command, f"{stack.url}/v1/audio/speech", "-d", request], cwd=tmp_path, check=True, timeout=120)
    wav = (tmp_path / "output.wav").read_bytes()
    assert wav[:4] == b"RIFF"
    assert int.from_bytes(wav[24:28], "little") == 22_050
    assert np.abs(np.frombuffer(wav[44:], "<i2")).max() > 500
