"""A real Chromium for tests, and what it complains of."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack import PATIENCE_S

NEEDS_CHROMIUM = [
    pytest.mark.more,
    pytest.mark.skipif(
        not shutil.which("chromium") and not os.environ.get("CI"),
        reason="there is no `chromium` on this machine; on Debian and Ubuntu: apt-get install chromium",
    ),
]


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; it plays sound without having been clicked on."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or "chromium"
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


def watched(page: Any) -> Any:
    """Write down what a page complains of, in `page.troubles`, and whom it asks, in `page.hosts`.

    Complaints in which a pattern of `page.expected` is found are not written down.
    """
    page.troubles, page.hosts, page.expected = [], set(), []

    def complain(text: str) -> None:
        if not any(re.search(pattern, text) for pattern in page.expected):
            page.troubles.append(text)

    page.set_default_timeout(1000 * PATIENCE_S)
    page.on("console", lambda message: message.type == "error" and complain(message.text))
    page.on("pageerror", lambda error: complain(str(error)))
    page.on("request", lambda request: page.hosts.add(request.url.removeprefix("blob:").split("/")[2]))
    return page
