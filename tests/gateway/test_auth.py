import hashlib
import subprocess
import sys
import time

import pytest
from structlog.testing import capture_logs

from gateway.auth import CHECK_S, Key, KeyFile, KeysFileError, parse_keys
from tests.stack import ROOT, clean_environment, free_port

A, B = hashlib.sha256(b"key of a").hexdigest(), hashlib.sha256(b"key of b").hexdigest()


def make_key(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gateway.auth", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_line_is_a_name_a_digest_and_limits_and_the_rest_is_comment():
    text = f"\ufeff# keys\r\n\r\na@home {A} # mine\r\n  b-2.x_Y\t{B.upper()} streams=2  characters=0 requests=10\r\n"
    assert parse_keys(text.encode()) == {
        bytes.fromhex(A): Key("a@home"),
        bytes.fromhex(B): Key("b-2.x_Y", requests=10, characters=0, streams=2),
    }
    assert parse_keys(b"# nobody\n") == {}


@pytest.mark.parametrize(
    ("lines", "number", "words"),
    [
        (["a"], 1, "64 hexadecimal digits"),
        ([f"a {A}", "b sk-secret"], 2, "64 hexadecimal digits"),
        (["# keys", "", f"sk-secret {A}"], 3, "the name must be"),
        ([f"../secret {A}"], 1, "the name must be"),
        ([f"{A} secret"], 1, "64 hexadecimal digits"),
        ([f"a {A} secret=1"], 1, "requests=N"),
        ([f"a {A} requests=-1"], 1, "requests=N"),
        ([f"a {A} requests=1 requests=2"], 1, "at most once"),
        ([f"a {A}", f"a {B}"], 2, "'a' stands in line 1"),
        ([f"a {A}", "", f"b {A.upper()}"], 3, "this digest stands in line 1"),
        (["\udcff\udcfe secret"], 1, "the name must be"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_with_what_is_accepted_but_never_repeated(lines, number, words):
    with pytest.raises(KeysFileError) as caught:
        parse_keys("\n".join(lines).encode(errors="surrogateescape"))
    assert str(caught.value).startswith(f"line {number}: ")
    assert words in str(caught.value)
    assert "NAME SHA256 [requests=N] [characters=N] [streams=N]" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert A not in str(caught.value)


def test_a_file_that_has_become_wrong_keeps_the_keys_and_is_told_of_once(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text(f"a {A}\n")
    now = time.monotonic()
    keys = KeyFile(path)

    def at(checks: int) -> list[str]:
        """Look at the file so many checks later; who is let in, and what the log says meanwhile."""
        monkeypatch.setattr(time, "monotonic", lambda: now + 2 * CHECK_S * checks)
        with capture_logs() as lines:
            found = [keys.find(b"key of a"), keys.find(b"key of b")]
        return [key.name for key in found if key] + [line["log_level"] for line in lines]

    assert at(1) == ["a"]
    path.write_text("wrong")
    assert at(1) == ["a"]  # Not looked at again so soon.
    assert at(2) == ["a", "error"]
    assert at(3) == ["a"]
    path.unlink()
    assert at(4) == ["a", "error"]
    assert at(5) == ["a"]
    path.write_text(f"a {A}\n")
    assert at(6) == ["a", "info"]
    path.write_text(f"b {B}\n")
    assert at(7) == ["b", "info"]
    assert at(8) == ["b"]
    path.write_text("")
    assert at(9) == ["info"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(f"a {A}\nb sk-secret\n", "line 2: "), (None, "there is no such file"), ("directory", "there is no such file")],
)
def test_a_gateway_does_not_start_with_a_file_of_keys_that_is_wrong(tmp_path, content, words):
    path = tmp_path / "keys"
    if content == "directory":
        path.mkdir()
    elif content:
        path.write_text(content)
    environment = clean_environment(SONORANT_API_KEYS_FILE=str(path), SONORANT_PORT=str(free_port()))
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"SONORANT_API_KEYS_FILE={path}: {words}" in done.stderr
    assert "sk-secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_makes_a_new_key_and_its_line():
    first, second = make_key("alice"), make_key("alice")
    secrets = []
    for done in (first, second):
        assert done.returncode == 0
        secret = done.stderr.split()[-1]
        assert secret.startswith("sk-")
        # What goes into the file is the line alone.
        assert done.stdout == f"alice {hashlib.sha256(secret.encode()).hexdigest()}\n"
        assert list(parse_keys(done.stdout.encode()).values()) == [Key("alice")]
        secrets.append(secret)
    assert len(set(secrets)) == 2


@pytest.mark.parametrize("arguments", [(), ("a b",), ("alice", "bob"), ("sk-something",), ("",)])
def test_the_command_says_what_a_name_is(arguments):
    done = make_key(*arguments)
    assert done.returncode == 2
    assert not done.stdout
    assert "usage: python -m gateway.auth NAME" in done.stderr
