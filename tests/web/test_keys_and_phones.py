"""The console without a mouse, on a small screen, and for who listens to it."""

import re

import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.stack import HIBARI, eventually
from tests.web.console import await_playback, await_state, go_to, hear_out, set_seed, speak, stage, unheld

pytestmark = NEEDS_CHROMIUM

SCREENS = ["Speak", "Compare", "History", "Models", "Status"]


def focused(page) -> str:
    """What the element with the focus is called: its id, its label or its tag."""
    return str(
        page.evaluate(
            "[document.activeElement].map(it => it.id || it.ariaLabel || it.innerText?.slice(0, 40) || it.tagName)[0]"
        )
    )


def tab_to(page, name: str) -> None:
    for _ in range(60):
        if focused(page).startswith(name):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not come to {name}, but to {focused(page)}")


def leave_text(page) -> None:
    page.keyboard.press("Tab")


def dialog(page, name: str):
    return page.get_by_role("dialog", name=name)


def test_a_first_visit_with_the_keyboard_alone(page, stack):
    press = page.keyboard.press
    tab_to(page, "text")
    press("Control+a")
    page.keyboard.type("<long=2> two <hold=keys> three")
    press("Control+Enter")
    await_state(page, "streaming")
    leave_text(page)
    press("k")
    await_playback(page, "paused")
    unheld(stack, "keys")
    press("k")
    hear_out(page)
    tab_to(page, "Position in the speech")
    press("Home")
    await_playback(page, "playing")
    press("End")
    await_playback(page, "ended")


def test_a_model_and_a_voice_are_chosen_with_the_keyboard_and_the_focus_comes_back(page):
    press = page.keyboard.press
    press("m")
    dialog(page, "Choose a model").wait_for()
    tab_to(page, f"Use {HIBARI}")
    press("Enter")
    dialog(page, "Choose a model").wait_for(state="hidden")
    assert focused(page) == "model"
    assert HIBARI in page.get_by_role("button", name=re.compile("^Model")).inner_text()
    press("v")
    dialog(page, "Choose a voice").wait_for()
    tab_to(page, "Heart")
    press("Enter")
    dialog(page, "Choose a voice").wait_for(state="hidden")
    assert focused(page) == "voice"


def test_help_opens_and_closes_and_the_focus_comes_back(page):
    tab_to(page, "text")
    leave_text(page)
    before = focused(page)
    page.keyboard.press("?")
    dialog(page, "Keyboard").wait_for()
    page.keyboard.press("Escape")
    dialog(page, "Keyboard").wait_for(state="hidden")
    assert focused(page) == before


def test_numbers_go_to_the_screens(page):
    for number, name in reversed([*enumerate(SCREENS, 1)]):
        page.keyboard.press(str(number))
        page.get_by_role("heading", name=name, level=1).wait_for()
        assert focused(page) == "main"


def test_single_keys_come_to_the_speak_screen_from_every_other(page):
    press = page.keyboard.press
    for key, name in [("m", "Choose a model"), ("v", "Choose a voice")]:
        press("4")
        page.get_by_role("heading", name="Models", level=1).wait_for()
        press(key)
        dialog(page, name).wait_for()
        press("Escape")
        dialog(page, name).wait_for(state="hidden")
    press("5")
    page.get_by_role("heading", name="Status", level=1).wait_for()
    press("e")
    page.get_by_role("heading", name="Speak", level=1).wait_for()
    eventually(lambda: focused(page) == "text", "the text has the focus")


def test_a_new_screen_is_seen_from_its_top(visit, stack):
    page = visit(stack.url, viewport={"width": 1280, "height": 300})
    page.evaluate("scrollTo(0, 200)")
    assert page.evaluate("scrollY") > 0
    page.keyboard.press("2")
    page.get_by_role("heading", name="Compare", level=1).wait_for()
    eventually(lambda: page.evaluate("scrollY") == 0, "it is at the top")


def test_single_keys_can_be_switched_off(page):
    page.keyboard.press("?")
    page.get_by_role("checkbox", name="Single keys are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    page.keyboard.press("m")
    page.reload()
    page.get_by_role("heading", name="Speak", level=1).wait_for()
    page.keyboard.press("3")
    # A key that always works is a sign that those before it have been heard.
    speak(page, "one")
    hear_out(page)
    assert not page.get_by_role("dialog").count()
    assert page.get_by_role("heading", name="Speak", level=1).count()


def test_a_slider_listens_to_arrows(page):
    slider = page.get_by_role("slider", name="Speed")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "0.95 times"


@pytest.mark.parametrize("width", [360, 1280])
def test_every_screen_fits(visit, stack, width):
    page = visit(stack.url, viewport={"width": width, "height": 780})
    set_seed(page, 7)
    speak(page, "A_very_long_word_" * 20)
    hear_out(page)
    for name in SCREENS:
        go_to(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_what_happens_is_announced_politely(page, stack):
    page.evaluate(
        """() => {
            window.said = []
            const region = document.querySelector('[role=status]')
            new MutationObserver(() => window.said.push(region.textContent))
                .observe(region, { subtree: true, childList: true, characterData: true })
        }"""
    )
    regions = page.locator("[aria-live]")
    assert regions.count() == 1
    assert regions.get_attribute("aria-live") == "polite"
    speak(page, "one <hold=announced> two")
    eventually(lambda: "Playing." in page.evaluate("window.said"), "it says that it plays")
    unheld(stack, "announced")
    hear_out(page)
    eventually(lambda: "0.3 seconds have come." in page.evaluate("window.said"), "it says how it ended")
    said = page.evaluate("window.said")
    assert said.index("Waiting for the first audio.") < said.index("Playing.")
    assert stage(page).count() == 1


def test_a_key_that_no_header_can_carry_is_refused(page):
    page.get_by_role("button", name=re.compile("key", re.IGNORECASE)).first.click()
    field = dialog(page, "API key").get_by_label("Key", exact=True)
    field.fill("sk-…")
    assert field.get_attribute("aria-invalid") == "true"
    page.keyboard.press("Enter")
    dialog(page, "API key").get_by_text("plain ASCII").wait_for()
    field.fill("")
    page.keyboard.press("Enter")
    dialog(page, "API key").wait_for(state="hidden")


def test_code_that_cannot_be_copied_is_told_of(visit, stack):
    page = visit(
        stack.url,
        "navigator.clipboard.writeText = () => Promise.reject(new Error('no'))",
        "document.execCommand = () => false",
    )
    speak(page, "one")
    hear_out(page)
    stage(page).get_by_role("button", name="Code").click()
    page.get_by_role("button", name="Copy").focus()
    page.keyboard.press("Enter")
    page.get_by_role("paragraph").filter(has_text="does not let it be copied").wait_for()
    assert focused(page).strip() == "Copy"
