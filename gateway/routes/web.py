"""The page at `/` and its files; loads nothing from anywhere else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

FOLDER = Path(str(files("web")))

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def headers(**sources: str) -> dict[str, str]:
    """Headers of a page and of its files.

    Args:
        **sources: Where a page gets what from that others do not, such as `img="'self' data:"`.
    """
    policy = POLICY | {f"{kind}-src": source for kind, source in sources.items()}
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


async def page(request: Request) -> Response:
    """`GET /`: the page."""
    return FileResponse(FOLDER / "index.html", headers=headers())


class Assets(StaticFiles):
    """Files of a page, with the headers of a page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in headers().items()]
            await send(message)

        await super().__call__(scope, receive, send_with_headers)


assets = Mount("/assets", Assets(directory=FOLDER / "assets"))
