"""`python -m deploy.healthcheck gateway|worker`: ask the process of this container whether it is well; 0 if it is.

It reads where they listen from the variables that they read themselves. A worker that has a certificate is asked
with that certificate, and by the name `localhost`, which must be among the certificate's names.
"""

from __future__ import annotations

import http.client
import os
import sys

import grpc

from deploy.channel import channel

TIMEOUT_S = 4.0
SERVING = b"\x08\x01"
"""A grpc.health.v1.HealthCheckResponse that is SERVING, as bytes: gateways do not have the package with its stubs."""


def main() -> int:
    """Ask; say what is wrong, and return the exit status."""
    kinds = {"gateway": check_gateway, "worker": check_worker}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        print("usage: python -m deploy.healthcheck gateway|worker", file=sys.stderr)
        return 2
    if wrong := kinds[sys.argv[1]]():
        print(f"{sys.argv[1]}: {wrong}", file=sys.stderr)
        return 1
    return 0


def check_gateway() -> str:
    """Ask `/healthz`, which tells of the process alone; return what is wrong, or nothing."""
    host, port = _reachable(os.environ.get("SONORANT_HOST", "")), os.environ.get("SONORANT_PORT", "8000")
    # Not by urllib, which would ask the proxy that HTTP_PROXY names.
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port}: {error}"
    finally:
        connection.close()
    return "" if status == 200 else f"{host}:{port}: /healthz answers {status}"


def check_worker() -> str:
    """Ask grpc.health.v1; return what is wrong, or nothing."""
    listen = os.environ.get("SONORANT_LISTEN", "127.0.0.1:50051")
    host, _, port = listen.rpartition(":")
    target = listen if listen.startswith("unix:") else f"{_reachable(host)}:{port}"
    try:
        with channel(target, "localhost") as opened:
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary("/grpc.health.v1.Health/Check")
            answer = check(b"", timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return f"{target}: {error.code().name}: {error.details()}"
    except ValueError as error:
        return str(error)
    return "" if answer == SERVING else f"{target}: not serving: it starts or drains"


def _reachable(host: str) -> str:
    """Turn an address to listen at into one to call."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host).strip("[]")  # noqa: S104
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
