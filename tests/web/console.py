"""What a user does at the console, and what came out of the loudspeaker."""

from __future__ import annotations

import re
from typing import Any

import httpx
import numpy as np

from tests.stack import PATIENCE_S, Stack

RATE_HZ = 24_000
WORD_SAMPLES = 2400
"""A word of the tone engine."""


def composer(page: Any) -> Any:
    """Where the text is typed."""
    return page.get_by_role("region", name="Text", exact=True)


def stage(page: Any) -> Any:
    """Where the speech is."""
    return page.get_by_role("region", name="Speech", exact=True)


def type_text(page: Any, text: str) -> None:
    page.get_by_role("textbox", name="Text to speak").fill(text)


def speak(page: Any, text: str) -> None:
    """Type a text and have it said."""
    type_text(page, text)
    page.keyboard.press("Control+Enter")


def speak_whole(page: Any, text: str) -> None:
    """Have a text said and hear it out, but not before all has come: the browser of a busy machine may run dry."""
    asked: list[Any] = []
    page.route("**/v1/audio/speech", lambda route: asked.append(route))
    type_text(page, text)
    composer(page).get_by_role("button", name="Speak").focus()
    page.keyboard.press("Control+Enter")
    page.keyboard.press("k")
    await_playback(page, "paused")
    asked[0].continue_()
    page.unroute("**/v1/audio/speech")
    await_state(page, "done")
    page.keyboard.press("k")
    await_playback(page, "ended")


def go_to(page: Any, screen: str) -> None:
    page.get_by_role("navigation", name="Screens").get_by_role("link", name=screen).click()
    page.get_by_role("heading", name=screen, level=1).wait_for()


def await_state(page: Any, state: str) -> None:
    """Wait until the speech stands like that: `waiting`, `queued`, `loading`, `streaming`, `done`, and so on."""
    page.locator(f".stage[data-state={state}]").wait_for()


def await_playback(page: Any, playback: str) -> None:
    """Wait until the player stands like that: `playing`, `paused`, `ended`."""
    page.locator(f".stage[data-playback={playback}]").wait_for()


def hear_out(page: Any) -> None:
    """Wait until all has come and has been played."""
    await_state(page, "done")
    await_playback(page, "ended")


def set_option(page: Any, name: str, value: object) -> None:
    """Set an option of the model's engine."""
    field = page.get_by_role("textbox", name=name)
    if not field.is_visible():
        page.get_by_text("More options").click()
    field.fill(str(value))


def set_seed(page: Any, seed: int) -> None:
    page.get_by_role("textbox", name="Seed").fill(str(seed))


def pick_model(page: Any, model: str) -> None:
    page.get_by_role("button", name=re.compile("^Model")).click()
    page.get_by_role("button", name=f"Use {model}", exact=True).click()


def pick_voice(page: Any, name: str) -> None:
    page.get_by_role("button", name=re.compile("^Voice")).click()
    page.get_by_role("list", name="Voices").get_by_role("button", name=name).first.click()


def heard(page: Any) -> np.ndarray:
    """What the worklet has given to the loudspeaker, without the silence before and after it.

    Returns:
        float64 [S] at the scale of 16 bits, at 24 kHz.
    """
    blocks = page.evaluate("window.blocks.map(block => Array.from(block, sample => 32768 * sample))")
    # Buffers begin on a sample but for the last bits of a double, between which the browser interpolates.
    samples = np.concatenate([np.zeros(0), *map(np.array, blocks)]).round(3)
    return samples[slice(*_sounding(samples))]


def served(stack: Stack, **body: object) -> np.ndarray:
    """What the API gives for a request, without the silence before and after it; int16 [S] at 24 kHz."""
    body = {"response_format": "pcm", "sample_rate": RATE_HZ, **body}
    answer = httpx.post(f"{stack.url}/v1/audio/speech", json=body, timeout=PATIENCE_S).raise_for_status()
    samples = np.frombuffer(answer.content, "<i2")
    return samples[slice(*_sounding(samples))]


def _sounding(samples: np.ndarray) -> tuple[int, int]:
    (at,) = np.nonzero(samples)
    return (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)


def marks(page: Any) -> list[str]:
    """The marks of the page's performance, in the order of their time."""
    names = page.evaluate("performance.getEntriesByType('mark').map(mark => mark.name)")
    return [name.removeprefix("sonorant:") for name in names if name.startswith("sonorant:")]


def figure(page: Any, name: str) -> str:
    """A figure of the strip below the speech."""
    return str(page.locator(f".figures div:has(dt:text-is('{name}')) dd").inner_text())


def unheld(stack: Stack, name: str) -> None:
    """Let a step go on that an order `<hold=name>` holds."""
    (stack.signals / name).touch()
