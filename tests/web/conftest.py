"""The console at `/` in a real Chromium, against the real stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, watched
from tests.stack import ROOT, eventually


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    if not (ROOT / "web" / "dist" / "index.html").is_file():
        pytest.fail("the console has not been built: `make web` does it", pytrace=False)
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the console of a stack for the first time; whatever it complains of fails the test.

    Takes the address, scripts to run before the page's own, whether to record what is played (`console.heard`),
    complaints to expect, and options of the browser's context, such as `viewport`.
    """
    pages = []

    def visit(url: str, *scripts: str, records: bool = False, expected: Sequence[str] = (), **options: object) -> Any:
        options = {"viewport": {"width": 1280, "height": 900}, "bypass_csp": records, **options}
        page = watched(browser.new_page(**options))
        page.expected += expected
        pages.append(page)
        if records:
            page.add_init_script(path=Path(__file__).parent / "recorder.js")
        for script in scripts:
            page.add_init_script(script)
        page.goto(url)
        # Until it knows the workers, or why it does not.
        page.wait_for_selector(".health:not(.unknown), .notice", state="attached")
        if records:
            page.keyboard.press("Shift")
            eventually(lambda: page.evaluate("window.isRecording"), "it is recorded")
        return page

    yield visit
    troubles = [trouble for page in pages for trouble in page.troubles]
    for page in pages:
        page.close()
    assert not troubles


@pytest.fixture
def page(visit: Callable[..., Any], stack: Any) -> Any:
    """The console of the stack that tests share, on its speak screen."""
    page = visit(stack.url)
    page.get_by_role("link", name="1 worker").wait_for()
    return page
