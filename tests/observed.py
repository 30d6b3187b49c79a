"""A stack to which everything happens that a metric tells of, and what gateway and workers then tell Prometheus."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from websockets.sync.client import connect

from protos.tts.v1 import models_pb2, models_pb2_grpc
from tests.hub import Hub
from tests.scrape import Scrape
from tests.stack import PATIENCE_S, ROOT, Gateway, Stack, Worker, eventually, free_port

LARGE = 30_000_000
SECRET = "sk-observed"
HEADERS = {"authorization": f"Bearer {SECRET}"}


@dataclass(frozen=True)
class Observed:
    """What was told.

    Attributes:
        gateway: By the gateway: while much was going on, when all was over, and when a worker and the keys were gone.
        worker: By the workers, the same.
    """

    gateway: tuple[Scrape, ...]
    worker: tuple[Scrape, ...]

    @property
    def labels(self) -> dict[str, set[str]]:
        """The labels of every metric's samples, by the names that queries use; buckets have `le` besides."""
        found: dict[str, set[str]] = {}
        for scrape in (*self.gateway, *self.worker):
            for family in scrape.families.values():
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
        return found

    def values(self, name: str, label: str) -> set[str]:
        """What a label of a metric's samples has been."""
        scrapes = (*self.gateway, *self.worker)
        return {labels[label] for scrape in scrapes for labels in scrape.labels(name) if label in labels}

    def moved(self, name: str) -> bool:
        """Whether some sample of a metric, or the count of a histogram, has ever been other than zero."""
        names = (name, f"{name}_count")
        return any(scrape(each) for scrape in (*self.gateway, *self.worker) for each in names)


def documented() -> dict[str, set[str]]:
    """The README's metrics, and the labels that it gives them."""
    rows = re.findall(r"^\| (`sonorant_[^|]*)\|([^|]*)\|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    return {name: set(re.findall(r"\w+", labels)) for names, labels in rows for name in re.findall(r"`(\w+)`", names)}


def observe(folder: Path) -> Observed:
    """Run the stack and let it all happen: models come and go, callers of all kinds, and a worker that is lost."""
    with contextlib.ExitStack() as ending:
        hub = Hub(folder)
        ending.callback(hub.end)
        for name, start in (("a", b"TONE"), ("b", b"TONE"), ("broken", b"ONE?")):
            config = {"model_type": "tone"}
            files = {"config.json": json.dumps(config).encode(), "weights.bin": start + os.urandom(LARGE - 4)}
            hub.add(f"org/{name}", files, info={"library_name": "tone", "config": config})
        keys = folder / "keys"
        keys.write_text(f"ann {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
        ports = [free_port(), free_port()]
        workers = [
            Worker(
                folder,
                f"w{n}",
                **hub.environment,
                SONORANT_ENGINES="tone",
                SONORANT_METRICS_LISTEN=f"127.0.0.1:{port}",
                SONORANT_MEMORY_BUDGET="50MB",
                SONORANT_IDLE_TTL_S="1" if n else "0",
                SONORANT_CAPACITY="2",
                SONORANT_THREADS="1",
            )
            for n, port in enumerate(ports)
        ]
        for worker in workers:
            ending.callback(worker.end, signal.SIGKILL)
        for worker in workers:
            eventually(worker.is_ready, f"{worker.name} is ready")
        gateway = Gateway(folder, workers, **hub.environment, SONORANT_API_KEYS_FILE=str(keys))
        ending.callback(gateway.end, signal.SIGKILL)
        eventually(lambda: len(gateway.up()) == 2, "the gateway sees both")
        stack = Stack(workers, gateway)

        def told_by_workers() -> list[Scrape]:
            return [Scrape.of(f"http://127.0.0.1:{port}") for port in ports]

        for name in ("broken", "a", "b"):
            _load(workers[0], f"org/{name}")
        _load(workers[1], "org/a")
        eventually(lambda: told_by_workers()[1]("sonorant_worker_evictions_total", reason="idle"), "an idle one leaves")
        with _held(stack, "crowded", *[{"model": "org/b"}] * 2):
            eventually(
                lambda: Scrape.of(stack.url)("sonorant_gateway_replications_total"), "a second worker has it, too"
            )
        _callers(stack)
        gateways, told = [], []
        with _much_going_on(stack):
            gateways.append(Scrape.of(stack.url))
            told += told_by_workers()
        gateways.append(Scrape.of(stack.url))
        told += told_by_workers()
        workers[1].end(signal.SIGKILL)
        keys.write_text("nonsense\n")
        eventually(lambda: gateway.up() == ["w0"], "the gateway misses one")
        eventually(lambda: not Scrape.of(stack.url)("sonorant_gateway_keys_file_ok"), "the file of keys is wrong")
        gateways.append(Scrape.of(stack.url))
        return Observed(tuple(gateways), tuple(told))


def _callers(stack: Stack) -> None:
    """Callers who listen, who wait for the whole, who are refused, who hang up; a worker that fails; a WebSocket."""
    slow = "<delay=0.3> " * 8  # Three seconds of work for each of audio: whoever listens runs dry.
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(_speak, stack, input=slow) for _ in stack.workers]:
            assert done.result() == 200
    assert _speak(stack, input="one", stream=False, response_format="mp3") == 200
    assert _speak(stack, input="one", voice="nosuch") == 404
    assert _speak(stack, input="<fail>") == 500
    url = f"{stack.url}/v1/audio/speech"
    with httpx.stream("POST", url, json={"input": f"word {slow}"}, headers=HEADERS, timeout=PATIENCE_S) as answer:
        next(answer.iter_bytes())
    with connect(f"{url.replace('http', 'ws', 1)}/stream", additional_headers=HEADERS) as ws:
        for message in ({"type": "text.append", "text": "One."}, {"type": "text.flush"}, {"type": "session.close"}):
            ws.send(json.dumps(message))
        assert any(json.loads(each)["type"] == "speech.done" for each in ws if isinstance(each, str))
    eventually(stack.is_idle, "nothing runs")


@contextlib.contextmanager
def _much_going_on(stack: Stack) -> Iterator[None]:
    """Each worker speaks, has somebody who waits, and no room for more; and there is a session."""
    url = f"{stack.url.replace('http', 'ws', 1)}/v1/audio/speech/stream"
    with _held(stack, "standing", {}, {}, {}, {}), connect(url, additional_headers=HEADERS):
        assert _speak(stack, input="one") == 503
        yield


@contextlib.contextmanager
def _held(stack: Stack, name: str, *bodies: dict[str, str]) -> Iterator[None]:
    """Requests that workers have begun, or that wait there, as long as the context stands."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        try:
            for n, body in enumerate(bodies, 1):
                threads.submit(_speak, stack, input=f"<hold={name}> one", **body)
                eventually(lambda n=n: sum(worker.running for worker in stack.workers) == n, f"{n} are there")
            yield
        finally:
            (stack.signals / name).touch()
    eventually(stack.is_idle, "nothing runs")


def _speak(stack: Stack, **body: object) -> int:
    return httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=HEADERS, timeout=PATIENCE_S).status_code


def _load(worker: Worker, model: str) -> None:
    with grpc.insecure_channel(worker.address) as channel, contextlib.suppress(grpc.RpcError):
        stub = models_pb2_grpc.ModelServiceStub(channel)
        for _ in stub.LoadModel(models_pb2.LoadModelRequest(name=model), timeout=PATIENCE_S):
            pass
