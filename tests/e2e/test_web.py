"""The page at `/` in a real Chromium, against the real stack."""

import os
import shutil

import pytest

from tests.stack import HIBARI, PATIENCE_S, TONE, eventually

pytestmark = [
    pytest.mark.more,
    pytest.mark.skipif(
        not shutil.which("chromium") and not os.environ.get("CI"),
        reason="there is no `chromium` on this machine; on Debian and Ubuntu: apt-get install chromium",
    ),
]

PATIENCE_MS = 1000 * PATIENCE_S


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium") or "chromium", args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, stack):
    page = browser.new_page(viewport={"width": 360, "height": 780})
    page.set_default_timeout(PATIENCE_MS)
    page.troubles = []
    page.on("console", lambda message: message.type == "error" and page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.goto(stack.url)
    page.wait_for_selector("#status[data-state=idle]")
    yield page
    page.close()


def choose(page, model: str) -> None:
    page.evaluate(
        "model => { voice.selectedIndex = [...voice.options].findIndex(o => o.dataset.model === model) }", model
    )


def speak(page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Control+Enter")


def test_it_speaks_and_plays_every_sample_that_was_served(page, stack):
    choose(page, TONE)
    speak(page, "one two three")
    page.wait_for_selector("#status[data-state=done]")
    assert page.get_attribute("#status", "data-samples") == str(3 * 2400)
    assert page.troubles == []


def test_it_plays_while_the_speech_is_being_made(page, stack):
    choose(page, TONE)
    speak(page, "one <hold=page> two")
    page.wait_for_selector("#status[data-state=playing]")
    # The worker waits for us: what plays now cannot be the whole.
    assert page.evaluate("performance.getEntriesByName('first-audio-scheduled').length") == 1
    assert page.evaluate("performance.getEntriesByName('stream-ended').length") == 0
    (stack.signals / "page").touch()
    page.wait_for_selector("#status[data-state=done]")
    assert page.get_attribute("#status", "data-samples") == str(3 * 2400)


def test_stop_ends_the_work(page, stack):
    choose(page, TONE)
    speak(page, "one " + "<delay=0.02> " * 200 + "<touch=page-stopped>")
    page.wait_for_selector("#status[data-state=playing]")
    page.press("body", "Escape")
    page.wait_for_selector("#status[data-state=stopped]")
    eventually(stack.is_idle, "nothing is left counted as running")
    assert not (stack.signals / "page-stopped").exists()


def test_a_refusal_and_a_cut_are_said_in_words(page, stack):
    choose(page, HIBARI)
    speak(page, "你好")
    page.wait_for_selector("#status[data-state=failed]")
    assert "cannot say '你'" in page.inner_text("#status")
    choose(page, TONE)
    speak(page, "one two <hold=page-cut> <fail>")
    page.wait_for_selector("#status[data-state=playing]")
    (stack.signals / "page-cut").touch()
    page.wait_for_selector("#status[data-state=failed]:has-text('cut off')")


def test_the_embedded_voice_plays_without_a_gap(page):
    choose(page, HIBARI)
    speak(page, "The first boats came in before dawn. Nobody saw them but the gulls.")
    page.wait_for_selector("#status[data-state=done]")
    assert int(page.get_attribute("#status", "data-samples")) > 3 * 24_000
    assert "gaps" not in page.inner_text("#status")
    assert page.troubles == []


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(browser, stack):
    page = browser.new_page()
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    answer = page.goto(stack.url)
    page.wait_for_selector("#status[data-state=idle]")
    assert hosts == {f"127.0.0.1:{stack.gateway.port}"}
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    page.close()


def test_it_fits_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
