"""Workers on a Ray cluster: one for each GPU, or on CPUs, as many as the queue asks for.

    python -m deploy.ray.cluster --file /run/sonorant/workers --min 1 --max 8          a GPU for each
    python -m deploy.ray.cluster --file /run/sonorant/workers --max 4 --gpus 0 --cpus 4
    SONORANT_WORKERS=file:///run/sonorant/workers python -m gateway

Ray decides on which node a worker runs. This keeps as many as are wanted, places those that are lost anew, and writes
their addresses to a file that gateways watch. Variables that begin with SONORANT_, HF_ or OTEL_ are passed on to the
workers. It speaks no HTTP and moves no audio: while it is gone the workers go on, and the next start finds them. Ctrl-C
or SIGTERM ends them, once their streams have ended.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
import ray
import ray.util

from deploy.channel import channel
from deploy.ray.scaling import Load, Scaler
from protos.tts.v1 import models_pb2, models_pb2_grpc

NAMESPACE = "sonorant"
LOOK_S = 1.0
"""How often it is looked how the workers are."""

ANSWER_S = 2.0
"""How long a node may take to tell; it is asked again at the next look."""

BACKOFF_S = (1.0, 30.0)
KILL_AFTER_S = 10.0
"""How long after its own grace a worker may take to end."""

WRONG_SETTING = 2
"""Exit status by which a worker says that another start would fail the same way."""

PASSED_ON = ("SONORANT_", "HF_", "OTEL_", "PYTHONPATH")
PR_SET_PDEATHSIG = 1


class Place:
    """A worker process on some node; an actor of Ray's, which ends when its process has been seen to end.

    Args:
        python: Interpreter that the worker is installed for.
        environment: Variables beside those of the node.
        first_port: The worker listens at the first port from here on that is free.
    """

    def __init__(self, python: str, environment: Mapping[str, str], first_port: int) -> None:
        host = ray.util.get_node_ip_address()
        port, self._lock = _take_port(host, first_port)
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._node = ray.get_runtime_context().get_node_id()
        # Ray has put into the environment which GPU is this actor's.
        self._process = subprocess.Popen(  # noqa: S603
            [python, "-m", "worker"],
            env={**os.environ, **environment, "SONORANT_LISTEN": self._address},
            preexec_fn=_end_with_parent,
        )

    def look(self) -> tuple[str, str, int | None]:
        """Tell its address, its node, and with what status it has ended; None while it runs."""
        return self._address, self._node, self._process.poll()

    def end(self) -> None:
        """Ask it to end; it lets its streams end first."""
        self._process.send_signal(signal.SIGTERM)


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the actor dies, however it does: nobody would know of the worker any more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _take_port(host: str, first: int) -> tuple[int, IO[bytes]]:
    """Find a port that is free, and keep it from the other places of this node until the worker listens there.

    Returns:
        The port, and a file that is locked as long as it is open.
    """
    for port in range(first, 65536):
        try:
            lock = (Path(tempfile.gettempdir()) / f"sonorant-port-{port}").open("ab")
        except OSError:
            continue  # Somebody else's.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError:
            lock.close()
            continue
        return port, lock
    raise OSError(f"no port from {first} on is free at {host}")


class Watch:
    """Follows a worker's status on a thread of its own.

    Args:
        address: Where it listens.
    """

    def __init__(self, address: str) -> None:
        self.load: Load | None = None
        self._channel = channel(address)
        self._ended = threading.Event()
        threading.Thread(target=self._run, name=f"watch {address}", daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        self._channel.close()

    def _run(self) -> None:
        stub: models_pb2_grpc.ModelServiceStub = models_pb2_grpc.ModelServiceStub(self._channel)
        request = models_pb2.WatchStatusRequest()
        request.min_interval.FromSeconds(1)
        while not self._ended.wait(LOOK_S):
            try:
                for status in stub.WatchStatus(request):
                    # One that still loads its models takes no part in the work.
                    self.load = None if status.starting else Load(status.active, status.queued)
            except (grpc.RpcError, ValueError):  # A channel that is closed is a wrong value.
                self.load = None


@dataclass
class Worker:
    """A place as it is known here.

    Attributes:
        name: Of the actor.
        actor: Handle of it.
        asked: What it will answer.
        address: Where the worker listens; empty until there is a node for it.
        node: Where it runs.
        watch: Its status.
        is_ending: Whether it was asked to end.
    """

    name: str
    actor: Any
    asked: Any
    address: str = ""
    node: str = ""
    watch: Watch | None = None
    is_ending: bool = False

    @property
    def load(self) -> Load | None:
        """What it has to do; None while it does not tell."""
        return self.watch.load if self.watch else None


@dataclass
class Fleet:
    """The workers of one cluster.

    Attributes:
        file: Where their addresses are written.
        scaler: Says how many there should be.
        options: Of the actors: what Ray reserves for each.
        arguments: Of each place.
        grace_s: How long workers may take to end.
    """

    file: Path
    scaler: Scaler
    options: Mapping[str, Any]
    arguments: Sequence[Any]
    workers: list[Worker] = field(default_factory=list)
    grace_s: float = 30.0
    _has_started: bool = False
    _last_status: int | None = None
    _written: str | None = None
    _backoff_s: float = BACKOFF_S[0]
    _not_before: float = 0.0

    def adopt(self) -> None:
        """Take over the workers that are there already."""
        for name in sorted(ray.util.list_named_actors()):
            actor = ray.get_actor(name)
            self.workers.append(Worker(name, actor, actor.look.remote()))

    def keep(self, ending: threading.Event) -> int:
        """Keep as many as are wanted, until the end; then end them.

        Returns:
            The exit status.
        """
        status = 0
        while not ending.is_set():
            self.look()
            # Later the settings are not to blame: a port may be taken for a moment, a GPU may be gone.
            if not self._has_started and self._last_status == WRONG_SETTING:
                say("a worker cannot run with these settings; ending")
                status = WRONG_SETTING
                break
            self.adjust(time.monotonic())
            self.write()
            ending.wait(LOOK_S)
        self.end_all()
        return status

    def end_all(self) -> None:
        """Ask every worker to end, wait until they have, and make those that do not."""
        deadline = time.monotonic() + self.grace_s + KILL_AFTER_S
        for worker in self.workers:
            self.end(worker)
        while self.workers and time.monotonic() < deadline:
            self.look()
            self.write()
            time.sleep(LOOK_S)
        for worker in self.workers:
            say(f"{worker.name} does not end; killing it")
            ray.kill(worker.actor)
        self.workers.clear()
        self.write()

    def look(self) -> None:
        """See which workers have a node now, and which are no more."""
        asked = {worker.asked: worker for worker in self.workers}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
        for ref in done:
            worker = asked[ref]
            try:
                address, worker.node, status = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._lose(worker, f"is lost: {str(error).splitlines()[0]}")
                continue
            if status is not None:
                self._last_status = status
                ray.kill(worker.actor)
                self._lose(worker, f"has ended with status {status}")
                continue
            if not worker.address:
                worker.address, worker.watch = address, Watch(address)
                say(f"{worker.name} is at {address} on node {worker.node}")
            if worker.load:
                self._has_started, self._backoff_s = True, BACKOFF_S[0]
            worker.asked = worker.actor.look.remote()

    def adjust(self, now: float) -> None:
        """Place one more worker, or ask one to end, if another number is wanted."""
        staying = [worker for worker in self.workers if not worker.is_ending]
        wanted = self.scaler.wanted(now, len(staying), [worker.load for worker in staying if worker.load])
        if wanted > len(staying) and now >= self._not_before:
            for _ in range(wanted - len(staying)):
                self.place()
        elif wanted < len(staying):
            # One that has no node yet; else the one with the least to do.
            idlest = min(staying, key=lambda worker: (bool(worker.address), (worker.load or Load(0, 0)).active))
            say(f"{wanted} workers are enough: {idlest.name} ends")
            self.end(idlest)

    def place(self) -> None:
        """Ask Ray for a place for one more worker."""
        name = f"worker-{uuid.uuid4().hex[:8]}"
        python, environment, first_port = self.arguments
        # Detached: it goes on if this process is gone.
        options = {**self.options, "name": name, "lifetime": "detached", "scheduling_strategy": "SPREAD"}
        environment = {**environment, "SONORANT_WORKER_ID": name}
        actor = ray.remote(Place).options(**options).remote(python, environment, first_port)
        self.workers.append(Worker(name, actor, actor.look.remote()))

    def end(self, worker: Worker) -> None:
        """Ask a worker to end; gateways hear of it from the worker, and it stays in the file until it has ended."""
        worker.is_ending = True
        if worker.address:
            worker.actor.end.remote()
        else:
            ray.kill(worker.actor)

    def write(self) -> None:
        """Write the addresses, an address a line, if they have changed."""
        text = "".join(f"{worker.address}\n" for worker in self.workers if worker.address)
        if text != self._written:
            write(self.file, text)
            self._written = text

    def _lose(self, worker: Worker, what: str) -> None:
        say(f"{worker.name} {what}")
        self.workers.remove(worker)
        if worker.watch:
            worker.watch.close()
        if not worker.is_ending:
            self._not_before = time.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_S[1])


def write(path: Path, text: str) -> None:
    """Replace a file in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
    # Gateways may be other users, and the temporary file is for its owner alone.
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def main() -> int:
    """Keep the workers; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.ray.cluster", description="Sonorant's workers on Ray.")
    parser.add_argument("--address", default="auto", help="of the Ray cluster")
    parser.add_argument("--file", type=Path, required=True, help="where the workers' addresses are written")
    parser.add_argument("--min", type=int, default=1, help="fewest workers")
    parser.add_argument("--max", type=int, default=1, help="most workers")
    parser.add_argument("--streams", type=int, default=16, help="utterances that a worker should speak at once")
    parser.add_argument(
        "--up-after", type=float, default=5, help="for so many seconds a queue stays before one more comes"
    )
    parser.add_argument("--down-after", type=float, default=300, help="and it is quiet before one goes")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs of a worker; 0 for workers on CPUs")
    parser.add_argument("--cpus", type=float, default=1, help="cores that Ray reserves for a worker")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that Sonorant is installed for, on the nodes"
    )
    parser.add_argument("--first-port", type=int, default=50051, help="workers take the first free port from here on")
    given = parser.parse_args()
    if not 1 <= given.min <= given.max:
        parser.error("--min must be at least 1, and --max at least --min")
    ray.init(given.address, namespace=NAMESPACE, log_to_driver=True, configure_logging=False)
    fleet = Fleet(
        file=given.file,
        scaler=Scaler(given.min, given.max, given.streams, given.up_after, given.down_after),
        options={"num_gpus": given.gpus, "num_cpus": given.cpus},
        arguments=(given.python, dict(_environment(given.gpus, given.cpus)), given.first_port),
        grace_s=float(os.environ.get("SONORANT_GRACE_S", "30")),
    )
    fleet.adopt()
    ending = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: ending.set())
    return fleet.keep(ending)


def _environment(gpus: float, cpus: float) -> Iterator[tuple[str, str]]:
    """What workers are told."""
    yield from ((name, value) for name, value in os.environ.items() if name.startswith(PASSED_ON))
    if gpus:
        yield "SONORANT_DEVICE", "cuda:0"  # The first that it sees, which is its own alone.
    else:
        yield from (("SONORANT_DEVICE", "cpu"), ("SONORANT_THREADS", str(max(1, round(cpus)))))


def say(message: str) -> None:
    """Tell the person who started us."""
    print(f"sonorant: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
