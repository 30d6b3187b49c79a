"""The page at `/docs` in a real Chromium, against the real stack."""

import os
import shutil

import httpx
import pytest

from tests.stack import PATIENCE_S

pytestmark = [
    pytest.mark.more,
    pytest.mark.skipif(
        not shutil.which("chromium") and not os.environ.get("CI"),
        reason="there is no `chromium` on this machine; on Debian and Ubuntu: apt-get install chromium",
    ),
]

SPEAK = "#operations-speech-speak"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or "chromium"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, stack):
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    page.troubles, page.hosts = [], set()
    page.on("console", lambda message: message.type == "error" and page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda request: page.hosts.add(request.url.removeprefix("blob:").split("/")[2]))
    page.answer = page.goto(f"{stack.url}/docs")
    page.wait_for_selector(".opblock")
    yield page
    page.close()


def operations(stack) -> set[str]:
    paths = httpx.get(f"{stack.url}/openapi.json").json()["paths"]
    return {operation["operationId"] for path in paths.values() for operation in path.values()}


def test_every_operation_is_shown_and_opens(page, stack):
    shown = page.evaluate("[...document.querySelectorAll('.opblock')].map(block => block.id)")
    assert {name.rsplit("-", 1)[1] for name in shown} == operations(stack)
    for name in shown:
        page.click(f"[id='{name}'] .opblock-summary-control")
        page.wait_for_selector(f"[id='{name}'] .responses-table")
    assert "Good morning." in page.input_value(f"{SPEAK} textarea.body-param__text")
    assert not page.query_selector(".errors-wrapper")
    assert page.troubles == []


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(page, stack):
    policy = page.answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert page.hosts == {f"127.0.0.1:{stack.gateway.port}"}
    assert page.troubles == []


def test_what_is_tried_out_is_heard(page, stack):
    page.click(f"{SPEAK} .opblock-summary-control")
    page.fill(f"{SPEAK} textarea.body-param__text", '{"input": "one two three"}')
    page.click(f"{SPEAK} .execute")
    page.wait_for_selector(f"{SPEAK} audio")
    duration_s = page.eval_on_selector(
        f"{SPEAK} audio",
        """audio => new Promise((resolve, reject) => {
            const end = () => audio.error ? reject(audio.error.message) : resolve(audio.duration)
            audio.readyState === 4 || audio.error ? end() : audio.oncanplaythrough = audio.onerror = end
        })""",
    )
    assert duration_s == pytest.approx(0.3, abs=0.01)
    assert page.hosts == {f"127.0.0.1:{stack.gateway.port}"}
    assert page.troubles == []
