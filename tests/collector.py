"""A double of a trace collector: a server of OTLP over gRPC that keeps what processes under test export."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.stack import eventually


@dataclass(frozen=True)
class Span:
    """What was exported of a span.

    Attributes:
        service: Name of the service that made it.
        attributes: Its own and, where they have the same name, not its resource's.
        resource: Those of its resource.
        is_error: Whether its status says so.
        message: Of the status.
    """

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: tuple[str, ...]
    is_error: bool
    message: str

    def __getitem__(self, name: str) -> Any:
        return self.attributes.get(f"sonorant.{name}")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on a free port until the context is left."""

    def __enter__(self) -> Collector:
        self.spans: list[Span] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that exports to it, without delay."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_BSP_SCHEDULE_DELAY": "20"}

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: object) -> Any:  # noqa: N802
        """Take spans."""
        for process in request.resource_spans:
            resource = _read(process.resource.attributes)
            self.spans += [_span(each, resource) for scope in process.scope_spans for each in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, request_id: str) -> Trace:
        """Wait until all spans of a request are there."""

        def found() -> list[Span]:
            return [span for span in self.spans if not span.parent_id and span["request_id"] == request_id]

        def is_whole() -> bool:
            spans = [span for span in self.spans if span.trace_id == found()[0].trace_id]
            ids = {span.span_id for span in spans}
            # A worker that is killed exports nothing: of its call there is the other side alone.
            return all(not span.parent_id or span.parent_id in ids for span in spans)

        eventually(found, f"the request {request_id} is traced")
        eventually(is_whole, "every span's parent is there")
        return Trace(self, found()[0])


class Trace:
    """The spans of a request as a tree.

    Args:
        collector: Where they are.
        root: The first one.
    """

    def __init__(self, collector: Collector, root: Span) -> None:
        self._collector = collector
        self.root = root

    def below(self, parent: Span, name: str = "", count: int | None = None) -> list[Span]:
        """The children of a span, those of a name, in the order in which they began; waits for a number of them."""

        def children() -> list[Span]:
            spans = [each for each in self._collector.spans if each.parent_id == parent.span_id]
            return sorted((each for each in spans if name in each.name), key=lambda each: each.began_ns)

        if count is not None:
            eventually(lambda: len(children()) >= count, f"{count} spans {name!r} in {parent.name!r}")
            assert len(children()) == count
        return children()

    def only(self, parent: Span, name: str) -> Span:
        (span,) = self.below(parent, name, 1)
        return span


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        service=resource["service.name"],
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_read(span.attributes),
        resource=resource,
        events=tuple(event.name for event in span.events),
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        message=span.status.message,
    )


def _read(attributes: Any) -> dict[str, Any]:
    def value(of: common_pb2.AnyValue) -> Any:
        return getattr(of, of.WhichOneof("value") or "string_value")

    return {each.key: value(each.value) for each in attributes}
