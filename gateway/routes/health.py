"""Whether the gateway lives, whether it can speak, and how it does."""

from __future__ import annotations

from collections import Counter

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.catalogue import Catalogue
from gateway.errors import ApiError
from gateway.fleet.link import Fleet, WorkerLink


async def healthz(request: Request) -> Response:
    """`GET /healthz`: always 200 while the process lives, with each worker as it stands."""
    fleet: Fleet = request.app.state.fleet
    return JSONResponse({"status": "ok", "workers": [_describe(link) for link in fleet]})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: 200 if some worker has started and can serve the default model, else 503."""
    catalogue: Catalogue = request.app.state.catalogue
    fleet: Fleet = request.app.state.fleet
    default = catalogue.model_name(None)
    if request.app.state.draining:
        raise ApiError("DRAINING", "the server is shutting down", retry_after_s=1.0)
    if not any(link.is_up and not link.is_starting and link.can_serve(default) for link in fleet):
        raise ApiError("NO_WORKER", f"no worker is ready to speak with {default!r}", retry_after_s=1.0)
    return JSONResponse({"status": "ready", "model": default})


async def metrics(request: Request) -> Response:
    """`GET /metrics`: what Prometheus collects.

    It needs no key, as `/healthz` does not: whoever watches servers is no user of them and has none, and it tells of
    no text, key or caller.
    """
    state = request.app.state
    text = state.metrics.text(Counter(map(_state, state.fleet)), len(state.sessions))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _state(link: WorkerLink) -> str:
    """How a worker stands, one of `gateway.metrics.WORKER_STATES`."""
    if not link.status:
        return "down"
    return "draining" if link.status.draining else "starting" if link.status.starting else "up"


def _describe(link: WorkerLink) -> dict[str, object]:
    status = link.status
    if not status:
        return {"address": link.address, "state": _state(link)}
    device = status.device
    return {
        "address": link.address,
        "state": _state(link),
        "id": status.worker_id,
        "device": {
            "id": device.id,
            "name": device.name,
            "memory_total_bytes": device.memory_total_bytes,
            "memory_free_bytes": device.memory_free_bytes,
        },
        "engines": list(status.engines),
        "active": status.active,
        "queued": status.queued,
        "capacity": status.capacity,
        "expected_wait_s": round(status.expected_wait.ToTimedelta().total_seconds(), 3),
        "outstanding": link.outstanding,
        "build": status.build,
    }
