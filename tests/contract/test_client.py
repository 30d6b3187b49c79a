"""The Python client, against two real workers."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from protos.client import AsyncClient, Client, IncompleteSpeech, Speech
from protos.tts.v1 import models_pb2, speech_pb2
from tests.hub import Hub
from tests.stack import TONE, Worker, eventually

SLOW = "<delay=0.02> " * 400
"""Work of 8 s that can be given up at any word; what follows would leave a trace, so that its absence proves that."""

F32 = speech_pb2.AUDIO_ENCODING_PCM_F32LE


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., list[Worker]]]:
    """Start two workers for one test alone."""
    workers: list[Worker] = []

    def start_two(**settings: str) -> list[Worker]:
        workers.extend(Worker(tmp_path, f"w{n}", **settings) for n in range(2))
        for worker in workers:
            eventually(worker.is_ready, f"{worker.name} is ready")
        return workers

    yield start_two
    for worker in workers:
        worker.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[list[Worker]]:
    """Two workers that tests share which break none."""
    workers = [Worker(tmp_path_factory.mktemp("two"), f"w{n}") for n in range(2)]
    for worker in workers:
        eventually(worker.is_ready, f"{worker.name} is ready")
    yield workers
    for worker in workers:
        worker.end(signal.SIGKILL)


def addresses(workers: list[Worker]) -> list[str]:
    return [worker.address for worker in workers]


def speaker(client: Client, text: str = "one", **how: object) -> str:
    """Name of the worker that speaks."""
    with client.synthesize(text, model=TONE, **how) as speech:  # type: ignore[arg-type]
        assert b"".join(speech)
        return speech.header.worker_id


def wait_for_both(client: Client) -> None:
    eventually(lambda: {speaker(client) for _ in range(4)} == {"w0", "w1"}, "the client knows both")


def test_calls_go_round_the_workers(two):
    with Client(*addresses(two)) as client:
        wait_for_both(client)
        spoken = [speaker(client) for _ in range(6)]
        assert sorted(spoken) == ["w0"] * 3 + ["w1"] * 3


def test_one_name_stands_for_all_workers_behind_it(two):
    with Client(f"dns:///localhost:{two[0].port}") as client:
        assert speaker(client) == "w0"


def test_calls_that_had_not_begun_go_on_at_another_worker_when_theirs_is_killed(start):
    workers = start()
    with Client(*addresses(workers)) as client, ThreadPoolExecutor(8) as pool:
        wait_for_both(client)
        waiting = [pool.submit(speaker, client, "<hold=kill> one") for _ in range(8)]
        eventually(lambda: all(worker.running for worker in workers), "both have begun")
        eventually(lambda: sum(worker.running for worker in workers) == 8, "all are there")
        workers[0].end(signal.SIGKILL)
        (workers[1].signals / "kill").touch()
        assert [each.result() for each in waiting] == ["w1"] * 8
        assert speaker(client) == "w1"


def test_a_call_that_had_begun_fails_when_its_worker_is_killed(start):
    workers = start()
    with Client(workers[0].address) as client:
        speech = client.synthesize("word <hold=never> word", model=TONE)
        chunks = iter(speech)
        assert next(chunks)
        workers[0].end(signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as caught:
            list(chunks)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert speech.summary is None


def test_input_that_kills_workers_kills_no_more_than_two(start, tmp_path):
    workers = start()
    third = Worker(tmp_path, "w2")
    workers.append(third)
    eventually(third.is_ready, "w2 is ready")
    with Client(*addresses(workers)) as client:
        eventually(lambda: len({speaker(client) for _ in range(6)}) == 3, "the client knows all")
        with pytest.raises(grpc.RpcError):
            client.synthesize("<die>", model=TONE)
        eventually(lambda: sum(worker.popen.poll() is not None for worker in workers) == 2, "two are gone")
        speaker(client)


def test_a_worker_that_drains_gets_no_new_calls_and_finishes_the_old_ones(start):
    workers = start()
    with Client(*addresses(workers)) as client, Client(workers[0].address) as direct:
        wait_for_both(client)
        old = direct.synthesize("word <hold=drain> word", model=TONE)
        workers[0].popen.send_signal(signal.SIGTERM)
        eventually(lambda: direct.status().draining, "it drains")
        # Also in the moment before the client has heard that it is not healthy.
        assert {speaker(client) for _ in range(6)} == {"w1"}
        (workers[0].signals / "drain").touch()
        assert sum(map(len, old)) == 3 * 4800


def test_the_time_for_all_of_it_cuts_the_stream(two):
    with Client(two[0].address) as client:
        speech = client.synthesize("word <hold=deadline> word", model=TONE, timeout_s=1.0)
        with pytest.raises(grpc.RpcError) as caught:
            list(speech)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        (two[0].signals / "deadline").touch()
        eventually(lambda: not two[0].running, "nobody works on it any more")


def test_the_time_for_the_first_audio_is_bounded_on_its_own(two):
    with Client(two[0].address) as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.synthesize("<hold=first> word", model=TONE, first_audio_timeout_s=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.3 s" in caught.value.details()
        (two[0].signals / "first").touch()
        eventually(lambda: not two[0].running, "nobody works on it any more")


def test_a_caller_who_has_waited_for_a_model_in_vain_is_not_made_to_wait_again(start, tmp_path):
    hub = Hub(tmp_path)
    try:
        config = json.dumps({"model_type": "tone", "orders": "<hold=load>"}).encode()
        hub.add("org/slow", {"config.json": config, "weights.bin": b"TONE"}, info={"config": {"model_type": "tone"}})
        workers = start(**hub.environment)
        with Client(*addresses(workers)) as client:
            wait_for_both(client)
            with pytest.raises(grpc.RpcError) as caught:
                client.synthesize("one", model="org/slow", first_audio_timeout_s=0.5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "org/slow" in caught.value.details()
        stands = [states(worker).get("org/slow") for worker in map(Worker.status, workers)]
        assert sorted(map(bool, stands)) == [False, True]  # The other worker was not asked.
    finally:
        for worker in workers:
            (worker.signals / "load").touch()
        hub.end()


@pytest.mark.parametrize("ending", ["cancel", "leave", "drop"])
def test_work_ends_when_the_caller_wants_no_more(two, ending):
    (worker, _) = two
    trace = worker.signals / f"spoken-{ending}"
    with Client(worker.address) as client:
        with client.synthesize(f"word {SLOW} <touch={trace.name}>", model=TONE) as speech:
            if ending == "cancel":
                speech.cancel()
            if ending == "drop":
                for _ in speech:
                    break
            if ending != "leave":
                eventually(lambda: not worker.running, "nobody works on it any more")
        eventually(lambda: not worker.running, "nobody works on it any more")
    assert not trace.exists()


def test_models_come_and_go(two):
    with Client(two[1].address) as client:
        assert TONE in [model.name for model in client.models()]
        client.unload(TONE)
        assert states(client.status())[TONE] == models_pb2.MODEL_STATE_AVAILABLE
        watching = client.watch_status(0.01)
        assert next(watching).worker_id == "w1"
        stages = [progress.stage for progress in client.load(TONE)]
        assert stages[-1] == models_pb2.LOAD_STAGE_READY
        assert any(model.state == models_pb2.MODEL_STATE_READY for status in watching for model in status.models)
        assert states(client.status())[TONE] == models_pb2.MODEL_STATE_READY
        with client.synthesize(f"word {SLOW}", model=TONE), pytest.raises(grpc.RpcError) as caught:
            client.unload(TONE)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        eventually(lambda: not two[1].running, "nobody works on it any more")


def states(status: models_pb2.WatchStatusResponse | None) -> dict[str, models_pb2.ModelState.ValueType]:
    assert status
    return {model.name: model.state for model in status.models}


def test_floats_are_the_same_sound(two):
    with Client(two[0].address) as client:
        whole = client.synthesize("one two", model=TONE, seed=1)
        s16 = np.frombuffer(b"".join(whole), "<i2") / 32767
        floats = client.synthesize("one two", model=TONE, seed=1, encoding=F32)
        f32 = np.frombuffer(b"".join(floats), "<f4")
    assert floats.header.format.encoding == F32
    assert floats.num_samples == len(f32) == len(s16)
    assert np.abs(s16 - f32).max() < 1 / 32767


def test_marks_and_the_summary_are_there_in_the_end(two):
    with Client(two[0].address) as client:
        speech = client.synthesize("one two. three", model=TONE, options={"word_ms": 200}, request_id="r1")
        list(speech)
    assert [(mark.text_start, mark.text_end, mark.HasField("end_sample")) for mark in speech.marks] == [
        (0, 8, True),
        (9, 14, True),
    ]
    assert speech.header.request_id == "r1"
    assert speech.summary
    assert speech.summary.segments == 2


def test_what_a_worker_does_not_know_is_refused_by_name(two):
    with Client(two[0].address) as client:
        with pytest.raises(ValueError, match="pitch"):
            client.synthesize("one", model=TONE, pitch=3)  # type: ignore[call-arg]
        with pytest.raises(grpc.RpcError) as caught:
            client.synthesize("one", model=TONE, voice="nobody")
        assert "low, high" in caught.value.details()


def message(first_sample: int = 0, num_samples: int = 0, **more: object) -> speech_pb2.SynthesizeResponse:
    audio = speech_pb2.AudioChunk(first_sample=first_sample, pcm=b"\0\0" * num_samples)
    return speech_pb2.SynthesizeResponse(audio=audio if num_samples else None, **more)  # type: ignore[arg-type]


HEADER = speech_pb2.StreamHeader(format=speech_pb2.AudioFormat(encoding=speech_pb2.AUDIO_ENCODING_PCM_S16LE))


class Played:
    """A call whose messages are known."""

    def __init__(self, *messages: speech_pb2.SynthesizeResponse) -> None:
        self._messages = iter(messages)
        self.cancelled = False

    def __iter__(self) -> Played:
        return self

    def __next__(self) -> speech_pb2.SynthesizeResponse:
        return next(self._messages)

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "before it began"),
        ([message(0, 10)], "before it began"),
        ([message(0, 10, header=HEADER)], "before its end"),
        ([message(0, 10, header=HEADER), message(20, 10)], "expected sample 10, got 20"),
        (
            [message(0, 10, header=HEADER), message(summary=speech_pb2.StreamSummary(total_samples=20))],
            "before its end",
        ),
    ],
)
def test_a_stream_that_is_not_whole_raises(messages, why):
    call = Played(*messages)
    with pytest.raises(IncompleteSpeech, match=why):
        list(Speech(call))  # type: ignore[arg-type]
    assert call.cancelled


def test_a_whole_stream_does_not():
    end = message(summary=speech_pb2.StreamSummary(total_samples=10))
    assert list(Speech(Played(message(0, 10, header=HEADER), end))) == [b"\0\0" * 10]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no address"),
        (["gpu1:50051", "gpu2:50051"], "dns:///NAME:PORT"),
        (["10.0.0.1", "10.0.0.2:1"], "IP address and port"),
        (["10.0.0.1:1", "[::1]:1"], "one family"),
    ],
)
def test_addresses_that_do_not_go_together_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Client(*given)


def test_both_clients_can_do_the_same():
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


def run(main: Callable[[AsyncClient], object], *workers: Worker) -> None:
    async def inside() -> None:
        async with asyncio.timeout(60), AsyncClient(*addresses(list(workers))) as client:
            await main(client)  # type: ignore[misc]

    asyncio.run(inside())


def test_the_asynchronous_client_spreads_and_streams(two):
    async def main(client: AsyncClient) -> None:
        async def speaker() -> str:
            async with await client.synthesize("one two. three", model=TONE, encoding=F32) as speech:
                num_bytes = sum([len(pcm) async for pcm in speech])
                assert speech.summary
                assert num_bytes == 4 * speech.summary.total_samples
                assert len(speech.marks) == 2
                return speech.header.worker_id

        while {await speaker() for _ in range(4)} != {"w0", "w1"}:
            pass
        assert sorted(await asyncio.gather(*(speaker() for _ in range(6)))) == ["w0"] * 3 + ["w1"] * 3

    run(main, *two)


def test_the_asynchronous_client_loads_unloads_and_watches(two):
    async def main(client: AsyncClient) -> None:
        assert TONE in [model.name for model in await client.models()]
        await client.unload(TONE)
        stages = [progress.stage async for progress in client.load(TONE)]
        assert stages[-1] == models_pb2.LOAD_STAGE_READY
        assert (await client.status()).worker_id == "w0"
        async for status in client.watch_status():
            assert status.worker_id == "w0"
            break

    run(main, two[0])


def test_the_asynchronous_client_ends_the_work_of_a_call_that_is_cancelled(two):
    (worker, _) = two

    async def main(client: AsyncClient) -> None:
        # Before the first audio: the task that waits is cancelled.
        mute = SLOW.replace("delay", "pause")
        waiting = asyncio.ensure_future(client.synthesize(f"{mute} <touch=async-a-spoken>", model=TONE))
        while not (await client.status()).active:
            pass
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while (await client.status()).active:
            pass
        # And after it.
        async with await client.synthesize(f"one {SLOW} <touch=async-b-spoken>", model=TONE):
            pass
        while (await client.status()).active:
            pass

    run(main, worker)
    assert not list(worker.signals.glob("async-?-spoken"))


def test_the_asynchronous_client_keeps_its_deadlines(two):
    async def main(client: AsyncClient) -> None:
        speech = await client.synthesize("word <hold=async-late> word", model=TONE, timeout_s=1.0)
        with pytest.raises(grpc.RpcError) as caught:
            [pcm async for pcm in speech]
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as caught:
            await client.synthesize("<hold=async-late> word", model=TONE, first_audio_timeout_s=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        (two[0].signals / "async-late").touch()

    run(main, two[0])
    eventually(lambda: not two[0].running, "nobody works on it any more")


def test_threads_share_a_client(two):
    with Client(*addresses(two)) as client:
        done: list[str] = []
        threads = [threading.Thread(target=lambda: done.append(speaker(client))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(done) == 8
