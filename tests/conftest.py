"""Fixtures: real processes, and somebody who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.observed import Observed, observe
from tests.stack import HIBARI, TONE, Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker and one gateway that tests share; the default model is the tone engine's."""
    preload = {"SONORANT_PRELOAD": f"{TONE},{HIBARI}"}
    with running(tmp_path_factory.mktemp("stack"), worker_settings=preload) as stack:
        yield stack


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Start a stack for one test alone."""
    contexts: list[AbstractContextManager[Stack]] = []

    def enter(**settings: object) -> Stack:
        context = running(tmp_path, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        return context.__enter__()

    yield enter
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str, str], dict[str, str]]:
    """Install an engine as a third-party package does; returns the settings of a worker that finds it."""

    def install(name: str, target: str) -> dict[str, str]:
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[sonorant.engines]\n{name} = {target}\n")
        return {"PYTHONPATH": str(tmp_path), "SONORANT_ENGINES": f"{name},tone"}

    return install


@pytest.fixture
def broken_engine(install: Callable[[str, str], dict[str, str]]) -> dict[str, str]:
    """Settings of a worker with an engine that cannot load its model."""
    return {**install("broken", "tests.plugins.broken:BrokenEngine"), "SONORANT_PRELOAD": "tests/broken"}


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """What gateway and workers tell Prometheus when everything has happened that they tell of."""
    return observe(tmp_path_factory.mktemp("observed"))


@pytest.fixture(scope="session")
def hear() -> Callable[[bytes], str]:
    """A speech recogniser: 16-bit mono PCM or a WAV file in, text out (whisper tiny.en)."""
    from tests.ears import Ears

    return Ears().hear
