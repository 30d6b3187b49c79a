"""Workers on a Ray cluster, whose nodes are processes of this machine."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from deploy.ray.scaling import Load, Scaler
from protos.client import Client
from tests.stack import ROOT, TONE, Gateway, clean_environment, eventually

RAY = ROOT / ".venv-ray" / "bin" / "python"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}


def sizes(scaler: Scaler, size: int, loads: list[Load], seconds: int) -> list[int]:
    return [scaler.wanted(now, size, loads) for now in range(seconds)]


def test_a_queue_that_stays_asks_for_one_more() -> None:
    scaler = Scaler(least=1, most=3, up_after_s=5)
    assert sizes(scaler, 2, [Load(9, 3), Load(9, 0)], 7) == [2, 2, 2, 2, 2, 3, 2]


def test_a_burst_asks_for_nothing() -> None:
    scaler = Scaler(least=1, most=3, up_after_s=5)
    assert sizes(scaler, 1, [Load(4, 9)], 5) == [1] * 5
    assert scaler.wanted(5, 1, [Load(4, 0)]) == 1
    assert scaler.wanted(6, 1, [Load(4, 9)]) == 1


def test_one_that_is_on_its_way_is_waited_for() -> None:
    scaler = Scaler(least=1, most=3, up_after_s=2)
    assert sizes(scaler, 2, [Load(4, 9)], 9) == [2] * 9


def test_there_are_never_more_nor_fewer_than_allowed() -> None:
    scaler = Scaler(least=2, most=3, up_after_s=0, down_after_s=0)
    assert scaler.wanted(0, 0, []) == 2
    assert scaler.wanted(1, 3, [Load(0, 9)] * 3) == 3
    assert scaler.wanted(2, 2, [Load(0, 0)] * 2) == 2
    assert scaler.wanted(3, 5, [Load(0, 9)] * 5) == 3


def test_one_less_is_enough_once_the_others_could_have_spoken_everything_for_long() -> None:
    scaler = Scaler(least=1, most=3, streams=16, down_after_s=5)
    assert sizes(scaler, 2, [Load(9, 0), Load(8, 0)], 9) == [2] * 9
    assert sizes(scaler, 2, [Load(8, 0), Load(8, 0)], 7) == [2, 2, 2, 2, 2, 1, 2]


def test_one_that_no_node_has_room_for_is_not_waited_for_when_it_is_quiet() -> None:
    scaler = Scaler(least=1, most=3, streams=16, down_after_s=5)
    assert sizes(scaler, 2, [Load(3, 0)], 6)[-1] == 1
    assert sizes(Scaler(least=1, most=3, down_after_s=0), 2, [], 3) == [2] * 3


class Nodes:
    """The cluster, run by Ray's environment."""

    def __init__(self, log: Path) -> None:
        with log.open("w") as errors:
            self.popen = subprocess.Popen(
                [RAY, "-m", "tests.deploy.ray_nodes"],
                cwd=ROOT,
                env=clean_environment(**QUIET),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.address = self._answer().removeprefix("ready ")

    def add(self) -> str:
        return self.ask("add")

    def kill(self, node: str) -> None:
        assert self.ask(f"kill {node}") == "killed"

    def ask(self, line: str) -> str:
        assert self.popen.stdin
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.popen.stdout
        for line in self.popen.stdout:
            # Ray's own lines come here, too.
            if re.fullmatch(r"ready \S+|killed|[0-9a-f]{56}", line.strip()):
                return line.strip()
        raise AssertionError("the cluster has ended")

    def close(self) -> None:
        assert self.popen.stdin
        assert self.popen.stdout
        self.popen.stdin.close()
        self.popen.wait(60)
        self.popen.stdout.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with contextlib.closing(Nodes(tmp_path / "nodes.log")) as nodes:
        yield nodes


class Keeper:
    """`deploy.ray.cluster`, and the file that it writes."""

    def __init__(self, folder: Path, nodes: Nodes, *arguments: str, **more: str) -> None:
        self.file, self.log = folder / "run" / "workers", folder / "keeper.log"
        settings = {
            "SONORANT_ENGINES": "tone",
            "SONORANT_PRELOAD": TONE,
            "SONORANT_DEFAULT_MODEL": TONE,
            "SONORANT_CACHE_DIR": str(folder / "cache"),
            "HF_HUB_CACHE": str(folder / "hub-cache"),
            "SONORANT_TONE_DIR": str(folder),
            "SONORANT_QUEUE_S": "3600",
            "PYTHONPATH": str(ROOT),
            **more,
        }
        with self.log.open("a") as out:
            self.popen = subprocess.Popen(
                [
                    *(RAY, "-m", "deploy.ray.cluster", "--address", nodes.address, "--file", self.file),
                    *("--gpus", "0", "--python", sys.executable, *arguments),
                ],
                cwd=ROOT,
                env=clean_environment(**QUIET, **settings),
                stdout=out,
                stderr=out,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def addresses(self) -> list[str]:
        assert self.popen.poll() is None, self.output
        return self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []

    def node_of(self, address: str) -> str:
        return re.findall(rf"is at {re.escape(address)} on node (\w+)", self.output)[-1]

    def speaking(self) -> list[str]:
        """Those that speak."""
        return [address for address in self.addresses if speaks(address)]

    def speaking_elsewhere(self, address: str) -> list[str]:
        """Those that speak, but for one."""
        return [each for each in self.addresses if each != address and speaks(each)]

    def end(self, signum: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        return self.popen.wait(60)


def speaks(address: str) -> bool:
    try:
        with Client(address) as client, client.synthesize("Hello.", model=TONE) as speech:
            return sum(map(len, speech)) > 0
    except grpc.RpcError:
        return False


@contextlib.contextmanager
def gateway(folder: Path, file: Path) -> Iterator[Gateway]:
    """A gateway that watches the file."""
    gateway = Gateway(folder, [], SONORANT_WORKERS=f"file://{file}")
    try:
        yield gateway
    finally:
        gateway.end()


@pytest.mark.more
def test_a_worker_whose_node_dies_is_placed_on_another(tmp_path: Path, nodes: Nodes) -> None:
    first, second = nodes.add(), nodes.add()
    keeper = Keeper(tmp_path, nodes, "--min", "2", "--max", "2")
    try:
        eventually(lambda: len(keeper.speaking()) == 2, "two workers speak", 120)
        on = {keeper.node_of(address): address for address in keeper.addresses}
        assert on.keys() == {first, second}

        with gateway(tmp_path, keeper.file) as asked:
            eventually(lambda: len(asked.up()) == 2, "the gateway has found both")
            nodes.kill(first)
            # Whatever the gateway knows of the loss by now: what has begun there is cut, nothing else fails.
            answers = [speech_of(asked) for _ in range(10)]
            assert set(answers) <= {0, 200}
            assert answers.count(200) >= 9
            eventually(lambda: keeper.addresses == [on[second]], "the lost worker is written off", 120)
            eventually(lambda: len(asked.health()["workers"]) == 1, "the gateway has forgotten it")  # type: ignore[arg-type]
            third = nodes.add()
            eventually(lambda: len(asked.up()) == 2, "two workers are there again", 120)
            assert {keeper.node_of(address) for address in keeper.addresses} == {second, third}
            assert speech_of(asked) == 200

        # Without its keeper the service goes on, and the next one takes over what is there.
        before = keeper.addresses
        keeper.end(signal.SIGKILL)
        assert all(map(speaks, before))
        keeper = Keeper(tmp_path, nodes, "--min", "2", "--max", "2")
        eventually(lambda: keeper.output.count(" is at ") == 5, "the workers are found", 120)
        assert sorted(keeper.addresses) == sorted(before)

        assert keeper.end() == 0
        assert keeper.file.read_text(encoding="utf-8") == ""
        assert not any(map(speaks, before))
    finally:
        keeper.end(signal.SIGKILL)


def speech_of(gateway: Gateway) -> int:
    """Speak; return the status, or 0 if the speech breaks off."""
    body = {"model": TONE, "input": "One two three."}
    try:
        return httpx.post(f"{gateway.url}/v1/audio/speech", json=body, timeout=60).status_code
    except httpx.RemoteProtocolError:
        return 0


@pytest.mark.more
def test_a_queue_brings_a_worker_and_quiet_ends_one(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    nodes.add()
    keeper = Keeper(tmp_path, nodes, "--max", "2", "--up-after", "1", "--down-after", "3")
    try:
        eventually(lambda: len(keeper.speaking()) == 1, "a worker speaks", 120)
        (address,) = keeper.addresses
        with Client(address) as client, contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
            # One core, so one is spoken and the others wait.
            held = "<hold=go> " * 3
            waiting = [pool.submit(client.synthesize, held, model=TONE) for _ in range(4)]
            eventually(lambda: len(keeper.speaking_elsewhere(address)) == 1, "another worker comes", 120)
            (tmp_path / "go").touch()
            for each in waiting:
                list(stack.enter_context(each.result()))
        eventually(lambda: len(keeper.addresses) == 1, "one is enough again", 120)
        eventually(lambda: len(keeper.speaking()) == 1, "and it speaks")
        assert keeper.end() == 0
    finally:
        keeper.end(signal.SIGKILL)


@pytest.mark.more
def test_settings_that_no_worker_can_run_with_end_it(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    keeper = Keeper(tmp_path, nodes, SONORANT_ENGINES="nonsense")
    try:
        assert keeper.popen.wait(120) == 2
        assert "cannot run with these settings" in keeper.output
    finally:
        keeper.end(signal.SIGKILL)
