"""The real thing on free ports: worker and gateway processes, for tests and benchmarks to talk to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx

from protos.channel import open_channel
from protos.client import Client
from protos.tls import Tls
from protos.tts.v1 import models_pb2, models_pb2_grpc

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60.0
"""How long an event may take to come. Tests never wait for time to pass, only for events."""

HIBARI = "maureesewilliams/hibari"
TONE = "sonorant/tone"


def eventually(is_true: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for an event."""
    deadline = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < deadline, f"did not happen in {patience_s:.0f} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without what would leak into the processes under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SONORANT_", "MAKE", "HF_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", **more}


class Process:
    """A Python process under test; its output goes to a file.

    Attributes:
        within: Command that the process is started by, such as `ip netns exec NAME`.
    """

    within: tuple[str, ...] = ()

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [*self.within, sys.executable, *arguments],
                cwd=ROOT,
                env=clean_environment(**environment),
                stdout=out,
                stderr=out,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self, signum: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        try:
            return self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise


class Worker(Process):
    """A worker on a free port.

    Attributes:
        tls, token: What it wants of callers.
    """

    tls: Tls | None = None
    token = ""

    def __init__(self, folder: Path, name: str, port: int | None = None, **settings: str) -> None:
        self.name = name
        self.port = port or free_port()
        self.folder = folder
        self.settings = settings
        self.signals = folder / "signals"
        self.signals.mkdir(exist_ok=True)
        defaults = {
            "SONORANT_ENGINES": "hibari,tone",
            "SONORANT_PRELOAD": TONE,
            "SONORANT_LISTEN": self.address,
            "SONORANT_WORKER_ID": name,
            "SONORANT_TONE_DIR": str(self.signals),
            "SONORANT_DEVICE": "cpu",
            # The tone engine's orders make work slow that is over soon: nobody shall be turned away for that.
            "SONORANT_QUEUE_S": "3600",
            "SONORANT_CACHE_DIR": str(folder / "cache"),
            "HF_HUB_CACHE": str(folder / "hub-cache"),
        }
        super().__init__(folder / f"{name}.log", "-m", "worker", **{**defaults, **settings})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def again(self) -> Worker:
        """The same worker, started anew at the same port."""
        return Worker(self.folder, self.name, self.port, **self.settings)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        with Client(self.address, tls=self.tls, token=self.token) as client:
            yield client

    def status(self) -> models_pb2.WatchStatusResponse | None:
        """What it says of itself now; None while it cannot be reached."""
        with open_channel(self.address, self.tls, self.token) as channel:
            call = models_pb2_grpc.ModelServiceStub(channel).WatchStatus(models_pb2.WatchStatusRequest(), timeout=10)
            try:
                return next(iter(call))
            except grpc.RpcError:
                return None
            finally:
                call.cancel()

    def is_ready(self) -> bool:
        assert self.popen.poll() is None, self.output
        status = self.status()
        wanted = self.settings.get("SONORANT_PRELOAD", TONE)
        return bool(status) and all(
            model.state == models_pb2.MODEL_STATE_READY for model in status.models if model.name in wanted.split(",")
        )

    @property
    def running(self) -> int:
        """Utterances that it works on or has queued."""
        status = self.status()
        assert status
        return status.active + status.queued


class Gateway(Process):
    """A gateway on a free port."""

    def __init__(self, folder: Path, workers: list[Worker], **settings: str) -> None:
        self.port = free_port()
        defaults = {
            "SONORANT_PORT": str(self.port),
            "SONORANT_WORKERS": ",".join(worker.address for worker in workers),
            "SONORANT_LOG_FORMAT": "json",
            "SONORANT_DEFAULT_MODEL": TONE,
            "SONORANT_CACHE_DIR": str(folder / "cache"),
            "SONORANT_DATA_DIR": str(folder / "data"),
        }
        super().__init__(folder / "gateway.log", "-m", "gateway", **{**defaults, **settings})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def health(self) -> dict[str, object]:
        return dict(httpx.get(f"{self.url}/healthz", timeout=PATIENCE_S).json())

    @property
    def outstanding(self) -> int:
        """Calls that it has open on all workers."""
        return sum(worker.get("outstanding", 0) for worker in self.health()["workers"])  # type: ignore[attr-defined]

    def line_of(self, request_id: str) -> dict[str, object]:
        """The log's line of a request; it is written when the response is over, a moment after the client has it."""

        def lines() -> list[dict[str, object]]:
            every = [json.loads(line) for line in self.output.splitlines() if line.endswith("}")]
            return [line for line in every if line.get("request_id") == request_id and line["event"] == "request"]

        eventually(lines, f"the log has a line for {request_id}")
        (line,) = lines()
        return line

    def up(self) -> list[str]:
        """Names of the workers that it can use."""
        try:
            return [worker["id"] for worker in self.health()["workers"] if worker["state"] == "up"]  # type: ignore[attr-defined]
        except httpx.HTTPError:
            assert self.popen.poll() is None, self.output
            return []


class Stack:
    """Workers and a gateway in front of them."""

    def __init__(self, workers: list[Worker], gateway: Gateway) -> None:
        self.workers = workers
        self.gateway = gateway

    @property
    def worker(self) -> Worker:
        (worker,) = self.workers
        return worker

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def signals(self) -> Path:
        return self.workers[0].signals

    def speak(self, **body: object) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/audio/speech", json=body, timeout=PATIENCE_S)

    @contextlib.contextmanager
    def stream(self, **body: object) -> Iterator[httpx.Response]:
        with httpx.stream("POST", f"{self.url}/v1/audio/speech", json=body, timeout=PATIENCE_S) as answer:
            yield answer

    def is_idle(self) -> bool:
        return not self.gateway.outstanding and not any(worker.running for worker in self.workers)


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    workers: int = 1,
    worker_settings: dict[str, str] | None = None,
    expect_ready: bool = True,
    **gateway_settings: str,
) -> Iterator[Stack]:
    """Start a stack, wait until it can speak, and end it."""
    started: list[Process] = []
    try:
        fleet = [Worker(folder, f"w{n}", **(worker_settings or {})) for n in range(workers)]
        started += fleet
        for worker in fleet if expect_ready else ():
            eventually(worker.is_ready, f"{worker.name} is ready")
        gateway = Gateway(folder, fleet, **gateway_settings)
        started.insert(0, gateway)
        if expect_ready:
            eventually(lambda: len(gateway.up()) == workers, "the gateway sees every worker")
        yield Stack(fleet, gateway)
    finally:
        for process in started:
            process.end(signal.SIGKILL)
