"""Who may call the worker: its certificates, those that it asks for, and the token; knows nothing of what is called."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import grpc
import structlog

from protos.tls import Pem, Tls
from worker.errors import WrongToken
from worker.wire import error_message, trailing_metadata

OPEN = "/grpc.health.v1.Health/"
"""Whoever probes the worker, such as Kubernetes, has no token, and learns no more than whether it serves."""

SAY_EVERY_S = 60.0
"""A caller with a wrong token tries again and again; the log says so at most that often."""

log = structlog.get_logger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class TokenGuard(grpc.aio.ServerInterceptor):
    """Refuses calls that do not come with the token.

    Args:
        token: What callers must send, in `authorization`, after `Bearer `.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._said_at = -SAY_EVERY_S
        # It fits calls of every kind, since it waits for no message.
        self._refusal: Handler = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Pass the call on, or refuse it."""
        if handler_call_details.method.startswith(OPEN) or self._has_token(handler_call_details):
            return await continuation(handler_call_details)
        return self._refusal

    def _has_token(self, call: grpc.HandlerCallDetails) -> bool:
        sent = [value for key, value in call.invocation_metadata or () if key == "authorization"]
        # In a time that does not tell how much of it was right.
        return len(sent) == 1 and hmac.compare_digest(_bytes(sent[0]), self._expected)

    async def _refuse(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        has_one = any(key == "authorization" for key, _ in context.invocation_metadata() or ())
        error = WrongToken(
            f"the token of the call is {'wrong' if has_one else 'missing'}: "
            "this worker takes those with its SONORANT_WORKER_TOKEN in `authorization: Bearer ...`"
        )
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("call refused", why=error.message, peer=context.peer())
        status = error_message(error, grpc.StatusCode.UNAUTHENTICATED.value[0])
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, status.message, trailing_metadata(error, status))


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Serve TLS, and ask callers for certificates if `tls` has an authority; files that are replaced are read again.

    Raises:
        ValueError: A file cannot be used; says which.
    """
    stamp = tls.stamp()
    first = _configuration(tls.read())
    complained_of: object = ()

    def fresh() -> grpc.ServerCertificateConfiguration | None:
        """What to show a caller that connects now, if that has changed; gRPC's own thread asks."""
        nonlocal stamp, complained_of
        now: object = None
        try:
            now = tls.stamp()
            if now == stamp:
                return None
            configuration = _configuration(tls.read())
        except (OSError, ValueError) as error:  # Replaced in several steps, or badly.
            if complained_of != now:
                log.warning("certificates cannot be read again; the old ones stay", why=str(error))
            complained_of = now
            return None
        log.info("certificates read again", file=str(tls.cert))
        stamp, complained_of = now, ()
        return configuration

    # Its types do not know that None means no change.
    return grpc.dynamic_ssl_server_credentials(first, fresh, require_client_authentication=bool(tls.ca))  # type: ignore[arg-type]


def warnings(listen: str, tls: Tls | None, token: str) -> Sequence[str]:
    """What the operator should know of who can call.

    Args:
        listen: Address that the worker listens at.
        tls: What it serves; plaintext if None.
        token: What it asks for; nothing if empty.
    """
    if _is_local(listen):
        return ()
    if not token and not (tls and tls.ca):
        return (
            f"anybody who can reach {listen} can use this worker, since it asks for neither a token nor a certificate: "
            "set SONORANT_WORKER_TOKEN, or SONORANT_TLS_CA beside SONORANT_TLS_CERT and SONORANT_TLS_KEY, "
            "or SONORANT_LISTEN=127.0.0.1:PORT to serve this machine alone",
        )
    if not tls:
        return (
            f"what is sent to {listen} can be read on the way, the token too: set SONORANT_TLS_CERT and "
            "SONORANT_TLS_KEY, or keep it on a private network",
        )
    return ()


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.key
    assert pem.cert
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca)


def _is_local(listen: str) -> bool:
    if listen.startswith("unix"):
        return True
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
