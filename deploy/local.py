"""Everything on one machine: a worker for each visible GPU (one on the CPU where there is none) and the gateway.

This is what `make run` starts. A process that dies is started again; one that says that its settings are wrong ends
everything. Ctrl-C, SIGTERM and the end of the terminal let the streams end, then the processes.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WRONG_SETTING = 2
"""Exit status by which a process says that another start would fail the same way."""

FIRST_WORKER_PORT = 50051
BACKOFF_S = (0.2, 10.0)
KILL_AFTER_S = 10.0
"""How long after its own grace a process may take to end."""


@dataclass
class Process:
    """A process to keep running.

    Attributes:
        name: For the messages.
        arguments: Of the Python interpreter.
        environment: Variables beside those of this process.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    running: asyncio.subprocess.Process | None = None

    async def keep(self, ending: asyncio.Event) -> int:
        """Run it, and again when it dies, until the end, or until its first start shows that its settings are wrong.

        Returns:
            Its exit status.
        """
        backoff_s = BACKOFF_S[0]
        for starts in itertools.count(1):
            started_at = time.monotonic()
            # A session of its own: Ctrl-C reaches this process alone, which ends the others in order.
            self.running = await asyncio.create_subprocess_exec(
                sys.executable, *self.arguments, env={**os.environ, **self.environment}, start_new_session=True
            )
            if ending.is_set():
                self.running.send_signal(signal.SIGTERM)
            status = await self.running.wait()
            # Later the settings are not to blame: a port may be taken for a moment, a GPU may be gone.
            if ending.is_set() or (status == WRONG_SETTING and starts == 1):
                return status
            if time.monotonic() - started_at > 30:
                backoff_s = BACKOFF_S[0]
            say(f"{self.name} ended with status {status}; it starts again in {backoff_s:g} s")
            try:
                await asyncio.wait_for(ending.wait(), backoff_s)
            except TimeoutError:
                backoff_s = min(2 * backoff_s, BACKOFF_S[1])
            else:
                return status
        raise AssertionError

    def kill(self) -> None:
        """End it at once."""
        if self.running and self.running.returncode is None:
            self.running.kill()

    async def end(self, grace_s: float) -> None:
        """Ask it to end, and make it."""
        if not self.running or self.running.returncode is not None:
            return
        self.running.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.running.wait(), grace_s + KILL_AFTER_S)
        except TimeoutError:
            say(f"{self.name} does not end; killing it")
            self.kill()
            await self.running.wait()


def main() -> int:
    """Run everything; return the exit status."""
    try:
        return asyncio.run(run())
    except ValueError as error:
        say(str(error))
        return WRONG_SETTING


async def run() -> int:
    """Start the processes, say when they can speak, and keep them until a signal comes.

    Raises:
        ValueError: A port is taken, or a package is missing.
    """
    host, port = os.environ.get("SONORANT_HOST", "127.0.0.1"), _number("SONORANT_PORT", 8000)
    first_port = _number("SONORANT_WORKER_PORT", FIRST_WORKER_PORT)
    grace_s = _seconds("SONORANT_GRACE_S", 30)
    workers = {} if os.environ.get("SONORANT_WORKERS") else plan_workers(_gpus(), first_port)
    _require_free(host, port, "SONORANT_PORT")
    for address in workers:
        _require_free(*_split(address), "SONORANT_WORKER_PORT")
    gateway = Process("gateway", ["-m", "gateway"], {"SONORANT_WORKERS": ",".join(workers)} if workers else {})
    processes = [*workers.values(), gateway]
    ending = asyncio.Event()

    def end() -> None:
        if ending.is_set():  # Somebody is in a hurry.
            for process in processes:
                process.kill()
        ending.set()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, end)
    say(f"starting {len(workers)} worker{'s' * (len(workers) != 1)} and the gateway")
    kept = [asyncio.create_task(process.keep(ending)) for process in processes]
    ready = asyncio.create_task(_say_when_ready(host, port))
    stopped = asyncio.create_task(ending.wait())
    await asyncio.wait({*kept, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not ending.is_set():
        failed = next(process for process, task in zip(processes, kept, strict=True) if task.done())
        say(f"{failed.name} cannot run with these settings; ending")
        ending.set()
    else:
        say("ending, once the streams have ended; again to end at once")
    ready.cancel()
    # The gateway first, so that it finishes its streams while the workers are still there.
    await gateway.end(grace_s)
    await asyncio.gather(*(worker.end(grace_s) for worker in workers.values()))
    statuses = await asyncio.gather(*kept)
    await asyncio.gather(ready, return_exceptions=True)
    return WRONG_SETTING if WRONG_SETTING in statuses else 0


def plan_workers(gpus: Sequence[str], first_port: int) -> dict[str, Process]:
    """Decide which workers to run.

    Args:
        gpus: Visible GPUs, as `CUDA_VISIBLE_DEVICES` names them.
        first_port: Port of the first worker; the others follow.

    Returns:
        The processes by address; each sees its own GPU alone.
    """
    plan = {}
    for index, gpu in enumerate(gpus or [None]):
        address = f"127.0.0.1:{first_port + index}"
        where = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu, "SONORANT_DEVICE": "cuda:0"}
        name = os.environ.get("SONORANT_WORKER_ID") or socket.gethostname()
        identity = {"SONORANT_WORKER_ID": f"{name}-{index}", "SONORANT_LISTEN": address}
        plan[address] = Process(f"worker {index}", ["-m", "worker"], {**where, **identity, **_metrics(index)})
    return plan


def _metrics(index: int) -> dict[str, str]:
    """Give each worker a port of its own for its metrics, counted from the one that is set."""
    host, _, port = os.environ.get("SONORANT_METRICS_LISTEN", "").rpartition(":")
    return {"SONORANT_METRICS_LISTEN": f"{host}:{int(port) + index}"} if host and port.isdecimal() else {}


def say(message: str) -> None:
    """Tell the person who started us."""
    print(f"sonorant: {message}", file=sys.stderr, flush=True)


def _gpus() -> list[str]:
    """The GPUs that get a worker: all, or the one that `SONORANT_DEVICE` names."""
    wanted = os.environ.get("SONORANT_DEVICE", "auto")
    if wanted == "cpu":
        return []
    try:
        from worker.device import visible_gpus
    except ImportError as error:
        raise ValueError(f"the package {error.name!r} is missing; `make run` installs what is needed") from error
    gpus = visible_gpus()
    if wanted == "auto":
        return gpus
    index = wanted.removeprefix("cuda:")
    if not wanted.startswith("cuda:") or not index.isdecimal() or int(index) >= len(gpus):
        there = ", ".join(["auto", "cpu", *(f"cuda:{n}" for n in range(len(gpus)))])
        raise ValueError(f"SONORANT_DEVICE={wanted}: there are {there}")
    return [gpus[int(index)]]


async def _say_when_ready(host: str, port: int) -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    url = f"http://{shown}:{port}"
    while not await asyncio.to_thread(_answers, f"{url}/readyz"):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    say(f"ready to speak at {url}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or not 1 <= int(value) <= 65535:
        raise ValueError(f"{name}={value}: it must be a port, 1 to 65535")
    return int(value)


def _seconds(name: str, default: float) -> float:
    value = os.environ.get(name, str(default))
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name}={value}: it must be a number of seconds") from None


def _split(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


def _require_free(host: str, port: int, name: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            mend = f"set {name} to another port" if error.errno == errno.EADDRINUSE else "is SONORANT_HOST right?"
            raise ValueError(f"{host}:{port} cannot be used ({error.strerror}); {mend}") from error


if __name__ == "__main__":
    sys.exit(main())
