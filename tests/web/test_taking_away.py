"""What was heard as a file, and the request as code."""

import subprocess
import sys

import numpy as np
import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.sounds import decode, longest
from tests.stack import PATIENCE_S, ROOT, TONE, clean_environment
from tests.web.console import hear_out, served, set_option, set_seed, speak, stage

pytestmark = NEEDS_CHROMIUM

TEXT = 'It isn\'t "one", but <long=1> two.'
CLIPBOARD = ["clipboard-read", "clipboard-write"]


@pytest.fixture
def spoken(visit, stack):
    """A console that has spoken."""
    page = visit(stack.url, permissions=CLIPBOARD)
    set_seed(page, 7)
    set_option(page, "word_ms", 200)
    speak(page, TEXT)
    hear_out(page)
    return page


@pytest.fixture
def expected(stack):
    return served(stack, input=TEXT, model=TONE, seed=7, word_ms=200)


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "aac", "flac", "pcm"])
def test_every_format_is_as_long_as_what_was_heard(spoken, expected, form):
    stage(spoken).get_by_role("combobox", name="Format of the file").select_option(form)
    with spoken.expect_download() as saved:
        stage(spoken).get_by_role("button", name="Download").click()
    data = saved.value.path().read_bytes()
    assert saved.value.suggested_filename.endswith({"opus": ".ogg"}.get(form, f".{form}"))
    if form == "pcm":
        rate, samples = 24_000, np.frombuffer(data, "<i2")
    else:
        rate, samples = decode(data)
    if form in ("wav", "flac", "pcm"):
        assert np.array_equal(samples[samples != 0], expected[expected != 0])
    # A zero at either end is not counted by what we expect.
    least = round(len(expected) * rate / 24_000)
    assert least <= len(samples) <= longest(form, least + rate // 100)


def code_of(page, language: str) -> str:
    stage(page).get_by_role("combobox", name="Format of the file").select_option("pcm")
    stage(page).get_by_role("button", name="Code").click()
    page.get_by_text(language, exact=True).click()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def sound_of(folder) -> np.ndarray:
    samples = np.frombuffer((folder / "speech.pcm").read_bytes(), "<i2")
    (at,) = np.nonzero(samples)
    return samples[at[0] : at[-1] + 1]


def test_the_curl_that_is_copied_gives_the_same_sound(spoken, expected, tmp_path):
    subprocess.run(code_of(spoken, "curl"), shell=True, cwd=tmp_path, check=True, timeout=PATIENCE_S)
    assert np.array_equal(sound_of(tmp_path), expected)


def test_the_python_that_is_copied_gives_the_same_sound(spoken, expected, tmp_path):
    program = [sys.executable, "-c", code_of(spoken, "Python")]
    subprocess.run(program, cwd=tmp_path, env=clean_environment(), check=True, timeout=PATIENCE_S)
    assert np.array_equal(sound_of(tmp_path), expected)


def test_the_javascript_that_is_copied_is_javascript(spoken, tmp_path):
    (tmp_path / "say.mjs").write_text(code_of(spoken, "JavaScript"), encoding="utf-8")
    check = ["sh", ROOT / "web" / "npm.sh", "exec", "-c", f"node --check '{tmp_path / 'say.mjs'}'"]
    subprocess.run(check, check=True, timeout=PATIENCE_S)
