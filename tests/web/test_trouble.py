"""When something goes wrong: it is said in words, what came is kept, and what passes is waited for."""

import hashlib
import re

import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.stack import HIBARI, Gateway, Stack, eventually
from tests.web.console import (
    await_playback,
    await_state,
    figure,
    go_to,
    hear_out,
    pick_model,
    speak,
    stage,
    unheld,
)

pytestmark = NEEDS_CHROMIUM

KEY = "sk-of-the-tests"
UNREACHABLE = "ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|ERR_INCOMPLETE_CHUNKED_ENCODING"


@pytest.fixture
def gateway(tmp_path, stack):
    """Start another gateway in front of the shared worker."""
    started = []

    def start(**settings: str) -> Stack:
        started.append(Gateway(tmp_path, stack.workers, **settings))
        eventually(started[-1].up, "the gateway sees the worker")
        return Stack(stack.workers, started[-1])

    yield start
    for each in started:
        each.end()


@pytest.fixture
def keys(tmp_path):
    """Settings of a gateway that wants a key."""
    path = tmp_path / "keys"
    path.write_text(f"ann {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    return {"SONORANT_API_KEYS_FILE": str(path)}


def enter_key(page) -> None:
    page.get_by_role("button", name="Enter the key").click()
    page.get_by_role("textbox", name="Key").fill(KEY)
    page.get_by_role("button", name="Keep").click()


def test_what_came_before_it_broke_off_is_kept(page):
    speak(page, "<long=1> two <fail>")
    await_state(page, "failed")
    notice = stage(page).locator(".notice").inner_text()
    assert "broke off after 1.1 s" in notice
    assert "told to fail" in notice
    stage(page).get_by_text("Broken off", exact=True).wait_for()
    await_playback(page, "ended")
    stage(page).get_by_role("button", name="Play", exact=True).click()
    await_playback(page, "playing")
    await_playback(page, "ended")
    go_to(page, "History")
    entry = page.get_by_role("listitem").filter(has_text="<fail>")
    entry.get_by_text("Broken off", exact=True).wait_for()


def test_a_text_that_the_voice_cannot_say_is_refused_in_words(page):
    page.expected.append("status of 400")
    pick_model(page, HIBARI)
    speak(page, "你好")
    await_state(page, "failed")
    assert "cannot say '你'" in stage(page).locator(".notice").inner_text()
    assert stage(page).get_by_role("button", name="Play", exact=True).is_disabled()


def test_a_key_is_asked_for_where_one_is_wanted_and_stays_in_this_browser(visit, gateway, keys):
    page = visit(gateway(**keys).url)
    page.expected.append("status of 401")
    speak(page, "one two")
    await_state(page, "failed")
    stage(page).get_by_text("This server wants an API key.").wait_for()
    enter_key(page)
    stage(page).get_by_role("button", name="Try again").click()
    hear_out(page)
    page.reload()
    page.get_by_role("button", name="API key: set").wait_for()
    kept = page.evaluate(
        "Object.entries(localStorage).filter(([, value]) => value.includes('sk-of')).map(([name]) => name)"
    )
    assert kept == ["sonorant.key"]
    assert page.evaluate("[document.cookie, sessionStorage.length]") == ["", 0]
    assert KEY not in page.url
    speak(page, "three")
    hear_out(page)


def test_a_server_that_shows_nothing_without_a_key_shows_all_with_it(visit, gateway, keys):
    page = visit(gateway(**keys, SONORANT_PUBLIC_DISCOVERY="false").url, expected=["status of 401"])
    page.get_by_text("This server wants an API key.").wait_for()
    enter_key(page)
    page.get_by_role("link", name="1 worker").wait_for()
    assert not page.get_by_text("This server wants an API key.").count()


def is_queued_and_goes_on(page, occupied: Stack, hold: str, reason: str) -> None:
    page.expected += ["status of 429", "status of 503"]
    with occupied.stream(input=f"one <hold={hold}>"):
        speak(page, "one two")
        await_state(page, "queued")
        assert re.search(rf"{reason}.*asking again in\s+\d+ s", stage(page).inner_text(), re.DOTALL)
        unheld(occupied, hold)
    hear_out(page)
    assert figure(page, "Audio") == "0.2 s"


def test_beyond_the_limit_of_a_key_it_waits_and_goes_on_by_itself(visit, gateway):
    limited = gateway(SONORANT_RATE_STREAMS="1")
    is_queued_and_goes_on(visit(limited.url), limited, "limited", "The limit of this key is reached")


def test_at_a_server_that_is_busy_it_waits_and_goes_on_by_itself(visit, start):
    busy = start(worker_settings={"SONORANT_CAPACITY": "1"})
    is_queued_and_goes_on(visit(busy.url), busy, "busy", "The server is busy")


def test_a_worker_that_comes_later_is_noticed(visit, start):
    stack = start()
    stack.worker.end()
    eventually(lambda: not stack.gateway.up(), "the gateway knows")
    page = visit(stack.url)
    page.get_by_text("No worker is there to speak yet.").wait_for()
    again = stack.worker.again()
    try:
        page.get_by_role("link", name="1 worker").wait_for()
        assert not page.get_by_text("No worker is there to speak yet.").count()
        eventually(again.is_ready, "it can speak")
        speak(page, "one")
        hear_out(page)
    finally:
        again.end()


def test_a_server_that_is_gone_is_said_to_be_gone(visit, gateway):
    server = gateway()
    page = visit(server.url)
    page.expected.append(UNREACHABLE)
    speak(page, "<long=1>")
    hear_out(page)
    server.gateway.end()
    page.get_by_role("link", name="Server unreachable").wait_for()
    page.get_by_text("what you have typed stays").wait_for()
    speak(page, "<long=1>")
    await_state(page, "failed")
    assert "cannot be reached" in stage(page).locator(".notice").inner_text()
    go_to(page, "History")
    page.get_by_role("button", name="Play: <long=1>").wait_for()
