"""The Dockerfiles, by hadolint and by what it does not know; none can be built without Docker."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy import settings
from tests.stack import ROOT

SIDES = ("gateway", "worker")


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_hadolint_finds_nothing(side: str) -> None:
    file = ROOT / "deploy" / "docker" / f"{side}.Dockerfile"
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--no-color", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_says_what_whoever_runs_it_relies_on(side: str) -> None:
    said = settings.instructions(side)
    last = said[max(index for index, (word, _) in enumerate(said) if word == "FROM") :]
    words = dict(last)
    assert re.fullmatch(r"\d+:\d+", words["USER"])
    assert words["USER"].partition(":")[0] != "0"
    assert words["STOPSIGNAL"] == "SIGTERM"
    # As an array: a shell between would get the signal, and not pass it on.
    assert words["CMD"] == f'["python", "-m", "{side}"]'
    assert f'["python", "-m", "deploy.healthcheck", "{side}"]' in words["HEALTHCHECK"]
    assert "org.opencontainers.image.licenses" in words["LABEL"]
    ports = {words["EXPOSE"].split()[0]}
    listens = settings.image(side).get("SONORANT_PORT") or settings.image(side)["SONORANT_LISTEN"].rpartition(":")[2]
    assert listens in ports


def test_variables_are_settings_of_the_process(side: str) -> None:
    assert settings.unknown(side, set(settings.image(side))) == set()


def test_bases_are_pinned_and_stages_there(side: str) -> None:
    stages: set[str] = set()
    for word, rest in settings.instructions(side):
        assert word != "ADD"
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image in stages or re.fullmatch(r"\w+:\d+\.\d+\.\d+-(bookworm-slim|slim-bookworm)", image), image
            stages.add(name)
        for stage in re.findall(r"(?:--from=|,?from=)([\w-]+)", rest):
            assert stage in stages


def test_what_is_copied_is_in_the_repository_and_in_the_context(side: str) -> None:
    for word, rest in settings.instructions(side):
        if word != "COPY" or "--from=" in rest:
            continue
        *sources, _ = shlex.split(rest)
        for source in sources:
            assert (ROOT / source).exists(), source
            assert _is_in_context(source.rstrip("/")), source


def _is_in_context(path: str) -> bool:
    """Whether .dockerignore lets it in: the last pattern that fits it, or a folder that it is in, decides."""
    found = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        parts = [path, *(str(parent) for parent in Path(path).parents)]
        # `**/` is any folder, or none.
        if line and not line.startswith("#") and any(fnmatch.fnmatch(f"./{part}", f"./{pattern}") for part in parts):
            found = line.startswith("!")
    return found


def test_the_context_has_no_secrets_and_nothing_built() -> None:
    for path in (".env", ".git", ".venv", "web/node_modules/vite", "web/dist", "gateway/__pycache__", "keys"):
        assert not _is_in_context(path), path


def test_versions_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    arguments = dict(rest.partition("=")[::2] for word, rest in settings.instructions("worker") if word == "ARG")
    assert f"KOKORO := {arguments['KOKORO']}" in makefile
    assert f"EXTRAS ?= {arguments['EXTRAS'].strip(chr(34))}" in makefile


def test_requirements_are_those_of_the_extras() -> None:
    script = ROOT / "deploy" / "docker" / "requirements.py"

    def run(*extras: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, script, *extras], cwd=ROOT, capture_output=True, text=True, check=False)

    gateway = run("gateway").stdout.splitlines()
    assert any(each.startswith("grpcio>") for each in gateway)
    assert any(each.startswith("starlette>") for each in gateway)
    assert not any(each.startswith(("torch", "numpy", "transformers")) for each in gateway)
    assert any(each.startswith("torch==") for each in run("worker", "torch").stdout.splitlines())
    assert "no extra is called tortch" in run("tortch").stderr
    for side in SIDES:
        (wanted,) = re.findall(r"requirements\.py ([\w ]+)", " ".join(rest for _, rest in settings.instructions(side)))
        done = run(*wanted.split())
        assert done.returncode == 0, done.stderr
        # Off until it is asked for, but there.
        assert "opentelemetry-sdk" in done.stdout
