"""`python -m tests.hub ROOT PORT`: the endpoints by which the hub's client finds, describes and downloads repositories.

What they answer is documented at https://huggingface.co/docs/hub/api; the errors, by the code that tells them apart,
in `huggingface_hub/utils/_http.py`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tests.hub.faults import Faults, Knobs
from tests.hub.repositories import STRANGER, Repository

LISTED = (
    "_id", "id", "modelId", "likes", "private", "downloads", "tags", "pipeline_tag", "library_name", "createdAt",
    "trendingScore",
)  # fmt: skip
"""What a listing tells of each repository unless it is asked for more."""

LISTED_IN_FULL = (*LISTED, "author", "sha", "lastModified", "gated", "disabled", "siblings")


class Refused(Exception):
    """The hub refuses a request, in the words and headers by which its client tells the causes apart."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.response = JSONResponse({"error": message}, status, {"X-Error-Message": message})
        if code:
            self.response.headers["X-Error-Code"] = code


class Api:
    """The hub's endpoints that its client uses to find, describe and download repositories."""

    def __init__(self, root: Path, knobs: Knobs) -> None:
        self.root = root
        self.knobs = knobs

    def routes(self) -> Iterator[Route]:
        for kind, at in (("models", ""), ("datasets", "/datasets")):
            repo = f"/api/{kind}/{{org}}/{{name}}"
            yield Route(f"/api/{kind}", self.listing, name=kind)
            yield Route(repo, self.info, name=kind)
            yield Route(f"{repo}/revision/{{revision:path}}", self.info, name=kind)
            yield Route(f"{repo}/tree/{{revision}}", self.tree, name=kind)
            yield Route(f"{repo}/tree/{{revision}}/{{path:path}}", self.tree, name=kind)
            yield Route(f"{at}/{{org}}/{{name}}/resolve/{{revision}}/{{path:path}}", self.resolve, name=kind)

    async def listing(self, request: Request) -> Response:
        """`GET /api/models`: filtered, sorted, cut to the properties asked for, page by page."""
        query = request.query_params
        member = self._is_member(request)
        folder = self._folder(request)
        found = [Repository(path) for path in sorted(folder.glob("*/*/")) if path.parent != self.root / "datasets"]
        shown = [repo for repo in found if not repo.about.get("disabled") and (member or not repo.about.get("private"))]
        rows = [info for repo in shown if _matches(info := repo.info(), request)]
        if sort := query.get("sort"):
            rows.sort(key=lambda info: info.get(sort, 0), reverse=True)
        keys = query.getlist("expand") and ["_id", "id", "modelId", *query.getlist("expand")]
        keys = keys or [*(LISTED_IN_FULL if query.get("full") else LISTED)]
        keys += [name for name in ("config", "cardData") if query.get(name)]
        return self._page(request, [{key: info[key] for key in keys if key in info} for info in rows])

    async def info(self, request: Request) -> Response:
        """`GET /api/models/org/name`: also of gated repositories, whose files alone are guarded."""
        repo = self._repository(request)
        _check_revision(repo, request)
        info = repo.info()
        if request.query_params.get("blobs"):
            info["siblings"] = [file.sibling() for file in repo.files]
        if expand := request.query_params.getlist("expand"):
            info = {key: info[key] for key in ("_id", "id", "modelId", *expand) if key in info}
        return JSONResponse(info)

    async def tree(self, request: Request) -> Response:
        """`GET /api/models/org/name/tree/main`: files and, unless recursive, the folders of one level."""
        repo = self._repository(request)
        _check_revision(repo, request)
        within = f"{request.path_params['path']}/" if request.path_params.get("path") else ""
        files = [file for file in repo.files if file.path.startswith(within)]
        if not files:
            raise Refused(404, "EntryNotFound", f"{within} does not exist on {request.path_params['revision']!r}")
        deep = request.query_params.get("recursive", "").lower() == "true"
        names = {file: file.path.removeprefix(within).split("/") for file in files}
        folders = {} if deep else {within + name[0]: None for name in names.values() if len(name) > 1}
        rows = [{"type": "directory", "path": path, "size": 0, "oid": repo.commit} for path in folders]
        return self._page(request, rows + [file.entry() for file in files if deep or len(names[file]) == 1])

    async def resolve(self, request: Request) -> Response:
        """`GET /org/name/resolve/main/path`: a file, or the range asked for."""
        repo = self._repository(request)
        if repo.about.get("gated") and not self._is_member(request):
            message = f"Access to model {repo.id} is restricted"
            if "authorization" in request.headers:
                raise Refused(403, "GatedRepo", f"{message} and you are not in the authorized list.")
            raise Refused(401, "GatedRepo", f"{message}. You must have access to it and be authenticated.")
        _check_revision(repo, request)
        file = next((file for file in repo.files if file.path == request.path_params["path"]), None)
        if file is None:
            raise Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{file.etag}"'}
        if file.is_lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
        return FileResponse(file.location, headers=headers, filename=file.location.name)

    def _folder(self, request: Request) -> Path:
        return self.root / "datasets" if request.scope["route"].name == "datasets" else self.root

    def _repository(self, request: Request) -> Repository:
        """The repository that a request is about, if whoever asks may know of it."""
        member = self._is_member(request)
        folder = self._folder(request) / request.path_params["org"] / request.path_params["name"]
        repo = Repository(folder) if folder.is_dir() else None
        if repo is None or (repo.about.get("private") and not member):
            if "authorization" in request.headers:
                raise Refused(404, "RepoNotFound", "Repository not found")
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        if repo.about.get("disabled"):
            raise Refused(403, "", "Access to this resource is disabled.")
        return repo

    def _is_member(self, request: Request) -> bool:
        """Whether the request has a token with access to everything; one that the hub does not know is refused."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in (*self.knobs.tokens, STRANGER):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return token in self.knobs.tokens

    def _page(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        start = int(request.query_params.get("cursor", 0))
        stop = start + min(int(request.query_params.get("limit", self.knobs.page)), self.knobs.page)
        link = f'<{request.url.include_query_params(cursor=stop)}>; rel="next"'
        return JSONResponse(rows[start:stop], headers={"Link": link} if stop < len(rows) else {})


def _check_revision(repo: Repository, request: Request) -> None:
    revision = request.path_params.get("revision", "main")
    if revision not in ("main", repo.commit):
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def _matches(info: Mapping[str, Any], request: Request) -> bool:
    query = request.query_params
    tags = {*info["tags"], info["pipeline_tag"], info["library_name"]}
    return (
        query.get("pipeline_tag", info["pipeline_tag"]) == info["pipeline_tag"]
        and query.get("author", info["author"]) == info["author"]
        and query.get("search", "").lower() in info["id"].lower()
        and tags.issuperset(query.getlist("filter"))
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response


def create_app(root: Path) -> Starlette:
    """A hub without faults."""
    knobs = Knobs()
    faults = Middleware(Faults, knobs=knobs, log=[])
    return Starlette(routes=[*Api(root, knobs).routes()], middleware=[faults], exception_handlers={Refused: _refused})


def main(root: str, port: str) -> None:
    """Serve until SIGTERM."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 0.0
    asyncio.run(serve(create_app(Path(root)), config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
