"""Traces for OpenTelemetry, where its own variables ask for them: requests, turns of a WebSocket, attempts at workers.

Off, nothing of OpenTelemetry is imported, and whoever has something to tell pays one look at `_tracer`. On, spans are
made on the event loop, and a thread of OpenTelemetry's exports them in batches: a collector that is slow or gone costs
spans and never time. No span holds a text or a key. Knows neither gRPC nor the fleet.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import Token
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SERVICE = "sonorant-gateway"

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

SWITCH_INTERVAL_S = 0.0005
"""How long the thread that exports may keep the event loop waiting; it would be 5 ms."""

FLUSH_S = 2.0
"""How long the last spans may take to be handed over when the process ends."""

QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

BROKEN = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""gRPC codes that are a fault of the worker, as OpenTelemetry's conventions have it. Messages of others may quote the
text that was to be spoken."""

Metadata = Sequence[tuple[str, str]]

_tracer: Tracer | None = None
_provider: TracerProvider | None = None
_ending: set[asyncio.Task[None]] = set()
_silent: WeakSet[Call] = WeakSet()


class WrongTracing(Exception):
    """Traces are asked for in a way that cannot be met; another start would fail the same way."""


class Call(Protocol):
    """What is needed of a call to a worker."""

    def add_done_callback(self, callback: Callable[[Any], None], /) -> None: ...
    async def code(self) -> Any: ...  # noqa: ANN401  # An enumeration of grpc's.
    async def details(self) -> str | None: ...


AnyCall = TypeVar("AnyCall", bound=Call)


def configure() -> None:
    """Turn tracing on if the environment asks for it.

    Raises:
        WrongTracing: A variable has a value that is not accepted, or the package is missing.
    """
    global _tracer, _provider
    if not _is_asked_for():
        return
    if (sampler := os.environ.get("OTEL_TRACES_SAMPLER", "").lower()) and sampler not in SAMPLERS:
        raise WrongTracing(f"OTEL_TRACES_SAMPLER={sampler}: it must be {', '.join(SAMPLERS)}")
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, protocols)), "grpc")
    if protocol not in EXPORTERS:
        raise WrongTracing(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: it must be {' or '.join(EXPORTERS)}")
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = importlib.import_module(EXPORTERS[protocol]).OTLPSpanExporter()
    except ImportError as error:
        raise WrongTracing(
            f"traces are asked for (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT), but the package for them is "
            f"missing ({error.name}): run with the extra `otel`, as `make run` does, or install "
            f"opentelemetry-exporter-otlp-proto-{protocol.split('/')[0]}"
        ) from error
    except ValueError as error:
        raise WrongTracing(f"OTEL_EXPORTER_OTLP_...: {error}") from error
    about = {"service.name": SERVICE, "service.version": version("sonorant")}
    # What the operator says in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES goes before that.
    resource = Resource.create(about).merge(OTELResourceDetector().detect())
    size = None if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in os.environ else BATCH
    sys.setswitchinterval(SWITCH_INTERVAL_S)
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
    """A span that is the parent of what its task, and those that it starts, begin from now on.

    Args:
        span: The span.
    """

    def __init__(self, span: Span) -> None:
        from opentelemetry import context, trace

        self._span = span
        self._detach = context.detach
        self._token: Token[Context] = context.attach(trace.set_span_in_context(span))

    def end(self, fields: Mapping[str, object], name: str = "") -> None:
        """End it; on the task that began it.

        Args:
            fields: What came of it; with an `outcome`. `None` tells nothing.
            name: Another name, known by now.
        """
        from opentelemetry.trace import StatusCode

        self._detach(self._token)
        if name:
            self._span.update_name(name)
        for key, value in fields.items():
            if value is not None and key not in ("error", "ttfa_ms"):
                self._span.set_attribute(key if "." in key else f"sonorant.{key}", value)  # type: ignore[arg-type]
        if fields["outcome"] in ("failed", "cut"):
            self._span.set_status(StatusCode.ERROR, str(fields.get("error", "")) or None)
        self._span.end()


def request(scope: Mapping[str, Any], headers: Mapping[str, str], request_id: str) -> Traced | None:
    """Begin the span of a request or a WebSocket; None where it is not traced.

    Args:
        scope: Of the connection.
        headers: Those of the request; a `traceparent` (W3C) is the parent.
        request_id: As the log has it.
    """
    if _tracer is None or scope["path"] in QUIET_PATHS:
        return None
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(
        {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    )
    method = scope.get("method", "GET")  # By which a WebSocket begins.
    about = {"http.request.method": method, "url.path": scope["path"], "sonorant.request_id": request_id}
    return Traced(_tracer.start_span(method, parent, SpanKind.SERVER, about))


def end_request(traced: Traced, scope: Mapping[str, Any], route: str, fields: Mapping[str, object]) -> None:
    """End the span of a request.

    Args:
        traced: The span.
        scope: Of the connection.
        route: What its path is an instance of; empty where no route was reached.
        fields: Of its line in the log.
    """
    method = scope.get("method", "WEBSOCKET")
    more = {"http.route": route or None, "http.response.status_code": fields["status"] or None}
    traced.end({**fields, "status": None, **more}, f"{method} {route}".strip())


def turn(number: int) -> Traced | None:
    """Begin the span of a turn of a WebSocket, in that of its session; None where nothing is traced."""
    return Traced(_tracer.start_span("turn", attributes={"sonorant.turn": number})) if _tracer else None


def event(name: str, **attributes: float) -> None:
    """Note what has happened in the span of this task, if there is one."""
    if _tracer:
        from opentelemetry import trace

        trace.get_current_span().add_event(name, {f"sonorant.{key}": value for key, value in attributes.items()})


def attempt(begin: Callable[[Metadata | None], AnyCall], address: str, moves: int) -> AnyCall:
    """Begin a call to a worker, in a span that ends with the call.

    Args:
        begin: Begins it, with this metadata.
        address: Of the worker.
        moves: How many workers have failed before.
    """
    if _tracer is None:
        return begin(None)
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    about: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.method": "tts.v1.SpeechService/Synthesize",
        "sonorant.worker.address": address,
        "sonorant.attempt": moves + 1,
        "sonorant.moved": moves > 0,
    }
    span = _tracer.start_span("attempt", kind=trace.SpanKind.CLIENT, attributes=about)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    call = begin(tuple(carrier.items()))

    def ended(_: object) -> None:
        task = asyncio.get_running_loop().create_task(_end_attempt(span, call, time.time_ns()))
        _ending.add(task)  # The loop itself holds a task by a weak reference alone.
        task.add_done_callback(_ending.discard)

    call.add_done_callback(ended)
    return call


def note_silent(call: Call) -> None:
    """Note that a call is given up since its worker is silent: its span is that of a failure."""
    if _tracer:
        _silent.add(call)


def add_trace_id(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the trace that an event of the log belongs to (a processor of structlog)."""
    from opentelemetry import trace

    if (context := trace.get_current_span().get_span_context()).is_valid:
        fields["trace_id"] = trace.format_trace_id(context.trace_id)
    return fields


async def _end_attempt(span: Span, call: Call, ended_ns: int) -> None:
    """End the span of a call that has ended; its code is known, though it has to be awaited."""
    from opentelemetry.trace import StatusCode

    code = await call.code()
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    # Who cancels a call is this side: its client has gone or wants to hear no more, or its worker says nothing more.
    error = "SILENT" if call in _silent else "" if code.name in ("OK", "CANCELLED") else code.name
    span.set_attribute("sonorant.outcome", "failed" if error else {"OK": "ok"}.get(code.name, "cancelled"))
    if error:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR, str(await call.details()) if code.name in BROKEN else None)
    span.end(ended_ns)


def _is_asked_for() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    default = "otlp" if any(map(os.environ.get, endpoints)) else "none"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or default
    if exporter not in ("otlp", "none"):
        raise WrongTracing(f"OTEL_TRACES_EXPORTER={exporter}: it must be otlp or none")
    return exporter == "otlp"
