"""Custom voices over HTTP: a recording goes up, and a model that can imitates it."""

import contextlib
import hashlib
import io
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
import soundfile

from tests.stack import PATIENCE_S, TONE, Gateway, Stack, eventually

IMITATOR = "sonorant/tone-22k"
PITCH_HZ = 600


def sine(duration_s: float = 2.0, form: str = "WAV") -> bytes:
    samples = 0.5 * np.sin(2 * np.pi * PITCH_HZ * np.arange(round(duration_s * 24_000)) / 24_000)
    file = io.BytesIO()
    soundfile.write(file, samples, 24_000, format=form)
    return file.getvalue()


FIELDS = {"name": "Ann", "consent": "I agree that my voice is imitated."}
SAMPLE = {"audio_sample": ("ann.wav", sine(), "audio/wav")}


def upload(stack: Stack, files=SAMPLE, headers=None, **fields: str) -> httpx.Response:
    given = {name: value for name, value in (FIELDS | fields).items() if value is not None}
    return httpx.post(f"{stack.url}/v1/audio/voices", data=given, files=files, headers=headers, timeout=PATIENCE_S)


def made(stack: Stack, **fields: str) -> str:
    answer = upload(stack, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def listed(stack: Stack, model: str = "", headers=None) -> list[dict]:
    query = {"model": model} if model else {}
    answer = httpx.get(f"{stack.url}/v1/audio/voices", params=query, headers=headers, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()["voices"]


def pitch_of(audio: bytes) -> float:
    """The strongest pitch of a WAV file, in Hz."""
    samples, rate_hz = soundfile.read(io.BytesIO(audio))
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate_hz / len(samples))


@contextlib.contextmanager
def again(stack: Stack, **settings: str) -> Iterator[Stack]:
    """A second gateway in front of the same worker, with the same data."""
    gateway = Gateway(stack.worker.folder, stack.workers, **settings)
    try:
        eventually(gateway.up, "the gateway sees the worker")
        yield Stack(stack.workers, gateway)
    finally:
        gateway.end()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("as_object", [False, True])
def test_a_model_that_can_speaks_with_the_voice_of_the_recording(stack, form, as_object):
    answer = upload(stack, {"audio_sample": ("ann", sine(form=form))})
    voice = answer.json()["id"]
    spoken = stack.speak(
        model=IMITATOR, input="one", voice={"id": voice} if as_object else voice, word_ms=1000, stream=False
    )
    assert spoken.status_code == 200, spoken.text
    assert pitch_of(spoken.content) == pytest.approx(PITCH_HZ, abs=2)
    assert spoken.headers["x-sonorant-voice"] == voice
    assert stack.gateway.line_of(spoken.headers["x-request-id"])["voice"] == voice
    assert stack.gateway.line_of(answer.headers["x-request-id"])["voice"] == voice


def test_a_model_that_cannot_is_named_with_the_voice_and_what_it_has(stack):
    voice = made(stack)
    answer = stack.speak(model=TONE, input="one", voice=voice)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("voice", "unsupported_value")
    assert all(word in error["message"] for word in (voice, TONE, "low", "high"))


def test_openais_client_makes_uses_and_deletes_a_voice(stack, tmp_path):
    path = tmp_path / "ann.wav"
    path.write_bytes(sine())
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        with path.open("rb") as sample:
            voice = client.audio.voices.create(audio_sample=sample, **FIELDS, type="audio_sample")
        assert (voice.object, voice.type, voice.name) == ("audio.voice", "audio_sample", "Ann")
        speech = client.audio.speech.create(
            model=IMITATOR, voice={"id": voice.id}, input="one", response_format="wav", extra_body={"word_ms": 1000}
        )
        # Streamed, so the header knows no length.
        assert pitch_of(speech.content) == pytest.approx(PITCH_HZ, abs=2)
        deleted = client.audio.voices.delete(voice.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (voice.id, "audio.voice.deleted", True)
        with pytest.raises(openai.NotFoundError) as caught:
            client.audio.voices.delete(voice.id)
        assert caught.value.code == "voice_not_found"


def test_a_voice_tells_what_was_told_of_it_and_is_listed_where_it_can_be_used(stack):
    told = {"transcript": "One, two.", "language": "en-GB", "gender": "female", "name": "Änn"}
    voice = made(stack, **told)
    answer = httpx.get(f"{stack.url}/v1/audio/voices/{voice}")
    facts = answer.json()
    assert facts == FIELDS | told | {
        "id": voice,
        "object": "audio.voice",
        "type": "audio_sample",
        "created_at": facts["created_at"],
        "sample_rate_hz": 24_000,
        "duration_s": 2.0,
    }
    entry = {"id": voice, "name": "Änn", "language": "en-GB", "gender": "female", "model": None, "custom": True}
    for model, is_there in (("", True), (IMITATOR, True), (TONE, False)):
        voices = listed(stack, model)
        assert (entry in voices) == is_there, model
        own = [each["model"] is not None for each in voices]
        assert own == sorted(own, reverse=True), "the models' own voices do not come first"


def test_deletion_takes_effect_at_once_and_cuts_nobody_off(stack, tmp_path):
    voice = made(stack)
    with stack.stream(model=IMITATOR, input="<long=2> <hold=deleted> end", voice=voice) as answer:
        pieces = answer.iter_raw()
        audio = next(pieces)
        with again(stack) as other:
            assert httpx.delete(f"{other.url}/v1/audio/voices/{voice}").json()["deleted"] is True
        for refused in (
            stack.speak(model=IMITATOR, input="one", voice=voice),
            httpx.get(f"{stack.url}/v1/audio/voices/{voice}"),
            httpx.delete(f"{stack.url}/v1/audio/voices/{voice}"),
        ):
            assert refused.status_code == 404
            assert refused.json()["error"]["code"] == "voice_not_found"
            assert voice in refused.json()["error"]["message"]
        assert voice not in {each["id"] for each in listed(stack)}
        (stack.signals / "deleted").touch()
        audio += b"".join(pieces)
    assert len(audio) == 44 + 2 * round(2.2 * 22_050)


def test_a_restart_keeps_voices(stack):
    voice = made(stack)
    with again(stack) as other:
        assert voice in {each["id"] for each in listed(other)}
        assert other.speak(model=IMITATOR, input="one", voice=voice).status_code == 200


def test_each_key_has_voices_of_its_own_and_the_public_list_has_none(start, tmp_path):
    file = tmp_path / "keys"
    file.write_text("".join(f"{name} {hashlib.sha256(f'sk-{name}'.encode()).hexdigest()}\n" for name in ("ann", "bob")))
    stack = start(SONORANT_API_KEYS_FILE=str(file), SONORANT_MAX_VOICES="1")
    ann, bob = ({"authorization": f"Bearer sk-{name}"} for name in ("ann", "bob"))
    voice = upload(stack, headers=ann).json()["id"]
    ids = {
        who: {each["id"] for each in listed(stack, headers=key)} for who, key in (("ann", ann), ("bob", bob), ("", {}))
    }
    assert [voice in ids[who] for who in ("ann", "bob", "")] == [True, False, False]
    path = f"{stack.url}/v1/audio/voices/{voice}"
    body = {"model": IMITATOR, "input": "one", "voice": voice}
    for key, status in (({}, 401), (bob, 404)):
        assert httpx.get(path, headers=key).status_code == status
        assert httpx.delete(path, headers=key).status_code == status
        speech = httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=key, timeout=PATIENCE_S)
        assert speech.status_code == status
    assert upload(stack, headers={}).status_code == 401
    assert upload(stack, headers=bob).status_code == 200
    full = upload(stack, headers=ann)
    assert (full.status_code, full.json()["error"]["code"]) == (400, "voice_limit_exceeded")
    speech = httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=ann, timeout=PATIENCE_S)
    assert (speech.status_code, speech.headers["x-sonorant-voice"]) == (200, voice)
    assert httpx.delete(path, headers=ann).status_code == 200
    with again(stack) as open_to_all:
        assert not [each for each in listed(open_to_all) if each.get("custom")]
        nobodys = made(open_to_all)
        assert nobodys in {each["id"] for each in listed(open_to_all)}
        assert nobodys not in {each["id"] for each in listed(stack)}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"name": None}, "name", ["missing"]),
        ({"name": ""}, "name", ["must not be empty"]),
        ({"name": " "}, "name", ["empty"]),
        ({"name": "x" * 129}, "name", ["xxx", "at most 128"]),
        ({"name": "a\0b"}, "name", ["NUL"]),
        ({"consent": None}, "consent", ["missing"]),
        ({"consent": "\n"}, "consent", ["empty"]),
        ({"consent": "x" * 4097}, "consent", ["4096"]),
        ({"transcript": "x" * 2049}, "transcript", ["2048"]),
        ({"transcript": "x" * 70_000}, None, ["64KB"]),
        ({"language": "English!"}, "language", ["English!"]),
        ({"gender": "robot"}, "gender", ["robot", "female", "male"]),
        ({"type": "prompt", "prompt": "A calm voice."}, "type", ["prompt", "audio_sample"]),
        ({"transcipt": "x"}, "transcipt", ["transcipt", "transcript", "audio_sample"]),
        ({"name": ["Ann", "Bob"]}, "name", ["more than once"]),
        ({f"field{n}": "x" for n in range(20)}, None, ["16"]),
        ({"audio_sample": "text"}, "audio_sample", ["file"]),
    ],
)
def test_wrong_fields_are_named_with_what_is_accepted(stack, fields, param, words):
    files = {"consent": ("a", b"x")} if "audio_sample" in fields else SAMPLE
    refuses(upload(stack, files, **fields), 400, param, words)


def test_wrong_files_are_named_with_what_is_accepted(stack):
    for files, param, words in (
        ({"audio_sample": ("a.wav", b"")}, "audio_sample", ["cannot be read"]),
        ({"audio_sample": ("a.wav", sine(0.5))}, "audio_sample", ["0.500 s", "1 to 30 s"]),
        ({"audio_sample": ("a.flac", sine(31, "FLAC"))}, "audio_sample", ["over 30 s", "1 to 30 s"]),
        ({"name": ("a", b"x")}, "name", ["no file"]),
        ([("audio_sample", ("a", sine())), ("audio_sample", ("b", sine()))], None, ["Too many files"]),
    ):
        fields = {"name": None} if "name" in files else {}
        refuses(upload(stack, files, **fields), 400, param, words)
    form = {name: (None, value) for name, value in FIELDS.items()}
    refuses(httpx.post(f"{stack.url}/v1/audio/voices", files=form), 400, "audio_sample", ["missing"])


@pytest.mark.parametrize(
    ("content_type", "body", "status", "words"),
    [
        ("application/json", b'{"type": "prompt"}', 415, ["application/json", "multipart/form-data"]),
        ("application/x-www-form-urlencoded", b"name=x", 415, ["multipart/form-data"]),
        ("", b"", 415, ["multipart/form-data"]),
        ("multipart/form-data", b"", 400, ["boundary"]),
        ("multipart/form-data; boundary=x", b"no form", 400, ["form"]),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nabc\r\n--x--", 400, ["name"]),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"a: b\r\n" * 9999, 400, ["form"]),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="audio_sample"; filename="a"\r\n\r\n' + sine(),
            400,
            ["missing"],
        ),
    ],
)
def test_what_is_no_form_is_refused(stack, content_type, body, status, words):
    headers = {"content-type": content_type} if content_type else {}
    refuses(httpx.post(f"{stack.url}/v1/audio/voices", content=body, headers=headers), status, ..., words)


def test_a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not(stack):
    limit = 10 * 1024 * 1024
    answer = upload(stack, {"audio_sample": ("a.wav", bytes(limit + 1))})
    refuses(answer, 413, "audio_sample", [str(limit + 1), str(limit)])
    answer = upload(stack, {"audio_sample": ("a.wav", bytes(limit + 2**20))})
    refuses(answer, 413, "audio_sample", [str(limit)])

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="audio_sample"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(2**20)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{stack.url}/v1/audio/voices", content=chunks(), headers=headers, timeout=PATIENCE_S)
    refuses(answer, 413, "audio_sample", [str(limit)])


def test_a_client_that_hangs_up_while_it_uploads_leaves_no_voice_and_no_error(stack):
    before = {each["id"] for each in listed(stack)}
    with socket.create_connection(("127.0.0.1", stack.gateway.port)) as raw:
        raw.sendall(
            b"POST /v1/audio/voices HTTP/1.1\r\nhost: x\r\nx-request-id: gone-uploader\r\n"
            b"content-type: multipart/form-data; boundary=x\r\ncontent-length: 99999\r\n\r\n--x\r\n"
        )
    assert stack.gateway.line_of("gone-uploader")["outcome"] == "client_gone"
    assert {each["id"] for each in listed(stack)} == before


@pytest.mark.parametrize(
    "name",
    ["..", "../..", "%2e%2e", "..%2f..%2fetc", "a%00b", "voice_" + "0" * 32, "x" * 8000, "low", "voice_%0a", "%ff"],
)
def test_what_is_no_custom_voice_is_not_found(stack, name):
    for method in ("GET", "DELETE"):
        # A raw request: httpx would tidy the path up.
        with socket.create_connection(("127.0.0.1", stack.gateway.port), PATIENCE_S) as raw:
            raw.sendall(f"{method} /v1/audio/voices/{name} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 404 " in head.splitlines()[0]
        assert json.loads(body)["error"]["code"] in ("voice_not_found", "not_found")
    assert stack.speak(model=IMITATOR, input="one", voice=name[:256]).status_code == (200 if name == "low" else 404)
    assert '"bug"' not in stack.gateway.output


def test_pages_of_other_origins_may_neither_add_nor_delete(stack):
    voice = made(stack)
    headers = {"origin": "http://elsewhere.example"}
    refuses(upload(stack, headers=headers), 403, ..., ["elsewhere.example", "SONORANT_CORS_ORIGINS"])
    refuses(httpx.delete(f"{stack.url}/v1/audio/voices/{voice}", headers=headers), 403, ..., ["elsewhere.example"])
    assert httpx.get(f"{stack.url}/v1/audio/voices/{voice}").status_code == 200


def test_a_folder_that_cannot_be_written_is_told_and_costs_nobody_else_anything(stack, tmp_path):
    (tmp_path / "file").touch()
    with again(stack, SONORANT_DATA_DIR=str(tmp_path / "file" / "data")) as other:
        answer = upload(other)
        refuses(answer, 507, None, ["Not a directory"])
        assert answer.json()["error"]["code"] == "storage_failure"
        assert str(tmp_path) not in answer.text
        assert {voice["model"] for voice in listed(other)} >= {TONE, IMITATOR}
        unknown = "voice_" + "0" * 32
        assert httpx.delete(f"{other.url}/v1/audio/voices/{unknown}").status_code == 404
        assert other.speak(input="one", voice=unknown).status_code == 404
        assert other.speak(input="one").status_code == 200
        assert '"bug"' not in other.gateway.output


def test_other_methods_are_told_what_is_allowed(stack):
    for path, allowed in (("", {"GET", "HEAD", "POST", "OPTIONS"}), ("/x", {"GET", "HEAD", "DELETE", "OPTIONS"})):
        answer = httpx.put(f"{stack.url}/v1/audio/voices{path}")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed


def test_many_upload_and_speak_at_once(stack):
    def one(n: int) -> float:
        samples = 0.5 * np.sin(2 * np.pi * (300 + 50 * n) * np.arange(24_000) / 24_000)
        file = io.BytesIO()
        soundfile.write(file, samples, 24_000, format="WAV")
        voice = upload(stack, {"audio_sample": ("a.wav", file.getvalue())}).json()["id"]
        return pitch_of(stack.speak(model=IMITATOR, input="one", voice=voice, word_ms=1000, stream=False).content)

    with ThreadPoolExecutor(8) as pool:
        pitches = list(pool.map(one, range(8)))
    assert pitches == pytest.approx([300 + 50 * n for n in range(8)], abs=2)


def refuses(answer: httpx.Response, status: int, param, words: list[str]) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert param is ... or error["param"] == param, error
    assert all(word in error["message"] for word in words), error["message"]
