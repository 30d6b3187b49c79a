"""Whether the gateway lives, whether it can speak, and how it does."""

from __future__ import annotations

from collections import Counter

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.catalogue import Catalogue
from gateway.errors import ApiError
from gateway.fleet.fleet import Fleet
from gateway.routes.workers import describe, state_of


async def healthz(request: Request) -> Response:
    """`GET /healthz`: always 200 while the process lives, with each worker as it stands."""
    fleet: Fleet = request.app.state.fleet
    return JSONResponse({"status": "ok", "workers": [describe(link) for link in fleet]})


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
    text = state.metrics.text(Counter(map(state_of, state.fleet)), len(state.sessions))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
