"""Traces for OpenTelemetry, where its own variables ask for them: a span for each call, and in it what took its time.

An utterance of a model that works step by step has hundreds of runs, so there is one span for each stage of each
segment, with how often it ran, for how long and how large the batches were: what is exported grows with the text and
not with the steps. They are made when a segment is over, on the event loop; the device's threads only count
(`worker.rows.Timeline`). A thread of OpenTelemetry's exports in batches: a collector that is slow or gone costs spans
and never time. Off, nothing of OpenTelemetry is imported. No span holds a text.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import Token
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from protos.tts.v1 import speech_pb2
from worker.metrics import Call
from worker.rows import Timeline
from worker.settings import WrongSetting

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SERVICE = "sonorant-worker"

EXPORTERS = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}
"""By `OTEL_EXPORTER_OTLP_PROTOCOL`. The first one is the default, as of OpenTelemetry's own agent for Python: it needs
no package that is not here anyway."""

SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)

BATCH = 64
"""Spans that are encoded at once: that holds the interpreter's lock, some 40 µs for each."""

FLUSH_S = 2.0
"""How long the last spans may take to be handed over when the process ends."""

BROKEN = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""gRPC codes that are a fault of the worker, as OpenTelemetry's conventions have it. Messages of others may quote the
text that was to be spoken."""

_tracer: Tracer | None = None
_provider: TracerProvider | None = None


def configure(worker_id: str) -> None:
    """Turn tracing on if the environment asks for it.

    Args:
        worker_id: Name of this worker.

    Raises:
        WrongSetting: A variable has a value that is not accepted, or the package is missing.
    """
    global _tracer, _provider
    if not _is_asked_for():
        return
    if (sampler := os.environ.get("OTEL_TRACES_SAMPLER", "").lower()) and sampler not in SAMPLERS:
        raise WrongSetting(f"OTEL_TRACES_SAMPLER={sampler}: it must be {', '.join(SAMPLERS)}")
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, protocols)), "grpc")
    if protocol not in EXPORTERS:
        raise WrongSetting(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: it must be {' or '.join(EXPORTERS)}")
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = importlib.import_module(EXPORTERS[protocol]).OTLPSpanExporter()
    except ImportError as error:
        raise WrongSetting(
            f"traces are asked for (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT), but the package for them is "
            f"missing ({error.name}): run with the extra `otel`, as `make run` does, or install "
            f"opentelemetry-exporter-otlp-proto-{protocol.split('/')[0]}"
        ) from error
    except ValueError as error:
        raise WrongSetting(f"OTEL_EXPORTER_OTLP_...: {error}") from error
    about = {"service.name": SERVICE, "service.version": version("sonorant"), "service.instance.id": worker_id}
    # What the operator says in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES goes before that.
    resource = Resource.create(about).merge(OTELResourceDetector().detect())
    size = None if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in os.environ else BATCH
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=size))
    _tracer = _provider.get_tracer("sonorant")


def end() -> None:
    """Turn tracing off, and hand the last spans over; waits no longer for that than `FLUSH_S`."""
    global _tracer, _provider
    if _provider:
        # A collector that is gone is tried for as long as OTEL_EXPORTER_OTLP_TIMEOUT says.
        last = threading.Thread(target=_provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(FLUSH_S)
    _tracer = _provider = None


def is_on() -> bool:
    """Whether traces are made."""
    return _tracer is not None


class Traced:
    """The span of a call; what the call's task logs from now on belongs to its trace.

    Args:
        span: The span.
        tracer: Makes more.

    Attributes:
        timeline: What the device is to write down; None where the span is not sampled.
    """

    def __init__(self, span: Span, tracer: Tracer) -> None:
        from opentelemetry import context, trace

        self.timeline = Timeline() if span.is_recording() else None
        self._span = span
        self._tracer = tracer
        self._here = trace.set_span_in_context(span)
        self._detach = context.detach
        self._token: Token[Context] = context.attach(self._here)
        # Spans are in wall time, and what the worker measures is on the monotonic clock.
        self._offset_s = time.time() - time.monotonic()

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Make a span of what the call waits for in the context."""
        span = self._tracer.start_span(name, self._here)
        try:
            yield
        finally:
            span.end()

    def first_audio(self, ttfa_s: float) -> None:
        """Note that the first audio goes out."""
        self._span.add_event("first audio", {"sonorant.ttfa_ms": round(1000 * ttfa_s, 1)})

    def stages(self, *, is_over: bool = False) -> None:
        """Make the spans of the segments that are over.

        Args:
            is_over: Whether the last one is, too.
        """
        if not self.timeline:
            return
        for (segment, stage), noted in self.timeline.take(is_over=is_over):
            about: dict[str, str | float] = {
                "sonorant.stage": stage,
                "sonorant.segment": segment,
                "sonorant.runs": noted.time.runs,
                "sonorant.busy_ms": round(1000 * noted.time.busy_s, 3),
                "sonorant.batch": round(noted.time.rows / noted.time.runs, 2),
            }
            span = self._tracer.start_span(
                f"stage {stage}", self._here, attributes=about, start_time=self._ns(noted.began_at)
            )
            span.end(self._ns(noted.ended_at))

    def end(self, call: Call, code: str, status: int, reason: str, message: str) -> None:
        """End it; on the task that began it.

        Args:
            call: What is known of the call.
            code: Name of its gRPC code.
            status: Number of that.
            reason: Why it failed, as the contract names it; empty if it did not.
            message: The same in words.
        """
        from opentelemetry.trace import StatusCode

        self._detach(self._token)
        self._span.set_attribute("rpc.grpc.status_code", status)
        # A caller who hangs up is an outcome and no error.
        outcome = {"OK": "ok", "CANCELLED": "cancelled"}.get(code, "failed" if code in BROKEN else "refused")
        self._span.set_attribute("sonorant.outcome", outcome)
        if row := call.row:
            until = row.submitted_at + row.queue_s if row.is_begun else time.monotonic()
            queue = self._tracer.start_span("queue", self._here, start_time=self._ns(row.submitted_at))
            queue.end(self._ns(until))
            self.stages(is_over=True)
            about = {
                "sonorant.audio_s": round(row.made_s, 3),
                "sonorant.busy_ms": round(1000 * row.busy_s, 1),
                "sonorant.underruns": row.playback.underruns,
                "sonorant.batch": round(row.batch_size, 2),
            }
            self._span.set_attributes(about)
        if reason:
            self._span.set_attribute("error.type", reason)
        if code in BROKEN:
            self._span.set_status(StatusCode.ERROR, message)
        self._span.end()

    def _ns(self, at: float) -> int:
        return int(1e9 * (at + self._offset_s))


def begin(metadata: Iterable[tuple[str, str | bytes]], request: speech_pb2.SynthesizeRequest) -> Traced:
    """Begin the span of a call, if traces are made.

    Args:
        metadata: Of the call; a `traceparent` (W3C) is the parent.
        request: What is asked for.
    """
    assert _tracer
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate") and isinstance(value, str)}
    parent = TraceContextTextMapPropagator().extract(carrier)
    name = "tts.v1.SpeechService/Synthesize"
    about: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.method": name,
        "sonorant.request_id": request.request_id,
        "sonorant.model": request.model,
        "sonorant.voice": request.voice,
        "sonorant.chars": len(request.input),
        "sonorant.delivery": "whole" if request.delivery == speech_pb2.DELIVERY_WHOLE else "live",
    }
    return Traced(_tracer.start_span(name, parent, SpanKind.SERVER, about), _tracer)


def add_trace_id(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the trace that an event of the log belongs to (a processor of structlog)."""
    from opentelemetry import trace

    if (context := trace.get_current_span().get_span_context()).is_valid:
        fields["trace_id"] = trace.format_trace_id(context.trace_id)
    return fields


def _is_asked_for() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    default = "otlp" if any(map(os.environ.get, endpoints)) else "none"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or default
    if exporter not in ("otlp", "none"):
        raise WrongSetting(f"OTEL_TRACES_EXPORTER={exporter}: it must be otlp or none")
    return exporter == "otlp"
