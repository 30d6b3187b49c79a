"""What was said before, and the text while it is read."""

import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.stack import eventually
from tests.web.console import (
    await_state,
    go_to,
    hear_out,
    pick_voice,
    set_seed,
    speak,
    stage,
    type_text,
    unheld,
)

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def remembered(page):
    """The history of a browser that has said two things and come back."""
    pick_voice(page, "High")
    set_seed(page, 7)
    for text in ("the first of them", "<long=3> is the second"):
        speak(page, text)
        hear_out(page)
    page.reload()
    go_to(page, "History")
    return page


def entry(page, text: str):
    return page.get_by_role("listitem").filter(has_text=text)


def position(page) -> float:
    return float(page.get_by_role("slider", name="Position in the speech").get_attribute("aria-valuenow"))


def test_what_was_said_is_there_after_a_reload_and_is_played_again(remembered):
    entry(remembered, "first").get_by_role("button", name="Play: the first of them").click()
    entry(remembered, "first").get_by_role("button", name="Pause").wait_for()
    entry(remembered, "first").get_by_role("button", name="Play: the first of them").wait_for()


def test_a_place_in_it_is_gone_to(remembered):
    second = entry(remembered, "second")
    second.get_by_role("button", expanded=False).click()
    slider = remembered.get_by_role("slider", name="Position in the speech")
    slider.focus()
    remembered.keyboard.press("ArrowRight")
    eventually(lambda: position(remembered) >= 1, "it is played from there")
    remembered.keyboard.press("End")
    second.get_by_role("button", name="Play: <long=3>").wait_for()


def test_one_is_deleted_or_all(remembered):
    entry(remembered, "first").get_by_role("button", expanded=False).click()
    remembered.get_by_role("button", name="Delete", exact=True).click()
    entry(remembered, "first").wait_for(state="detached")
    assert entry(remembered, "second").count() == 1
    remembered.get_by_role("button", name="Delete all").click()
    remembered.get_by_role("button", name="sure?").click()
    remembered.get_by_text("Nothing has been said yet.").wait_for()
    remembered.reload()
    remembered.get_by_text("Nothing has been said yet.").wait_for()


def test_to_take_one_up_again_restores_all_that_it_was_asked_with(remembered):
    entry(remembered, "first").get_by_role("button", expanded=False).click()
    remembered.get_by_role("button", name="Take up again").click()
    text = remembered.get_by_role("textbox", name="Text to speak")
    text.wait_for()
    assert text.input_value() == "the first of them"
    assert remembered.get_by_role("textbox", name="Seed").input_value() == "7"
    assert "High" in remembered.get_by_role("complementary").inner_text()


def sentence(page, text: str):
    return stage(page).get_by_role("group", name="Text, by sentence").get_by_role("button", name=text)


def current(page) -> str:
    return str(page.evaluate("document.querySelector('.transcript [aria-current]')?.textContent.trim() ?? ''"))


def test_the_sentence_that_is_heard_is_marked_and_a_click_on_one_goes_there(page):
    speak(page, "<long=1> one. <long=2> two. <long=2> three.")
    eventually(lambda: "two" in current(page), "the mark moves on")
    eventually(lambda: "three" in current(page), "the mark moves on")
    sentence(page, "one").click()
    eventually(lambda: "one" in current(page), "it is played from there")
    hear_out(page)


def test_a_click_on_a_sentence_that_is_not_there_yet_begins_with_it(page, stack):
    text = "<long=1> one. Two <hold=unspoken> words. And three."
    with page.expect_request("**/v1/audio/speech"):
        speak(page, text)
    await_state(page, "streaming")
    with page.expect_request("**/v1/audio/speech") as again:
        sentence(page, "And three").click()
    assert again.value.post_data_json["input"] == "And three."
    unheld(stack, "unspoken")
    hear_out(page)
    type_text(page, text)


FILES = {
    "story.txt": ("One line.\r\nAnother.", "One line.\nAnother."),
    "notes.md": ("# Title\n\nSome *words* and a [link](https://example.org).", "Title\n\nSome words and a link."),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_a_file_is_opened(page, name, way):
    content, expected = FILES[name]
    if way == "chosen":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Open a file").click()
        chooser.value.set_files({"name": name, "mimeType": "text/plain", "buffer": content.encode()})
    else:
        files = page.evaluate_handle(
            """([name, content]) => {
                const dropped = new DataTransfer()
                dropped.items.add(new File([content], name))
                return dropped
            }""",
            [name, content],
        )
        page.get_by_role("region", name="Text", exact=True).dispatch_event("drop", {"dataTransfer": files})
    text = page.get_by_role("textbox", name="Text to speak")
    eventually(lambda: text.input_value() == expected, f"the text is there, not {text.input_value()!r}")


def test_only_what_can_be_read_is_opened(page):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a file").click()
    chooser.value.set_files({"name": "sound.txt", "mimeType": "text/plain", "buffer": b"\0\1\2"})
    page.get_by_role("region", name="Text").get_by_text("sound.txt is no text file.").wait_for()
    assert not stage(page).count()
