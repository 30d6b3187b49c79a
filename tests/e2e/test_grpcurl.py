"""The README's commands for grpcurl: by itself where it is installed, else by a stand-in that reads its flags."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import trustme

from protos.tls import Tls
from tests.stack import HIBARI, ROOT, Worker, eventually

README = (ROOT / "README.md").read_text("utf-8").replace("\\\n", " ")
PLAIN = re.findall(r"^grpcurl (-plaintext .*)$", README, re.MULTILINE)
SECURE = re.findall(r"^grpcurl (-cacert .*)$", README, re.MULTILINE)
PROGRAM = ["grpcurl"] if shutil.which("grpcurl") else [sys.executable, "-m", "tests.grpcurl"]
TOKEN = "the-token"


def run(command: str) -> str:
    done = subprocess.run([*PROGRAM, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def expect(command: str, out: str) -> None:
    if command.endswith(" list"):
        assert {"tts.v1.SpeechService", "tts.v1.ModelService", "grpc.health.v1.Health"} <= set(out.split())
    elif " describe " in command:
        assert "first_audio_timeout" in out
    elif "Health" in command:
        assert json.loads(out)["status"] == "SERVING"
    elif "ListModels" in command:
        assert HIBARI in [model["name"] for model in json.loads(out)["models"]]
    else:
        assert '"sampleRateHz": 24000' in out
        assert '"totalSamples"' in out


def test_there_are_commands_of_every_kind():
    assert len(PLAIN) == 4
    assert len(SECURE) == 2


@pytest.mark.parametrize("command", PLAIN)
def test_commands_work_as_they_stand(stack, command):
    expect(command, run(command.replace("localhost:50051", stack.worker.address)))


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """Start a worker with certificates and a token; mutual TLS for the command that shows a certificate."""
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in (("worker", "worker.internal"), ("mine", "somebody")):
        made = authority.issue_cert(identity)
        made.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
    workers = {}
    for name, asked in (("tls", {}), ("mutual", {"SONORANT_TLS_CA": str(folder / "ca.pem")})):
        shown = {"SONORANT_TLS_CERT": str(folder / "worker.pem"), "SONORANT_TLS_KEY": str(folder / "worker.key")}
        worker = Worker(folder, name, SONORANT_PRELOAD=HIBARI, SONORANT_WORKER_TOKEN=TOKEN, **shown, **asked)
        worker.tls = Tls(folder / "ca.pem", folder / "mine.pem", folder / "mine.key", "worker.internal")
        worker.token = TOKEN
        workers[name] = worker
    for worker in workers.values():
        eventually(worker.is_ready, f"{worker.name} is ready")
    yield folder, workers
    for worker in workers.values():
        worker.end(signal.SIGKILL)


@pytest.mark.parametrize("command", SECURE)
def test_commands_with_certificates_and_a_token_work_with_files_of_ones_own(secure, command):
    folder, workers = secure
    worker = workers["mutual" if " -cert " in command else "tls"]
    for name in ("ca.pem", "mine.pem", "mine.key"):
        command = command.replace(name, str(folder / name))
    expect(command, run(command.replace("TOKEN", TOKEN).replace("gpu1:50051", worker.address)))
