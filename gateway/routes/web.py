"""The console at `/`, as it was built into `web/dist`, and the pages that need no build; loads nothing from elsewhere.

Whether it has been built is looked up for each request, so that it can be built beside a gateway that runs.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

FOLDER = Path(str(files("web")))

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "font-src": "'self'",
    "manifest-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}

CHANGES = "no-cache"
"""May be kept, but not used before it is known to be the same still."""

NEVER_CHANGES = "public, max-age=31536000, immutable"
"""What the build names after its content."""

# Around pages and their files alone: what streams must not be held back until there is enough to compress.
GZIP = [Middleware(GZipMiddleware)]


def headers(cache: str = CHANGES) -> dict[str, str]:
    """Headers of a page and of its files.

    Args:
        cache: How long they may be kept, as `cache-control` says it.
    """
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": cache,
    }


class Assets(StaticFiles):
    """Files of a page, with the headers of a page; the folder need not be there yet.

    Args:
        directory: Where they are.
        cache: How long they may be kept.
    """

    def __init__(self, directory: Path, cache: str = CHANGES) -> None:
        super().__init__(directory=directory, check_dir=False)
        self._headers = [(name.encode(), value.encode()) for name, value in headers(cache).items()]

    async def check_config(self) -> None:
        """Starlette would fail here over a folder that is not there; so the files are just not found."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += self._headers
            await send(message)

        await super().__call__(scope, receive, send_with_headers)


def console(folder: Path) -> list[BaseRoute]:
    """Make the routes of the console.

    Args:
        folder: Where it is, with `dist`, if it has been built, and `static`.
    """
    built, unbuilt = folder / "dist" / "index.html", folder / "static" / "unbuilt.html"

    async def page(request: Request) -> Response:
        """`GET /`: the console, or what to do to have one."""
        # 200 either way: the server is in good order, and the page is for people.
        return FileResponse(built if built.is_file() else unbuilt, headers=headers())

    return [
        Route("/", page, middleware=GZIP),
        Mount("/assets", Assets(folder / "dist" / "assets", NEVER_CHANGES), middleware=GZIP),
        Mount("/static", Assets(folder / "static"), middleware=GZIP),
    ]
