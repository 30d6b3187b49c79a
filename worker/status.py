"""What a worker is and has, in one place, for whoever reports it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from importlib.metadata import version

from worker.changes import Changes
from worker.device import Device
from worker.engines.registry import Registry
from worker.scheduler import Scheduler
from worker.store.residency import Residency


@dataclass
class Status:
    """A worker.

    Attributes:
        worker_id: Its name, the same after a restart.
        device: Where it computes.
        registry: Its engines.
        models: Its models.
        scheduler: The threads of its device.
        changes: Counts the changes of all that.
        starting: Whether models are still being loaded that are loaded at start.
        boot_id: Another one with every start.
        build: Version of the software.
    """

    worker_id: str
    device: Device
    registry: Registry
    models: Residency
    scheduler: Scheduler
    changes: Changes
    starting: bool = True
    boot_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    build: str = field(default_factory=lambda: version("sonorant"))
