"""Calls that move between workers of which each fails in its own way."""

import json

import httpx
import pytest

from tests.hub import Hub
from tests.stack import PATIENCE_S, Gateway, Stack, Worker, eventually


@pytest.fixture
def begin(tmp_path):
    """Start a worker for each set of settings, and a gateway."""
    hub = Hub(tmp_path)
    hub.add(
        "org/voice",
        {"config.json": b'{"model_type": "tone"}', "weights.bin": b"TONE"},
        info={"library_name": "tone", "config": {"model_type": "tone"}},
    )
    started = [hub]

    def begin(*settings: dict[str, str]) -> Stack:
        workers = [Worker(tmp_path, f"w{n}", **{**hub.environment, **each}) for n, each in enumerate(settings)]
        started[:0] = workers
        for worker in workers:
            eventually(worker.is_ready, f"{worker.name} is ready")
        gateway = Gateway(tmp_path, workers, **hub.environment)
        started.insert(0, gateway)
        eventually(lambda: len(gateway.up()) == len(workers), "the gateway sees every worker")
        return Stack(workers, gateway)

    yield begin
    for process in started:
        process.end()


ABLE = {"SONORANT_ENGINES": "tone"}
CUT_OFF = {"SONORANT_ENGINES": "tone", "HF_ENDPOINT": "http://127.0.0.1:9"}
ENGINELESS = {"SONORANT_ENGINES": "hibari", "SONORANT_PRELOAD": ""}


def load(stack: Stack, **query: str) -> httpx.Response:
    return httpx.post(f"{stack.url}/api/models/org/voice/load", params=query, timeout=PATIENCE_S)


def test_a_worker_without_the_engine_does_not_hide_why_the_one_with_it_failed(begin):
    stack = begin(CUT_OFF, ENGINELESS)
    for answer in (stack.speak(model="org/voice", input="one"), load(stack), load(stack, worker="w0")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub_unavailable"), answer.text
    answer = load(stack, worker="w1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_model")


def test_a_load_moves_as_speech_does(begin):
    stack = begin(CUT_OFF, ENGINELESS, ABLE)
    answer = load(stack)
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert (events[-1]["stage"], {event["worker"] for event in events}) == ("ready", {"w2"})
    assert stack.speak(model="org/voice", input="one").headers["x-sonorant-worker"] == "w2"


def test_a_load_moves_twice_at_most(begin):
    stack = begin(CUT_OFF, CUT_OFF, CUT_OFF, ABLE)
    answer = load(stack)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub_unavailable")
