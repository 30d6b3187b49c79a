"""`GET /api/models`: the Hub's list, what is known beyond it, and what remains of it when the Hub does not answer."""

import contextlib
import json
import socket
from collections.abc import Iterator
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


def asked(hub: Hub) -> list[str]:
    """What was asked for since the last look: `""` for a list, else the model whose sizes were."""
    return [request.path.removeprefix("/api/models").removeprefix("/") for request in hub.requests()]


@contextlib.contextmanager
def again(stack: Stack, hub: Hub, **settings: str) -> Iterator[Stack]:
    """A new gateway in front of the same worker, with what the one before has kept."""
    gateway = Gateway(stack.worker.folder, stack.workers, **hub.environment, **settings)
    try:
        eventually(gateway.up, "the gateway sees the worker")
        yield Stack(stack.workers, gateway)
    finally:
        gateway.end()


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
    [
        ({"limit": 0}, "0"),
        ({"limit": 101}, "101"),
        ({"limit": "many"}, "many"),
        ({"limit": "٣"}, "٣"),
        ({"limit": "000000001999999"}, "000000001999999"),
        ({"limit": "000000001" + 5000 * "9"}, "000000001999"),
        ({"limit": "-1"}, "-1"),
        ({"search": "x" * 101}, "101"),
    ],
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
    assert asked(hub).count("") == 1
    listing(stack)
    assert asked(hub) == []


def test_an_old_list_is_the_answer_while_it_is_asked_for_anew(hub, begin):
    stack = begin(SONORANT_CATALOGUE_TTL_S="0")
    assert listing(stack)["count"] == 4
    hub.add("org/new", TONE_MODEL, info={"config": {"model_type": "tone"}, "trendingScore": 50})
    found = listing(stack)
    assert (found["models"][0]["id"], found["stale"]) == ("org/gated", False)
    eventually(lambda: listing(stack)["models"][0]["id"] == "org/new", "the new list is there")
    hub.knobs(fail={"/api/models": Fail(403)})
    eventually(lambda: listing(stack)["stale"], "the hub was asked in vain")


def test_without_the_hub_the_last_good_list_is_shown_as_stale(hub, begin):
    stack = begin()
    assert listing(stack)["count"] == 4
    stack.gateway.end()
    hub.end()
    with again(stack, hub, SONORANT_CATALOGUE_TTL_S="0") as shown:
        eventually(lambda: listing(shown)["stale"], "the hub was asked in vain")
        found = listing(shown)
        assert (found["count"], found["models"][2]["servable"]) == (4, True)
        assert found["models"][2]["download_bytes"] == 1000 + len(TONE_MODEL["config.json"])


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
    stack = begin()
    assert listing(stack)["count"] == 4
    stack.gateway.end()
    path = tmp_path / "cache" / "trending.json"
    good = json.loads(path.read_text())
    changes = [
        *({"asked_at": value} for value in (None, "9", -1, [])),
        *({"models": value} for value in (None, [5], [{**good["models"][0], "facts": {}}])),
        {"measured": -1},
    ]
    for damage in (b"", b"[]", b"\xff", b"[" * 100_000, *(json.dumps(good | change).encode() for change in changes)):
        path.write_bytes(damage)
        hub.requests()
        with again(stack, hub) as restarted:
            assert listing(restarted)["count"] == 4, damage[:200]
            assert asked(hub).count("") == 1, damage[:200]


def test_a_kept_list_from_a_time_to_come_does_not_last_for_ever(hub, begin, tmp_path):
    stack = begin()
    listing(stack)
    stack.gateway.end()
    path = tmp_path / "cache" / "trending.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "asked_at": 9e12}))
    hub.add("org/new", TONE_MODEL, info={"config": {"model_type": "tone"}, "trendingScore": 50})
    with again(stack, hub, SONORANT_CATALOGUE_TTL_S="0.01") as restarted:
        eventually(lambda: listing(restarted)["models"][0]["id"] == "org/new", "it is asked for anew")


def test_requests_of_any_length_cost_one_list_and_one_look_at_each_model(hub, begin):
    for n in range(40):
        hub.add(f"many/model-{n}", TONE_MODEL, info={"config": {"model_type": "tone"}})
    stack = begin()
    hub.requests()
    assert listing(stack)["count"] == 20
    assert len(asked(hub)) == 1 + 20
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda limit: listing(stack, limit=limit), range(1, 61)))
    assert [each["count"] for each in found] == [min(limit, 44) for limit in range(1, 61)]
    assert all(model["download_bytes"] for model in found[-1]["models"] if model["servable"])
    names = asked(hub)
    assert len(names) == len(set(names)) == 24
    assert not {"", "org/gated"} & set(names)
    stack.gateway.end()
    with again(stack, hub) as restarted:  # All of it is kept, whoever asked last.
        assert listing(restarted, limit=100)["count"] == 44
        assert asked(hub) == []


def test_searches_take_turns_at_the_hub_and_do_not_hold_up_the_list_that_all_see(hub, begin):
    for n in range(8):
        hub.add(f"held/model-{n}", TONE_MODEL)
    for n in range(20):
        hub.add(f"many/model-{n}", TONE_MODEL, info={"trendingScore": 100})
    hub.knobs(hold={"/api/models/held": 0})
    stack = begin()
    hub.requests()
    seen = []

    def searches() -> int:
        seen.extend(hub.requests())
        return sum("search=" in request.query for request in seen)

    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(listing, stack, search=f"held/model-{n}") for n in range(8)]
        eventually(lambda: searches() == 4, "four searches are at the hub")
        assert listing(stack)["count"] == 20
        assert searches() == 4
        hub.knobs(hold={})
        assert {(each.result()["count"], each.result()["stale"]) for each in found} == {(1, False)}
    assert searches() == 8


def test_an_odd_entry_costs_no_more_than_itself(hub, begin):
    odd_cards = [{"language": 5, "license": {"a": 1}}, {"language": ["en", False]}, "a string"]
    odd = [{"safetensors": {"parameters": {}}}, {"config": {"model_type": None, "architectures": None}}]
    for n, info in enumerate([*({"cardData": card} for card in odd_cards), *odd]):
        hub.add(f"odd/card-{n}", TONE_MODEL, info=info)
    broken = [{"safetensors": "none"}, {"config": "tone"}, {"tags": [5]}, {"siblings": [5]}, {"likes": "many"}]
    for n, info in enumerate(broken):
        hub.add(f"odd/entry-{n}", TONE_MODEL, info=info)
    stack = begin()
    found = listing(stack)
    assert found["stale"] is False
    assert {model["id"] for model in found["models"]} == {
        *("org/gated", "org/other", "org/paper", "org/voice"),
        *(f"odd/card-{n}" for n in range(5)),
    }
    assert stack.gateway.output.count("is passed over") == len(broken)
