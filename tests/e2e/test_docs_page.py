"""The page at `/docs` in a real Chromium, against the real stack."""

import httpx
import pytest

from tests.browser import NEEDS_CHROMIUM, chromium, watched

pytestmark = NEEDS_CHROMIUM

SPEAK = "#operations-speech-speak"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, stack):
    page = watched(browser.new_page())
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
