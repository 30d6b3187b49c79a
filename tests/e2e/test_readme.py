"""The README's own snippets, against what `make run` starts."""

import re
import shutil
import subprocess
import sys

import httpx
import pytest

from tests.ears import word_error_rate
from tests.stack import PATIENCE_S, ROOT, clean_environment, eventually, free_port

README = (ROOT / "README.md").read_text("utf-8")


def snippets(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found
    return found


class Server:
    """Sonorant on free ports, started by a command, in a folder of its own."""

    def __init__(self, command: list[str], folder, log, environment: dict[str, str], ports: tuple[int, int]) -> None:
        self.log = log
        self.http, self.grpc = ports
        with log.open("wb") as out:
            self.popen = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)

    def is_ready(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text("utf-8")
        return "ready to speak" in self.log.read_text("utf-8")

    def run(self, command: list[str], snippet: str, folder) -> str:
        here = snippet.replace("localhost:8000", f"localhost:{self.http}").replace("50051", str(self.grpc))
        environment = clean_environment(PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [*command, here], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        self.popen.terminate()
        self.popen.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    http, grpc = free_port(), free_port()
    environment = clean_environment(SONORANT_PORT=str(http), SONORANT_WORKER_PORT=str(grpc))
    log = tmp_path_factory.mktemp("readme") / "log"
    server = Server([sys.executable, "-m", "deploy.local"], ROOT, log, environment, (http, grpc))
    eventually(server.is_ready, "it can speak")
    yield server
    server.end()


@pytest.mark.parametrize("snippet", snippets("sh"))
def test_shell_snippets_work_as_they_stand(server, tmp_path, snippet):
    assert "curl" in snippet
    server.run(["bash", "-euc"], snippet.replace("curl ", "curl -fsS "), tmp_path)
    for name in re.findall(r"-o (\S+)", snippet):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize("snippet", snippets("python"))
def test_python_snippets_work_as_they_stand(server, tmp_path, snippet):
    out = server.run([sys.executable, "-c"], snippet, tmp_path)
    for name in re.findall(r'stream_to_file\("(.*?)"\)', snippet):
        assert (tmp_path / name).read_bytes()[:4] == b"RIFF"
    if "AsyncClient" in snippet:
        assert re.search(r"^\d{5} samples in all", out, re.MULTILINE)
    elif "Client" in snippet and "print" in snippet:
        assert "maureesewilliams/hibari ['heart']" in out
        assert "characters 0 to 13 begin at sample 0" in out


def test_the_annotated_tree_names_files_that_exist():
    tree = re.search(r"^gateway/    app\.py.*?^```", README, re.MULTILINE | re.DOTALL)
    assert tree
    top = below = ""
    for line in tree[0].splitlines()[:-1]:
        line = re.sub(r"\(.*?\)", "", line)
        if match := re.match(r"(\w+/)", line):
            top, below = match[1], ""
        if match := re.match(r"\s+(\w+/) ", line):
            below = match[1]
        for name in re.findall(r"[\w.*/]+\.\w+", line.removeprefix(top)):
            assert list(ROOT.glob(f"{top}{below}{name}")), f"{top}{below}{name}"


@pytest.mark.more
@pytest.mark.timeout(1200)  # Beyond the patience below.
def test_the_first_screen_works_on_a_fresh_clone(tmp_path, hear):
    """`make run` in an empty folder: installs everything, and then the curl of the README speaks."""
    clone = tmp_path / "sonorant"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    assert "make run\n" in README.split("```")[1]
    http, grpc = free_port(), free_port()
    command = [shutil.which("make") or "make", "run", f"PORT={http}", f"GRPC_PORT={grpc}"]
    server = Server(command, clone, tmp_path / "log", clean_environment(), (http, grpc))
    try:
        eventually(server.is_ready, "it is installed and can speak", patience_s=900)
        server.run(["bash", "-euc"], snippets("sh")[0].replace("curl ", "curl -fsS "), tmp_path)
        assert 'src="/assets/' in httpx.get(f"http://127.0.0.1:{http}/", timeout=PATIENCE_S).text
    finally:
        server.end()
    said = re.search(r'"input": "(.*?)"', snippets("sh")[0])
    assert said
    assert word_error_rate(said[1], hear((tmp_path / "hello.wav").read_bytes())) <= 0.15
