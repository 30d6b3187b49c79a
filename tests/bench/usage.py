"""What the processes of a stack use: CPU time and memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from tests.stack import Stack

LOOK_S = 0.1
MIB = 2**20


@dataclass
class Used:
    """Of one stretch of time.

    Attributes:
        worker_cpu_s: CPU time of the workers, in seconds.
        gateway_cpu_s: The gateway's.
        worker_peak_mib: Most memory of a worker (resident), looked at ten times a second.
    """

    worker_cpu_s: float = 0.0
    gateway_cpu_s: float = 0.0
    worker_peak_mib: float = 0.0

    @property
    def cpu_s(self) -> float:
        return self.worker_cpu_s + self.gateway_cpu_s


def cpu_s(*processes: psutil.Process) -> float:
    """CPU time that processes have used, in seconds."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def rss_mib(process: psutil.Process) -> float:
    """Resident memory of a process, in MiB."""
    return process.memory_info().rss / MIB


def processes(stack: Stack) -> tuple[psutil.Process, psutil.Process]:
    """The worker's and the gateway's."""
    return psutil.Process(stack.worker.popen.pid), psutil.Process(stack.gateway.popen.pid)


@contextmanager
def watched(stack: Stack) -> Iterator[Used]:
    """Watch the processes of a stack; the figures are complete when the context is left."""
    worker, gateway = processes(stack)
    used = Used(-cpu_s(worker), -cpu_s(gateway))
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_S):
            used.worker_peak_mib = max(used.worker_peak_mib, rss_mib(worker))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield used
    finally:
        is_over.set()
        watcher.join()
        used.worker_cpu_s += cpu_s(worker)
        used.gateway_cpu_s += cpu_s(gateway)
