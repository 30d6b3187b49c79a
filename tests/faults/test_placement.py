"""More models than one worker has room for: they spread, stay, and a crowded one gets a second place."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.hub import Hub
from tests.scrape import Scrape
from tests.stack import Stack, eventually

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

MODELS = [f"org/voice-{letter}" for letter in "abcdef"]
WEIGHTS = 40_000_000
ROOM_FOR_TWO = "95MB"


@pytest.fixture
def stack(start, tmp_path):
    """Three workers with room for two of six models each."""
    hub = Hub(tmp_path)
    for name in MODELS:
        hub.add(
            name,
            {"config.json": b'{"model_type": "tone"}', "weights.bin": b"TONE" + bytes(WEIGHTS)},
            info={"library_name": "tone", "config": {"model_type": "tone"}},
        )
    settings = {"SONORANT_ENGINES": "tone", "SONORANT_PRELOAD": "", "SONORANT_MEMORY_BUDGET": ROOM_FOR_TWO}
    yield start(workers=3, worker_settings={**hub.environment, **settings}, **hub.environment)
    hub.end()


def homes(stack: Stack) -> dict[str, list[str]]:
    """Workers that are ready with each model."""
    workers = httpx.get(f"{stack.url}/api/workers").json()["workers"]
    return {
        name: [worker["id"] for worker in workers for model in worker["models"] if ready(model, name)]
        for name in MODELS
    }


def ready(model: dict, name: str) -> bool:
    return model["id"] == name and model["state"] == "ready"


def test_models_spread_and_requests_find_theirs_ready(stack):
    for name in MODELS:
        assert stack.speak(model=name, input="one").status_code == 200
    eventually(lambda: all(homes(stack).values()), "every model has a place")
    placed = homes(stack)
    loads = sum(worker.output.count("model ready") for worker in stack.workers)
    choice = random.Random(1)
    with ThreadPoolExecutor(8) as threads:
        names = [choice.choice(MODELS) for _ in range(200)]
        answers = list(threads.map(lambda name: (name, stack.speak(model=name, input="one two")), names))
    assert {answer.status_code for _, answer in answers} == {200}
    found = sum(answer.headers["x-sonorant-worker"] in placed[name] for name, answer in answers)
    print(f"{found} of {len(answers)} found their model ready")
    assert found >= 0.95 * len(answers)
    assert sum(worker.output.count("model ready") for worker in stack.workers) == loads, "models were loaded again"


def test_a_crowded_model_gets_a_second_worker_and_its_callers_wait_less(stack):
    hot = MODELS[0]
    assert stack.speak(model=hot, input="one").status_code == 200
    eventually(lambda: len(homes(stack)[hot]) == 1, "it has one place")
    body = {"model": hot, "input": "<delay=0.05> one <delay=0.05> two", "response_format": "pcm"}
    heard: list[tuple[float, float, str]] = []  # When it was asked for, when it began, and who spoke.
    is_over = threading.Event()

    def talk() -> None:
        while not is_over.is_set():
            asked_s = time.monotonic()
            with stack.stream(**body) as answer:
                heard.append((asked_s, time.monotonic(), answer.headers["x-sonorant-worker"]))
                answer.read()

    talkers = [threading.Thread(target=talk) for _ in range(16)]
    for talker in talkers:
        talker.start()
    try:
        eventually(lambda: len(homes(stack)[hot]) == 2, "it has a second place")
        spread_s = time.monotonic()
        eventually(lambda: sum(asked_s > spread_s for asked_s, *_ in heard) >= 100, "they talk to both")
    finally:
        is_over.set()
        for talker in talkers:
            talker.join()
    before = p95([began_s - asked_s for asked_s, began_s, _ in heard if began_s < spread_s])
    after = p95([began_s - asked_s for asked_s, began_s, _ in heard if asked_s > spread_s])
    print(f"first audio, p95: {1000 * before:.0f} ms with one worker, {1000 * after:.0f} ms with two")
    assert {worker for asked_s, _, worker in heard if asked_s > spread_s} == set(homes(stack)[hot])
    assert after < before
    eventually(stack.is_idle, "all have been served")
    assert scraped(stack, "sonorant_gateway_replications_total", model=hot, outcome="ok") == 1


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


def scraped(stack: Stack, name: str, **labels: str) -> float:
    return Scrape.of(stack.url)(name, **labels)
