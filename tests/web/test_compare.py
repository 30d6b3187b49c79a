"""The same text from several voices."""

import re

import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.stack import eventually
from tests.web.console import figure, go_to, hear_out, speak

pytestmark = NEEDS_CHROMIUM

NAMES = re.compile(r"\b(low|high|tone|hibari)\b|sonorant/", re.IGNORECASE)


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
    first_sounds = page.locator(".figures div:has(dt:text-is('First sound')) dd").all_inner_texts()
    # How long the second one waited for its turn says nothing of the server.
    assert re.fullmatch(r"\d+ ms", first_sounds[0])
    assert first_sounds[1] == "–"


def tells_of(page):
    """Begin to write down what the live region says; the function that it returns reads it."""
    page.evaluate(
        """() => {
            const region = document.querySelector('[aria-live=polite]')
            window.told = []
            new MutationObserver(() => window.told.push(region.textContent))
                .observe(region, { subtree: true, childList: true, characterData: true })
        }"""
    )
    return lambda: page.evaluate("window.told")


def shown_names(page) -> list[str]:
    """The names of voices and models in what is shown of the round, attributes and all."""
    return NAMES.findall("".join(each.evaluate("each => each.outerHTML") for each in results(page).all()))


def test_blind_the_voices_have_no_names_until_the_vote_which_is_counted(compared):
    page = compared
    page.get_by_role("checkbox", name="Blind").check()
    tells = tells_of(page)
    speak_all(page, "one", 2)
    assert names(page) == ["A", "B"]
    assert not shown_names(page)
    go_to(page, "History")
    page.get_by_text("Nothing has been said yet.").wait_for()
    go_to(page, "Compare")
    assert not [told for told in tells() if NAMES.search(told)]
    page.get_by_role("button", name="Vote for B").click()
    results(page).nth(1).get_by_text("Your vote").wait_for()
    winner = names(page)[1]
    assert sorted(names(page)) == ["High", "Low"]
    page.reload()
    row = page.get_by_role("region", name="Your votes").get_by_role("row").filter(has_text=winner)
    assert [cell.strip() for cell in row.get_by_role("cell").all_inner_texts()] == ["1", "1"]
    go_to(page, "History")
    page.get_by_role("button", name="Play: one").nth(1).wait_for()


def test_blind_a_failure_names_nobody_and_its_reason_is_told_after_the_vote(compared):
    page = compared
    page.expected.append("status of 400")
    page.route("**/v1/audio/speech", refuse_high)
    page.get_by_role("checkbox", name="Blind").check()
    tells = tells_of(page)
    page.get_by_role("textbox", name="Text to compare").fill("one")
    page.get_by_role("button", name="Speak all").click()
    page.get_by_text("Nothing could be said.").wait_for()
    page.locator("[data-state=done]").wait_for()
    assert not shown_names(page)
    page.locator("[data-state=done]").get_by_role("button", name="Vote for").click()
    page.get_by_text("The voice high is hoarse.").wait_for()
    told = tells()
    assert [each for each in told if re.fullmatch("[AB] has failed.", each)]
    assert not [each for each in told[:-1] if NAMES.search(each)]


def refuse_high(route) -> None:
    if route.request.post_data_json["voice"] != "high":
        return route.continue_()
    return route.fulfill(status=400, json={"error": {"message": "The voice high is hoarse.", "code": "invalid_value"}})


def test_one_speaks_at_a_time(compared, stack):
    page = compared
    page.get_by_role("textbox", name="Text to compare").fill("one " + "<delay=0.02> " * 400)
    page.get_by_role("button", name="Speak all").click()
    page.locator("[data-state=streaming] >> nth=1").wait_for()
    go_to(page, "Speak")
    speak(page, "another")
    hear_out(page)
    # So short a text is over before it is first heard.
    assert re.fullmatch(r"\d+ ms", figure(page, "First sound"))
    eventually(stack.is_idle, "nothing is left counted as running")
    go_to(page, "Compare")
    page.locator("[data-state=stopped] >> nth=1").wait_for()
