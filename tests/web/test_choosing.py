"""Who speaks, and how: models, voices and options."""

import io
import json
import os
import re

import httpx
import numpy as np
import pytest
import soundfile

from tests.browser import NEEDS_CHROMIUM
from tests.hub import Hub
from tests.stack import HIBARI, PATIENCE_S, eventually, running
from tests.web.console import (
    await_state,
    figure,
    go_to,
    hear_out,
    heard,
    pick_model,
    pick_voice,
    served,
    set_option,
    set_seed,
    speak,
    speak_whole,
    stage,
)

pytestmark = NEEDS_CHROMIUM

LARGE = 30_000_000  # The hub's client writes, and tells of, 10 MiB at a time.
TONE_INFO = {"library_name": "tone", "config": {"model_type": "tone"}}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("hub"))
    config = json.dumps({"model_type": "tone"}).encode()
    for name in ("first", "second"):
        weights = b"TONE" + os.urandom(LARGE - 4)
        hub.add(f"org/{name}", {"config.json": config, "weights.bin": weights}, info=TONE_INFO)
    hub.add("org/gated", {"config.json": config, "weights.bin": b"TONE"}, gated="auto", info=TONE_INFO)
    hub.add("org/other", {"model.nemo": b"x"}, info={"library_name": "nemo"})
    yield hub
    hub.end()


@pytest.fixture(scope="module")
def hub_stack(hub, tmp_path_factory):
    """A stack that sees the hub."""
    settings = {**hub.environment, "SONORANT_ENGINES": "tone"}
    with running(tmp_path_factory.mktemp("stack"), worker_settings=settings, **hub.environment) as stack:
        yield stack


@pytest.fixture
def at_hub(visit, hub_stack):
    return visit(hub_stack.url)


def model_row(page, model):
    return page.get_by_role("list", name="Models").get_by_role("listitem").filter(has_text=model)


def test_models_are_searched_and_those_that_cannot_be_served_say_why(at_hub):
    at_hub.get_by_role("button", name=re.compile("^Model")).click()
    at_hub.get_by_role("searchbox", name="Search models").fill("other")
    at_hub.get_by_text("Some that cannot be served are not shown.").wait_for()
    assert model_row(at_hub, "other").count() == 0
    at_hub.get_by_role("checkbox", name="Only those that can be served").uncheck()
    model_row(at_hub, "other").get_by_text("Can't be served").wait_for()
    assert "no engine" in model_row(at_hub, "other").inner_text()
    assert model_row(at_hub, "other").get_by_role("button", name="Use org/other").is_disabled()
    at_hub.get_by_role("searchbox", name="Search models").fill("gated")
    model_row(at_hub, "gated").get_by_text("Gated", exact=True).wait_for()


def test_the_models_screen_says_why_a_model_cannot_be_served(at_hub):
    go_to(at_hub, "Models")
    model_row(at_hub, "other").get_by_text("Can't be served").wait_for()
    assert "no engine" in model_row(at_hub, "other").inner_text()


def test_a_model_that_a_search_has_found_is_known_when_the_search_is_over_and_after_a_reload(at_hub, hub_stack):
    listing = httpx.get(f"{hub_stack.url}/api/models?limit=50", timeout=PATIENCE_S).raise_for_status().json()
    # The trending models, of which it is none.
    for part in ("models", "local"):
        listing[part] = [model for model in listing[part] if model["id"] != "org/second"]
    at_hub.route(re.compile(r"/api/models\?limit=50$"), lambda route: route.fulfill(json=listing))
    at_hub.reload()
    at_hub.get_by_role("button", name=re.compile("^Model")).click()
    model_row(at_hub, "org/first").wait_for()
    assert not model_row(at_hub, "org/second").count()
    at_hub.get_by_role("searchbox", name="Search models").fill("org/sec")
    at_hub.get_by_role("button", name="Use org/second").click()
    chosen = at_hub.get_by_role("button", name=re.compile("^Model"))
    # How it stands is told of models that are known.
    standing = at_hub.locator("#model-label").get_by_text("On the Hub")
    with at_hub.expect_request(re.compile("search=org%2Fsecond")):
        chosen.get_by_text("org/second").wait_for()
        standing.wait_for()
        at_hub.reload()
    chosen.get_by_text("org/second").wait_for()
    standing.wait_for()


def test_a_load_shows_how_far_it_is_and_an_unload_leaves_the_files(at_hub, hub):
    hub.knobs(hold={"weights.bin": 15_000_000})
    go_to(at_hub, "Models")
    at_hub.get_by_role("button", name="Load org/first").click()
    bar = at_hub.get_by_role("progressbar", name="Loading org/first")

    def done() -> float:
        return float(bar.evaluate("bar => bar.hasAttribute('value') ? bar.value : 0"))

    bar.wait_for()
    eventually(lambda: done() > 0, "something has come")
    before = done()
    hub.knobs(hold={"weights.bin": 25_000_000})
    eventually(lambda: done() > before, "the bar moves")
    hub.mend()
    at_hub.get_by_role("button", name="Unload org/first").click()
    model_row(at_hub, "first").get_by_text("On disk", exact=True).wait_for()


def test_to_speak_with_a_model_that_is_not_in_memory_shows_its_way_there_first(at_hub, hub):
    hub.knobs(hold={"weights.bin": 15_000_000})
    pick_model(at_hub, "org/second")
    speak(at_hub, "one two three")
    await_state(at_hub, "loading")
    bar = stage(at_hub).get_by_role("progressbar", name="Downloading the model")
    bar.wait_for()
    stage(at_hub).get_by_text("of 30.0 MB").wait_for()
    hub.mend()
    hear_out(at_hub)
    assert "org/second" in stage(at_hub).inner_text()


def test_voices_are_searched_and_the_one_that_is_picked_speaks(visit, stack):
    page = visit(stack.url, records=True)
    page.get_by_role("button", name=re.compile("^Voice")).click()
    voices = page.get_by_role("list", name="Voices")
    page.get_by_role("searchbox", name="Search voices").fill("hi")
    assert [voice for voice in ("Low", "High") if voices.get_by_text(voice, exact=True).count()] == ["High"]
    voices.get_by_role("button", name="High", exact=True).click()
    set_seed(page, 7)
    speak_whole(page, "one two")
    assert np.array_equal(heard(page), served(stack, input="one two", voice="high", seed=7))
    assert "high" in stage(page).inner_text().lower()


def test_a_voice_is_heard_before_it_is_picked_and_can_be_stopped(visit, stack):
    page = visit(stack.url, records=True)
    pick_model(page, HIBARI)
    page.get_by_role("button", name=re.compile("^Voice")).click()
    whole = served(stack, input="Hello, this is what I sound like.", model=HIBARI, seed=1)
    page.get_by_role("button", name="Hear a sample of").first.click()
    stop = page.get_by_role("button", name="Stop the sample of")
    stop.wait_for()
    eventually(lambda: len(heard(page)), "it is heard")
    stop.click()
    page.get_by_role("button", name="Hear a sample of").first.wait_for()
    assert len(heard(page)) < len(whole)
    eventually(stack.is_idle, "nothing is left counted as running")


def test_a_sample_that_has_been_heard_out_can_be_heard_again(page):
    page.get_by_role("button", name=re.compile("^Voice")).click()
    sample = page.get_by_role("button", name="Hear a sample of High")
    for _ in range(2):
        sample.click()
        page.get_by_role("button", name="Stop the sample of High").wait_for()
        sample.wait_for()


def test_a_model_that_imitates_offers_the_voices_of_recordings(visit, stack):
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * 600 * np.arange(48_000) / 24_000), 24_000, format="WAV")
    voices = f"{stack.url}/v1/audio/voices"
    fields = {"name": "Ann", "consent": "I agree that my voice is imitated."}
    made = httpx.post(voices, data=fields, files={"audio_sample": ("a.wav", file.getvalue())}, timeout=PATIENCE_S)
    voice = made.raise_for_status().json()["id"]
    try:
        page = visit(stack.url)
        pick_model(page, "sonorant/tone-22k")
        page.get_by_role("button", name=re.compile("^Voice")).click()
        row = page.get_by_role("list", name="Voices").get_by_role("listitem").filter(has_text="Ann")
        row.get_by_text("Custom", exact=True).wait_for()
        page.keyboard.press("Escape")
        pick_voice(page, "Ann")
        with page.expect_request("**/v1/audio/speech") as asked:
            speak(page, "one two")
        assert asked.value.post_data_json["voice"] == voice
        hear_out(page)
    finally:
        httpx.delete(f"{voices}/{voice}").raise_for_status()


def test_an_option_of_the_engine_changes_what_is_said(page):
    speak(page, "one two three four")
    hear_out(page)
    assert figure(page, "Audio") == "0.4 s"
    set_option(page, "word_ms", 500)
    speak(page, "one two three four")
    hear_out(page)
    assert figure(page, "Audio") == "2.0 s"


def test_a_decimal_is_typed_into_an_option(page):
    page.expected.append("status of 400")  # This one is a whole number, says the server.
    set_option(page, "word_ms", "")
    field = page.get_by_role("textbox", name="word_ms")
    field.press_sequentially("100.50")
    assert field.input_value() == "100.50"
    with page.expect_request("**/v1/audio/speech") as asked:
        speak(page, "one")
    assert asked.value.post_data_json["word_ms"] == 100.5
    await_state(page, "failed")


def test_a_bad_option_is_marked_and_the_server_names_it(page):
    page.expected.append("status of 400")
    set_option(page, "word_ms", 5)
    field = page.get_by_role("textbox", name="word_ms")
    assert field.get_attribute("aria-invalid") == "true"
    page.get_by_text("It must be 10 to 10000.").wait_for()
    speak(page, "one")
    await_state(page, "failed")
    assert "word_ms" in stage(page).locator(".notice").inner_text()


def test_speed_and_seed_are_said_to_the_server(page):
    slider = page.get_by_role("slider", name="Speed")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "2.00 times"
    set_seed(page, 7)
    with page.expect_request("**/v1/audio/speech") as asked:
        speak(page, "one two three four")
    assert {"speed": 2, "seed": 7}.items() <= asked.value.post_data_json.items()
    hear_out(page)
    assert figure(page, "Audio") == "0.2 s"


def test_a_seed_that_is_no_number_is_marked(page):
    page.get_by_role("textbox", name="Seed").fill("seven")
    assert page.get_by_role("textbox", name="Seed").get_attribute("aria-invalid") == "true"
