"""Fixtures: real processes, and somebody who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def hear() -> Callable[[bytes], str]:
    """A speech recogniser: 16-bit mono PCM or a WAV file in, text out (whisper tiny.en)."""
    from tests.ears import Ears

    return Ears().hear
