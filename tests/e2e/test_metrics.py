"""Metrics of a gateway and a worker that serve real requests, and turns between those who ask."""

import hashlib
import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from websockets.sync.client import connect

from deploy.local import plan_workers
from tests.observed import documented
from tests.scrape import Scrape
from tests.stack import PATIENCE_S, ROOT, TONE, Stack, clean_environment, eventually, free_port, running

LIVE = "/v1/audio/speech/stream"


class Watched:
    """A stack whose worker tells its metrics, too."""

    def __init__(self, stack: Stack, port: int) -> None:
        self.stack = stack
        self.worker_url = f"http://127.0.0.1:{port}"

    def gateway(self) -> Scrape:
        return Scrape.of(self.stack.url)

    def worker(self) -> Scrape:
        return Scrape.of(self.worker_url)

    def ended(self, request_id: str) -> dict[str, object]:
        """Wait until a request is over; its line in the log."""
        return self.stack.gateway.line_of(request_id)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    port = free_port()
    settings = {
        "SONORANT_METRICS_LISTEN": f"127.0.0.1:{port}",
        "SONORANT_CAPACITY": "2",
        "SONORANT_QUEUE_S": "3600",
        "SONORANT_THREADS": "1",
    }
    with running(tmp_path_factory.mktemp("watched"), worker_settings=settings) as stack:
        yield Watched(stack, port)


def speak(stack: Stack, request_id: str, key: str = "", **body: object) -> httpx.Response:
    headers = {"x-request-id": request_id, **({"authorization": f"Bearer {key}"} if key else {})}
    return httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S)


def say(stack: Stack, request_id: str, text: str) -> None:
    """Have a turn spoken over a WebSocket."""
    url = f"{stack.url.replace('http', 'ws', 1)}{LIVE}"
    with connect(url, additional_headers={"x-request-id": request_id}) as ws:
        for message in ({"type": "text.append", "text": text}, {"type": "text.flush"}, {"type": "session.close"}):
            ws.send(json.dumps(message))
        while json.loads(answer).get("type") != "speech.done" if isinstance(answer := ws.recv(), str) else True:
            pass


def test_what_is_spoken_is_counted_on_both_sides_and_the_log_agrees(watched):
    before, worker_before = watched.gateway(), watched.worker()
    assert speak(watched.stack, "m-live", input="one <delay=0.6> <delay=0.6>").status_code == 200
    assert speak(watched.stack, "m-whole", input="one two", stream=False, response_format="mp3").status_code == 200
    say(watched.stack, "m-turn", "One two. Three four.")
    lines = [watched.ended(request_id) for request_id in ("m-live", "m-whole", "m-turn")]
    for line in lines:
        assert line["rtf"] > 0
        assert line["queue_ms"] >= 0
        assert line["ttfa_ms"] >= 0
        assert line["batch"] == 1.0
    assert [line["underruns"] for line in lines[:2]] == [2, 0]

    after, worker_after = watched.gateway(), watched.worker()

    def grown(name: str, **labels: str) -> float:
        return after(f"sonorant_gateway_{name}", **labels) - before(f"sonorant_gateway_{name}", **labels)

    requests = {"model": TONE, "outcome": "ok"}
    assert grown("requests_total", route="/v1/audio/speech", format="wav", status="200", **requests) == 1
    assert grown("requests_total", route="/v1/audio/speech", format="mp3", status="200", **requests) == 1
    assert grown("requests_total", route=LIVE, format="wav", status="101", **requests) == 1
    # Each turn has one first audio, however many pieces it is spoken in.
    assert grown("time_to_first_audio_seconds_count", model=TONE, delivery="live") == 2
    assert grown("time_to_first_audio_seconds_count", model=TONE, delivery="whole") == 1
    assert grown("audio_seconds_total", model=TONE) == pytest.approx(0.3 + 0.2 + 0.4)
    assert grown("real_time_factor_count", model=TONE) == 4
    assert grown("underruns_total", model=TONE) >= 2
    assert grown("underrun_seconds_total", model=TONE) > 0.5

    def made(name: str, **labels: str) -> float:
        return worker_after(f"sonorant_worker_{name}", **labels) - worker_before(f"sonorant_worker_{name}", **labels)

    assert made("requests_total", model=TONE, code="OK", reason="") == 4
    for each in ("time_to_first_audio_seconds", "queue_seconds"):
        assert [made(f"{each}_count", model=TONE, delivery=delivery) for delivery in ("live", "whole")] == [3, 1]
    assert made("real_time_factor_count", model=TONE) == 4
    assert made("audio_seconds_total", model=TONE) == pytest.approx(0.9)
    assert made("underruns_total", model=TONE) == grown("underruns_total", model=TONE)
    assert made("underrun_seconds_total", model=TONE) == pytest.approx(grown("underrun_seconds_total", model=TONE))
    # A step for every word, and one in which each of the four segments is found to be over.
    assert made("stage_seconds_count", model=TONE, stage="step") == 9 + 4
    assert made("stage_batch_size_sum", model=TONE, stage="step") == 9 + 4


def test_failures_and_refusals_are_counted_and_nothing_made_up_is_named(watched):
    before = watched.gateway()
    bodies: dict[str, dict[str, object]] = {
        "m-voice": {"input": "one", "voice": "nosuch"},
        "m-model": {"input": "one", "model": "made/up"},
        "m-fails": {"input": "<fail>"},
    }
    for request_id, body in bodies.items():
        assert speak(watched.stack, request_id, **body).status_code >= 400
        assert watched.ended(request_id)["outcome"] in ("refused", "failed")
    assert httpx.get(f"{watched.stack.url}/made/up/too").status_code == 404
    after, worker = watched.gateway(), watched.worker()
    refused = {"route": "/v1/audio/speech", "model": TONE, "status": "404", "outcome": "refused"}
    assert after("sonorant_gateway_requests_total", **refused) == 1
    assert after("sonorant_gateway_requests_total", route="", status="404") == 1
    assert after("sonorant_gateway_moves_total", model=TONE) - before("sonorant_gateway_moves_total", model=TONE) == 1
    assert worker("sonorant_worker_requests_total", model=TONE, code="NOT_FOUND", reason="VOICE_NOT_FOUND") == 1
    assert worker("sonorant_worker_requests_total", model=TONE, code="INTERNAL", reason="ENGINE_FAILURE") == 1
    assert worker("sonorant_worker_requests_total", model="", code="NOT_FOUND", reason="MODEL_NOT_FOUND") == 1
    for scrape in (after, worker):
        labels = [
            value for family in scrape.families.values() for each in family.samples for value in each.labels.values()
        ]
        assert not any("made" in value for value in labels)


def test_how_things_stand_is_told_while_they_do(watched):
    stack, hold = watched.stack, watched.stack.signals / "standing"
    # Three seconds of work for each second of audio: from now on a second utterance has to wait for the first.
    assert speak(stack, "m-slow", input="<delay=0.3> " * 8).status_code == 200
    eventually(stack.is_idle, "nothing runs")
    with ExitStack() as open_things:
        answers = open_things.enter_context(ThreadPoolExecutor(2))
        open_things.callback(hold.touch)
        open_things.enter_context(connect(f"{stack.url.replace('http', 'ws', 1)}{LIVE}"))
        texts = (f"<hold={hold.name}> one", "two")
        first = answers.submit(speak, stack, "m-first", input=texts[0])
        eventually(lambda: stack.worker.running == 1, "the device is busy")
        second = answers.submit(speak, stack, "m-second", input=texts[1])
        eventually(lambda: stack.worker.running == 2, "another one waits")
        third = speak(stack, "m-third", input="three")
        assert (third.status_code, third.json()["error"]["code"]) == (503, "overloaded")
        gateway, worker = watched.gateway(), watched.worker()
        (health,) = stack.gateway.health()["workers"]
    assert first.result().status_code == second.result().status_code == 200
    assert gateway("sonorant_gateway_workers", state="up") == 1
    assert gateway("sonorant_gateway_workers", state="down") == 0
    assert gateway("sonorant_gateway_streams") == 2
    assert gateway("sonorant_gateway_sessions") == 1
    assert worker("sonorant_worker_utterances", state="active") == 1
    assert worker("sonorant_worker_utterances", state="queued") == 1
    assert worker("sonorant_worker_capacity") == 2
    assert worker("sonorant_worker_expected_wait_seconds") > 0
    assert worker("sonorant_worker_requests_total", code="RESOURCE_EXHAUSTED", reason="OVERLOADED") == 1
    assert worker("sonorant_worker_models") == 1
    assert worker("sonorant_worker_model_memory_bytes", model=TONE) >= 0
    assert worker("sonorant_worker_device_memory_bytes", state="used") > 0
    assert worker("sonorant_worker_device_memory_bytes", state="free") > 0
    assert health["expected_wait_s"] > 0


def test_the_readme_names_every_metric_and_no_other(observed):
    exposed = {
        f"{name}_total" if family.type == "counter" else name
        for scrape in (*observed.gateway, *observed.worker)
        for name, family in scrape.families.items()
        if name.startswith("sonorant_")
    }
    assert documented().keys() == exposed


@pytest.mark.parametrize("name", documented())
def test_every_metric_that_is_documented_moves_and_has_its_labels(observed, name):
    assert observed.moved(name)
    assert observed.labels.get(name, observed.labels.get(f"{name}_count")) == documented()[name]


def test_models_that_come_and_go_are_counted_by_why(observed):
    loads, first, second = "sonorant_worker_load_seconds_count", *observed.worker[-2:]
    assert [first(loads, model=f"org/{name}") for name in ("a", "b", "broken")] == [1, 1, 0]
    assert first("sonorant_worker_load_failures_total", model="org/broken", reason="LOAD_FAILURE") == 1
    assert first("sonorant_worker_evictions_total", model="org/a", reason="room") == 1
    assert second("sonorant_worker_evictions_total", model="org/a", reason="idle") == 1
    name = "sonorant_worker_model_states"
    states = {each["state"]: first(name, **each) for each in first.labels(name)}
    assert states == {"available": 2, "downloading": 0, "loading": 0, "warming_up": 0, "ready": 2, "failed": 1}
    assert first("sonorant_worker_models") == states["ready"]


def test_a_worker_that_is_lost_and_keys_that_are_wrong_are_told(observed):
    before, after = observed.gateway[-2:]
    assert [each("sonorant_gateway_workers", state="down") for each in (before, after)] == [0, 1]
    assert [each("sonorant_gateway_workers", state="up") for each in (before, after)] == [2, 1]
    assert [each("sonorant_gateway_keys_file_ok") for each in (before, after)] == [1, 0]


def test_an_unload_is_counted_as_asked_for(watched):
    model = "sonorant/tone-22k"
    assert speak(watched.stack, "m-other", input="one", model=model).status_code == 200
    eventually(watched.stack.is_idle, "nobody uses it")
    assert httpx.post(f"{watched.stack.url}/api/models/{model}/unload").status_code == 200
    assert watched.worker()("sonorant_worker_evictions_total", model=model, reason="asked") == 1


def test_scrapes_need_no_key_and_are_not_worth_a_line_in_the_log(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"ann {'0' * 64}\n")
    stack = start(SONORANT_API_KEYS_FILE=str(keys))
    assert speak(stack, "m-keyless", input="one").status_code == 401
    scrape = Scrape.of(stack.url)
    assert scrape("sonorant_gateway_requests_total", route="", status="401", outcome="refused") == 1
    assert "/metrics" not in stack.gateway.output


@pytest.mark.parametrize(
    "value", ["9090", ":9090", "nowhere", "127.0.0.1:0", "127.0.0.1:70000", "no.such.host.invalid:9090"]
)
def test_an_address_that_is_none_is_refused_at_start(value):
    assert_refused(value, [])


def test_an_address_that_is_taken_is_refused_at_start():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert_refused(f"127.0.0.1:{taken.getsockname()[1]}", ["in use"])


def assert_refused(value: str, words: list[str]) -> None:
    environment = clean_environment(
        SONORANT_METRICS_LISTEN=value, SONORANT_LISTEN=f"127.0.0.1:{free_port()}", SONORANT_ENGINES="tone"
    )
    environment["SONORANT_DEFAULT_MODEL"] = TONE
    done = subprocess.run([sys.executable, "-m", "worker"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    for word in ("SONORANT_METRICS_LISTEN", value, *words):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_each_worker_of_a_machine_has_a_port_of_its_own_for_its_metrics(monkeypatch):
    def places() -> list[str | None]:
        plan = plan_workers(["GPU-a", "GPU-b"], 6000)
        return [process.environment.get("SONORANT_METRICS_LISTEN") for process in plan.values()]

    assert places() == [None, None]
    monkeypatch.setenv("SONORANT_METRICS_LISTEN", "[::1]:9100")
    assert places() == ["[::1]:9100", "[::1]:9101"]
    # What is wrong is passed on, for the worker to name.
    monkeypatch.setenv("SONORANT_METRICS_LISTEN", "nowhere")
    assert places() == [None, None]


def test_whoever_asks_for_much_does_not_keep_others_waiting(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(
        "".join(f"{name} {hashlib.sha256(f'sk-{name}'.encode()).hexdigest()}\n" for name in ("many", "few"))
    )
    stack = start(worker_settings={"SONORANT_QUEUE_S": "3600"}, SONORANT_API_KEYS_FILE=str(keys))
    num_flood = 5
    with ThreadPoolExecutor(num_flood + 2) as clients:
        try:
            # This one is spoken all the while; what it says after the hold lasts longer than the test.
            busy = clients.submit(speak, stack, "busy", "sk-many", input="<hold=begin> <long=100> word word")
            eventually(lambda: stack.worker.running == 1, "the device is busy")
            flood = []
            for n in range(num_flood):
                # The device does nothing else from when the first of them begins.
                text = f"<hold=flood> <touch=flood-{n}>"
                flood.append(clients.submit(speak, stack, f"flood-{n}", "sk-many", input=text))
                eventually(lambda n=n: stack.worker.running == n + 2, "it waits")
            single = clients.submit(speak, stack, "single", "sk-few", input="<touch=single> word")
            eventually(lambda: stack.worker.running == num_flood + 2, "it waits, the last of all")
            (stack.signals / "begin").touch()
            eventually((stack.signals / "single").exists, "who asks for little is served before the others' next")
            assert not any((stack.signals / f"flood-{n}").exists() for n in range(num_flood))
        finally:
            for name in ("begin", "flood"):
                (stack.signals / name).touch()
        assert {each.result().status_code for each in (busy, single, *flood)} == {200}
