"""The workers as they stand: their devices, their load and their models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.catalogue import Catalogue, standing
from gateway.fleet.link import WorkerLink


async def list_workers(request: Request) -> Response:
    """`GET /api/workers`: each worker with its models, and which model speaks where a request names none."""
    catalogue: Catalogue = request.app.state.catalogue
    workers = [
        {**describe(link), "models": _models(link), **({"reason": link.trouble} if link.trouble else {})}
        for link in request.app.state.fleet
    ]
    return JSONResponse({"workers": workers, "default_model": catalogue.model_name(None)})


def state_of(link: WorkerLink) -> str:
    """How a worker stands, one of `gateway.metrics.WORKER_STATES`."""
    if not link.status:
        return "down"
    return "draining" if link.status.draining else "starting" if link.status.starting else "up"


def describe(link: WorkerLink) -> dict[str, object]:
    """Write a worker as JSON; of one that is down there are only its address and its name."""
    status = link.status
    if not status:
        return {"address": link.address, "state": state_of(link), "id": link.worker_id}
    device = status.device
    return {
        "address": link.address,
        "state": state_of(link),
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
        "suspect": link.is_suspect,
        "memory_budget_bytes": status.memory_budget_bytes or None,
        "boot_id": status.boot_id,
        "build": status.build,
    }


def _models(link: WorkerLink) -> list[dict[str, Any]]:
    models = sorted(link.models, key=lambda model: model.name)
    return [
        {"id": model.name, "memory_bytes": None, **standing(model), "calls": link.calls[model.name]} for model in models
    ]
