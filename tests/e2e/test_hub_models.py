"""Models of the hub through the whole stack: found, downloaded, loaded, spoken with, and put away again."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.hub import MEMBER, STRANGER, Cut, Fail, Hub
from tests.stack import PATIENCE_S, TONE, Stack, eventually

SIZE = 3_000_000
LARGE = 30_000_000  # The hub's client writes, and tells of, 10 MiB at a time.


def add(hub: Hub, name: str, size: int = SIZE, *, weights: bytes = b"TONE", **config: object) -> None:
    """Add a model that the tone engine serves; beside what it needs there is a file that it does not."""
    files = {
        "config.json": json.dumps({"model_type": "tone", **config}).encode(),
        "weights.bin": weights + os.urandom(size - 4),
        "big.onnx": bytes(SIZE),
    }
    hub.add(name, files, info={"library_name": "tone", "config": {"model_type": "tone"}})


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path)
    yield hub
    hub.end()


@pytest.fixture
def begin(start, hub):
    """Start a stack that sees the hub."""

    def begin(*, token: str = "", gateway: dict[str, str] | None = None, **settings: str) -> Stack:
        environment = {**hub.environment, "HF_TOKEN": token}
        return start(
            worker_settings={"SONORANT_ENGINES": "tone", **environment, **settings}, **environment, **(gateway or {})
        )

    return begin


def standing(stack: Stack, name: str) -> dict:
    """How a model stands on the worker, as the catalogue says."""
    listed = httpx.get(f"{stack.url}/api/models", timeout=PATIENCE_S).json()
    models = {model["id"]: model for model in [*listed["local"], *listed["models"]]}
    return models[name]["workers"]["w0"] if name in models else {"state": "absent"}


def load(stack: Stack, name: str) -> list[dict]:
    """Load a model; the events that the server sent."""
    events = []
    with httpx.stream("POST", f"{stack.url}/api/models/{name}/load", timeout=PATIENCE_S) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        events += [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    return events


def fetched(hub: Hub) -> list[str]:
    """Files that were transferred since the last look."""
    return [
        each.path.rpartition("/")[2] for each in hub.requests() if each.method == "GET" and "/resolve/" in each.path
    ]


def said(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_a_model_that_is_asked_for_by_its_id_is_fetched_and_speaks(hub, begin):
    add(hub, "org/first", sample_rate_hz=16_000)
    stack = begin()
    answer = stack.speak(model="org/first", input="one two", voice="high")
    assert answer.status_code == 200
    assert len(answer.content) == 44 + 2 * 2 * 1600
    assert (answer.headers["x-sonorant-model"], answer.headers["x-sonorant-voice"]) == ("org/first", "high")
    assert sorted(fetched(hub)) == ["config.json", "weights.bin"]
    assert stack.speak(model="org/first", input="one").status_code == 200
    assert not hub.requests()
    assert "org/first" in [model["id"] for model in httpx.get(f"{stack.url}/v1/models").json()["data"]]


def test_openai_voices_and_unknown_ones_on_a_model_that_nobody_has_seen_yet(hub, begin):
    add(hub, "org/first")
    stack = begin()
    assert stack.speak(model="org/first", input="one", voice="ash").headers["x-sonorant-voice"] == "high"
    status, code, message = said(stack.speak(model="org/first", input="one", voice="nobody"))
    assert (status, code) == (404, "voice_not_found")
    assert "low, high" in message


def test_many_who_want_one_model_cause_one_download_and_one_load(hub, begin):
    add(hub, "org/first", orders="<touch=loaded><hold=go>")
    stack = begin()
    with ThreadPoolExecutor(10) as threads:
        answers = [threads.submit(stack.speak, model="org/first", input="one") for _ in range(10)]
        eventually((stack.signals / "loaded").exists, "the load has begun")
        (stack.signals / "go").touch()
        assert {answer.result().status_code for answer in answers} == {200}
    assert fetched(hub).count("weights.bin") == 1
    assert stack.worker.output.count("model ready") == 2  # This one, and the one that is loaded at start.


def test_a_load_tells_how_far_it_is(hub, begin):
    add(hub, "org/first", LARGE)
    hub.knobs(hold={"weights.bin": 25_000_000})
    stack = begin()
    with httpx.stream("POST", f"{stack.url}/api/models/org/first/load", timeout=PATIENCE_S) as answer:
        seen, is_held = [], True
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line[6:]))
            if is_held and seen[-1]["downloaded_bytes"] > 10_000_000:
                eventually(lambda: standing(stack, "org/first").get("downloaded_bytes", 0) > 10_000_000, "listed")
                assert standing(stack, "org/first")["state"] == "downloading"
                hub.mend()
                is_held = False
    stages = list(dict.fromkeys(event["stage"] for event in seen))
    assert stages[0] == "downloading"
    assert stages[-1] == "ready"
    bytes_seen = [event["downloaded_bytes"] for event in seen]
    assert bytes_seen == sorted(bytes_seen)
    assert 0 < seen[-1]["downloaded_bytes"] == seen[-1]["download_bytes"] < LARGE + 1000
    assert seen[-1]["worker"] == "w0"
    eventually(lambda: standing(stack, "org/first")["state"] == "ready", "the catalogue knows")


def test_whoever_cannot_wait_is_told_how_far_it_is_and_comes_back(hub, begin):
    add(hub, "org/first", LARGE)
    hub.knobs(hold={"weights.bin": 25_000_000})
    stack = begin(gateway={"SONORANT_FIRST_AUDIO_TIMEOUT_S": "2"})
    answer = stack.speak(model="org/first", input="one")
    status, code, message = said(answer)
    assert (status, code, answer.headers["retry-after"]) == (503, "model_loading", "5")
    assert "of 30.0 MB" in message
    assert stack.speak(input="one").status_code == 200
    hub.mend()
    eventually(lambda: standing(stack, "org/first")["state"] == "ready", "it goes on without anybody waiting")
    assert stack.speak(model="org/first", input="one").status_code == 200


def test_an_unloaded_model_stays_on_disk_and_comes_back_without_a_transfer(hub, begin):
    add(hub, "org/first")
    stack = begin()
    load(stack, "org/first")
    with stack.stream(model="org/first", input="word <hold=busy>"):
        status, code, _ = said(httpx.post(f"{stack.url}/api/models/org/first/unload"))
        assert (status, code) == (409, "model_state")
        (stack.signals / "busy").touch()
    eventually(stack.is_idle, "the stream has ended")
    assert httpx.post(f"{stack.url}/api/models/org/first/unload").json() == {"id": "org/first", "workers": ["w0"]}
    eventually(lambda: standing(stack, "org/first")["state"] == "cached", "the catalogue knows")
    hub.requests()
    assert load(stack, "org/first")[-1]["stage"] == "ready"
    assert not fetched(hub)


def test_a_revision_stays_for_as_long_as_it_is_loaded(hub, begin):
    add(hub, "org/first", sample_rate_hz=8000)
    stack = begin()
    first = load(stack, "org/first")[-1]["revision"]
    add(hub, "org/first", sample_rate_hz=16_000)
    assert stack.speak(model="org/first", input="one").headers["x-sonorant-sample-rate"] == "8000"
    httpx.post(f"{stack.url}/api/models/org/first/unload")
    second = load(stack, "org/first")[-1]["revision"]
    assert first != second
    assert stack.speak(model="org/first", input="one").headers["x-sonorant-sample-rate"] == "16000"


def test_parts_come_from_repositories_of_their_own(hub, begin):
    add(hub, "org/first", parts=["org/codec"])
    hub.add("org/codec", {"codec.bin": bytes(1000)})
    stack = begin()
    assert stack.speak(model="org/first", input="one").status_code == 200
    assert sorted(fetched(hub)) == ["codec.bin", "config.json", "weights.bin"]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("../etc/passwd", 400, ["../etc/passwd", "org/name"]),
        ("a/b/c", 400, ["a/b/c"]),
        ("org/na me", 400, ["na me"]),
        ("org/..", 400, ["org/.."]),
        ("nothing-with-a-slash", 404, ["nothing-with-a-slash", TONE]),
        ("org/missing", 404, ["org/missing", TONE]),
        ("evil/first", 403, ["evil/first", "operator"]),
        ("org/other", 400, ["no engine", "nemo"]),
        ("org/paper", 400, ["not a model"]),
    ],
)
def test_ids_that_cannot_be_served(hub_of_many, name, status, words):
    for answer in (
        hub_of_many.speak(model=name, input="one"),
        httpx.post(f"{hub_of_many.url}/api/models/{name}/load", timeout=PATIENCE_S),
    ):
        if "..." in str(answer.url) or (".." in name and answer.status_code in (404, 405)):
            continue  # The client itself has resolved the path.
        assert answer.status_code == status, answer.text
        assert all(word in answer.json()["error"]["message"] for word in words), answer.text
    assert hub_of_many.speak(input="one").status_code == 200


@pytest.fixture(scope="module")
def hub_of_many(tmp_path_factory):
    from tests.stack import running

    folder = tmp_path_factory.mktemp("many")
    hub = Hub(folder)
    add(hub, "evil/first")
    hub.add("org/other", {"model.nemo": b"x"}, info={"library_name": "nemo"})
    hub.add("org/paper", {"README.md": b"x"})
    settings = {**hub.environment, "SONORANT_ENGINES": "tone", "SONORANT_DENY_MODELS": "evil/*"}
    with running(folder, worker_settings=settings, **hub.environment) as stack:
        yield stack
    hub.end()


@pytest.mark.parametrize(
    ("token", "about", "expected", "words"),
    [
        ("", {"gated": "auto"}, (403, "model_forbidden"), ["/org/first", "accept"]),
        (STRANGER, {"gated": "auto"}, (403, "model_forbidden"), ["/org/first", "accept"]),
        (MEMBER, {"gated": "auto"}, None, []),
        ("", {"private": True}, (404, "model_not_found"), ["private"]),
        (MEMBER, {"private": True}, None, []),
        ("", {"disabled": True}, (403, "model_forbidden"), ["disabled"]),
        ("hf_wrong", {}, (403, "model_forbidden"), ["HF_TOKEN"]),
    ],
)
def test_what_the_hub_does_not_give(hub, begin, token, about, expected, words):
    add(hub, "org/first")
    folder = hub.root / "org" / "first"
    (folder / ".hub.json").write_text(json.dumps({**json.loads((folder / ".hub.json").read_text()), **about}))
    stack = begin(token=token)
    answer = stack.speak(model="org/first", input="one")
    if not expected:
        assert answer.status_code == 200
        return
    status, code, message = said(answer)
    assert (status, code) == expected
    assert all(word in message for word in words), message
    assert stack.speak(input="one").status_code == 200


@pytest.mark.parametrize("variable", ["HUGGINGFACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_older_names_of_the_token_are_understood(hub, begin, variable):
    add(hub, "org/first")
    hub.add("org/first", {}, gated="auto", info={"config": {"model_type": "tone"}})
    stack = begin(**{variable: MEMBER})
    assert stack.speak(model="org/first", input="one").status_code == 200


@pytest.mark.parametrize(
    ("knobs", "expected", "words"),
    [
        ({"fail": {"/api/models/org": Fail(429, times=1, headers={"retry-after": "1"})}}, (200,), []),
        ({"fail": {"/api/models/org": Fail(429, headers={"retry-after": "7"})}}, (503,), ["429"]),
        ({"cut": {"weights.bin": Cut(1_000_000, times=1)}}, (200,), []),
        ({"cut": {"weights.bin": Cut(1_000_000)}}, (503,), ["org/first"]),
        ({"delay": {"weights.bin": 0.02}}, (200,), []),
        ({"fail": {"/api/models/org": Fail(500)}}, (503,), ["org/first"]),
        ({"fail": {"weights.bin": Fail(404)}}, (503,), ["org/first"]),
        ({"corrupt": ["weights.bin"]}, (502,), ["damaged", "weights.bin"]),
    ],
)
def test_faults_of_the_hub_are_told_and_leave_the_worker_well(hub, begin, knobs, expected, words):
    add(hub, "org/first")
    stack = begin(gateway={"SONORANT_FIRST_AUDIO_TIMEOUT_S": "60"}, SONORANT_FIRST_AUDIO_TIMEOUT_S="60")
    hub.knobs(**knobs)
    answer = stack.speak(model="org/first", input="one")
    assert answer.status_code in expected, answer.text
    assert all(word in answer.text for word in words), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] in ("hub_unavailable", "load_failure", "model_not_found")
    assert stack.speak(input="one").status_code == 200
    hub.mend()
    eventually(lambda: stack.speak(model="org/first", input="one").status_code == 200, "a later try succeeds")


def test_a_failure_is_remembered_for_a_moment_and_the_hub_is_left_alone(hub, begin):
    stack = begin()
    assert stack.speak(model="org/missing", input="one").status_code == 404
    hub.requests()
    answer = stack.speak(model="org/missing", input="one")
    assert (answer.status_code, answer.headers["retry-after"]) == (404, "1")
    assert not hub.requests()
    add(hub, "org/missing")
    eventually(lambda: stack.speak(model="org/missing", input="one").status_code == 200, "it is tried again")


def test_a_hub_that_is_gone(hub, begin):
    add(hub, "org/first")
    stack = begin()
    load(stack, "org/first")
    stack.worker.end()
    hub.end()
    again = stack.worker.again()
    try:
        eventually(again.is_ready, "the worker is back")
        eventually(stack.gateway.up, "the gateway knows")
        assert standing(stack, "org/first")["state"] == "cached"
        assert stack.speak(model="org/first", input="one").status_code == 200
        answer = stack.speak(model="org/unseen", input="one")
        assert said(answer)[:2] == (503, "hub_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        again.end()


def test_memory_that_is_not_there(hub, begin):
    add(hub, "org/first", orders="<oom>")
    add(hub, "org/huge", 40_000_000)
    stack = begin(SONORANT_MEMORY_BUDGET="30MB")
    assert said(stack.speak(model="org/first", input="one"))[:2] == (503, "out_of_memory")
    status, code, message = said(stack.speak(model="org/huge", input="one"))
    assert (status, code) == (503, "out_of_memory")
    assert "30,000,000" in message
    assert stack.speak(input="one").status_code == 200
    add(hub, "org/first")
    eventually(lambda: stack.speak(model="org/first", input="one").status_code == 200, "a later try succeeds")


def test_a_disk_that_is_full(hub, begin):
    add(hub, "org/first", 5_000_000)
    add(hub, "org/second", 6_000_000)
    add(hub, "org/huge", 12_000_000)
    stack = begin(SONORANT_DISK_BUDGET="10MB")
    status, code, message = said(stack.speak(model="org/huge", input="one"))
    assert (status, code) == (507, "disk_full")
    assert "10,000,000" in message
    load(stack, "org/first")
    # While a model is in memory its files stay.
    assert said(stack.speak(model="org/second", input="one"))[:2] == (507, "disk_full")
    httpx.post(f"{stack.url}/api/models/org/first/unload")
    eventually(lambda: stack.speak(model="org/second", input="one").status_code == 200, "the first one makes room")
    eventually(lambda: standing(stack, "org/first")["state"] == "absent", "the catalogue knows")
    blobs = [path.stat().st_size for path in hub.cache.glob("hub/*/blobs/*")]
    assert sum(blobs) < 7_000_000


def test_leftovers_of_killed_downloads_are_swept_and_live_ones_are_not(hub, begin):
    blobs = hub.cache / "hub" / "models--org--first" / "blobs"
    blobs.mkdir(parents=True)
    old, young = blobs / "abc.1234.incomplete", blobs / "def.5678.incomplete"
    for path in (old, young):
        path.write_bytes(bytes(100))
    os.utime(old, (time.time() - 3600,) * 2)
    stack = begin()
    assert "leftovers" in stack.worker.output
    assert (old.exists(), young.exists()) == (False, True)


def test_a_page_of_another_origin_cannot_load_or_unload(hub, begin):
    add(hub, "org/first")
    stack = begin()
    for action in ("load", "unload"):
        url = f"{stack.url}/api/models/org/first/{action}"
        foreign = httpx.post(url, headers={"origin": "https://elsewhere.example"})
        assert said(foreign)[:2] == (403, "foreign_origin")
        assert httpx.post(url, headers={"origin": stack.url}, timeout=PATIENCE_S).status_code == 200


def test_a_model_that_nobody_uses_leaves_memory(hub, begin):
    add(hub, "org/first")
    stack = begin(SONORANT_IDLE_TTL_S="0.2")
    with stack.stream(model="org/first", input="word <hold=listening>") as answer:
        assert answer.status_code == 200
        eventually(lambda: standing(stack, "org/first")["state"] == "ready", "the catalogue knows")
        (stack.signals / "listening").touch()
    eventually(lambda: standing(stack, "org/first")["state"] == "cached", "it left")
    assert standing(stack, TONE)["state"] == "ready"  # Loaded at start, so it stays.


def states(stack: Stack) -> list[str]:
    return [standing(stack, f"org/{name}")["state"] for name in "abc"]


def test_the_least_recently_used_model_makes_room_and_a_busy_one_never(hub, begin):
    for name in ("a", "b", "c"):
        add(hub, f"org/{name}", LARGE)
    stack = begin(SONORANT_MEMORY_BUDGET="85MB")
    load(stack, "org/a")
    load(stack, "org/b")
    stack.speak(model="org/a", input="one")
    load(stack, "org/c")
    eventually(lambda: states(stack) == ["ready", "cached", "ready"], "b made room")
    with ThreadPoolExecutor(3) as threads:
        busy = threads.submit(stack.speak, model="org/a", input="word <touch=begun> <hold=a>")
        eventually((stack.signals / "begun").exists, "a speaks")
        queued = threads.submit(stack.speak, model="org/c", input="one")
        eventually(lambda: stack.worker.running == 2, "c waits for the device")
        waiting = threads.submit(stack.speak, model="org/b", input="one")
        eventually(lambda: states(stack) == ["ready", "loading", "ready"], "b waits for room")
        made_room = stack.worker.output.count("model makes room")
        (stack.signals / "a").touch()
        assert [each.result().status_code for each in (busy, queued, waiting)] == [200, 200, 200]
    assert stack.worker.output.count("model makes room") == made_room + 1


def test_memory_comes_back_after_an_unload(hub, begin):
    add(hub, "org/small", LARGE)
    add(hub, "org/large", 200_000_000)
    stack = begin()
    process = psutil.Process(stack.worker.popen.pid)
    load(stack, "org/small")  # What is imported and buffered once stays.
    before = process.memory_info().rss
    load(stack, "org/large")
    loaded = process.memory_info().rss
    eventually(lambda: "memory_bytes" in standing(stack, "org/large"), "the catalogue knows")
    assert standing(stack, "org/large")["memory_bytes"] == pytest.approx(200e6, rel=0.1)
    httpx.post(f"{stack.url}/api/models/org/large/unload")
    after = process.memory_info().rss
    assert loaded > before + 150e6
    assert after < before * 1.1
