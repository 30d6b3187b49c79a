"""TLS and the token between processes: real ones, with certificates made for each test."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError

from gateway.settings import Settings as GatewaySettings
from protos.channel import open_aio_channel, open_channel
from protos.client import Client, Tls
from protos.tts.v1 import models_pb2, models_pb2_grpc
from tests.stack import ROOT, TONE, Gateway, Process, Worker, clean_environment, eventually, free_port
from worker.settings import Settings as WorkerSettings

TOKEN = "a-token-that-nobody-shall-read"


class Authority:
    """Signs certificates, and writes them to files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *identities: str) -> Tls:
        """A certificate and its key; `ca` is this authority."""
        made = self._ca.issue_cert(*identities)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return Tls(self.file, cert, key)


def serving(tls: Tls, *, mutual: bool = False) -> dict[str, str]:
    """Settings of a worker."""
    asked = {"SONORANT_TLS_CA": str(tls.ca)} if mutual else {}
    return {"SONORANT_TLS_CERT": str(tls.cert), "SONORANT_TLS_KEY": str(tls.key), **asked}


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path) -> Authority:
    return Authority(tmp_path / "strangers")


@pytest.fixture
def processes():
    started: list[Process] = []
    yield started
    for process in started:
        process.end(signal.SIGKILL)


@pytest.fixture
def start_worker(tmp_path, processes) -> Callable[..., Worker]:
    def start(tls: Tls | None = None, token: str = "", **settings: str) -> Worker:
        if token:
            settings["SONORANT_WORKER_TOKEN"] = token
        worker = Worker(tmp_path, "w0", **settings)
        worker.tls, worker.token = tls, token
        processes.append(worker)
        eventually(worker.is_ready, "the worker is ready")
        return worker

    return start


@pytest.fixture
def start_gateway(tmp_path, processes) -> Callable[..., Gateway]:
    def start(worker: Worker, **settings: str) -> Gateway:
        gateway = Gateway(tmp_path, [worker], **settings)
        processes.append(gateway)
        return gateway

    return start


def speak(gateway: Gateway) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/audio/speech", json={"input": "one two"}, timeout=60)


def state(gateway: Gateway) -> object:
    try:
        return gateway.health()["workers"][0]["state"]  # type: ignore[index]
    except httpx.HTTPError:
        return None


def says(gateway: Gateway, *words: str) -> Callable[[], bool]:
    def is_said() -> bool:
        lines = [line for line in gateway.output.splitlines() if "127.0.0.1" in line]
        return any(all(word in line for word in words) for line in lines)

    return is_said


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def test_a_gateway_speaks_through_tls_to_a_worker_that_it_knows_by_its_authority(
    authority, start_worker, start_gateway
):
    worker = start_worker(Tls(authority.file), **serving(authority.issue("worker", "127.0.0.1")))
    gateway = start_gateway(worker, SONORANT_TLS_CA=str(authority.file))
    eventually(lambda: gateway.up() == ["w0"], "the gateway sees the worker")
    assert speak(gateway).status_code == 200
    with Client(worker.address) as plain:
        assert code(plain.models) is grpc.StatusCode.UNAVAILABLE


def test_a_worker_with_a_certificate_of_another_authority_is_not_spoken_to_and_the_log_says_why(
    authority, stranger, start_worker, start_gateway
):
    worker = start_worker(Tls(stranger.file), **serving(stranger.issue("worker", "127.0.0.1")))
    gateway = start_gateway(worker, SONORANT_TLS_CA=str(authority.file))
    eventually(says(gateway, "worker cannot be reached", "CERTIFICATE_VERIFY_FAILED"), "the log says why")
    assert state(gateway) == "down"
    assert speak(gateway).json()["error"]["code"] == "no_worker"


def test_a_worker_that_is_reached_by_address_is_known_by_the_name_that_is_set(authority, start_worker, start_gateway):
    worker = start_worker(
        Tls(authority.file, name="worker.internal"), **serving(authority.issue("worker", "worker.internal"))
    )
    named = start_gateway(worker, SONORANT_TLS_CA=str(authority.file), SONORANT_TLS_NAME="worker.internal")
    eventually(lambda: named.up() == ["w0"], "the gateway sees the worker")
    named.end()
    by_address = start_gateway(worker, SONORANT_TLS_CA=str(authority.file))
    eventually(says(by_address, "worker cannot be reached", "Hostname Verification"), "the log says why")


def test_a_worker_with_an_authority_takes_callers_with_its_certificates_alone(
    authority, stranger, start_worker, start_gateway
):
    ours = authority.issue("gateway", "gateway")
    worker = start_worker(ours, **serving(authority.issue("worker", "127.0.0.1"), mutual=True))
    shown = {"SONORANT_TLS_CERT": str(ours.cert), "SONORANT_TLS_KEY": str(ours.key)}
    gateway = start_gateway(worker, SONORANT_TLS_CA=str(authority.file), **shown)
    eventually(lambda: gateway.up() == ["w0"], "the gateway sees the worker")
    assert speak(gateway).status_code == 200
    theirs = stranger.issue("gateway", "gateway")
    for tls in (Tls(authority.file), Tls(authority.file, theirs.cert, theirs.key)):
        with Client(worker.address, tls=tls) as client:
            assert code(client.models) is grpc.StatusCode.UNAVAILABLE
        with open_channel(worker.address, tls) as channel:  # A probe must have one, too.
            check = health_pb2_grpc.HealthStub(channel).Check
            assert code(lambda check=check: check(health_pb2.HealthCheckRequest())) is grpc.StatusCode.UNAVAILABLE
    gateway.end()
    without = start_gateway(worker, SONORANT_TLS_CA=str(authority.file))
    eventually(says(without, "worker cannot be reached"), "the log says that it is not reached")
    assert state(without) == "down"


def test_a_certificate_that_is_replaced_is_shown_to_the_next_caller_without_a_restart(
    authority, stranger, start_worker
):
    used = authority.issue("worker", "127.0.0.1")
    worker = start_worker(Tls(authority.file), **serving(used))
    new = stranger.issue("worker", "127.0.0.1")
    old_caller, new_caller = Tls(authority.file), Tls(stranger.file)
    with Client(worker.address, tls=old_caller) as old:
        speech = old.synthesize("word <hold=replace> word", model=TONE)
        shutil.copy(new.cert, used.cert)
        with Client(worker.address, tls=old_caller) as another:  # Without its key the new one is not used.
            assert another.models()
        assert "the old ones stay" in worker.output
        shutil.copy(new.key, used.key)
        with Client(worker.address, tls=new_caller) as renewed:
            assert renewed.models()
        assert "certificates read again" in worker.output
        with Client(worker.address, tls=old_caller) as late:
            assert code(late.models) is grpc.StatusCode.UNAVAILABLE
        (worker.signals / "replace").touch()
        assert sum(map(len, speech)) == 3 * 4800  # What was connected before goes on.


def reason(error: grpc.RpcError) -> str:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info.reason


@pytest.mark.parametrize("sent", ["", "another-token", TOKEN[:-1], f"{TOKEN}x"])
def test_calls_without_the_token_are_refused_whatever_they_ask_for(token_worker, sent):
    calls = {
        "unary": lambda channel: models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest()),
        "stream": lambda channel: list(
            models_pb2_grpc.ModelServiceStub(channel).WatchStatus(models_pb2.WatchStatusRequest())
        ),
        "reflection": lambda channel: list(
            reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
        ),
        "unknown": lambda channel: channel.unary_unary("/no.such/Method")(b""),
    }
    with open_channel(token_worker.address, token=sent) as channel:
        for name, call in calls.items():
            with pytest.raises(grpc.RpcError) as caught:
                call(channel)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
            assert reason(caught.value) == "WRONG_TOKEN"
            assert "SONORANT_WORKER_TOKEN" in caught.value.details()
            assert ("wrong" if sent else "missing") in caught.value.details()
        with Client(token_worker.address, token=sent) as client:
            refused = code(lambda: client.synthesize("one", model=TONE))
            assert refused is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def token_worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("token"), "w0", SONORANT_WORKER_TOKEN=TOKEN)
    worker.token = TOKEN
    eventually(worker.is_ready, "the worker is ready")
    yield worker
    worker.end(signal.SIGKILL)


def test_a_probe_needs_no_token(token_worker):
    with grpc.insecure_channel(token_worker.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_token_goes_with_every_kind_of_call(token_worker):
    with open_channel(token_worker.address, token=TOKEN) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        assert "tts.v1.SpeechService" in {each.name for each in answer.list_services_response.service}
        models = models_pb2_grpc.ModelServiceStub(channel)
        assert models.ListModels(models_pb2.ListModelsRequest(), metadata=(("x-more", "kept"),)).models

    async def main() -> None:
        async with open_aio_channel(token_worker.address, token=TOKEN) as channel:
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            (answer,) = [each async for each in stub.ServerReflectionInfo(iter([asked]))]
            assert answer.list_services_response.service
            assert (await models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest())).models

    asyncio.run(main())


def test_a_gateway_with_a_wrong_token_says_so_and_has_no_worker(start_worker, start_gateway):
    worker = start_worker(token=TOKEN, SONORANT_LOG_LEVEL="debug")
    wrong = "not-the-token-at-all"
    gateway = start_gateway(worker, SONORANT_WORKER_TOKEN=wrong, SONORANT_LOG_LEVEL="debug")
    eventually(says(gateway, "worker down", "the token of the call is wrong"), "the log says why")
    assert state(gateway) == "down"
    answer = speak(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    assert "call refused" in worker.output
    for text in (gateway.output, worker.output, httpx.get(f"{gateway.url}/healthz").text, answer.text):
        assert TOKEN not in text
        assert wrong not in text


def test_the_token_is_in_no_log_and_in_no_answer(authority, start_worker, start_gateway):
    tls = Tls(authority.file)
    worker = start_worker(tls, TOKEN, SONORANT_LOG_LEVEL="debug", **serving(authority.issue("worker", "127.0.0.1")))
    gateway = start_gateway(
        worker, SONORANT_TLS_CA=str(authority.file), SONORANT_WORKER_TOKEN=TOKEN, SONORANT_LOG_LEVEL="debug"
    )
    eventually(lambda: gateway.up() == ["w0"], "the gateway sees the worker")
    assert speak(gateway).status_code == 200
    answers = [httpx.get(f"{gateway.url}{path}").text for path in ("/healthz", "/metrics", "/api/workers")]
    gateway.end()
    worker.end()
    for text in (gateway.output, worker.output, *answers):
        assert TOKEN not in text
    assert "anybody who can reach" not in worker.output


@pytest.mark.parametrize(
    ("token", "words"),
    [("", ["anybody who can reach 0.0.0.0:", "SONORANT_WORKER_TOKEN"]), (TOKEN, ["can be read on the way"])],
)
def test_a_worker_beyond_loopback_warns_of_what_is_open(tmp_path, processes, token, words):
    worker = Worker(
        tmp_path, "w0", SONORANT_LISTEN=f"0.0.0.0:{free_port()}", SONORANT_WORKER_TOKEN=token, SONORANT_PRELOAD=""
    )
    processes.append(worker)
    eventually(lambda: "worker listens" in worker.output, "it listens")
    eventually(lambda: all(word in worker.output for word in words), "it warns")
    assert TOKEN not in worker.output


@pytest.mark.parametrize("settings", [WorkerSettings, GatewaySettings])
@pytest.mark.parametrize(
    ("given", "name", "words"),
    [
        ({"cert": "worker.pem"}, "tls_key", ["worker.pem", "without its key"]),
        ({"key": "worker.key"}, "tls_key", ["worker.key", "without its certificate"]),
        ({"cert": "nowhere.pem", "key": "worker.key"}, "tls_cert", ["nowhere.pem", "No such file"]),
        ({"cert": "worker.pem", "key": "nowhere.key"}, "tls_key", ["nowhere.key", "No such file"]),
        ({"cert": "worker.key", "key": "worker.key"}, "tls_cert", ["worker.key", "no certificate"]),
        ({"cert": "worker.pem", "key": "worker.pem"}, "tls_key", ["worker.pem", "no private key"]),
        ({"cert": "worker.pem", "key": "other.key"}, "tls_key", ["other.key", "is not that of", "worker.pem"]),
        ({"cert": "worker.pem", "key": "locked.key"}, "tls_key", ["has a password"]),
        ({"ca": "worker.key"}, "tls_ca", ["worker.key", "no certificate"]),
    ],
)
def test_files_that_cannot_be_used_are_named(authority, settings, given, name, words):
    authority.issue("worker", "worker")
    authority.issue("other", "other")
    lock(authority.folder / "worker.key", authority.folder / "locked.key")
    files = {f"tls_{each}": str(authority.folder / file) for each, file in given.items()}
    with pytest.raises(ValidationError) as caught:
        settings(**{"tls_ca": str(authority.file), **files})
    (wrong,) = caught.value.errors()
    assert wrong["loc"] == (name,)
    for word in words:
        assert word in wrong["msg"]


@pytest.mark.parametrize(
    ("module", "given", "words"),
    [
        ("worker", {"SONORANT_TLS_CERT": "w.pem"}, ["SONORANT_TLS_KEY=", "w.pem", "without its key"]),
        ("worker", {"SONORANT_TLS_CA": "ca.pem"}, ["SONORANT_TLS_KEY=", "SONORANT_TLS_CERT"]),
        ("gateway", {"SONORANT_TLS_CERT": "w.pem", "SONORANT_TLS_KEY": "w.key"}, ["SONORANT_TLS_CA"]),
        ("gateway", {"SONORANT_TLS_NAME": "worker.internal"}, ["SONORANT_TLS_NAME=worker.internal", "SONORANT_TLS_CA"]),
        ("worker", {"SONORANT_WORKER_TOKEN": "two words"}, ["SONORANT_WORKER_TOKEN=...", "ASCII"]),
        ("gateway", {"SONORANT_WORKER_TOKEN": "two words"}, ["SONORANT_WORKER_TOKEN=...", "ASCII"]),
    ],
)
def test_what_makes_no_sense_is_refused_at_start(authority, module, given, words):
    authority.issue("w", "worker")
    files = ("CA", "CERT", "KEY")
    settings = {name: str(authority.folder / value) if name.endswith(files) else value for name, value in given.items()}
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(**settings), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert "two words" not in done.stderr


def lock(key: Path, locked: Path) -> None:
    """Put a password on a private key."""
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
