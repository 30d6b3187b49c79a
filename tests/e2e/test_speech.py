"""`POST /v1/audio/speech` through real processes."""

import io
import json
import statistics
import subprocess
import sys
import wave

import httpx
import numpy as np
import pytest
import soundfile

from tests.ears import word_error_rate
from tests.passages import PASSAGES
from tests.plugins.held import HELD
from tests.stack import HIBARI, PATIENCE_S, ROOT, TONE, Stack

VOICES = [
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
]
AUDIBLE = 0.02 * 32768


def pcm_of(wav: bytes) -> np.ndarray:
    """Samples of a streamed WAV, by the header's own word; fails where the header is not the canonical one."""
    assert wav[:4] == b"RIFF"
    assert wav[8:16] == b"WAVEfmt "
    assert wav[16:36] == bytes.fromhex("10000000 0100 0100 c05d0000 80bb0000 0200 1000")
    assert wav[36:40] == b"data"
    return np.frombuffer(wav[44:], "<i2")


def test_five_passages_are_heard_as_they_were_written(stack, hear):
    rates = []
    for passage in PASSAGES.values():
        answer = stack.speak(input=passage, model=HIBARI)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "audio/wav"
        samples = pcm_of(answer.content)
        assert 25 < len(samples) / 24_000 < 60
        rates.append(word_error_rate(passage, hear(answer.content)))
    assert statistics.median(rates) <= 0.05, rates


@pytest.mark.parametrize("speed", [0.5, 1.5, 2.0])
def test_slow_and_fast_speech_is_understood(stack, hear, speed):
    answer = stack.speak(input=PASSAGES["stars"], model=HIBARI, speed=speed, seed=0)
    assert word_error_rate(PASSAGES["stars"], hear(answer.content)) <= 0.15


def test_audible_speech_arrives_before_the_second_segment_is_synthesised(start, install, tmp_path):
    """The engine does not begin the second segment until the client has heard the first one: no clock involved."""
    go = tmp_path / "go"
    stack: Stack = start(
        worker_settings={
            **install("held", "tests.plugins.held:HeldEngine"),
            "HELD_UNTIL": str(go),
            "SONORANT_PRELOAD": HELD,
        }
    )
    with stack.stream(input=PASSAGES["harbour"], model=HELD) as answer:
        body, chunks = b"", answer.iter_bytes()
        while np.sum(np.abs(pcm_of(body)).astype(int) > AUDIBLE if len(body) > 44 else 0) < 0.04 * 24_000:
            body += next(chunks)
            body = body[: len(body) // 2 * 2]
        assert not go.exists()
        go.touch()
        rest = b"".join(chunks)
    assert len(rest) > 10 * len(body)


def test_speech_has_neither_long_silences_nor_clicks(stack):
    samples = pcm_of(stack.speak(input=PASSAGES["river"], model=HIBARI, seed=1).content) / 32768
    loud = np.abs(samples) > 0.01
    edges = np.flatnonzero(np.diff(np.concatenate([[True], loud, [True]]).astype(int)))
    silences = np.diff(edges)[::2] / 24_000
    assert silences.max() < 1.0
    assert np.flatnonzero(loud)[0] < 0.1 * 24_000
    # A click is a jump that the speech itself does not make.
    assert np.abs(np.diff(samples)).max() < 0.5


def test_the_whole_file_has_its_length_and_real_sizes(stack):
    answer = stack.speak(input=PASSAGES["bread"], model=HIBARI, stream=False, seed=3)
    assert int(answer.headers["content-length"]) == len(answer.content)
    with wave.open(io.BytesIO(answer.content)) as reader:
        assert reader.getnframes() == (len(answer.content) - 44) // 2
        assert reader.getframerate() == 24_000
    _, rate_hz = soundfile.read(io.BytesIO(answer.content))
    assert rate_hz == 24_000
    streamed = stack.speak(input=PASSAGES["bread"], model=HIBARI, seed=3)
    assert "content-length" not in streamed.headers
    assert streamed.content[44:] == answer.content[44:]


def test_a_whole_file_has_its_figures_in_the_log_too(stack):
    answer = stack.speak(input="one two", stream=False)
    line = stack.gateway.line_of(answer.headers["x-request-id"])
    assert (line["outcome"], line["audio_s"], line["ttfa_ms"] > 0) == ("ok", 0.2, True)


def test_pcm_is_the_same_samples_without_a_header(stack):
    wav = stack.speak(input="One two three.", model=HIBARI, seed=3)
    pcm = stack.speak(input="One two three.", model=HIBARI, seed=3, response_format="pcm")
    assert pcm.headers["content-type"] == "audio/pcm"
    assert pcm.content == wav.content[44:]


def test_pcm_is_24_khz_whatever_the_model_and_wav_is_the_models_own_rate(stack):
    body = {"input": "<long=2>", "model": "sonorant/tone-22k"}
    wav = stack.speak(**body)
    assert int.from_bytes(wav.content[24:28], "little") == 22_050 == int(wav.headers["x-sonorant-sample-rate"])
    assert len(wav.content) == 44 + 2 * 44_100
    pcm = stack.speak(**body, response_format="pcm")
    assert abs(len(pcm.content) / 2 - 48_000) <= 32
    assert pcm.headers["x-sonorant-sample-rate"] == "24000"


def test_format_is_another_name_of_response_format(stack):
    assert stack.speak(input="one", format="pcm").headers["content-type"] == "audio/pcm"


def test_model_and_voice_may_be_left_out_and_the_answer_names_them(stack):
    answer = stack.speak(input="one")
    assert answer.headers["x-sonorant-model"] == TONE
    assert answer.headers["x-sonorant-voice"] == "low"
    assert answer.headers["x-sonorant-worker"] == "w0"


@pytest.mark.parametrize("model", ["tts-1", "tts-1-hd", "gpt-4o-mini-tts"])
def test_openais_models_are_the_default_model(stack, model):
    assert stack.speak(input="one", model=model).headers["x-sonorant-model"] == TONE


@pytest.mark.parametrize("model", [TONE, HIBARI])
def test_openais_voices_are_taken_by_every_model_and_spread_over_its_voices(stack, model):
    spoken = [stack.speak(input="one", model=model, voice=name).headers["x-sonorant-voice"] for name in VOICES]
    again = [stack.speak(input="one", model=model, voice={"id": name}).headers["x-sonorant-voice"] for name in VOICES]
    assert spoken == again
    assert set(spoken) == ({"low", "high"} if model == TONE else {"heart"})


def test_speed_and_seed_reach_the_engine(stack):
    assert len(stack.speak(input="one two", speed=2).content) == 44 + 2 * 2400
    assert stack.speak(input="one", seed=1).content == stack.speak(input="one", seed=1).content
    assert stack.speak(input="one", seed=1).content != stack.speak(input="one", seed=2).content


def test_instructions_are_accepted_and_said_to_be_ignored(stack):
    assert stack.speak(input="one", instructions="Whisper.").headers["x-sonorant-ignored"] == "instructions"


def test_the_request_id_is_the_clients_or_a_new_one(stack):
    url, body = f"{stack.url}/v1/audio/speech", {"input": "one"}
    assert httpx.post(url, json=body, headers={"x-request-id": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    strange = httpx.post(url, json=body, headers={"x-request-id": "no\tgood"}).headers["x-request-id"]
    assert len(strange) == 32


def test_every_request_leaves_one_line_with_its_figures_and_outcome(stack):
    url = f"{stack.url}/v1/audio/speech"
    httpx.post(url, json={"input": "one two"}, headers={"x-request-id": "line-1"})
    line = stack.gateway.line_of("line-1")
    assert line["outcome"] == "ok"
    assert line["audio_s"] == 0.2
    assert line["ttfa_ms"] > 0
    assert line["rtf"] > 0
    assert (line["model"], line["voice"], line["worker"]) == (TONE, "low", "w0")
    httpx.post(url, json={"input": ""}, headers={"x-request-id": "line-2"})
    refused = {"outcome": "refused", "status": 400, "reason": "INVALID_REQUEST"}
    assert stack.gateway.line_of("line-2").items() >= refused.items()


BAD = [
    # content, headers, status, param, words
    (b"", {}, 400, None, ["JSON"]),
    (b"not json", {}, 400, None, ["JSON"]),
    (b'{"input": "\xff"}', {}, 400, None, ["UTF-8"]),
    (b'{"input": "a\\ud800b"}', {}, 400, "input", ["surrogate"]),
    (b'{"input": "a\\u0000b"}', {}, 400, "input", ["NUL"]),
    (b'{"input": "Hi", "voice": "\\ud800"}', {}, 400, "voice", ["string"]),
    ({"input": "   "}, {}, 400, "input", ["empty"]),
    ({"input": "a" * 32_769}, {}, 400, "input", ["32769", "32768"]),
    ({"input": "你好", "model": HIBARI}, {}, 400, "input", ["你", "heart", "Latin"]),
    ({"input": "Hello 你好", "model": HIBARI}, {}, 400, "input", ["你"]),
    ({"input": "...", "model": HIBARI}, {}, 400, "input", ["nothing to say"]),
    ({"input": "Hi", "model": "no/such"}, {}, 404, "model", ["no/such", TONE, HIBARI]),
    ({"input": "Hi", "model": "../../etc/passwd"}, {}, 400, "model", ["../../etc/passwd"]),
    ({"input": "Hi", "voice": "nobody"}, {}, 404, "voice", ["nobody", "low, high", "alloy"]),
    ({"input": "Hi", "response_format": "midi"}, {}, 400, "response_format", ["midi", "wav", "mp3", "pcm"]),
    ({"input": "Hi", "speed": 5}, {}, 400, "speed", ["5", "4"]),
    ({"input": "Hi"}, {"content-type": "text/plain"}, 415, None, ["text/plain", "application/json"]),
    (b"input=Hi", {"content-type": "application/x-www-form-urlencoded"}, 415, None, ["urlencoded"]),
    (b'{"input": "' + b"a" * 10_000_000 + b'"}', {}, 413, None, ["507904"]),
]


@pytest.mark.parametrize(("content", "headers", "status", "param", "words"), BAD)
def test_bad_input_is_refused_in_openais_shape(stack, content, headers, status, param, words):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = httpx.post(
        f"{stack.url}/v1/audio/speech",
        content=body,
        headers={"content-type": "application/json", **headers},
        timeout=PATIENCE_S,
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    for word in words:
        assert word in error["message"]


def test_a_body_sent_in_chunks_without_its_length_is_limited_too(stack):
    chunks = (b"x" * 65_536 for _ in range(160))
    answer = httpx.post(
        f"{stack.url}/v1/audio/speech", content=chunks, headers={"content-type": "application/json"}, timeout=PATIENCE_S
    )
    assert answer.status_code == 413


def test_the_longest_input_that_is_allowed_is_accepted(stack):
    with stack.stream(input="word " * 6553) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_another_method_is_405_with_what_is_allowed(stack, method):
    answer = httpx.request(method, f"{stack.url}/v1/audio/speech")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/nope", "/v1", "/v1/audio", "/v1/readyz", "/assets/nope.js", "/static/nope.js", "/%00", "/%ff"]
)
def test_an_unknown_path_is_404_in_openais_shape(stack, path):
    answer = httpx.get(f"{stack.url}{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_options_says_what_is_allowed_and_preflights_pass(stack):
    url = f"{stack.url}/v1/audio/speech"
    bare = httpx.options(url)
    assert bare.status_code == 204
    assert bare.headers["allow"] == "POST, OPTIONS"
    asked = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = httpx.options(url, headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in preflight.headers


def test_pages_of_any_origin_may_call_and_see_errors_too(stack):
    for body in ({"input": "one"}, {"input": ""}):
        answer = httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-request-id", "server-timing"} <= set(exposed)


def test_origins_can_be_narrowed(start):
    stack = start(SONORANT_CORS_ORIGINS="https://good.example")
    for origin, allowed in (("https://good.example", "https://good.example"), ("https://bad.example", None)):
        answer = httpx.post(f"{stack.url}/v1/audio/speech", json={"input": "one"}, headers={"origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_models_are_listed_and_found_with_a_slash_in_their_id(stack):
    listed = httpx.get(f"{stack.url}/v1/models").json()
    ids = [model["id"] for model in listed["data"]]
    assert listed["object"] == "list"
    assert {TONE, HIBARI, "tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(ids)
    found = httpx.get(f"{stack.url}/v1/models/{HIBARI}").json()
    assert found == {"id": HIBARI, "object": "model", "created": found["created"], "owned_by": "maureesewilliams"}
    assert httpx.get(f"{stack.url}/v1/models/{HIBARI.replace('/', '%2F')}").json() == found
    assert httpx.get(f"{stack.url}/v1/models/tts-1").json()["root"] == TONE
    missing = httpx.get(f"{stack.url}/v1/models/no/such")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_voices_are_listed_of_all_models_or_of_one(stack):
    voices = httpx.get(f"{stack.url}/v1/audio/voices").json()["voices"]
    assert {"id": "heart", "name": "Heart", "language": "en-US", "gender": "female", "model": HIBARI} in voices
    of_one = httpx.get(f"{stack.url}/v1/audio/voices", params={"model": TONE}).json()["voices"]
    assert [voice["id"] for voice in of_one] == ["low", "high"]
    assert httpx.get(f"{stack.url}/v1/audio/voices", params={"model": "no/such"}).status_code == 404


def test_the_catalogue_says_what_the_workers_have(stack):
    catalogue = httpx.get(f"{stack.url}/api/models").json()
    assert catalogue["count"] == len(catalogue["models"])
    model = next(model for model in catalogue["models"] if model["id"] == HIBARI)
    assert (model["servable"], model["engine"], model["workers"]["w0"]["state"]) == (True, "hibari", "ready")
    assert model["pipeline_tag"] == "text-to-speech"


def test_health_names_every_worker_with_its_device(stack):
    (worker,) = stack.gateway.health()["workers"]
    assert (worker["id"], worker["state"], worker["device"]["id"]) == ("w0", "up", "cpu")
    assert worker["device"]["memory_total_bytes"] > 0
    assert httpx.get(f"{stack.url}/readyz").status_code == 200


def test_a_model_that_the_client_library_of_openai_speaks_with(stack):
    """The real `openai` package, as its own documentation uses it."""
    program = (
        "import sys, openai\n"
        "client = openai.OpenAI(base_url=sys.argv[1], api_key='none')\n"
        "with client.audio.speech.with_streaming_response.create(\n"
        "    model='gpt-4o-mini-tts', voice='coral', input='one two three', response_format='wav'\n"
        ") as response:\n"
        "    response.stream_to_file(sys.argv[2])\n"
        "whole = client.audio.speech.create(model='tts-1', voice='alloy', input='one', response_format='pcm')\n"
        "assert len(whole.read()) == 4800, len(whole.read())\n"
        "assert client.models.retrieve('tts-1').id == 'tts-1'\n"
        "try: client.audio.speech.create(model='no/such', voice='alloy', input='one')\n"
        "except openai.NotFoundError as error: assert error.code == 'model_not_found' and error.param == 'model'\n"
        "else: raise SystemExit('no error')\n"
    )
    out = ROOT / "openai-test.wav"
    try:
        subprocess.run([sys.executable, "-c", program, f"{stack.url}/v1", str(out)], check=True, timeout=PATIENCE_S)
        assert len(out.read_bytes()) == 44 + 3 * 4800
    finally:
        out.unlink(missing_ok=True)
