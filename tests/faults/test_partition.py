"""Gateway and workers on hosts of their own, as far as the network can tell: each in a namespace, on one bridge."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.faults.talkers import Talkers
from tests.stack import TONE, Gateway, Stack, Worker, eventually


def _may_make_namespaces() -> bool:
    if not shutil.which("ip"):
        return False
    name = f"sonorant-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    return made


pytestmark = [
    pytest.mark.more,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("CI") and not _may_make_namespaces(),
        reason="network namespaces cannot be made here: that needs root and `ip` (apt-get install iproute2)",
    ),
]

SUBNET = "10.213.77"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Net:
    """Hosts on one bridge; this process is on it too, as number 1."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        # Another one for each test: what a namespace had goes some time after it.
        self._tag = f"s{os.getpid() % 100_000}x{next(self._numbers)}"
        self._ending = ExitStack()
        ip("link", "add", self._bridge, "type", "bridge")
        self._ending.callback(ip, "link", "delete", self._bridge)
        ip("address", "add", f"{SUBNET}.1/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")

    @property
    def _bridge(self) -> str:
        return f"{self._tag}br"

    def host(self, number: int) -> tuple[str, ...]:
        """Add a host; returns the command that runs something there."""
        name, cable, plug = f"{self._tag}-{number}", f"{self._tag}c{number}", f"{self._tag}p{number}"
        ip("netns", "add", name)
        self._ending.callback(ip, "netns", "delete", name)
        ip("link", "add", cable, "type", "veth", "peer", "name", plug)
        self._ending.callback(ip, "link", "delete", cable)
        ip("link", "set", plug, "netns", name)
        ip("link", "set", cable, "master", self._bridge)
        ip("link", "set", cable, "up")
        ip("-n", name, "address", "add", f"{SUBNET}.{number}/24", "dev", plug)
        ip("-n", name, "link", "set", plug, "up")
        ip("-n", name, "link", "set", "lo", "up")
        return ("ip", "netns", "exec", name)

    @contextmanager
    def cut(self, number: int) -> Iterator[None]:
        """Pull the cable of a host: nothing arrives, and nobody is told."""
        ip("link", "set", f"{self._tag}c{number}", "down")
        try:
            yield
        finally:
            ip("link", "set", f"{self._tag}c{number}", "up")

    def end(self) -> None:
        self._ending.close()


class FarWorker(Worker):
    """A worker on a host of its own."""

    def __init__(self, folder: Path, net: Net, number: int) -> None:
        self.within, self._host = net.host(number), f"{SUBNET}.{number}"
        super().__init__(folder, f"w{number}", SONORANT_LISTEN=f"{self._host}:50051", SONORANT_ENGINES="tone")

    @property
    def address(self) -> str:
        return f"{self._host}:50051"


class FarGateway(Gateway):
    """A gateway on a host of its own."""

    def __init__(self, folder: Path, net: Net, number: int, workers: list[Worker]) -> None:
        self.within, self._host = net.host(number), f"{SUBNET}.{number}"
        super().__init__(folder, workers, SONORANT_HOST=self._host)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"


@pytest.fixture
def net():
    net = Net()
    yield net
    net.end()


@pytest.fixture
def stack(net, tmp_path):
    workers: list[Worker] = [FarWorker(tmp_path, net, number) for number in (11, 12)]
    started = [*workers]
    try:
        for worker in workers:
            eventually(worker.is_ready, f"{worker.name} is ready")
        gateway = FarGateway(tmp_path, net, 10, workers)
        started.insert(0, gateway)
        eventually(lambda: len(gateway.up()) == 2, "the gateway sees both workers")
        yield Stack(workers, gateway)
    finally:
        for process in started:
            process.end(signal.SIGKILL)


def test_a_worker_that_is_cut_off_loses_nothing_that_had_not_begun_and_comes_back(stack, net):
    text = "one two three " + "<delay=0.01> " * 5 + "four five"
    whole = stack.speak(input=text, response_format="pcm", stream=False).content
    talkers = Talkers(stack.url, {"input": text, "response_format": "pcm", "model": TONE}, len(whole), count=20)
    with talkers.talking():
        eventually(lambda: len(talkers.of("whole")) >= 20, "all talk")
        with net.cut(12):
            eventually(lambda: stack.gateway.up() == ["w11"], "the gateway gives it up")
            seen = len(talkers.outcomes)
            eventually(lambda: len(talkers.outcomes) > seen + 20, "the other one speaks for both")
        eventually(lambda: sorted(stack.gateway.up()) == ["w11", "w12"], "it is back by itself")
        seen = len(talkers.outcomes)
        eventually(lambda: "w12" in {each.worker for each in talkers.outcomes[seen:]}, "it speaks again")
    assert talkers.of("lost") == []
    assert talkers.of("short") == []
    assert {outcome.worker for outcome in talkers.of("cut")} <= {"w12"}
    eventually(stack.is_idle, "nothing is left counted as running")


def test_workers_that_a_name_resolves_to_come_and_go(net, tmp_path):
    """The hosts file of the gateway's namespace is the name service: `ip netns exec` mounts it over the machine's."""
    workers = [FarWorker(tmp_path, net, number) for number in (11, 12)]
    within = net.host(10)
    hosts = Path("/etc/netns") / within[-1] / "hosts"
    hosts.parent.mkdir(parents=True)
    started: list[Worker | Gateway] = [*workers]
    try:
        for worker in workers:
            eventually(worker.is_ready, f"{worker.name} is ready")

        def resolve_to(*numbers: int) -> None:
            # Written in place: what is mounted is this very file.
            hosts.write_text("".join(f"{SUBNET}.{number} workers\n" for number in numbers))

        resolve_to(11)
        gateway = NamedGateway(tmp_path, within)
        started.insert(0, gateway)
        eventually(lambda: _is_reached(gateway) and gateway.up() == ["w11"], "the gateway finds the first")
        resolve_to(11, 12)
        eventually(lambda: sorted(gateway.up()) == ["w11", "w12"], "it finds the second")
        resolve_to(12)
        eventually(lambda: gateway.up() == ["w12"], "the first is gone")
    finally:
        for process in started:
            process.end(signal.SIGKILL)
        shutil.rmtree(hosts.parent)


class NamedGateway(Gateway):
    """A gateway that knows its workers by a name."""

    def __init__(self, folder: Path, within: tuple[str, ...]) -> None:
        self.within = within
        super().__init__(folder, [], SONORANT_HOST=f"{SUBNET}.10", SONORANT_WORKERS="dns:///workers:50051")

    @property
    def url(self) -> str:
        return f"http://{SUBNET}.10:{self.port}"


def _is_reached(gateway: Gateway) -> bool:
    try:
        return httpx.get(f"{gateway.url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False
