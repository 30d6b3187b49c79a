"""The units, by systemd's own check where it is, and by what it does not know."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import FIRST_WORKER_PORT
from tests.deploy import settings
from tests.stack import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = {"gateway": "sonorant-gateway.service", "worker": "sonorant-worker@.service"}
PYTHON = "/opt/sonorant/.venv/bin/python"


def read(side: str) -> str:
    return (FOLDER / UNITS[side]).read_text(encoding="utf-8")


def variables(side: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"^Environment=(.*)", read(side), re.MULTILINE))))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
@pytest.mark.parametrize("side", UNITS)
def test_systemd_finds_nothing(side: str, tmp_path: Path) -> None:
    unit = tmp_path / UNITS[side]
    # It looks whether there is such a program.
    unit.write_text(read(side).replace(PYTHON, sys.executable), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    # Its other complaints, if any, are of the units of this machine.
    found = [line for line in (done.stdout + done.stderr).splitlines() if UNITS[side].partition(".")[0] in line]
    assert not found, found
    unit.write_text(read(side) + "\n[Service]\nNoSuchThing=yes\n", encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "NoSuchThing" in done.stderr


@pytest.mark.parametrize("side", UNITS)
def test_variables_are_settings_of_the_process(side: str) -> None:
    assert settings.unknown(side, set(variables(side)) | set(re.findall(r"(SONORANT_\w+)=", read(side)))) == set()


def test_the_example_of_settings_has_settings_alone() -> None:
    text = (FOLDER / "sonorant.env").read_text(encoding="utf-8")
    for name, value in re.findall(r"^#?([A-Z_]+)=(.*)", text, re.MULTILINE):
        sides = [side for side in UNITS if not settings.unknown(side, {name})]
        assert sides, name
        for side in sides:
            settings.check(side, {name: value})


@pytest.mark.parametrize("side", UNITS)
def test_processes_get_the_time_to_drain_and_do_not_start_again_with_wrong_settings(side: str) -> None:
    text = read(side)
    grace_s = settings.SETTINGS[side].model_fields["grace_s"].default
    assert float(re.findall(r"^TimeoutStopSec=(\d+)", text, re.MULTILINE)[0]) >= grace_s + 5
    assert "RestartPreventExitStatus=2\n" in text


def test_workers_count_their_ports_from_the_one_that_the_example_names() -> None:
    assert f"127.0.0.1:$(({FIRST_WORKER_PORT} + %i))" in read("worker")
    example = (FOLDER / "sonorant.env").read_text(encoding="utf-8")
    assert f"SONORANT_WORKERS=127.0.0.1:{FIRST_WORKER_PORT}\n" in example
