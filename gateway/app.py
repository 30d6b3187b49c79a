"""The application: routes, middleware and what lives as long as the process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from gateway.catalogue import Catalogue
from gateway.errors import ApiError, ClientGone, on_api_error, on_client_gone, on_http_error
from gateway.fleet.link import Fleet
from gateway.hub import HubList
from gateway.requests import RequestLog
from gateway.routes.health import healthz, readyz
from gateway.routes.models import catalogue_models, get_model, list_models, load_model, unload_model
from gateway.routes.speech import speech
from gateway.routes.voices import list_voices
from gateway.routes.web import assets, page
from gateway.settings import Settings

ROUTES = [
    Route("/v1/audio/speech", speech, methods=["POST"]),
    Route("/v1/audio/voices", list_voices),
    Route("/v1/models", list_models),
    Route("/v1/models/", list_models),
    Route("/v1/models/{name:path}", get_model),
    Route("/api/models", catalogue_models),
    Route("/api/models/{name:path}/load", load_model, methods=["POST"]),
    Route("/api/models/{name:path}/unload", unload_model, methods=["POST"]),
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/", page),
    assets,
]

EXPOSED_HEADERS = (
    *("retry-after", "x-request-id", "x-sonorant-finish", "x-sonorant-ignored", "x-sonorant-model"),
    *("x-sonorant-sample-rate", "x-sonorant-voice", "x-sonorant-worker"),
)


def create_app(settings: Settings) -> Starlette:
    """Build the application.

    Args:
        settings: How it is to behave.
    """
    fleet = Fleet(settings.workers)
    hub = HubList(settings.cache_dir, settings.catalogue_ttl_s)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await fleet.start()
        yield
        await hub.stop()
        await fleet.stop()

    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[
            # No credentials: a page of another origin can ask for speech, but not as the user who looks at it.
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
                max_age=86_400,
            ),
            Middleware(RequestLog),
        ],
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            ClientGone: on_client_gone,
            ClientDisconnect: on_client_gone,
        },
    )
    app.state.settings = settings
    app.state.fleet = fleet
    app.state.catalogue = Catalogue(fleet, hub, settings.default_model)
    app.state.started_at = int(time.time())
    app.state.draining = False
    return app
