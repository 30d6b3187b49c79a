"""Everything that a client is told it, or we, did wrong: one error class and the one table that gives it its forms.

An `ApiError` has a reason. The reasons above the line come from workers (`ErrorReason` in
`protos/tts/v1/errors.proto`), those below it are the gateway's own. The table says for each what the worker's gRPC
code is, and what the client gets: HTTP status, and `type` and `code` of OpenAI's error object.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "voice", "code": "voice_not_found"}}

A client that hangs up is no error: see `ClientGone`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


class Form(NamedTuple):
    """What one reason looks like on either side."""

    grpc_code: str | None
    status: int
    type: str
    code: str


INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"

TABLE: Final[dict[str, Form]] = {
    "INVALID_REQUEST": Form("INVALID_ARGUMENT", 400, INVALID, "invalid_value"),
    "UNSPEAKABLE_TEXT": Form("INVALID_ARGUMENT", 400, INVALID, "unspeakable_text"),
    "UNSUPPORTED_OPTION": Form("INVALID_ARGUMENT", 400, INVALID, "unsupported_value"),
    "MODEL_NOT_FOUND": Form("NOT_FOUND", 404, INVALID, "model_not_found"),
    "UNSUPPORTED_MODEL": Form("UNIMPLEMENTED", 400, INVALID, "unsupported_model"),
    "MODEL_FORBIDDEN": Form("PERMISSION_DENIED", 403, "permission_error", "model_forbidden"),
    "VOICE_NOT_FOUND": Form("NOT_FOUND", 404, INVALID, "voice_not_found"),
    "MODEL_STATE": Form("FAILED_PRECONDITION", 409, INVALID, "model_state"),
    "MODEL_LOADING": Form("UNAVAILABLE", 503, SERVER, "model_loading"),
    "HUB_UNAVAILABLE": Form("UNAVAILABLE", 503, SERVER, "hub_unavailable"),
    "DISK_FULL": Form("RESOURCE_EXHAUSTED", 507, SERVER, "disk_full"),
    "OUT_OF_MEMORY": Form("RESOURCE_EXHAUSTED", 503, SERVER, "out_of_memory"),
    "OVERLOADED": Form("RESOURCE_EXHAUSTED", 503, SERVER, "overloaded"),
    "DRAINING": Form("UNAVAILABLE", 503, SERVER, "draining"),
    "FIRST_AUDIO_TIMEOUT": Form("DEADLINE_EXCEEDED", 504, SERVER, "timeout"),
    "ENGINE_FAILURE": Form("INTERNAL", 500, SERVER, "engine_failure"),
    "LOAD_FAILURE": Form("INTERNAL", 502, SERVER, "load_failure"),
    "WRONG_TOKEN": Form("UNAUTHENTICATED", 503, SERVER, "wrong_worker_token"),
    # ---- the gateway's own
    "NO_WORKER": Form(None, 503, SERVER, "no_worker"),
    "UNAUTHENTICATED": Form(None, 401, INVALID, "invalid_api_key"),
    # OpenAI names the limit by the type.
    "RATE_LIMITED": Form(None, 429, "requests", "rate_limit_exceeded"),
    "CHARACTERS_LIMITED": Form(None, 429, "tokens", "rate_limit_exceeded"),
    "FOREIGN_ORIGIN": Form(None, 403, "permission_error", "foreign_origin"),
    "NOT_FOUND": Form(None, 404, INVALID, "not_found"),
    "UPGRADE_REQUIRED": Form(None, 426, INVALID, "upgrade_required"),
    "METHOD_NOT_ALLOWED": Form(None, 405, INVALID, "method_not_allowed"),
    "VOICE_LIMIT": Form(None, 400, INVALID, "voice_limit_exceeded"),
    "STORAGE_FAILURE": Form(None, 507, SERVER, "storage_failure"),
    "BODY_TOO_LARGE": Form(None, 413, INVALID, "body_too_large"),
    "UNSUPPORTED_MEDIA_TYPE": Form(None, 415, INVALID, "unsupported_media_type"),
    "BUG": Form(None, 500, SERVER, "internal_error"),
}


class ApiError(Exception):
    """A failure that the client is told of.

    Args:
        reason: A key of `TABLE`.
        message: What went wrong; names the value at fault and what is accepted.
        param: The request field at fault, if one is.
        retry_after_s: When a later try may succeed, in seconds.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})

    @property
    def form(self) -> Form:
        """Its row of the table."""
        return TABLE[self.reason]

    def body(self) -> dict[str, dict[str, str | None]]:
        """Write it as OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.form.type,
                "param": self.param,
                "code": self.form.code,
            }
        }

    def response(self) -> Response:
        """Answer with it."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
            # OpenAI's clients look at this one first.
            headers["retry-after-ms"] = str(max(1, math.ceil(1000 * self.retry_after_s)))
        # A message may quote what the client sent, also half a surrogate pair; as an escape that is still JSON.
        body = json.dumps(self.body(), ensure_ascii=False).encode(errors="replace")
        return Response(body, self.form.status, headers, media_type="application/json")


class ClientGone(Exception):
    """The client has hung up; an outcome, not an error."""


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer with the error; starlette calls this for an `ApiError`."""
    assert isinstance(error, ApiError)
    request.state.log.update(reason=error.reason, error=error.message)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods in OpenAI's shape; OPTIONS on a known path says what is allowed."""
    assert isinstance(error, HTTPException)
    allow = dict(error.headers or {}).get("Allow", "")
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers={"allow": f"{allow}, OPTIONS"})
    if error.status_code == 405:
        response = ApiError(
            "METHOD_NOT_ALLOWED", f"{request.method} is not allowed for {request.url.path}; allowed: {allow}"
        ).response()
        response.headers["allow"] = f"{allow}, OPTIONS"
        return response
    return ApiError("NOT_FOUND", f"there is nothing at {request.url.path!r}").response()


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Note the outcome; nobody reads the answer."""
    request.state.log["outcome"] = "client_gone"
    return Response(status_code=499)
