"""Stacks that are measured: as users have them, where the tests' own are more patient."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.hub import Hub
from tests.stack import HIBARI, Stack, running
from worker.settings import Settings

DEFAULTS = {"SONORANT_QUEUE_S": str(Settings.model_fields["queue_s"].default)}


@contextmanager
def hibari() -> Iterator[Stack]:
    """Start a stack with the embedded voice alone."""
    settings = {"SONORANT_PRELOAD": HIBARI, "SONORANT_ENGINES": "hibari", **DEFAULTS}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), worker_settings=settings, SONORANT_DEFAULT_MODEL=HIBARI) as stack,
    ):
        yield stack


@contextmanager
def from_hub(hub: Hub, folder: Path, model: str, engine: str, settings: Mapping[str, str] = {}) -> Iterator[Stack]:
    """Start a stack that has a model from a hub; `settings` are the worker's."""
    worker = {"SONORANT_ENGINES": engine, "SONORANT_PRELOAD": model, **DEFAULTS, **hub.environment, **settings}
    with running(folder, worker_settings=worker, SONORANT_DEFAULT_MODEL=model, **hub.environment) as stack:
        yield stack
