"""The same text from several voices."""

import re

import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.web.console import go_to

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def compared(page):
    """The compare screen with the voices Low and High."""
    go_to(page, "Compare")
    for index, voice in enumerate(("Low", "High")):
        pick(page, index, voice)
    return page


def lanes(page):
    return page.get_by_role("region", name="Voices to compare").get_by_role("listitem")


def results(page):
    return page.get_by_role("region", name="What they said").get_by_role("listitem")


def pick(page, index: int, voice: str) -> None:
    lanes(page).nth(index).get_by_role("button", name=re.compile("^Voice")).click()
    page.get_by_role("list", name="Voices").get_by_role("button", name=voice, exact=True).click()
    page.get_by_role("dialog").wait_for(state="hidden")


def speak_all(page, text: str, count: int) -> None:
    page.get_by_role("textbox", name="Text to compare").fill(text)
    page.get_by_role("button", name="Speak all").click()
    page.locator(f"[data-state=done] >> nth={count - 1}").wait_for()


def names(page) -> list[str]:
    return results(page).get_by_role("heading").all_inner_texts()


def test_two_to_four_voices_say_the_same_text(compared):
    page = compared
    assert not page.get_by_role("button", name="Remove voice").count()
    for index in (2, 3):
        page.get_by_role("button", name="Another voice").click()
        pick(page, index, "Low")
    assert not page.get_by_role("button", name="Another voice").count()
    speak_all(page, "one", 4)
    assert names(page) == ["Low", "High", "Low", "Low"]
    page.get_by_role("button", name="Remove voice 4").click()
    assert lanes(page).get_by_role("heading").count() == 3


def test_they_are_played_one_after_the_other(compared):
    page = compared
    page.evaluate(
        """() => {
            window.played = []
            new MutationObserver(() => {
                const button = document.querySelector('[aria-label^="Pause "]')
                const name = button?.getAttribute('aria-label')
                if (name && window.played.at(-1) !== name) window.played.push(name)
            }).observe(document.body, { subtree: true, childList: true, attributes: true })
        }"""
    )
    speak_all(page, "<long=1>", 2)
    page.get_by_role("button", name="Pause B").wait_for()
    page.get_by_role("button", name="Play B").wait_for()
    assert page.evaluate("window.played") == ["Pause A", "Pause B"]


def test_blind_the_voices_have_no_names_until_the_vote_which_is_counted(compared):
    page = compared
    page.get_by_role("checkbox", name="Blind").check()
    speak_all(page, "one", 2)
    assert names(page) == ["A", "B"]
    assert "low" not in results(page).nth(0).inner_text().lower()
    page.get_by_role("button", name="Vote for B").click()
    results(page).nth(1).get_by_text("Your vote").wait_for()
    winner = names(page)[1]
    assert sorted(names(page)) == ["High", "Low"]
    page.reload()
    row = page.get_by_role("region", name="Your votes").get_by_role("row").filter(has_text=winner)
    assert [cell.strip() for cell in row.get_by_role("cell").all_inner_texts()] == ["1", "1"]
