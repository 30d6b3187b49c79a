"""`GET /api/models`: the Hub's list, what is known beyond it, and what remains of it when the Hub does not answer."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.hub import Fail, Hub
from tests.stack import PATIENCE_S, TONE, Gateway, Stack, eventually

TONE_MODEL = {"config.json": b'{"model_type": "tone"}', "weights.bin": b"TONE" + bytes(996), "more.bin": bytes(5000)}


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path)
    tone = {"library_name": "tone", "config": {"model_type": "tone"}}
    hub.add("org/voice", TONE_MODEL, info={**tone, "likes": 7, "downloads": 70, "trendingScore": 5})
    card = {"license": "mit", "language": ["en", "de"]}
    hub.add(
        "org/gated",
        TONE_MODEL,
        gated="auto",
        info={**tone, "trendingScore": 9, "cardData": card, "safetensors": {"parameters": {"F32": 12}, "total": 12}},
    )
    hub.add(
        "org/other", {"model.nemo": b"x"}, info={"library_name": "nemo", "trendingScore": 8, "tags": ["license:cc"]}
    )
    hub.add("org/paper", {"README.md": b"x"}, info={"trendingScore": 1})
    hub.add("org/asr", TONE_MODEL, info={**tone, "pipeline_tag": "automatic-speech-recognition", "trendingScore": 99})
    yield hub
    hub.end()


@pytest.fixture
def begin(start, hub):
    def begin(**settings: str) -> Stack:
        return start(worker_settings={"SONORANT_ENGINES": "tone", **hub.environment}, **hub.environment, **settings)

    return begin


def listing(stack: Stack, **query: object) -> dict:
    answer = httpx.get(f"{stack.url}/api/models", params=query, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked(hub: Hub) -> int:
    """How often the list was asked for since the last look."""
    return sum(request.path == "/api/models" for request in hub.requests())


def test_the_list_is_the_hubs_with_all_that_is_known_of_each_model(hub, begin):
    stack = begin()
    found = listing(stack)
    assert found["stale"] is False
    assert found["count"] == 4
    assert [model["id"] for model in found["models"]] == ["org/gated", "org/other", "org/voice", "org/paper"]
    gated, other, voice, paper = found["models"]
    assert {"id", "pipeline_tag", "likes", "downloads", "tags", "library_name", "last_modified"} <= voice.keys()
    assert (voice["pipeline_tag"], voice["likes"], voice["downloads"]) == ("text-to-speech", 7, 70)
    assert (voice["servable"], voice["engine"], voice["reason"]) == (True, "tone", None)
    assert voice["download_bytes"] == 1000 + len(TONE_MODEL["config.json"])
    assert voice["workers"] == {"w0": {"state": "absent"}}
    assert (gated["gated"], gated["license"], gated["parameters"]) == ("auto", "mit", 12)
    assert gated["languages"] == ["en", "de"]
    assert (other["servable"], other["reason"], other["license"]) == (False, "no engine for library 'nemo'", "cc")
    assert (paper["servable"], paper["reason"]) == (False, "not a model: its repository holds no weights")
    assert TONE in [model["id"] for model in found["local"]]
    assert [model["id"] for model in listing(stack, limit=2)["models"]] == ["org/gated", "org/other"]
    assert [model["id"] for model in listing(stack, search="VOICE")["models"]] == ["org/voice"]


def test_voices_and_state_are_known_once_a_model_was_loaded(hub, begin):
    stack = begin()
    stack.speak(model="org/voice", input="one")

    def voice() -> dict:
        return next(model for model in listing(stack)["models"] if model["id"] == "org/voice")

    eventually(lambda: voice()["workers"]["w0"]["state"] == "ready", "the catalogue knows")
    assert [each["id"] for each in voice()["voices"]] == ["low", "high"]
    assert voice()["sample_rate_hz"] == 24_000
    assert stack.speak(model="org/missing", input="one").status_code == 404
    assert "org/missing" not in json.dumps(listing(stack))


@pytest.mark.parametrize(
    ("query", "word"),
    [({"limit": 0}, "0"), ({"limit": 101}, "101"), ({"limit": "many"}, "many"), ({"search": "x" * 101}, "101")],
)
def test_bad_queries_are_refused(hub, begin, query, word):
    stack = begin()
    answer = httpx.get(f"{stack.url}/api/models", params=query)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def test_a_fresh_list_is_not_asked_for_again_and_many_ask_once(hub, begin):
    stack = begin()
    hub.requests()
    with ThreadPoolExecutor(10) as threads:
        counts = {found["count"] for found in threads.map(lambda _: listing(stack), range(10))}
    assert counts == {4}
    assert asked(hub) == 1
    listing(stack)
    assert asked(hub) == 0


def test_an_old_list_is_the_answer_while_it_is_asked_for_anew(hub, begin):
    stack = begin(SONORANT_CATALOGUE_TTL_S="0")
    assert listing(stack)["count"] == 4
    hub.add("org/new", TONE_MODEL, info={"config": {"model_type": "tone"}, "trendingScore": 50})
    assert listing(stack)["models"][0]["id"] == "org/gated"
    eventually(lambda: listing(stack)["models"][0]["id"] == "org/new", "the new list is there")


def test_without_the_hub_the_last_good_list_is_shown_as_stale(hub, begin):
    stack = begin()
    assert listing(stack)["count"] == 4
    stack.gateway.end()
    hub.end()
    settings = {**hub.environment, "SONORANT_CATALOGUE_TTL_S": "0"}
    again = Gateway(stack.worker.folder, stack.workers, **settings)
    try:
        eventually(again.up, "the gateway sees the worker")
        found = listing(Stack(stack.workers, again))
        assert (found["count"], found["stale"]) == (4, True)
        assert found["models"][2]["servable"] is True
    finally:
        again.end()


def test_without_the_hub_and_without_a_list_the_local_models_are_the_list(hub, begin):
    hub.knobs(fail={"/api/models": Fail(503)})
    stack = begin()
    found = listing(stack)
    assert found["stale"] is True
    assert {model["id"] for model in found["models"]} == {TONE, "sonorant/tone-22k"}
    assert found["count"] == 2
    assert all(model["servable"] for model in found["models"])


def test_a_hub_that_never_answers_does_not_hold_the_answer_back(start):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        stack = start(HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
        found = listing(stack)
        assert (found["stale"], TONE in [model["id"] for model in found["models"]]) == (True, True)


def test_a_kept_list_that_is_damaged_is_passed_over(hub, begin, tmp_path):
    (tmp_path / "cache").mkdir()
    for damage in (b"", b"[]", b'{"limit": 20, "asked_at": 9e12, "models": [{"facts": 1}]}', b"\xff"):
        (tmp_path / "cache" / "trending.json").write_bytes(damage)
    assert listing(begin())["count"] == 4
