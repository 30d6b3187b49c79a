"""Traces: what gateway and workers export to a collector when they are asked to, and that else they do nothing."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.sync.client import connect

from tests.collector import Collector, Span, Trace
from tests.e2e.test_hang_ups import SLOW, hang_up
from tests.e2e.test_hang_ups import connect as connect_bare
from tests.stack import PATIENCE_S, ROOT, TONE, clean_environment, eventually, free_port, running

SYNTHESIZE = "tts.v1.SpeechService/Synthesize"


@pytest.fixture(scope="module")
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector, tmp_path_factory):
    worker = {**collector.environment, "SONORANT_LOG_FORMAT": "json", "SONORANT_LOG_LEVEL": "debug"}
    with running(tmp_path_factory.mktemp("traced"), worker_settings=worker, **collector.environment) as stack:
        yield stack


def speak(stack, request_id: str, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
    headers = {"x-request-id": request_id, **(headers or {})}
    return httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S)


def call_of(trace: Trace, attempt: Span) -> Span:
    """The worker's side of an attempt."""
    assert (attempt.name, attempt.kind, attempt.service) == ("attempt", "CLIENT", "sonorant-gateway")
    call = trace.only(attempt, SYNTHESIZE)
    assert (call.kind, call.service, call.trace_id) == ("SERVER", "sonorant-worker", trace.root.trace_id)
    return call


def test_a_request_is_one_trace_from_http_to_the_stages(traced, collector):
    text = "One two three. Four five."
    assert speak(traced, "t-one", input=text, response_format="mp3").status_code == 200
    trace = collector.trace("t-one")
    root = trace.root
    assert (root.name, root.kind, root.service) == ("POST /v1/audio/speech", "SERVER", "sonorant-gateway")
    assert root.attributes["http.response.status_code"] == 200
    said = {name: root[name] for name in ("model", "voice", "format", "chars", "outcome", "worker")}
    expected = {"model": TONE, "voice": "low", "format": "mp3", "chars": len(text), "outcome": "ok", "worker": "w0"}
    assert said == expected
    assert root.events == ("first audio",)

    attempt = trace.only(root, "attempt")
    assert attempt["worker.address"] == traced.worker.address
    assert (attempt["attempt"], attempt["moved"], attempt["outcome"]) == (1, False, "ok")
    call = call_of(trace, attempt)
    assert call.resource["service.instance.id"] == "w0"
    assert (call["model"], call["chars"], call["outcome"]) == (TONE, len(text), "ok")
    assert call.events == ("first audio",)
    queue = trace.only(call, "queue")
    stages = trace.below(call, "stage step", 2)
    # A step for every word, and one in which the segment is found to be over.
    assert [(each["segment"], each["runs"], each["batch"]) for each in stages] == [(0, 4, 1.0), (1, 3, 1.0)]
    assert not trace.below(call, "load")
    for outer, inner in ((root, attempt), (call, queue), *((call, stage) for stage in stages)):
        assert outer.began_ns <= inner.began_ns <= inner.ended_ns
        assert inner.ended_ns <= outer.ended_ns + 1e9  # The call ends once the request has, or a moment later.
    assert queue.ended_ns <= stages[0].began_ns + 1e6
    assert stages[0].ended_ns <= stages[1].began_ns + 1e6
    everything = [root, attempt, call, queue, *stages]
    assert not any(span.is_error for span in everything)
    assert not any("three" in str(value) for span in everything for value in span.attributes.values())

    # The lines of both logs are found by the trace.
    assert traced.gateway.line_of("t-one")["trace_id"] == root.trace_id
    lines = [json.loads(line) for line in traced.worker.output.splitlines() if '"spoken"' in line]
    assert [line["trace_id"] for line in lines if line["request_id"] == "t-one"] == [root.trace_id]


def test_a_client_that_traces_is_the_parent(traced, collector):
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
    assert speak(traced, "t-child", headers, input="one").status_code == 200
    eventually(lambda: sum(s.trace_id == trace_id for s in collector.spans) == 5, "all five spans are there")
    (root,) = (span for span in collector.spans if span.parent_id == span_id)
    assert root["request_id"] == "t-child"
    # The client's sampler has decided against it: nobody goes on with it.
    headers = {"traceparent": f"00-{trace_id[::-1]}-{span_id}-00"}
    assert speak(traced, "t-unsampled", headers, input="one").status_code == 200
    assert traced.gateway.line_of("t-unsampled")["trace_id"] == trace_id[::-1]
    assert speak(traced, "t-after", input="one").status_code == 200
    collector.trace("t-after")
    assert not any(span["request_id"] == "t-unsampled" for span in collector.spans)


def test_a_call_that_moves_has_a_span_for_each_worker_in_the_same_trace(collector, start):
    settings = collector.environment
    stack = start(workers=2, worker_settings=settings, **settings)
    body = {"input": f"word {SLOW * 5}"}
    # One worker speaks already, so the other one is asked; it is killed before it has made a sound.
    with ThreadPoolExecutor(1) as threads, httpx.stream("POST", f"{stack.url}/v1/audio/speech", json=body) as busy:
        busy_worker, asked = sorted(stack.workers, key=lambda each: each.name != busy.headers["x-sonorant-worker"])
        moved = threads.submit(speak, stack, "t-moves", input="<hold=never> one")
        eventually(lambda: asked.running, "the idle worker has it")
        asked.end(signal.SIGKILL)
        eventually(lambda: busy_worker.running == 2, "the other one has it")
        (stack.signals / "never").touch()
        assert moved.result().status_code == 200
    trace = collector.trace("t-moves")
    lost, taken = trace.below(trace.root, "attempt", 2)
    assert (lost["worker.address"], lost["moved"], lost["outcome"]) == (asked.address, False, "failed")
    assert (lost.is_error, lost.attributes["error.type"]) == (True, "UNAVAILABLE")
    assert (taken["worker.address"], taken["moved"], taken["outcome"]) == (busy_worker.address, True, "ok")
    assert trace.below(call_of(trace, taken), "stage step", 1)
    assert (trace.root["outcome"], trace.root["moves"], trace.root.is_error) == ("ok", 1, False)

    # What kills every worker that it meets is an error on each way.
    again = asked.again()
    try:
        eventually(lambda: len(stack.gateway.up()) == 2, "both are there")
        assert speak(stack, "t-dies", input="<die>").status_code == 503
    finally:
        again.end(signal.SIGKILL)
    trace = collector.trace("t-dies")
    attempts = trace.below(trace.root, "attempt", 2)
    assert [(each["attempt"], each["moved"], each.is_error) for each in attempts] == [(1, False, True), (2, True, True)]
    assert {each["worker.address"] for each in attempts} == {worker.address for worker in stack.workers}
    assert (trace.root["outcome"], trace.root.is_error) == ("failed", True)


def test_a_failure_is_an_error_on_both_sides(traced, collector):
    assert speak(traced, "t-fails", input="<fail>").status_code == 500
    trace = collector.trace("t-fails")
    call = call_of(trace, trace.only(trace.root, "attempt"))
    for span in (trace.root, trace.only(trace.root, "attempt"), call):
        assert span.is_error
        assert "told to fail" in span.message
    assert (call["outcome"], call.attributes["error.type"]) == ("failed", "ENGINE_FAILURE")


def test_a_worker_that_falls_silent_has_failed_although_the_gateway_ended_the_call(collector, start):
    settings = collector.environment
    stack = start(worker_settings=settings, SONORANT_CHUNK_TIMEOUT_S="1", **settings)
    with pytest.raises(httpx.RemoteProtocolError):
        speak(stack, "t-silent", input="word <hold=long> word")
    (stack.signals / "long").touch()
    trace = collector.trace("t-silent")
    attempt = trace.only(trace.root, "attempt")
    assert (attempt["outcome"], attempt.is_error, attempt.attributes["error.type"]) == ("failed", True, "SILENT")
    assert (trace.root["outcome"], trace.root.is_error) == ("cut", True)


def test_a_refusal_is_none_and_quotes_no_text(traced, collector):
    assert speak(traced, "t-refused", input="secret", voice="nosuch").status_code == 404
    trace = collector.trace("t-refused")
    attempt = trace.only(trace.root, "attempt")
    call = call_of(trace, attempt)
    assert (trace.root["outcome"], trace.root.is_error) == ("refused", False)
    assert (call["outcome"], call.is_error, call.attributes["error.type"]) == ("refused", False, "VOICE_NOT_FOUND")
    assert (attempt.is_error, attempt.message) == (True, "")


def test_a_hang_up_is_an_outcome_and_no_error(traced, collector):
    client = connect_bare(traced, f"word {SLOW * 5}", "t-gone")
    assert client.recv(64).startswith(b"HTTP/1.1 200")
    hang_up(client, "reset")
    trace = collector.trace("t-gone")
    attempt = trace.only(trace.root, "attempt")
    call = call_of(trace, attempt)
    assert (trace.root["outcome"], attempt["outcome"], call["outcome"]) == ("client_gone", "cancelled", "cancelled")
    assert not any(span.is_error for span in (trace.root, attempt, call))
    assert trace.below(call, "stage step")


def test_every_turn_of_a_websocket_is_a_span_in_that_of_the_session(traced, collector):
    url = f"{traced.url.replace('http', 'ws', 1)}/v1/audio/speech/stream"

    def until(ws, kind: str) -> None:
        while (json.loads(got).get("type") if isinstance(got := ws.recv(), str) else "") != kind:
            pass

    with connect(url, additional_headers={"x-request-id": "t-session"}) as ws:
        for text in ("One two. Three.", "<fail>"):
            ws.send(json.dumps({"type": "text.append", "text": text}))
            ws.send(json.dumps({"type": "text.flush"}))
        until(ws, "speech.done")
        until(ws, "error")
        ws.send(json.dumps({"type": "text.append", "text": f"word {SLOW * 5}"}))
        ws.send(json.dumps({"type": "text.flush"}))
        until(ws, "speech.started")
        ws.send(json.dumps({"type": "speech.cancel"}))
        until(ws, "speech.cancelled")
        ws.send(json.dumps({"type": "session.close"}))
    trace = collector.trace("t-session")
    assert trace.root.name == "WEBSOCKET /v1/audio/speech/stream"
    turns = trace.below(trace.root, "turn", 3)
    assert [(turn["turn"], turn["outcome"], turn.is_error) for turn in turns] == [
        (1, "ok", False),
        (2, "failed", True),
        (3, "cancelled", False),
    ]
    assert turns[0].events == ("first audio",)
    call = call_of(trace, trace.below(turns[0], "attempt")[0])
    assert trace.below(call, "stage step")


def test_waiting_for_a_model_is_a_span(traced, collector):
    for request_id, num_loads in (("t-loads", 1), ("t-loaded", 0)):
        assert speak(traced, request_id, input="one", model="sonorant/tone-22k").status_code == 200
        trace = collector.trace(request_id)
        call = call_of(trace, trace.only(trace.root, "attempt"))
        trace.only(call, "queue")
        assert len(trace.below(call, "load", num_loads)) == num_loads


@pytest.mark.parametrize(
    "off", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=["unset", "disabled", "none"]
)
def test_nothing_is_imported_and_nothing_exported_when_it_is_off(off, start):
    with Collector() as collector:
        environment = {**(collector.environment if off else {}), **off, "PYTHONPROFILEIMPORTTIME": "1"}
        stack = start(worker_settings=environment, **environment)
        assert speak(stack, "t-off", input="one").status_code == 200
        assert "trace_id" not in stack.gateway.line_of("t-off")
        stack.gateway.end()
        stack.worker.end()
        for process in (stack.gateway, stack.worker):
            assert "import time" in process.output
            assert "opentelemetry" not in process.output
        assert not collector.spans


@pytest.mark.parametrize("side", ["gateway", "worker"])
@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_traceidratio"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "long", "long"),
    ],
)
def test_what_cannot_be_met_is_refused_at_start(side, name, value, accepted):
    done = start_alone(side, **{"OTEL_TRACES_EXPORTER": "otlp", name: value})
    assert done.returncode == 2
    assert name in done.stderr or "OTEL_EXPORTER_OTLP_..." in done.stderr
    assert value in done.stderr
    assert accepted in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("side", ["gateway", "worker"])
@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"])
def test_a_package_that_is_missing_is_named_at_start(side, missing):
    done = start_alone(side, without=missing, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317")
    assert done.returncode == 2
    for word in ("OTEL_EXPORTER_OTLP_ENDPOINT", "opentelemetry-exporter-otlp-proto-grpc", "extra `otel`"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def start_alone(side: str, without: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import runpy, sys\nsys.argv = [{side!r}]\n"
    code += f"sys.modules[{without!r}] = None\n" if without else ""
    code += f"runpy.run_module({side!r}, run_name='__main__')"
    environment |= {"SONORANT_PORT": str(free_port()), "SONORANT_LISTEN": f"127.0.0.1:{free_port()}"}
    environment = clean_environment(**environment)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_a_collector_that_is_gone_keeps_nobody_waiting(start):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    stack = start(worker_settings=environment, **environment)
    for n in range(5):
        assert speak(stack, f"t-lost-{n}", input="one").status_code == 200
    began = time.monotonic()
    assert stack.gateway.end() == 0
    assert stack.worker.end() == 0
    assert time.monotonic() - began < 15
