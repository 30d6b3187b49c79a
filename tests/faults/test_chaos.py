"""Three workers under fifty talkers, while one after the other is killed, frozen, and drained: nothing that had not
begun is lost, and everything that is cut looks cut.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.talkers import Talkers
from tests.stack import HIBARI, TONE, Stack, Worker, eventually

pytestmark = [pytest.mark.more, pytest.mark.timeout(600)]

OUT_WITHIN_S = 5.0
"""How long a frozen worker may stay in."""

Fault = Callable[[Stack, int], None]


def without(stack: Stack, place: int) -> list[str]:
    return [worker.name for i, worker in enumerate(stack.workers) if i != place]


def come_back(stack: Stack, place: int) -> None:
    stack.workers[place] = stack.workers[place].again()
    eventually(stack.workers[place].is_ready, "the worker is ready again")
    eventually(lambda: len(stack.gateway.up()) == len(stack.workers), "the gateway uses it again")


def kill(stack: Stack, place: int) -> None:
    stack.workers[place].end(signal.SIGKILL)
    eventually(lambda: sorted(stack.gateway.up()) == without(stack, place), "the gateway knows that it is dead")
    come_back(stack, place)


def freeze(stack: Stack, place: int) -> None:
    stack.workers[place].popen.send_signal(signal.SIGSTOP)
    frozen_s = time.monotonic()
    try:
        eventually(lambda: sorted(stack.gateway.up()) == without(stack, place), "the gateway gives it up")
        out_s = time.monotonic() - frozen_s
    finally:
        stack.workers[place].popen.send_signal(signal.SIGCONT)
    print(f"frozen worker out after {out_s:.1f} s")
    assert out_s <= OUT_WITHIN_S
    eventually(lambda: len(stack.gateway.up()) == len(stack.workers), "it is back by itself")


def drain(stack: Stack, place: int) -> None:
    worker: Worker = stack.workers[place]
    worker.popen.send_signal(signal.SIGTERM)
    eventually(lambda: sorted(stack.gateway.up()) == without(stack, place), "the gateway sends it nothing new")
    assert worker.popen.wait(60) == 0
    come_back(stack, place)


def endure(stack: Stack, talkers: Talkers, faults: list[tuple[Fault, int]]) -> None:
    """Let them talk through the faults."""
    try:
        with talkers.talking():
            eventually(lambda: len(talkers.of("whole")) >= 50, "all talk")
            for fault, place in faults:
                before = len(talkers.outcomes)
                fault(stack, place)
                eventually(lambda n=before: len(talkers.outcomes) > n + 20, "talk goes on")
                if fault is drain:
                    cut = [each for each in talkers.outcomes[before:] if each.kind == "cut"]
                    assert not cut, "draining cuts nobody"
        assert talkers.of("lost") == []
        assert talkers.of("short") == []
        assert {outcome.worker for outcome in talkers.of("whole")} == {"w0", "w1", "w2"}
        eventually(stack.is_idle, "nothing is left counted as running")
    finally:
        for worker in stack.workers:
            worker.end(signal.SIGKILL)


def test_each_of_three_workers_killed_frozen_and_drained(start):
    stack = start(workers=3)
    # Each of its words is a step that takes its time, so that many streams are midway whenever something happens.
    text = "one two three " + "<delay=0.01> " * 5 + "four five"
    whole = stack.speak(input=text, response_format="pcm", stream=False).content
    talkers = Talkers(stack.url, {"input": text, "response_format": "pcm", "model": TONE}, len(whole))
    endure(stack, talkers, [(fault, place) for place in range(3) for fault in (kill, freeze, drain)])
    assert talkers.of("cut"), "no stream was midway when its worker was killed: this test has shown nothing"


def test_the_embedded_voice_through_the_same(start):
    stack = start(workers=3, worker_settings={"SONORANT_PRELOAD": HIBARI}, SONORANT_DEFAULT_MODEL=HIBARI)
    body = {"input": "Good morning. The kettle is on.", "response_format": "pcm", "seed": 1}
    whole = stack.speak(**body, stream=False).content
    talkers = Talkers(stack.url, body, len(whole), pause_s=1.0)
    endure(stack, talkers, [(kill, 0), (freeze, 1), (drain, 2)])
