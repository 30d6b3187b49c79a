"""Which models there are: OpenAI's list, the richer one of the console, and loading and unloading."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gateway.catalogue import Catalogue
from gateway.errors import ApiError
from gateway.fleet.fleet import Fleet, Progress
from gateway.hub import MOST_LISTED
from gateway.requests import same_origin
from gateway.schema import MAX_ID_CHARS, model_object
from protos.tts.v1 import models_pb2

DEFAULT_LIMIT = 20
LONGEST_SEARCH = 100

STAGES = {
    models_pb2.LOAD_STAGE_DOWNLOAD: "downloading",
    models_pb2.LOAD_STAGE_LOAD: "loading",
    models_pb2.LOAD_STAGE_WARMUP: "warming_up",
    models_pb2.LOAD_STAGE_READY: "ready",
}


async def list_models(request: Request) -> Response:
    """`GET /v1/models`: the workers' models, then OpenAI's names with the model that they stand for."""
    return JSONResponse({"object": "list", "data": _listed(request)})


async def audio_models(request: Request) -> Response:
    """`GET /v1/audio/models`: the same in the shape that Open WebUI asks for."""
    return JSONResponse({"models": [{"id": model["id"], "name": model["id"]} for model in _listed(request)]})


def _listed(request: Request) -> list[dict[str, Any]]:
    catalogue: Catalogue = request.app.state.catalogue
    created = request.app.state.started_at
    data = [model_object(entry.model.name, created) for entry in catalogue if entry.is_usable]
    there = {model["id"] for model in data}
    roots = {alias: catalogue.model_name(alias) for alias in catalogue.model_aliases}
    return data + [model_object(alias, created, root=root) for alias, root in roots.items() if root in there]


async def get_model(request: Request) -> Response:
    """`GET /v1/models/{id}`; the id may contain a slash."""
    catalogue: Catalogue = request.app.state.catalogue
    name = _id(request)
    entry = catalogue.model(name)
    more = {"root": entry.model.name} if name in catalogue.model_aliases else {}
    return JSONResponse(model_object(name, request.app.state.started_at, **more))


async def catalogue_models(request: Request) -> Response:
    """`GET /api/models[?limit=][&search=]`: the Hub's trending models, with all that is known of each."""
    catalogue: Catalogue = request.app.state.catalogue
    search = request.query_params.get("search", "").strip()
    if len(search) > LONGEST_SEARCH:
        raise ApiError("INVALID_REQUEST", f"`search` has {len(search)} characters; at most {LONGEST_SEARCH} are taken")
    return JSONResponse(await catalogue.listing(search, _limit(request)))


async def load_model(request: Request) -> Response:
    """`POST /api/models/{id}/load[?worker=]`: bring a model into memory; the progress comes as server-sent events.

    What is known to fail before anything is downloaded is an ordinary error. Hanging up does not undo the load.
    """
    same_origin(request)
    fleet: Fleet = request.app.state.fleet
    name = request.app.state.catalogue.model_name(_id(request))
    progress = fleet.load(name, request.query_params.get("worker", ""))
    first = await anext(progress)
    return StreamingResponse(
        _events(first, progress), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def unload_model(request: Request) -> Response:
    """`POST /api/models/{id}/unload[?worker=]`: take a model out of the memory of a worker, or of all that have it."""
    same_origin(request)
    catalogue: Catalogue = request.app.state.catalogue
    fleet: Fleet = request.app.state.fleet
    entry = catalogue.model(_id(request))
    named = request.query_params.get("worker")
    links = [fleet.choose(entry.model.name, named)] if named else list(fleet)
    unloaded = []
    for link in links:
        if link.status and link.status.worker_id in entry.workers:
            await link.unload(entry.model.name)
            unloaded.append(link.status.worker_id)
    return JSONResponse({"id": entry.model.name, "workers": unloaded})


async def _events(first: Progress, rest: AsyncIterator[Progress]) -> AsyncIterator[str]:
    def event(worker: str, progress: models_pb2.LoadModelResponse) -> str:
        model = progress.model
        data = {
            "stage": STAGES.get(progress.stage, "unknown"),
            "model": model.name,
            "worker": worker,
            "engine": model.engine,
            "revision": model.revision or None,
            "downloaded_bytes": model.downloaded_bytes,
            "download_bytes": model.download_bytes,
            "memory_bytes": model.memory_bytes or None,
        }
        return f"data: {json.dumps(data)}\n\n"

    yield event(*first)
    try:
        async for progress in rest:
            yield event(*progress)
    except ApiError as error:
        yield f"event: error\ndata: {json.dumps(error.body())}\n\n"


def _id(request: Request) -> str:
    """Read the model id of the path; it may contain slashes.

    Raises:
        ApiError: It is empty or too long.
    """
    name = str(request.path_params["name"])
    if not 1 <= len(name) <= MAX_ID_CHARS:
        shown = repr(name[:40]) + ("..." if len(name) > 40 else "")
        raise ApiError(
            "INVALID_REQUEST",
            f"the model id {shown} has {len(name)} characters; it must have 1 to {MAX_ID_CHARS}",
            param="model",
        )
    return name


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(DEFAULT_LIMIT))
    limit = int(given) if len(given) <= 3 and given.isascii() and given.isdigit() else 0
    if not 1 <= limit <= MOST_LISTED:
        raise ApiError("INVALID_REQUEST", f"`limit` is {given[:40]!r}; it must be 1 to {MOST_LISTED}", param="limit")
    return limit
