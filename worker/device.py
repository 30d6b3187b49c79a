"""The processor that this worker computes on and its memory, read without loading torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml


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
            return memory.total, memory.available
        try:
            info = pynvml.nvmlDeviceGetMemoryInfo(_handle(int(self.id.removeprefix("cuda:"))))
        except (pynvml.NVMLError, IndexError):
            return 0, 0  # Some devices do not tell, and one may have dropped off the bus.
        return int(info.total), int(info.free)


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


def _handle(index: int) -> object:
    return pynvml.nvmlDeviceGetHandleByUUID(visible_gpus()[index])


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
