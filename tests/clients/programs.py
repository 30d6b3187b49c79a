"""Runs the clients' packages as processes, in the environment that `make test-clients` builds; knows none of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.stack import PATIENCE_S, ROOT

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".venv-clients"


def program(name: str) -> str:
    """Path of `python` or `node` of the clients; fails where they are not installed."""
    path = ENVIRONMENT / "bin" / name
    assert path.exists(), f"{path} is missing; `make test-clients` installs the clients"
    return str(path)


def environment() -> dict[str, str]:
    """This environment without keys, addresses and settings that a client would find in it."""
    leaks = ("OPENAI_", "LIVEKIT_", "SONORANT_", "TTS_", "STT_", "WYOMING_", "PYTHON", "NODE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leaks)}
    return {**kept, "PYTHONWARNINGS": "default"}


@contextlib.contextmanager
def started(script: str, **argument: object) -> Iterator[subprocess.Popen[str]]:
    """Start a script of this folder; `told` waits for it, and none is left behind."""
    command = [program("node" if script.endswith(".mjs") else "python"), str(HERE / script), json.dumps(argument)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a script; what it printed last, which is JSON. Fails with what it complained of."""
    out, complaints = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == 0, complaints[-4000:]
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


def run(script: str, **argument: object) -> dict[str, Any]:
    """Run a script of this folder."""
    with started(script, **argument) as process:
        return told(process)
