"""Several workers behind one gateway, and what becomes of calls when one goes."""

import signal

import httpx
import pytest

from tests.stack import TONE, eventually


def worker_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-sonorant-worker"]


def test_the_worker_with_the_fewest_calls_gets_the_next_one(start):
    stack = start(workers=2)
    with stack.stream(input="word <hold=least> word") as first:
        assert worker_of(first) == "w0"
        assert [worker_of(stack.speak(input="one")) for _ in range(3)] == ["w1"] * 3
        (stack.signals / "least").touch()
        first.read()
    assert worker_of(stack.speak(input="one")) == "w0"


def test_a_worker_that_is_down_is_skipped_and_used_again_when_it_is_back(start):
    stack = start(workers=2)
    stack.workers[0].end(signal.SIGKILL)
    # At once, while the gateway may still believe in it, and afterwards.
    assert {worker_of(stack.speak(input="one")) for _ in range(5)} == {"w1"}
    eventually(lambda: stack.gateway.up() == ["w1"], "the gateway knows that it is down")
    again = stack.workers[0].again()
    try:
        eventually(lambda: stack.gateway.up() == ["w0", "w1"], "the gateway uses it again")
        eventually(again.is_ready, "it is ready")
        eventually(lambda: worker_of(stack.speak(input="one")) == "w0", "it speaks again")
    finally:
        again.end(signal.SIGKILL)


def test_a_call_that_a_full_worker_refuses_moves_to_another(start):
    stack = start(workers=2, worker_settings={"SONORANT_CAPACITY": "1"})
    with stack.workers[0].client() as direct:
        # The gateway does not count this one, so the full worker is its first choice.
        busy = direct.synthesize("word <hold=full> word", model=TONE)
        assert worker_of(stack.speak(input="one")) == "w1"
        (stack.signals / "full").touch()
        list(busy)


def test_when_every_worker_is_full_the_answer_is_503_with_a_time_to_come_back(start):
    stack = start(worker_settings={"SONORANT_CAPACITY": "1"})
    with stack.stream(input="word <hold=all-full> word") as busy:
        refused = stack.speak(input="one")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "overloaded"
        (stack.signals / "all-full").touch()
        busy.read()
    assert stack.speak(input="one").status_code == 200


def test_a_call_moves_when_its_worker_dies_before_the_first_byte(start):
    stack = start(workers=2)
    pending = "<hold=move> one"
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as pool:
            answer = pool.submit(client.post, "/v1/audio/speech", json={"input": pending})
            eventually(lambda: stack.workers[0].running, "the first worker has begun")
            stack.workers[0].end(signal.SIGKILL)
            (stack.signals / "move").touch()
            assert worker_of(answer.result()) == "w1"
    assert "call moves" in stack.gateway.output


def test_input_that_kills_workers_kills_no_more_than_two(start):
    stack = start(workers=3)
    answer = stack.speak(input="<die>")
    assert answer.status_code == 503
    eventually(lambda: len(stack.gateway.up()) == 1, "two workers are gone")
    assert stack.speak(input="one").status_code == 200


def test_a_stream_whose_worker_dies_is_visibly_cut_and_not_moved(start):
    stack = start(workers=2)
    received = b""
    try:
        with stack.stream(input="one two <hold=never> three") as answer:
            for chunk in answer.iter_bytes():
                received += chunk
                if len(received) == 44 + 2 * 4800:
                    stack.workers[0].end(signal.SIGKILL)
    except httpx.RemoteProtocolError:
        pass
    else:
        raise AssertionError("the stream looked complete")
    assert len(received) == 44 + 2 * 4800
    eventually(lambda: not stack.gateway.outstanding, "nothing is left counted as running")


def test_a_frozen_worker_is_noticed_and_the_others_go_on(start):
    stack = start(workers=2)
    stack.workers[0].popen.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: stack.gateway.up() == ["w1"], "the gateway gives it up")
        assert worker_of(stack.speak(input="one")) == "w1"
    finally:
        stack.workers[0].popen.send_signal(signal.SIGCONT)
    eventually(lambda: stack.gateway.up() == ["w0", "w1"], "it is back")


def test_a_worker_whose_device_hangs_comes_last_until_it_speaks(start):
    stack = start(workers=2, SONORANT_FIRST_AUDIO_TIMEOUT_S="1")
    assert stack.speak(input="<hold=hang> one").json()["error"]["code"] == "timeout"
    # By its calls it would be the first choice for each of these.
    assert [worker_of(stack.speak(input="one")) for _ in range(4)] == ["w1"] * 4
    (stack.signals / "hang").touch()
    stack.workers[1].end(signal.SIGKILL)
    eventually(lambda: stack.speak(input="one").status_code == 200, "the one that hung is asked when there is no other")
    assert worker_of(stack.speak(input="one")) == "w0"


def test_a_stream_that_falls_silent_is_cut(start):
    stack = start(SONORANT_CHUNK_TIMEOUT_S="0.5")
    with pytest.raises(httpx.RemoteProtocolError), stack.stream(input="one two <hold=silent> three") as answer:
        answer.read()
    assert "was silent for" in stack.gateway.output
    (stack.signals / "silent").touch()
    eventually(stack.is_idle, "nothing is left counted as running")


def test_workers_of_a_file_come_and_go_and_finish_what_they_have_begun(start, tmp_path):
    listed = tmp_path / "workers"
    listed.write_text("")
    stack = start(workers=2, SONORANT_WORKERS=f"file://{listed}", expect_ready=False)
    first, second = stack.workers

    def put(*workers) -> None:
        fresh = tmp_path / "workers.new"
        fresh.write_text("".join(f"{worker.address}\n" for worker in workers))
        fresh.rename(listed)

    eventually(lambda: first.is_ready() and second.is_ready(), "both are ready")
    put(first)
    eventually(lambda: stack.gateway.up() == ["w0"], "the first is found")
    with stack.stream(input="word <hold=leaving> word") as answer:
        assert worker_of(answer) == "w0"
        put(second)
        eventually(lambda: stack.gateway.up() == ["w1"], "the second has taken its place")
        assert worker_of(stack.speak(input="one")) == "w1"
        (stack.signals / "leaving").touch()
        assert len(answer.read()) == 44 + 3 * 4800


def test_a_draining_worker_gets_no_new_calls_and_loses_none(start):
    stack = start(workers=2)
    with stack.workers[0].client() as direct:
        # The gateway does not count this one: by its counts alone the draining worker would be its first choice.
        old = direct.synthesize("word <hold=draining> word", model=TONE)
        stack.workers[0].popen.send_signal(signal.SIGTERM)
        eventually(lambda: stack.gateway.up() == ["w1"], "the gateway knows that it drains")
        assert {worker_of(stack.speak(input="one")) for _ in range(4)} == {"w1"}
        assert "call moves" not in stack.gateway.output
        (stack.signals / "draining").touch()
        assert sum(len(pcm) for pcm in old) == 3 * 4800
    assert stack.workers[0].popen.wait(60) == 0


def test_without_any_worker_the_answer_is_503_and_the_gateway_lives(start):
    stack = start()
    stack.worker.end(signal.SIGKILL)
    eventually(lambda: not stack.gateway.up(), "the gateway knows")
    answer = stack.speak(input="one")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "no_worker"
    ready = httpx.get(f"{stack.url}/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "no_worker")
    assert httpx.get(f"{stack.url}/healthz").json()["workers"][0]["state"] == "down"
    assert httpx.get(f"{stack.url}/v1/models").json()["data"] == []
    assert httpx.get(f"{stack.url}/api/models").json() == {"count": 0, "models": [], "local": [], "stale": True}


def test_a_gateway_that_is_told_to_end_finishes_its_streams(start):
    stack = start()
    with stack.stream(input="word <hold=gateway-drain> word") as old:
        stack.gateway.popen.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{stack.url}/readyz").status_code == 503, "it says that it drains")
        assert stack.speak(input="one").status_code == 503
        (stack.signals / "gateway-drain").touch()
        assert len(old.read()) == 44 + 3 * 4800
    assert stack.gateway.popen.wait(60) == 0


def test_a_reader_that_has_stalled_does_not_keep_the_gateway_from_ending(start):
    stack = start(SONORANT_GRACE_S="0.5")
    with stack.stream(input="<long=10> " * 60) as stalled:
        assert stalled.status_code == 200
        stack.gateway.popen.send_signal(signal.SIGTERM)
        assert stack.gateway.popen.wait(60) == 0


def test_a_step_that_hangs_keeps_neither_the_caller_nor_the_worker_from_ending(start):
    settings = {"SONORANT_GRACE_S": "0.5"}
    stack = start(worker_settings=settings, SONORANT_FIRST_AUDIO_TIMEOUT_S="0.5")
    answer = stack.speak(input="<hold=never> one")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    # The device is still in that step, so the next one waits in vain too; but its place is free again.
    assert stack.speak(input="one").status_code == 504
    assert stack.worker.running == 1
    stack.worker.popen.send_signal(signal.SIGTERM)
    assert stack.worker.popen.wait(60) == 0


def test_ready_means_that_the_default_model_can_be_loaded(start, broken_engine):
    stack = start(worker_settings=broken_engine, SONORANT_DEFAULT_MODEL="tests/broken", expect_ready=False)
    eventually(lambda: "model not loaded at start" in stack.worker.output, "the load has failed")
    eventually(lambda: stack.gateway.up() == ["w0"], "the gateway sees the worker")
    assert httpx.get(f"{stack.url}/readyz").status_code == 503
    answer = stack.speak(input="one")
    assert answer.status_code == 502
    assert "no luck with the weights" in answer.json()["error"]["message"]
    assert stack.speak(input="one", model=TONE).status_code == 200
