"""What the images ask about themselves, of real processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.stack import ROOT, TONE, Worker, clean_environment, eventually, free_port, running


def ask(side: str, **settings: str) -> subprocess.CompletedProcess[str]:
    # A proxy that is set in a container is not asked for what is in it.
    proxies = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run(
        [sys.executable, "-m", "deploy.healthcheck", side],
        cwd=ROOT,
        env=clean_environment(**proxies, **settings),
        capture_output=True,
        text=True,
        check=False,
    )


def test_processes_that_serve_are_well(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        port = str(stack.gateway.port)
        assert ask("gateway", SONORANT_PORT=port).returncode == 0
        assert ask("gateway", SONORANT_HOST="0.0.0.0", SONORANT_PORT=port).returncode == 0
        assert ask("worker", SONORANT_LISTEN=f"0.0.0.0:{stack.worker.port}").returncode == 0


def test_a_worker_that_drains_is_not(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "one", SONORANT_PRELOAD="sonorant/tone-22k", SONORANT_DEFAULT_MODEL=TONE)
    try:
        listen = {"SONORANT_LISTEN": worker.address}
        eventually(lambda: ask("worker", **listen).returncode == 0, "it serves")
        with worker.client() as client, client.synthesize("<long=1> <hold=go>", model="sonorant/tone-22k") as speech:
            worker.popen.terminate()
            eventually(lambda: "not serving" in ask("worker", **listen).stderr, "it drains")
            (worker.signals / "go").touch()
            assert sum(map(len, speech))
    finally:
        worker.end()


@pytest.mark.parametrize("side", ["gateway", "worker"])
def test_where_nobody_listens_nobody_is_well(side: str) -> None:
    port = str(free_port())
    done = ask(side, SONORANT_PORT=port, SONORANT_LISTEN=f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert port in done.stderr


def test_a_worker_with_a_certificate_is_asked_with_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key, certificate, ca = tmp_path / "tls.key", tmp_path / "tls.crt", tmp_path / "ca.crt"
    issued.private_key_pem.write_to_path(key)
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(ca)
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pair = key.read_bytes(), certificate.read_bytes()
    credentials = grpc.ssl_server_credentials([pair], ca.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        listen = {"SONORANT_LISTEN": f"0.0.0.0:{port}"}
        tls = {"SONORANT_TLS_CERT": str(certificate), "SONORANT_TLS_KEY": str(key)}
        assert ask("worker", **listen, **tls, SONORANT_TLS_CA=str(ca)).returncode == 0
        assert ask("worker", **listen, SONORANT_TLS_CA=str(ca)).returncode == 1
        assert ask("worker", **listen).returncode == 1
        gone = ask("worker", **listen, **tls, SONORANT_TLS_CA=str(tmp_path / "gone"))
        assert gone.returncode == 1
        assert "gone" in gone.stderr
    finally:
        server.stop(None)
