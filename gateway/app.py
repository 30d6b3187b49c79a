"""The application: routes, middleware and what lives as long as the process."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from gateway.auth import KeyFile, Keys
from gateway.catalogue import Catalogue
from gateway.errors import ApiError, ClientGone, on_api_error, on_client_gone, on_http_error
from gateway.fleet.fleet import Fleet
from gateway.fleet.link import WorkerLink
from gateway.hub import HubList
from gateway.metrics import Metrics
from gateway.quotas import Quotas
from gateway.requests import RequestLog
from gateway.routes.docs import assets as docs_assets
from gateway.routes.docs import openapi
from gateway.routes.docs import page as docs_page
from gateway.routes.encode import encode
from gateway.routes.health import healthz, metrics, readyz
from gateway.routes.live import Sessions, live, no_session
from gateway.routes.models import audio_models, catalogue_models, get_model, list_models, load_model, unload_model
from gateway.routes.speech import speech
from gateway.routes.voices import OneVoice, Voices
from gateway.routes.web import FOLDER, console
from gateway.routes.workers import list_workers
from gateway.settings import Settings
from gateway.voices import VoiceStore

ROUTES = [
    Route("/v1/audio/speech", speech, methods=["POST"]),
    WebSocketRoute("/v1/audio/speech/stream", live),
    Route("/v1/audio/speech/stream", no_session),
    Route("/v1/audio/voices", Voices),
    Route("/v1/audio/voices/{voice}", OneVoice),
    Route("/v1/audio/models", audio_models),
    Route("/v1/models", list_models),
    Route("/v1/models/", list_models),
    Route("/v1/models/{name:path}", get_model),
    Route("/api/models", catalogue_models),
    Route("/api/models/{name:path}/load", load_model, methods=["POST"]),
    Route("/api/models/{name:path}/unload", unload_model, methods=["POST"]),
    Route("/api/workers", list_workers),
    Route("/api/encode", encode, methods=["POST"]),
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/metrics", metrics),
    Route("/openapi.json", openapi),
    Route("/docs", docs_page),
    docs_assets,
    *console(FOLDER),
]

EXPOSED_HEADERS = (
    *("retry-after", "retry-after-ms", "server-timing", "x-request-id", "x-sonorant-finish", "x-sonorant-ignored"),
    *("x-sonorant-model", "x-sonorant-sample-rate", "x-sonorant-voice", "x-sonorant-worker"),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)


class Cors(CORSMiddleware):
    """Starlette's middleware, but that it refuses in OpenAI's shape."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        allowed = f"pages of the origins in SONORANT_CORS_ORIGINS may send {', '.join(self.allow_methods)}"
        refused = ApiError("FOREIGN_ORIGIN", f"{bytes(answer.body).decode()}; {allowed}").response()
        refused.headers.update({name: value for name, value in answer.headers.items() if name[:7] != "content"})
        return refused


def create_app(settings: Settings) -> Starlette:
    """Build the application.

    Args:
        settings: How it is to behave.

    Raises:
        KeysFileError: The file of API keys cannot be used.
    """
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
    connect = functools.partial(WorkerLink, tls=settings.tls, token=settings.worker_token.get_secret_value())
    fleet = Fleet(settings.workers, settings.chunk_timeout_s, connect)
    hub = HubList(settings.cache_dir, settings.catalogue_ttl_s)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await fleet.start()
        # What has been loaded stays; left to the collector, it is looked through again and again while streams run.
        gc.collect()
        gc.freeze()
        yield
        await hub.stop()
        await fleet.stop()

    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[
            # No credentials: a page of another origin can ask for speech, but not as the user who looks at it.
            Middleware(
                Cors,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
                max_age=86_400,
            ),
            Middleware(RequestLog),
            Middleware(Keys, keys, settings.public_discovery),
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
    app.state.metrics = Metrics(fleet, keys)
    app.state.catalogue = Catalogue(fleet, hub, settings)
    app.state.voices = VoiceStore(settings.data_dir.expanduser() / "voices", settings.max_voices)
    app.state.quotas = Quotas(settings.rate_requests, settings.rate_characters, settings.rate_streams)
    app.state.sessions = Sessions()
    app.state.started_at = int(time.time())
    app.state.draining = False
    return app
