"""Which voices there are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.catalogue import Catalogue


async def list_voices(request: Request) -> Response:
    """`GET /v1/audio/voices[?model=]`: every voice of one model, or of all."""
    catalogue: Catalogue = request.app.state.catalogue
    return JSONResponse({"voices": catalogue.voices(request.query_params.get("model"))})
