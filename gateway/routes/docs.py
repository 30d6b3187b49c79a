"""The API described: for programs at `/openapi.json`, for people at `/docs` (Swagger UI, served from here alone)."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount

from gateway.catalogue import Catalogue
from gateway.openapi import document
from gateway.routes.web import FOLDER, GZIP, Assets, headers


def _swagger_ui() -> Path:
    # The package's files are used and not its code, which would import a template engine and a YAML reader.
    spec = find_spec("swagger_ui")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "static"


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`: the OpenAPI 3.1 document of this server."""
    catalogue: Catalogue = request.app.state.catalogue
    return JSONResponse(document(request.app.state.settings, version("sonorant"), catalogue.options()))


async def page(request: Request) -> Response:
    """`GET /docs`: the same for people to read and try."""
    return FileResponse(FOLDER / "static" / "docs.html", headers=headers())


assets = Mount("/docs/assets", Assets(_swagger_ui()), middleware=GZIP)
