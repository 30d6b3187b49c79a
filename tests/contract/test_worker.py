"""The contract as a direct gRPC caller sees it: a real worker process, no gateway."""

import signal
import threading

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.tts.v1 import models_pb2, models_pb2_grpc, speech_pb2, speech_pb2_grpc
from tests.stack import HIBARI, TONE, Worker, eventually


@pytest.fixture
def worker(stack) -> Worker:
    return stack.worker


@pytest.fixture
def channel(worker):
    with grpc.insecure_channel(worker.address) as channel:
        yield channel


@pytest.fixture
def speech(channel):
    return speech_pb2_grpc.SpeechServiceStub(channel)


@pytest.fixture
def models(channel):
    return models_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture
def own_worker(tmp_path):
    """A worker for one test alone."""
    workers = []

    def start(**settings: str) -> Worker:
        worker = Worker(tmp_path, "own", **settings)
        workers.append(worker)
        eventually(worker.is_ready, "the worker is ready")
        return worker

    yield start
    for worker in workers:
        worker.end(signal.SIGKILL)


def details(error: grpc.RpcError) -> dict[str, object]:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert status.message == error.details()
    assert status.code == error.code().value[0]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    found: dict[str, object] = {}
    for detail in status.details:
        if detail.Unpack(info):
            assert info.domain == "tts.v1"
            found |= {"reason": info.reason, **info.metadata}
        elif detail.Unpack(retry):
            found["retry_s"] = retry.retry_delay.ToTimedelta().total_seconds()
    return found


def test_the_first_message_has_header_and_audio_and_the_last_the_summary(speech):
    messages = list(
        speech.Synthesize(speech_pb2.SynthesizeRequest(request_id="r1", model=TONE, input="one two. three"))
    )
    first, last = messages[0], messages[-1]
    assert first.header.request_id == "r1"
    assert (first.header.model, first.header.voice, first.header.worker_id) == (TONE, "low", "w0")
    assert first.header.format.sample_rate_hz == 24_000
    assert 0.04 <= len(first.audio.pcm) / 2 / 24_000 <= 0.08
    assert [message.HasField("header") for message in messages[1:]] == [False] * (len(messages) - 1)
    assert last.HasField("summary")
    assert not last.HasField("audio")
    position = 0
    for message in messages[:-1]:
        assert message.audio.first_sample == position
        position += len(message.audio.pcm) // 2
    assert last.summary.total_samples == position
    assert last.summary.segments == 2
    assert last.summary.finish_reason == speech_pb2.FINISH_REASON_END


def test_a_mark_comes_when_its_segment_begins_and_again_when_it_has_ended(speech):
    messages = list(speech.Synthesize(speech_pb2.SynthesizeRequest(model=TONE, input="one two. three")))
    marks = [(n, mark) for n, message in enumerate(messages) for mark in message.marks]
    seen = [(mark.text_start, mark.text_end, mark.first_sample, mark.HasField("end_sample")) for _, mark in marks]
    assert seen == [(0, 8, 0, False), (0, 8, 0, True), (9, 14, 12480, False), (9, 14, 12480, True)]
    assert marks[0][0] == 0
    assert marks[-1][0] == len(messages) - 1


def test_no_initial_metadata_comes_before_the_first_audio(worker):
    """A call that has not begun must look untouched, so that it can be moved."""
    with grpc.insecure_channel(worker.address) as channel:
        stub = speech_pb2_grpc.SpeechServiceStub(channel)
        call = stub.Synthesize(speech_pb2.SynthesizeRequest(model=TONE, input="<hold=metadata> word"))
        eventually(lambda: worker.running, "the worker has begun")
        came = threading.Event()
        threading.Thread(target=lambda: (call.initial_metadata(), came.set()), daemon=True).start()
        # Whatever had been sent would be here before the answers to later calls on the same connection.
        for _ in range(20):
            models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest())
        assert not came.is_set()
        (worker.signals / "metadata").touch()
        assert next(iter(call)).HasField("header")
        assert came.wait(60)
        call.cancel()


def test_chunks_are_small_at_first_and_then_at_most_800_ms(speech):
    request = speech_pb2.SynthesizeRequest(model=TONE, input="<long=3> <long=3>")
    lengths = [len(message.audio.pcm) / 2 / 24_000 for message in speech.Synthesize(request) if message.audio.pcm]
    assert lengths[0] == pytest.approx(0.08)
    assert max(lengths) == pytest.approx(0.8)


def test_options_are_checked_against_the_models_schema(speech):
    request = speech_pb2.SynthesizeRequest(model=TONE, input="one two")
    request.options.update({"word_ms": 250})
    assert list(speech.Synthesize(request))[-1].summary.total_samples == 2 * 6000


@pytest.mark.parametrize(
    ("changes", "options", "code", "expected", "words"),
    [
        ({"model": ""}, {}, "INVALID_ARGUMENT", {"reason": "INVALID_REQUEST", "field": "model"}, ["missing"]),
        ({"model": "no/such"}, {}, "NOT_FOUND", {"reason": "MODEL_NOT_FOUND", "field": "model"}, ["no/such", TONE]),
        ({"model_revision": "x9"}, {}, "NOT_FOUND", {"reason": "MODEL_NOT_FOUND", "field": "model"}, ["x9"]),
        (
            {"voice": "nobody"},
            {},
            "NOT_FOUND",
            {"reason": "VOICE_NOT_FOUND", "field": "voice"},
            ["nobody", "low, high"],
        ),
        ({"input": " "}, {}, "INVALID_ARGUMENT", {"reason": "INVALID_REQUEST", "field": "input"}, ["empty"]),
        ({"speed": 9}, {}, "INVALID_ARGUMENT", {"reason": "UNSUPPORTED_OPTION", "field": "speed"}, ["9", "0.5 to 2"]),
        ({"encoding": 77}, {}, "INVALID_ARGUMENT", {"reason": "INVALID_REQUEST", "field": "encoding"}, ["77"]),
        ({"request_id": "x" * 129}, {}, "INVALID_ARGUMENT", {"reason": "INVALID_REQUEST"}, ["129", "128"]),
        ({}, {"pitch": 3}, "INVALID_ARGUMENT", {"reason": "UNSUPPORTED_OPTION", "field": "pitch"}, ["word_ms"]),
        ({}, {"word_ms": 1}, "INVALID_ARGUMENT", {"reason": "UNSUPPORTED_OPTION", "field": "word_ms"}, ["10"]),
        (
            {"model": HIBARI, "input": "你好"},
            {},
            *("INVALID_ARGUMENT", {"reason": "UNSPEAKABLE_TEXT", "field": "input"}, ["你", "heart"]),
        ),
        ({"voice": "v" * 20_000}, {}, "NOT_FOUND", {"reason": "VOICE_NOT_FOUND"}, ["vvv", "..."]),
        ({"input": "<fail>"}, {}, "INTERNAL", {"reason": "ENGINE_FAILURE"}, ["told to fail"]),
    ],
)
def test_every_refusal_says_what_is_wrong_to_people_and_to_programs(speech, changes, options, code, expected, words):
    request = speech_pb2.SynthesizeRequest(**{"model": TONE, "input": "one", **changes})
    request.options.update(options)
    with pytest.raises(grpc.RpcError) as caught:
        list(speech.Synthesize(request))
    assert caught.value.code().name == code
    assert details(caught.value).items() >= expected.items()
    for word in words:
        assert word in caught.value.details()
    assert len(caught.value.details()) < 1100


def test_a_model_is_not_loaded_for_somebody_who_asks_not_to(own_worker):
    worker = own_worker()
    with grpc.insecure_channel(worker.address) as channel:
        policy = speech_pb2.LOAD_POLICY_IF_LOADED
        request = speech_pb2.SynthesizeRequest(model=HIBARI, input="Hi.", load_policy=policy)
        with pytest.raises(grpc.RpcError) as caught:
            list(speech_pb2_grpc.SpeechServiceStub(channel).Synthesize(request))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(caught.value) == {"reason": "MODEL_STATE", "field": "model"}


def test_no_audio_in_time_is_a_deadline_and_the_row_is_given_up(worker, speech):
    request = speech_pb2.SynthesizeRequest(model=TONE, input="<pause=0.3> <pause=0.3> <pause=0.3> <touch=too-late>")
    request.first_audio_timeout.FromMilliseconds(100)
    with pytest.raises(grpc.RpcError) as caught:
        list(speech.Synthesize(request))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details(caught.value)["reason"] == "FIRST_AUDIO_TIMEOUT"
    eventually(lambda: not worker.running, "the worker is idle")
    assert not (worker.signals / "too-late").exists()


def test_a_full_worker_refuses_at_once_with_a_time_to_come_back(own_worker):
    worker = own_worker(SONORANT_CAPACITY="1")
    with worker.client() as client:
        busy = client.synthesize("word <hold=full> word", model=TONE)
        with pytest.raises(grpc.RpcError) as caught:
            client.synthesize("word", model=TONE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        found = details(caught.value)
        assert found["reason"] == "OVERLOADED"
        assert found["retry_s"] >= 1
        (worker.signals / "full").touch()
        list(busy)
        eventually(lambda: not worker.running, "the worker is idle")
        list(client.synthesize("word", model=TONE))


def test_a_reader_that_stops_holds_the_worker_back_and_a_second_stream_goes_on(worker):
    """100 s of speech; nobody reads past the first chunk. Every tenth second leaves a trace when it is made."""
    text = " ".join(f"{'<long=1> ' * 9}<touch=lead-{n}>" for n in range(10))
    with worker.client() as client:
        stalled = client.synthesize(text, model=TONE)
        assert sum(len(pcm) for pcm in client.synthesize("<long=60>", model=TONE)) == 60 * 48_000
        assert not (worker.signals / "lead-1").exists()
        assert sum(len(pcm) for pcm in stalled) > 90 * 48_000
        assert (worker.signals / "lead-9").exists()


def test_status_comes_at_once_and_then_with_every_change(worker, models):
    call = models.WatchStatus(models_pb2.WatchStatusRequest())
    statuses = iter(call)
    first = next(statuses)
    assert first.worker_id == "w0"
    assert first.device.id == "cpu"
    assert first.device.memory_total_bytes > first.device.memory_free_bytes > 0
    assert list(first.engines) == ["hibari", "tone"]
    assert {model.name for model in first.models} >= {HIBARI, TONE}
    with worker.client() as client:
        busy = client.synthesize("word <hold=status> word", model=TONE)
        latest = next(status for status in statuses if status.active)
        assert latest.sequence > first.sequence
        assert latest.boot_id == first.boot_id
        assert next(model for model in latest.models if model.name == TONE).active == 1
        (worker.signals / "status").touch()
        list(busy)
        assert next(status for status in statuses if not status.active).sequence > latest.sequence
    call.cancel()


def test_a_model_is_loaded_with_progress_and_unloaded(own_worker):
    worker = own_worker()
    with grpc.insecure_channel(worker.address) as channel:
        models = models_pb2_grpc.ModelServiceStub(channel)

        def state() -> int:
            listed = models.ListModels(models_pb2.ListModelsRequest()).models
            return next(model.state for model in listed if model.name == HIBARI)

        assert state() == models_pb2.MODEL_STATE_AVAILABLE
        stages = [progress.stage for progress in models.LoadModel(models_pb2.LoadModelRequest(name=HIBARI))]
        assert stages[-1] == models_pb2.LOAD_STAGE_READY
        assert stages == sorted(stages)
        assert state() == models_pb2.MODEL_STATE_READY
        models.UnloadModel(models_pb2.UnloadModelRequest(name=HIBARI))
        assert state() == models_pb2.MODEL_STATE_AVAILABLE


def test_a_busy_model_is_not_unloaded(worker, models):
    with worker.client() as client:
        busy = client.synthesize("word <hold=unload> word", model=TONE)
        with pytest.raises(grpc.RpcError) as caught:
            models.UnloadModel(models_pb2.UnloadModelRequest(name=TONE))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        (worker.signals / "unload").touch()
        assert sum(len(pcm) for pcm in busy) == 3 * 4800


def test_a_model_is_loaded_by_the_first_request_for_it(own_worker):
    worker = own_worker()
    with worker.client() as client, client.synthesize("Hello there.", model=HIBARI) as speech:
        assert sum(len(pcm) for pcm in speech) > 10_000
        assert speech.header.load_time.ToTimedelta().total_seconds() > 0


def test_models_of_a_hub_get_a_verdict(models):
    request = models_pb2.ResolveModelsRequest(
        models=[models_pb2.HubModel(name=HIBARI), models_pb2.HubModel(name="org/name", library="nemo")]
    )
    ours, other = models.ResolveModels(request).verdicts
    assert (ours.engine, ours.reason) == ("hibari", "")
    assert (other.engine, "nemo" in other.reason) == ("", True)


def test_health_and_reflection_are_served(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tts.v1.SpeechService", "tts.v1.ModelService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"tts.v1.SpeechService", "tts.v1.ModelService", "grpc.health.v1.Health"} <= names


def test_a_worker_that_is_told_to_end_finishes_its_streams_and_takes_no_new_ones(own_worker):
    worker = own_worker()
    with worker.client() as client, grpc.insecure_channel(worker.address) as channel:
        busy = client.synthesize("word <hold=drain> word", model=TONE)
        checks = health_pb2_grpc.HealthStub(channel)
        worker.popen.send_signal(signal.SIGTERM)
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        eventually(lambda: checks.Check(health_pb2.HealthCheckRequest()).status == not_serving, "health says so")
        with pytest.raises(grpc.RpcError) as caught:
            client.synthesize("word", model=TONE)
        assert details(caught.value)["reason"] == "DRAINING"
        (worker.signals / "drain").touch()
        assert sum(len(pcm) for pcm in busy) == 3 * 4800
        assert worker.popen.wait(60) == 0


def test_a_second_worker_at_the_same_address_says_so(worker, tmp_path):
    second = Worker(tmp_path, "second", worker.port)
    assert second.popen.wait(60) == 2
    assert "taken" in second.output
    assert worker.address in second.output


def test_half_of_each_sample_width_means_the_same_sound(worker):
    def speak(encoding):
        with worker.client() as client:
            return b"".join(client.synthesize("one two", model=TONE, seed=1, encoding=encoding))

    s16 = np.frombuffer(speak(speech_pb2.AUDIO_ENCODING_PCM_S16LE), "<i2") / 32767
    f32 = np.frombuffer(speak(speech_pb2.AUDIO_ENCODING_PCM_F32LE), "<f4")
    assert np.abs(s16 - f32).max() < 1 / 32767
