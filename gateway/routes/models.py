"""Which models there are: OpenAI's list, and the richer one of the console."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.catalogue import OPENAI_MODELS, Catalogue, Entry
from gateway.schema import model_object


async def list_models(request: Request) -> Response:
    """`GET /v1/models`: the workers' models, then OpenAI's names with the model that they stand for."""
    catalogue: Catalogue = request.app.state.catalogue
    created = request.app.state.started_at
    data = [model_object(entry.model.name, created) for entry in catalogue]
    default = catalogue.model_name(None)
    if any(model["id"] == default for model in data):
        data += [model_object(alias, created, root=default) for alias in OPENAI_MODELS]
    return JSONResponse({"object": "list", "data": data})


async def get_model(request: Request) -> Response:
    """`GET /v1/models/{id}`; the id may contain a slash."""
    catalogue: Catalogue = request.app.state.catalogue
    name = request.path_params["name"]
    entry = catalogue.model(name)
    more = {"root": entry.model.name} if name in OPENAI_MODELS else {}
    return JSONResponse(model_object(name, request.app.state.started_at, **more))


async def catalogue_models(request: Request) -> Response:
    """`GET /api/models`: all that is known of each model."""
    catalogue: Catalogue = request.app.state.catalogue
    models = [_describe(entry) for entry in catalogue]
    return JSONResponse({"count": len(models), "models": models})


def _describe(entry: Entry) -> dict[str, object]:
    model = entry.model
    return {
        "id": model.name,
        "pipeline_tag": "text-to-speech",
        "revision": model.revision,
        "servable": True,
        "engine": model.engine,
        "states": entry.states,
        "sample_rate_hz": model.native_format.sample_rate_hz,
        "speeds": [round(model.min_speed, 3), round(model.max_speed, 3)],
        "voices": [
            {"id": voice.id, "name": voice.name, "language": voice.language, "gender": voice.gender or None}
            for voice in model.voices
        ],
    }
