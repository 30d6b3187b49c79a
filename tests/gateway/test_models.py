"""Odd requests to the routes of models: each is refused in OpenAI's shape, and none is a bug."""

import httpx
import pytest

from tests.stack import PATIENCE_S, TONE

LONG = "org/" + "x" * 5000


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("HEAD", "/api/models", 200, []),
        ("OPTIONS", "/api/models", 204, []),
        ("POST", "/api/models", 405, ["POST", "GET"]),
        ("HEAD", f"/api/models/{TONE}/load", 405, []),
        ("GET", f"/api/models/{TONE}/load", 405, ["GET", "POST"]),
        ("OPTIONS", f"/api/models/{TONE}/load", 204, []),
        ("OPTIONS", f"/api/models/{TONE}/unload", 204, []),
        ("GET", f"/api/models/{TONE}", 404, [TONE]),
        ("POST", "/api/models//load", 400, ["''", "0 characters"]),
        ("POST", "/api/models//unload", 400, ["''", "0 characters"]),
        ("POST", "/api/models/tts-1/load", 200, []),
        ("POST", "/api/models/sonorant%2Ftone/load", 200, []),
        ("POST", "/api/models/sonorant%2Fmissing/unload", 404, ["sonorant/missing", TONE]),
        ("POST", "/api/models/org%2F..%2Fx/load", 400, ["org/../x"]),
        ("POST", "/api/models/a%00b/load", 400, [r"a\x00b"]),
        ("POST", "/api/models/org%2F%FF/load", 400, ["org/\ufffd"]),
        ("POST", "/api/models/org/наука/load", 400, ["org/наука"]),
        ("POST", "/api/models/org/наука/unload", 404, ["org/наука"]),
        ("GET", "/v1/models/org/наука", 404, ["org/наука"]),
        ("POST", f"/api/models/{LONG}/load", 400, ["org/xxx", "5004 characters", "256"]),
        ("POST", f"/api/models/{LONG}/unload", 400, ["org/xxx", "5004 characters", "256"]),
        ("GET", f"/v1/models/{LONG}", 400, ["org/xxx", "5004 characters", "256"]),
        ("POST", f"/api/models/{TONE}/load?worker=w9", 404, ["w9", "w0"]),
        ("POST", f"/api/models/{TONE}/unload?worker=w9", 404, ["w9", "w0"]),
        ("POST", "/api/models/tts-1/unload?worker=w9", 404, ["w9", "w0"]),
    ],
)
def test_odd_requests_are_refused_in_openais_shape(stack, method, path, status, words):
    answer = httpx.request(method, f"{stack.url}{path}", timeout=PATIENCE_S)
    assert answer.status_code == status, answer.text
    if status >= 400 and method != "HEAD":
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert all(word in error["message"] for word in words), error["message"]
    assert '"bug"' not in stack.gateway.output


def test_openais_name_unloads_the_model_that_it_stands_for(start):
    stack = start()
    answer = httpx.post(f"{stack.url}/api/models/tts-1/unload", timeout=PATIENCE_S)
    assert answer.json() == {"id": TONE, "workers": ["w0"]}


@pytest.mark.parametrize("origin", ["http://[", "null", "nonsense", "http://elsewhere.example", "http://[" + "x" * 500])
def test_whatever_is_not_our_origin_is_foreign(stack, origin):
    for action in ("load", "unload"):
        answer = httpx.post(f"{stack.url}/api/models/{TONE}/{action}", headers={"origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
        assert origin in answer.json()["error"]["message"]
