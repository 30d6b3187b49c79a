"""The processor that this worker computes on and its memory; reads them, and gives back what is no longer used.

Knows no models, and never loads torch: only if an engine has, are there things of torch to look at.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

M_ARENA_MAX = -8  # Of glibc's malloc.h.

_mine = threading.local()


@dataclass(frozen=True, slots=True)
class Device:
    """A processor.

    Attributes:
        id: `cpu` or `cuda:N`, N counting the GPUs that this process may see.
        name: What the maker calls it.
    """

    id: str
    name: str

    def memory(self) -> tuple[int, int]:
        """Return its total and its free memory, in bytes; zeros where it does not tell."""
        if self.id == "cpu":
            memory = psutil.virtual_memory()
            limit = _container_limit() or memory.total
            return min(memory.total, limit), min(memory.available, limit)
        try:
            info = pynvml.nvmlDeviceGetMemoryInfo(_handle(int(self.id.removeprefix("cuda:"))))
        except (pynvml.NVMLError, IndexError):
            return 0, 0  # Some devices do not tell, and one may have dropped off the bus.
        return int(info.total), int(info.free)

    def used(self) -> int:
        """Memory of the device that this process holds, in bytes: the process's own on a CPU, torch's on a GPU."""
        if self.id == "cpu":
            return int(psutil.Process().memory_info().rss)
        torch = sys.modules.get("torch")
        return int(torch.cuda.memory_reserved(self.id)) if torch else 0

    @property
    def lanes(self) -> int:
        """Threads that should work on it at the same time: one for a GPU, one for each core of a CPU."""
        return cores() if self.id == "cpu" else 1

    def use_threads(self, count: int) -> None:
        """Have torch share the work of this thread out between so many cores."""
        torch = sys.modules.get("torch")
        if torch and self.id == "cpu" and getattr(_mine, "threads", 0) != count:
            torch.set_num_threads(count)
            _mine.threads = count

    def give_back(self) -> None:
        """Return what nobody holds any more to the system: allocators keep it otherwise."""
        gc.collect()
        torch = sys.modules.get("torch")
        if torch and self.id != "cpu":
            torch.cuda.empty_cache()
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not.
            if trim:
                trim(0)


def keep_one_heap() -> None:
    """Make the C library serve all threads from one heap; called before there are threads.

    glibc gives threads heaps of their own, and those never return what was freed at their ends: after models have come
    and gone, tens of megabytes stay for each.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_ARENA_MAX, 1)


def spin_briefly() -> None:
    """Have threads of OpenMP that wait for others sleep soon; called before torch is imported.

    They spin by default. Where there are fewer free cores than threads, the one waited for is kept from running, and a
    run takes up to ten times as long; with so few turns none is lost where cores are free.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def find(wanted: str) -> Device:
    """Turn the setting into a device.

    Args:
        wanted: `auto` (the first GPU, else the CPU), `cpu` or `cuda:N`.

    Raises:
        ValueError: There is no such device; the message says which there are.
    """
    gpus = visible_gpus()
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return Device("cpu", _cpu_name())
    device = "cuda:0" if wanted == "auto" else wanted
    index = int(device.removeprefix("cuda:"))
    if index >= len(gpus):
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(len(gpus)))])
        raise ValueError(f"there is no device {device!r}; there are {there}")
    return Device(device, pynvml.nvmlDeviceGetName(_handle(index)))


def visible_gpus() -> list[str]:
    """UUIDs of the NVIDIA GPUs that CUDA programs of this environment see, in their order; empty without a driver."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    except pynvml.NVMLError:
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return uuids
    visible = []
    for item in filter(None, map(str.strip, chosen.split(","))):
        match = (
            [uuids[int(item)]]
            if item.isdigit() and int(item) < len(uuids)
            else [u for u in uuids if u.startswith(item)]
        )
        if not match:
            break  # CUDA itself stops at the first entry that it does not know.
        visible.append(match[0])
    return visible


def cores() -> int:
    """Cores that this process may use, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # Nothing limits it, or it is told elsewhere.
        return allowed


def _container_limit() -> int:
    """Memory that the control group of this process may use, in bytes; 0 where nothing limits it."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return 0


def _handle(index: int) -> object:
    return pynvml.nvmlDeviceGetHandleByUUID(visible_gpus()[index])


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
