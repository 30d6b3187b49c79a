"""API keys and quotas over the real stack, asked by plain requests and by OpenAI's own client.

Every test speaks with a key of its own, so that none uses up what another one needs.
"""

import hashlib
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.stack import PATIENCE_S, TONE, Gateway, Stack, eventually, running

WRONG = "sk-nobody-has-this-one"
LIMITS = {
    "ann": "",
    "twice": "requests=2",
    "also-twice": "requests=2",
    "short": "characters=40",
    "all": "requests=1 characters=40 streams=1",
    "lone": "streams=1",
    "openai": "streams=1",
    "openai-slow": "requests=1",
    "leaving": "streams=2",
}
LIVE = "/v1/audio/speech/stream"
LONG_S = 600
LONG = "<long=10> " * (LONG_S // 10)
"""Far more than is made ahead for who does not read, so its stream lasts while others are served."""


def secret_of(name: str) -> str:
    return f"sk-secret-of-{name}"


def line_of(name: str, limits: str = "") -> str:
    return f"{name} {hashlib.sha256(secret_of(name).encode()).hexdigest()} {limits}\n"


def bearer(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {"authorization": f"Bearer {secret}".strip()}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("".join(line_of(name, limits) for name, limits in LIMITS.items()))
    return path


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, keys_file: Path) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("keyed"), SONORANT_API_KEYS_FILE=str(keys_file)) as stack:
        yield stack


@pytest.fixture
def gateway(tmp_path: Path, keyed: Stack) -> Iterator[Callable[..., Stack]]:
    """Start another gateway in front of the same worker, for one test alone."""
    started: list[Gateway] = []

    def start(**settings: str) -> Stack:
        started.append(Gateway(tmp_path, keyed.workers, **settings))
        eventually(started[-1].up, "the gateway sees the worker")
        return Stack(keyed.workers, started[-1])

    yield start
    for each in started:
        each.end()


def ask(stack: Stack, method: str, path: str, secret: str | None = None, **more: object) -> httpx.Response:
    return httpx.request(method, stack.url + path, headers=bearer(secret), timeout=PATIENCE_S, **more)  # type: ignore[arg-type]


def speak(stack: Stack, name: str, text: str = "one", **body: object) -> httpx.Response:
    return ask(stack, "POST", "/v1/audio/speech", secret_of(name), json={"input": text, **body})


def client_of(stack: Stack, secret: str, **more: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=secret, timeout=PATIENCE_S, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/audio/voices"),
        ("GET", "/v1/audio/voices/voice_0"),
        ("DELETE", "/v1/audio/voices/voice_0"),
        ("GET", LIVE),
        ("GET", "/v1"),
        ("GET", "/v1/nothing"),
        ("POST", "/v1/models"),
        ("POST", f"/api/models/{TONE}/load"),
        ("POST", f"/api/models/{TONE}/unload"),
        ("POST", "/api/encode?format=mp3"),
    ],
)
def test_the_api_needs_a_key(keyed, method, path):
    messages = []
    for secret in (None, "", WRONG, secret_of("ann").upper(), hashlib.sha256(secret_of("ann").encode()).hexdigest()):
        answer = ask(keyed, method, path, secret)
        assert answer.status_code == 401, secret
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "invalid_api_key")
        messages.append(error["message"])
        assert secret is None or not secret or secret not in answer.text
    assert ["Authorization: Bearer" in message for message in messages] == [True, True, False, False, False]
    assert keyed.gateway.line_of(answer.headers["x-request-id"])["outcome"] == "refused"
    assert ask(keyed, method, path, secret_of("ann")).status_code != 401


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models", "/v1/models/", f"/v1/models/{TONE}", "/v1/audio/models", "/v1/audio/voices"),
        *("/api/models", "/api/workers"),
    ],
)
def test_lists_are_public_but_a_key_that_is_given_must_be_right(keyed, method, path):
    without, right = ask(keyed, method, path), ask(keyed, method, path, secret_of("ann"))
    assert without.status_code == right.status_code
    assert without.status_code != 401
    assert ask(keyed, method, path, WRONG).status_code == 401


def test_lists_need_a_key_where_they_are_not_public(gateway, keys_file):
    stack = gateway(SONORANT_API_KEYS_FILE=str(keys_file), SONORANT_PUBLIC_DISCOVERY="false")
    for path in ("/v1/models", f"/v1/models/{TONE}", "/v1/audio/voices", "/api/models", "/api/workers"):
        assert ask(stack, "GET", path).status_code == 401
        assert ask(stack, "GET", path, secret_of("ann")).status_code == 200
    for path in ("/", "/healthz"):
        assert ask(stack, "GET", path).status_code == 200


def test_what_is_not_the_api_asks_for_no_key(keyed):
    for path in (
        "/",
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/assets/nothing",
        "/static/docs.js",
        "/v1nothing",
    ):
        for secret in (None, WRONG, secret_of("ann")):
            assert ask(keyed, "GET", path, secret).status_code in (200, 404), path


def test_pages_of_other_origins_may_ask_what_they_may_send_and_read_what_they_are_refused(keyed):
    origin = {"origin": "https://example.org"}
    for method in ("POST", "DELETE"):
        preflight = httpx.options(
            f"{keyed.url}/v1/audio/speech",
            headers={
                **origin,
                "access-control-request-method": method,
                "access-control-request-headers": "authorization,content-type",
            },
        )
        assert preflight.status_code == 200
        assert method in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]
    preflight = httpx.options(f"{keyed.url}/v1/models", headers={**origin, "access-control-request-method": "PUT"})
    assert preflight.status_code == 403
    assert preflight.json()["error"]["code"] == "foreign_origin"
    assert "GET, POST, DELETE" in preflight.json()["error"]["message"]
    plain = httpx.options(f"{keyed.url}/v1/audio/speech")
    assert (plain.status_code, plain.headers["allow"]) == (204, "POST, OPTIONS")
    refused = httpx.post(f"{keyed.url}/v1/audio/speech", headers=origin, json={"input": "one"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"
    exposed = {*refused.headers["access-control-expose-headers"].split(", ")}
    answer = httpx.post(
        f"{keyed.url}/v1/audio/speech",
        headers={**origin, **bearer(secret_of("all"))},
        json={"input": "one", "instructions": "Calmly."},
    )
    limited = httpx.post(
        f"{keyed.url}/v1/audio/speech",
        headers={**origin, **bearer(secret_of("all"))},
        json={"input": "one"},
    )
    assert (answer.status_code, limited.status_code) == (200, 429)
    ours = {name for each in (answer, limited) for name in each.headers if name.startswith(("x-", "retry-"))}
    assert {"x-sonorant-ignored", "x-ratelimit-remaining-tokens", "retry-after-ms"} <= ours
    assert ours - {"x-accel-buffering"} <= exposed


def test_a_refusal_is_read_even_by_who_sends_a_large_body(keyed):
    """Unlike httpx, a plain client sends all before it reads anything."""
    data = b"x" * 12_000_000
    for line in ("", f"authorization: Bearer {WRONG}\r\n"):
        head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\n{line}content-length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", keyed.gateway.port), PATIENCE_S) as client:
            client.sendall(head.encode() + data)
            assert client.recv(1024).startswith(b"HTTP/1.1 401")


def test_a_websocket_is_refused_before_it_opens(keyed):
    url = f"ws://127.0.0.1:{keyed.gateway.port}{LIVE}"
    offers: list[dict[str, object]] = [
        {},
        {"subprotocols": ["sonorant"]},
        {"subprotocols": ["sonorant", f"sonorant-key.{WRONG}"]},
        {"additional_headers": bearer(WRONG)},
    ]
    messages = set()
    for offer in offers:
        with pytest.raises(InvalidStatus) as caught, connect(url, **offer):
            pass
        answer = caught.value.response
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = json.loads(answer.body)["error"]
        assert error["code"] == "invalid_api_key"
        messages.add(error["message"])
    assert len(messages) == 2
    assert sum("sonorant-key.KEY" in message for message in messages) == 1
    for offer in (
        {"additional_headers": bearer(secret_of("ann"))},
        {"subprotocols": ["sonorant", f"sonorant-key.{secret_of('ann')}"]},
    ):
        try:
            with connect(url, **offer):
                pass
        except InvalidStatus as error:
            assert error.response.status_code != 401


def test_no_key_is_ever_logged_but_whose_it_was(keyed):
    answer = speak(keyed, "ann")
    assert keyed.gateway.line_of(answer.headers["x-request-id"])["key"] == "ann"
    ask(keyed, "POST", "/v1/audio/speech", WRONG)
    assert "sk-" not in keyed.gateway.output
    assert "sk-" not in keyed.worker.output


def test_openais_client_raises_its_own_errors(keyed):
    with pytest.raises(openai.AuthenticationError) as wrong:
        client_of(keyed, WRONG).audio.speech.create(model="tts-1", voice="alloy", input="one")
    assert wrong.value.code == "invalid_api_key"
    client = client_of(keyed, secret_of("openai-slow"), max_retries=0)
    assert client.audio.speech.create(model="tts-1", voice="alloy", input="one").content
    with pytest.raises(openai.RateLimitError) as limited:
        client.audio.speech.create(model="tts-1", voice="alloy", input="one")
    assert (limited.value.code, limited.value.type) == ("rate_limit_exceeded", "requests")
    assert "1 requests a minute for the key 'openai-slow'" in limited.value.message
    headers = limited.value.response.headers
    assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"]) <= 60_000
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"(1m0|\d+(\.\d+)?)s|\d+ms", headers["x-ratelimit-reset-requests"])


def test_openais_client_comes_back_when_told(keyed, caplog):
    hold = keyed.signals / "hold-openai"
    body = {"model": "tts-1", "voice": "alloy"}
    with client_of(keyed, secret_of("openai")).audio.speech.with_streaming_response.create(
        input=f"one <hold={hold.name}> two", **body
    ) as first:
        assert first.status_code == 200
        with caplog.at_level(logging.INFO, logger="openai"), ThreadPoolExecutor(1) as pool:
            client = client_of(keyed, secret_of("openai"), max_retries=60)
            second = pool.submit(client.audio.speech.create, input="one", **body)
            eventually(lambda: "Retrying request" in caplog.text, "the client was told to come back")
            hold.touch()
            assert first.read()
            assert second.result(PATIENCE_S).content
    assert "in 1.000000 seconds" in caplog.text


def test_two_keys_do_not_share_a_quota(keyed):
    left = [speak(keyed, "twice").headers["x-ratelimit-remaining-requests"] for _ in range(2)]
    assert left == ["1", "0"]
    refused = speak(keyed, "twice")
    assert refused.status_code == 429
    assert keyed.gateway.line_of(refused.headers["x-request-id"])["reason"] == "RATE_LIMITED"
    answer = speak(keyed, "also-twice")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "1")
    assert "x-ratelimit-limit-tokens" not in answer.headers
    # Discovery and what is wrong in itself cost nothing.
    assert ask(keyed, "GET", "/v1/models", secret_of("also-twice")).status_code == 200
    assert speak(keyed, "also-twice", speed=9).status_code == 400
    refused_by_worker = speak(keyed, "also-twice", voice="nosuch")
    assert refused_by_worker.status_code == 404
    assert refused_by_worker.headers["x-ratelimit-remaining-requests"] == "0"


def test_characters_are_counted_as_tokens(keyed):
    answer = speak(keyed, "short", "x" * 30)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "40"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "10"
    # Of what was counted before the clock's minute is over, half a character is forgotten each second after it.
    over = speak(keyed, "short", "x" * 40)
    assert (over.status_code, over.json()["error"]["type"]) == (429, "tokens")
    assert int(over.headers["retry-after"]) <= 120
    never = speak(keyed, "short", "x" * 41)
    assert (never.status_code, never.json()["error"]["param"]) == (400, "input")
    assert "retry-after" not in never.headers
    assert speak(keyed, "short", "x" * 10).status_code == 200


def test_without_keys_all_callers_share_the_quota(gateway):
    stack = gateway(SONORANT_RATE_REQUESTS="1", SONORANT_API_KEYS_FILE="")
    assert ask(stack, "POST", "/v1/audio/speech", "sk-any", json={"input": "one"}).status_code == 200
    refused = ask(stack, "POST", "/v1/audio/speech", "sk-other", json={"input": "one"})
    assert refused.status_code == 429
    assert "1 requests a minute that all callers share" in refused.json()["error"]["message"]


def test_streams_at_once_are_limited_and_every_end_of_one_frees_its_place(keyed):
    def is_refused() -> bool:
        return speak(keyed, "lone").status_code == 429

    with httpx.stream(
        "POST",
        f"{keyed.url}/v1/audio/speech",
        json={"input": LONG},
        headers=bearer(secret_of("lone")),
        timeout=PATIENCE_S,
    ) as answer:
        assert answer.status_code == 200
        refused = speak(keyed, "lone")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "1 streams at once for the key 'lone'" in refused.json()["error"]["message"]
        assert speak(keyed, "ann").status_code == 200
        assert len(answer.read()) == 44 + 2 * 24_000 * LONG_S
    eventually(lambda: not is_refused(), "a place is free after the stream")
    ends: list[dict[str, object]] = [
        {},
        {"stream": False},
        {"stream_format": "sse"},
        {"voice": "nosuch"},
        {"text": "<fail>"},
        {"text": "<oom>"},
        {"text": "one <fail>", "stream": False},
        {"text": "one <fail>", "stream_format": "sse"},
    ]
    for end in ends:
        status = speak(keyed, "lone", **end).status_code  # type: ignore[arg-type]
        assert status not in (401, 429), end
        eventually(lambda: not is_refused(), f"a place is free after {end}")
    with pytest.raises(httpx.RemoteProtocolError):
        speak(keyed, "lone", "one <fail>")
    eventually(lambda: not is_refused(), "a place is free after a stream that was cut")
    for text in ("<pause=0.05> " * 400, "one " + "<delay=0.05> " * 400):
        data = json.dumps({"input": text}).encode()
        with socket.create_connection(("127.0.0.1", keyed.gateway.port), PATIENCE_S) as client:
            head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret_of('lone')}\r\n"
            client.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            eventually(lambda: keyed.worker.running, "the worker has begun")
            assert is_refused()
        eventually(lambda: not is_refused(), "a place is free after its client has hung up")
    eventually(keyed.is_idle, "nothing is left counted as running")


def test_keys_change_without_a_restart_and_without_cutting_a_stream(keyed, keys_file):
    before = keys_file.read_text()
    trouble = "API keys stay as they were"

    def status(name: str) -> int:
        return speak(keyed, name).status_code

    try:
        with httpx.stream(
            "POST",
            f"{keyed.url}/v1/audio/speech",
            json={"input": LONG},
            headers=bearer(secret_of("leaving")),
            timeout=PATIENCE_S,
        ) as answer:
            assert answer.status_code == 200
            keys_file.write_text(line_of("ann") + line_of("new"))
            eventually(lambda: status("new") == 200, "a new key is let in")
            assert status("leaving") == 401
            # What is wrong changes nothing, and is told once.
            for content in ("ann sk-oops\n", None):
                told = keyed.gateway.output.count(trouble)
                if content is None:
                    keys_file.unlink()
                else:
                    keys_file.write_text(line_of("newer") + content)
                eventually(
                    lambda told=told: status("new") == 200 and keyed.gateway.output.count(trouble) > told,
                    "the log says what is wrong",
                )
                assert status("newer") == 401
            assert len(answer.read()) == 44 + 2 * 24_000 * LONG_S
        assert keyed.gateway.output.count(trouble) == 2
        assert "line 2: " in keyed.gateway.output
        assert "sk-oops" not in keyed.gateway.output
        keys_file.write_text("")
        eventually(lambda: status("ann") == 401, "nobody is let in by an empty file")
    finally:
        keys_file.write_text(before)
        eventually(lambda: status("ann") == 200, "the keys are back")
    assert keyed.gateway.output.count(trouble) == 2


def test_a_session_ends_its_turns_when_its_key_is_gone(keyed, keys_file):
    before = keys_file.read_text()
    url = f"{keyed.url.replace('http', 'ws', 1)}/v1/audio/speech/stream"

    def turn(ws) -> dict:
        for message in ({"type": "text.append", "text": "one."}, {"type": "text.flush"}):
            ws.send(json.dumps(message))
        while True:
            answer = ws.recv(PATIENCE_S)
            if isinstance(answer, str) and (event := json.loads(answer))["type"] in ("speech.done", "error"):
                return event

    try:
        with connect(url, additional_headers=bearer(secret_of("leaving"))) as ws:
            assert turn(ws)["type"] == "speech.done"
            keys_file.write_text(line_of("ann"))
            eventually(lambda: speak(keyed, "leaving").status_code == 401, "the key is gone")
            assert turn(ws)["error"]["code"] == "invalid_api_key"
    finally:
        keys_file.write_text(before)
        eventually(lambda: speak(keyed, "leaving").status_code == 200, "the keys are back")


def test_whoever_listens_beyond_the_machine_without_keys_is_warned(gateway, keys_file):
    warning = "asks for no API key: set SONORANT_API_KEYS_FILE"
    assert warning in gateway(SONORANT_HOST="0.0.0.0").gateway.output
    for settings in ({}, {"SONORANT_HOST": "0.0.0.0", "SONORANT_API_KEYS_FILE": str(keys_file)}):
        other = gateway(**settings).gateway
        assert other.output.count(warning) == 1  # Of the first one: they share their log.
