"""Whether everybody can use the console: WCAG 2.2 AA by axe-core in every state, and what axe does not see.

A state is reached by what a person does, against the real stack; the tone engine holds it as long as it is looked at.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.browser import NEEDS_CHROMIUM
from tests.hub import Hub
from tests.stack import HIBARI, ROOT, TONE, Gateway, Stack, eventually, free_port, running
from tests.web.console import await_state, hear_out, pick_model, speak, type_text

pytestmark = NEEDS_CHROMIUM

GIFTED = "sonorant/tone-22k"
SECRET = "sk-of-the-console"
WIDE, PHONE, ZOOMED = (1280, 900), (360, 760), (320, 640)
"""Windows in CSS pixels; the last one is what a zoom of 400 % leaves of the first."""

REFUSED = "Failed to load resource: "
"""What the browser itself writes to the console when a request is refused or fails, which some states are about."""

AXE = (ROOT / "web/node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CONTRAST = ["color-contrast"]

POLICY_LISTENER = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`))"""


@dataclass
class World:
    """Servers in every condition, and the browser that visits them."""

    hub: Hub
    stack: Stack
    keyed: Gateway
    deserted: Gateway
    hubless: Gateway
    open: Callable[..., Any] = lambda *_, **__: None
    held: list[str] = field(default_factory=list)

    def visit(self, screen: str = "speak", at: Gateway | None = None, *, refused: bool = False) -> Any:
        """Open a screen for the first time.

        Args:
            screen: Its name in the address.
            at: Whose console it is; that of the stack with everything if None.
            refused: Whether some requests are going to fail.
        """
        page = self.open(f"{(at or self.stack.gateway).url}/#/{screen}", POLICY_LISTENER)
        if refused:
            page.expected += [REFUSED]
            page.troubles[:] = [trouble for trouble in page.troubles if not trouble.startswith(REFUSED)]
        if at is None:
            page.get_by_role("link", name="1 worker").wait_for()
        return page

    def hold(self) -> str:
        """An order to wait until the test is over."""
        self.held.append(f"held-{next(COUNTER)}")
        return f"<hold={self.held[-1]}>"

    def release(self) -> None:
        for name in self.held:
            (self.stack.signals / name).touch()
        self.held.clear()


COUNTER = itertools.count()


def answers(gateway: Gateway) -> bool:
    try:
        return bool(gateway.health())
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("console")
    hub = Hub(folder)

    def add(name: str, weights: bytes = b"TONE", orders: str = "", gated: str = "") -> None:
        config = {"model_type": "tone", "orders": orders}
        info = {"library_name": "tone", "config": config, "trendingScore": 9, "downloads": 1_234_567}
        files = {"config.json": json.dumps(config).encode(), "weights.bin": weights + bytes(900_000)}
        hub.add(name, files, info=info, **({"gated": gated} if gated else {}))

    add("org/plain")
    add("org/gated", gated="auto")
    add("org/broken", weights=b"NONE")
    add("org/slow", orders="<hold=loaded>")
    add("org/slow-to-speak", orders="<hold=spoken>")
    add("org/a-model-whose-name-goes-on-and-on-until-there-is-no-room-for-it")
    hub.add("org/other", {"model.nemo": b"x"}, info={"library_name": "nemo", "trendingScore": 8})
    keys = folder / "keys"
    keys.write_text(f"console {hashlib.sha256(SECRET.encode()).hexdigest()} requests=1\n", encoding="utf-8")

    gateways = []

    def gateway(name: str, stack: Stack, **settings: str) -> Gateway:
        (folder / name).mkdir()
        gateways.append(Gateway(folder / name, stack.workers, **settings))
        eventually(lambda: answers(gateways[-1]), "the gateway answers")
        return gateways[-1]

    settings = {"SONORANT_PRELOAD": f"{TONE},{HIBARI}", **hub.environment}
    with running(folder, worker_settings=settings, **hub.environment) as stack:
        keyed = {"SONORANT_API_KEYS_FILE": str(keys), "SONORANT_PUBLIC_DISCOVERY": "false"}
        yield World(
            hub,
            stack,
            gateway("keyed", stack, **keyed),
            gateway("deserted", stack, SONORANT_WORKERS=f"127.0.0.1:{free_port()}", **hub.environment),
            gateway("hubless", stack),
        )
        (stack.signals / "loaded").touch()
        for each in gateways:
            each.end()
    hub.end()


@pytest.fixture
def world(servers: World, visit: Callable[..., Any]) -> Iterator[World]:
    servers.open = visit
    yield servers
    servers.release()


def enter_key(page: Any) -> None:
    page.get_by_role("button", name="API key: none").click()
    page.get_by_label("Key", exact=True).fill(SECRET)
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("link", name="1 worker").wait_for()


def loads(page: Any, model: str) -> Any:
    """Begin to load a model on the models screen; its row."""
    row = page.locator(f"[data-model='{model}']")
    row.get_by_role("button", name="Load").click()
    return row


# How to come to each state: a function that gives the page.


def first_visit(world: World) -> Any:
    page = world.visit()
    page.get_by_text("Press Ctrl").wait_for()
    return page


def a_server_that_wants_a_key(world: World) -> Any:
    page = world.visit(at=world.keyed, refused=True)
    page.get_by_text("This server wants an API key.").wait_for()
    return page


def no_worker(world: World) -> Any:
    page = world.visit(at=world.deserted)
    page.get_by_text("No worker is there to speak yet.").wait_for()
    return page


def unreachable(world: World) -> Any:
    page = world.visit(refused=True)
    page.context.set_offline(True)
    page.get_by_text("The server cannot be reached.").wait_for()
    return page


def all_options(world: World) -> Any:
    page = world.visit()
    pick_model(page, GIFTED)
    page.get_by_text("More options").click()
    page.get_by_label("word_ms").fill("wrong")
    page.get_by_role("textbox", name="Seed").fill("wrong")
    page.get_by_role("slider", name="Speed").press("End")
    page.get_by_role("slider", name="Speed").press("ArrowRight")
    return page


def a_file_that_is_no_text(world: World) -> Any:
    page = world.visit()
    page.set_input_files("input[type=file]", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"\0"})
    page.get_by_role("region", name="Text").get_by_text("a.txt is no text file.").wait_for()
    return page


def waiting(world: World) -> Any:
    page = world.visit()
    speak(page, world.hold())
    await_state(page, "waiting")
    return page


def speaking(world: World) -> Any:
    page = world.visit()
    speak(page, f"One two three. Four five {world.hold()} six. Seven eight nine.")
    await_state(page, "streaming")
    page.locator(".transcript [aria-current]").wait_for()
    return page


def done(world: World) -> Any:
    page = world.visit()
    speak(page, "One two three. Four five six.")
    hear_out(page)
    return page


def another_text_after_it(world: World) -> Any:
    page = done(world)
    type_text(page, "Another one.")
    page.get_by_role("button", name="Back to this text").wait_for()
    return page


def stopped(world: World) -> Any:
    page = speaking(world)
    page.keyboard.press("Escape")
    await_state(page, "stopped")
    return page


def broken_off(world: World) -> Any:
    page = world.visit()
    speak(page, "One two three. Four five six. <pause=1> <fail>")
    await_state(page, "failed")
    page.get_by_text("what came is kept").wait_for()
    return page


def refused(world: World) -> Any:
    page = world.visit(refused=True)
    pick_model(page, "org/broken")
    speak(page, "One.")
    await_state(page, "failed")
    return page


def refused_without_a_key(world: World) -> Any:
    page = a_server_that_wants_a_key(world)
    speak(page, "One.")
    await_state(page, "failed")
    return page


def queued(world: World) -> Any:
    page = world.visit(at=world.keyed, refused=True)
    enter_key(page)
    speak(page, "One.")
    page.locator(".stage[data-state=done], .stage[data-state=queued]").wait_for()
    speak(page, "One two.")
    await_state(page, "queued")
    return page


def a_model_loading(world: World) -> Any:
    page = world.visit()
    world.held.append("spoken")
    pick_model(page, "org/slow-to-speak")
    speak(page, "One.")
    await_state(page, "loading")
    page.get_by_text("Loading the model into memory").wait_for()
    return page


def comparison(world: World, text: str, *, blind: bool) -> Any:
    page = world.visit("compare")
    page.get_by_role("textbox").fill(text)
    page.get_by_label("Blind").set_checked(blind)
    page.get_by_role("button", name="Another voice").click()
    page.get_by_role("button", name="Speak all").click()
    return page


def before_a_comparison(world: World) -> Any:
    return world.visit("compare")


def comparing(world: World) -> Any:
    page = comparison(world, f"One two three. <pause=1> {world.hold()}", blind=False)
    page.locator("[data-result][data-state=streaming]").first.wait_for()
    return page


def blind(world: World) -> Any:
    page = comparison(world, "One two three.", blind=True)
    page.locator("[data-result][data-state=done]").nth(2).wait_for()
    page.get_by_text("Hidden until you vote").first.wait_for()
    return page


def voted(world: World) -> Any:
    page = blind(world)
    page.get_by_role("button", name="Vote for B").click()
    page.get_by_role("heading", name="Your votes").wait_for()
    return page


def no_history(world: World) -> Any:
    page = world.visit("history")
    page.get_by_text("Nothing has been said yet.").wait_for()
    return page


def history(world: World) -> Any:
    page = broken_off(world)
    for text in ("One two three.", "One two.", "<long=70>"):
        speak(page, text)
        await_state(page, "done")
    page.get_by_role("link", name="History").click()
    page.get_by_role("searchbox", name="Search the history").wait_for()
    return page


def an_open_entry(world: World) -> Any:
    page = history(world)
    page.locator(".history-title", has_text="One two three. Four").click()
    page.locator(".history-body").wait_for()
    return page


def models(world: World) -> Any:
    page = world.visit("models")
    page.get_by_label("Only those that can be served").uncheck()
    page.locator("[data-model='org/other']").wait_for()
    return page


def models_loading_and_failed(world: World) -> Any:
    page = models(world)
    loads(page, "org/broken").locator(".model-reason").wait_for()
    loads(page, "org/slow").get_by_role("progressbar").wait_for()
    return page


def no_such_model(world: World) -> Any:
    page = models(world)
    page.get_by_role("searchbox").fill("nothing is called that")
    page.get_by_text("No model here is called that.").wait_for()
    return page


def no_hub(world: World) -> Any:
    page = world.visit("models", at=world.hubless)
    page.get_by_text("The Hugging Face Hub cannot be reached.").wait_for()
    return page


def status(world: World) -> Any:
    page = world.visit("status")
    page.get_by_text("Calls from here").wait_for()
    return page


def status_of_a_worker_that_is_down(world: World) -> Any:
    page = world.visit("status", at=world.deserted)
    page.get_by_text("It cannot be reached").wait_for()
    return page


def opened(page: Any) -> Any:
    page.locator("dialog[open]").wait_for()
    return page


def help_dialog(world: World) -> Any:
    page = world.visit()
    page.get_by_role("button", name="Keyboard shortcuts").click()
    return opened(page)


def key_dialog(world: World) -> Any:
    page = world.visit(at=world.keyed, refused=True)
    enter_key(page)
    page.get_by_role("button", name="API key: set").click()
    return opened(page)


def model_picker(world: World) -> Any:
    page = world.visit()
    page.locator("#model").click()
    page.locator("dialog [data-model='org/gated']").wait_for()
    return page


def voice_picker(world: World) -> Any:
    page = world.visit()
    pick_model(page, HIBARI)
    page.locator("#voice").click()
    page.locator("dialog [data-voice]").first.wait_for()
    return page


def code_dialog(world: World) -> Any:
    page = done(world)
    page.get_by_role("button", name="Code").click()
    return opened(page)


STATES = [
    *(first_visit, a_server_that_wants_a_key, no_worker, unreachable, all_options, a_file_that_is_no_text),
    *(
        waiting,
        speaking,
        done,
        another_text_after_it,
        stopped,
        broken_off,
        refused,
        refused_without_a_key,
        queued,
        a_model_loading,
    ),
    *(before_a_comparison, comparing, blind, voted, no_history, history, an_open_entry),
    *(models, models_loading_and_failed, no_such_model, no_hub, status, status_of_a_worker_that_is_down),
    *(help_dialog, key_dialog, model_picker, voice_picker, code_dialog),
]


def violations(page: Any, rules: list[str]) -> list[str]:
    """What axe-core finds: the rule, and the elements that break it.

    Args:
        page: Where to look.
        rules: Rules, or tags of rules.
    """
    # What is under the header, which stays while the page is scrolled, would be taken for a small target.
    page.evaluate("scrollTo(0, 0)")
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = page.evaluate(
        """async (rules) => (await axe.run(document, {
            runOnly: rules, resultTypes: ["violations"],
        })).violations.flatMap(({ id, nodes }) => nodes.map(
            ({ target, any, all, none }) => `${id}: ${target} ${[...any, ...all, ...none].map((c) => c.message)}`))""",
        rules,
    )
    return list(found)


SMALL_TARGETS = """() => {
    const box = (element) => {
        // A label is part of what its control can be reached by.
        const all = [element, ...(element.labels ?? [])].map((each) => each.getBoundingClientRect())
            .filter(({ width, height }) => width * height > 1)
        const [left, top] = ["left", "top"].map((side) => Math.min(...all.map((each) => each[side])))
        const [right, bottom] = ["right", "bottom"].map((side) => Math.max(...all.map((each) => each[side])))
        return [right - left, bottom - top]
    }
    // Within a sentence, its line says how high a link is.
    return [...document.querySelectorAll("a, button, input, select, textarea, summary, [role=slider]")]
        .filter((each) => each.checkVisibility() && !(each.matches("a, [role=button]") && each.closest("p")))
        .filter((each) => box(each).some((side) => side < 24))
        .map((each) => `${each.outerHTML.slice(0, 120)} ${box(each)}`)
}"""

STICKS_OUT = """() => {
    const { scrollWidth, clientWidth } = document.scrollingElement
    const scrolls = (each) => each && each !== document.body && each !== document.documentElement
        && (getComputedStyle(each).overflowX !== "visible" || scrolls(each.parentElement))
    const out = [...document.body.querySelectorAll("*")].filter((each) => each.checkVisibility()
        && each.getBoundingClientRect().right > clientWidth + 1 && !scrolls(each.parentElement))
    const wide = scrollWidth > clientWidth ? [`${scrollWidth} px wide`] : []
    return [...wide, ...out.map((each) => each.outerHTML.slice(0, 120))]
}"""

SPACED = """() => {
    const sheet = new CSSStyleSheet()
    sheet.replaceSync(`
        * { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }
        p { margin-block-end: 2em !important }`)
    document.adoptedStyleSheets = [sheet]
}"""

CLIPPED = """() => [...document.body.querySelectorAll("*")].filter((each) => {
    const { overflowX, overflowY, display } = getComputedStyle(each)
    const hasText = [...each.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())
    const isMeant = each.closest(".visually-hidden, textarea, svg, .ellipsis")
    if (!hasText || isMeant || display === "inline" || !each.checkVisibility()) return false
    const shows = (overflow) => overflow === "visible" && !each.matches("button, .chip, kbd, label")
    const scrolls = (overflow) => overflow === "auto" || overflow === "scroll"
    return (!shows(overflowX) && !scrolls(overflowX) && each.scrollWidth > each.clientWidth + 1)
        || (!shows(overflowY) && !scrolls(overflowY) && each.scrollHeight > each.clientHeight + 1)
}).map((each) => each.outerHTML.slice(0, 160))"""

LIVE_REGIONS = """() => [...document.querySelectorAll(
    "[aria-live]:not([aria-live=off]), [role=status], [role=log], output")]
    .filter((each) => !document.querySelector("dialog[open]") || each.closest("dialog[open]"))
    .map((each) => each.getAttribute("aria-live") ?? "polite")"""

MOVING = """() => document.getAnimations({ subtree: true })
    .filter((each) => each.playState === "running" && each.effect.getComputedTiming().activeDuration > 1)
    .map((each) => each.animationName ?? each.transitionProperty)"""


def colour(page: Any, scheme: str) -> None:
    """Set what the system says of colours, and that it wants nothing to move."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.evaluate(
        """async () => {
            await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))
            await Promise.allSettled(document.getAnimations().map((each) => each.finished))
        }"""
    )


def resize(page: Any, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_state_can_be_used_by_everybody(world, state):
    page = state(world)
    found = []

    def look(where: str, complaints: list[str]) -> None:
        found.extend(f"{where}: {complaint}" for complaint in complaints)

    # Of all rules, contrast alone depends on the colours.
    for size, schemes in ((WIDE, {"light": TAGS, "dark": CONTRAST}), (PHONE, {"dark": TAGS, "light": CONTRAST})):
        resize(page, size)
        for scheme, rules in schemes.items():
            colour(page, scheme)
            look(f"{scheme} at {size[0]} px", violations(page, rules))
        look(f"small at {size[0]} px", page.evaluate(SMALL_TARGETS))
    look("moves", page.evaluate(MOVING))
    if page.evaluate(LIVE_REGIONS) != ["polite"]:
        look("live regions", page.evaluate(LIVE_REGIONS))
    resize(page, ZOOMED)
    look("sticks out", page.evaluate(STICKS_OUT))
    page.evaluate(SPACED)
    for size in (WIDE, PHONE):
        resize(page, size)
        look(f"clipped at {size[0]} px", page.evaluate(CLIPPED))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "state", [first_visit, done, voted, an_open_entry, models, status], ids=lambda state: state.__name__
)
def test_the_pages_own_switch_of_colours_is_as_good_as_the_systems(world, state):
    page = state(world)
    for theme, system in (("light", "dark"), ("dark", "light")):
        page.get_by_role("button", name="Colours").click()
        page.locator(f"html[data-theme={theme}]").wait_for()
        colour(page, system)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(", "))) > 384) == (theme == "light")
        assert violations(page, CONTRAST) == []


def test_the_policy_allows_nothing_unsafe(world):
    policy = httpx.get(world.stack.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "*" not in policy
