"""`python -m deploy.local`, what `make run` starts."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest

from deploy.local import Process, plan_workers
from tests.stack import ROOT, clean_environment, eventually, free_port


class Local:
    def __init__(self, log, **environment: str) -> None:
        self.log = log
        ports = {"SONORANT_PORT": str(free_port()), "SONORANT_WORKER_PORT": str(free_port())}
        self.environment = clean_environment(**{**ports, **environment})
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "deploy.local"], cwd=ROOT, env=self.environment, stdout=out, stderr=out
            )

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['SONORANT_PORT']}"

    def children(self) -> dict[str, psutil.Process]:
        """The processes by their module, without those that are just beginning or ending."""
        found = {}
        for child in psutil.Process(self.popen.pid).children():
            with contextlib.suppress(psutil.Error):
                command = child.cmdline()
                if command[1:2] == ["-m"]:
                    found[command[2]] = child
        return found

    def speaks(self) -> bool:
        try:
            return httpx.post(f"{self.url}/v1/audio/speech", json={"input": "Hi."}, timeout=60).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def local(tmp_path):
    started: list[Local] = []

    def start(**environment: str) -> Local:
        started.append(Local(tmp_path / f"local-{len(started)}.log", **environment))
        return started[-1]

    yield start
    for each in started:
        if each.popen.poll() is None:
            each.popen.terminate()
            each.popen.wait(60)


def test_it_says_where_it_speaks_when_it_can_and_ctrl_c_ends_everything(local):
    run = local()
    eventually(lambda: f"ready to speak at {run.url}" in run.output, "it says where")
    assert run.speaks()
    children = list(run.children().values())
    assert len(children) == 2
    run.popen.send_signal(signal.SIGINT)
    assert run.popen.wait(60) == 0
    assert not any(child.is_running() for child in children)


@pytest.mark.parametrize("module", ["worker", "gateway"])
def test_a_process_that_dies_is_started_again(local, module):
    run = local()
    eventually(lambda: "ready to speak" in run.output, "it speaks")
    victim = run.children()[module]
    victim.kill()
    eventually(lambda: run.children().get(module, victim) != victim, "another one is there")
    eventually(run.speaks, "it speaks again")
    assert "starts again" in run.output


def test_a_taken_port_is_named_with_what_to_do(local):
    for name in ("SONORANT_PORT", "SONORANT_WORKER_PORT"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            run = local(**{name: str(port)})
            assert run.popen.wait(60) == 2
        assert f"127.0.0.1:{port}" in run.output
        assert name in run.output
        assert "Traceback" not in run.output


def test_a_wrong_setting_ends_everything_and_is_named(local):
    wrong = {
        "SONORANT_DEVICE": "cuda:64",
        "SONORANT_GRACE_S": "long",
        "SONORANT_CAPACITY": "lots",
        "SONORANT_DEFAULT_FORMAT": "midi",
        "SONORANT_PORT": "x",
    }
    for name, value in wrong.items():
        run = local(**{name: value})
        assert run.popen.wait(60) == 2
        assert f"{name}={value}" in run.output
        assert "Traceback" not in run.output


def test_a_second_ctrl_c_does_not_wait_for_the_streams(local, tmp_path):
    run = local(SONORANT_ENGINES="hibari,tone", SONORANT_TONE_DIR=str(tmp_path))
    eventually(lambda: "ready to speak" in run.output, "it speaks")
    body = {"input": "word <hold=never> word", "model": "sonorant/tone"}
    with httpx.stream("POST", f"{run.url}/v1/audio/speech", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        run.popen.send_signal(signal.SIGINT)
        eventually(lambda: "gateway drains" in run.output, "it waits for the stream")
        assert run.popen.poll() is None
        run.popen.send_signal(signal.SIGINT)
        assert run.popen.wait(60) == 0


def test_with_workers_elsewhere_the_gateway_runs_alone(local, stack):
    run = local(SONORANT_WORKERS=stack.worker.address)
    eventually(lambda: "ready to speak" in run.output, "it speaks")
    assert list(run.children()) == ["gateway"]


def test_what_looks_like_a_wrong_setting_at_a_later_start_is_tried_again(tmp_path):
    """A port may be taken for a moment, a GPU may be gone: the settings were right at the first start."""
    starts = tmp_path / "starts"
    program = (
        "import sys, time; from pathlib import Path; starts = Path(sys.argv[1])\n"
        "starts.open('a').write('x'); n = len(starts.read_text())\n"
        "sys.exit({1: 1, 2: 2}[n]) if n < 3 else time.sleep(60)\n"
    )

    async def scenario() -> int:
        ending = asyncio.Event()
        process = Process("p", ["-c", program, str(starts)])
        kept = asyncio.create_task(process.keep(ending))
        while not starts.exists() or len(starts.read_text()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ending.set()
        await process.end(0)
        return await kept

    assert asyncio.run(scenario()) == -signal.SIGTERM
    assert starts.read_text() == "xxx"


@pytest.mark.parametrize("package", ["starlette", "grpc_health"])
def test_a_missing_package_is_named_and_ends_everything(local, tmp_path, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise ModuleNotFoundError(name={package!r})")
    run = local(PYTHONPATH=str(tmp_path))
    assert run.popen.wait(60) == 2
    assert f"the package '{package}' is missing" in run.output
    assert "Traceback" not in run.output


def test_settings_pass_through(local):
    run = local(SONORANT_DEFAULT_FORMAT="pcm", SONORANT_ENGINES="hibari,tone")
    eventually(lambda: "ready to speak" in run.output, "it speaks")
    answer = httpx.post(f"{run.url}/v1/audio/speech", json={"input": "one", "model": "sonorant/tone"}, timeout=60)
    assert answer.headers["content-type"] == "audio/pcm"


def test_every_gpu_gets_a_worker_that_sees_it_alone():
    plan = plan_workers(["GPU-a", "GPU-b"], 6000)
    assert list(plan) == ["127.0.0.1:6000", "127.0.0.1:6001"]
    assert [process.environment["CUDA_VISIBLE_DEVICES"] for process in plan.values()] == ["GPU-a", "GPU-b"]
    (cpu,) = plan_workers([], 6000).values()
    assert "CUDA_VISIBLE_DEVICES" not in cpu.environment


def test_the_makefile_passes_ports_and_settings_on():
    def asked(*arguments: str, **environment: str) -> dict[str, str]:
        probe = ["make", "--no-print-directory", "-f", "-", "probe", *arguments]
        text = (ROOT / "Makefile").read_text("utf-8") + "\nprobe:\n\t@env\n"
        environment |= {"PATH": os.environ["PATH"]}
        done = subprocess.run(probe, input=text, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return dict(re.findall(r"^(SONORANT_\w+)=(.*)$", done.stdout, re.MULTILINE))

    assert asked()["SONORANT_PORT"] == "8000"
    assert asked("PORT=1", SONORANT_PORT="2")["SONORANT_PORT"] == "1"
    given = asked("HOST=0.0.0.0", "PORT=9000", "GRPC_PORT=9100", "SONORANT_LOG_FORMAT=json")
    assert given == {
        "SONORANT_HOST": "0.0.0.0",
        "SONORANT_PORT": "9000",
        "SONORANT_WORKER_PORT": "9100",
        "SONORANT_LOG_FORMAT": "json",
    }
