"""Whether the gateway lives, and whether it can speak."""

from __future__ import annotations

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


def _describe(link: WorkerLink) -> dict[str, object]:
    status = link.status
    if not status:
        return {"address": link.address, "state": "down"}
    device = status.device
    return {
        "address": link.address,
        "state": "draining" if status.draining else "starting" if status.starting else "up",
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
        "outstanding": link.outstanding,
        "build": status.build,
    }
