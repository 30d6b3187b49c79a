"""Channels to workers for what runs beside them, with this process's certificate if it has one."""

from __future__ import annotations

import os
from pathlib import Path

import grpc


def channel(target: str, name: str = "") -> grpc.Channel:
    """Open a channel to a worker, by TLS if SONORANT_TLS_CERT or SONORANT_TLS_CA is set.

    Args:
        target: Where it listens, `HOST:PORT` or `unix:PATH`.
        name: What its certificate must name; the host of `target` if empty.
    """
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    own, key, authority = (_read(f"SONORANT_TLS_{each}") for each in ("CERT", "KEY", "CA"))
    if not own and not authority:
        return grpc.insecure_channel(target, options)
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    # Without an authority of its own a certificate can only vouch for itself.
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority or own, key, own), options)


def _read(name: str) -> bytes | None:
    path = os.environ.get(name)
    return Path(path).read_bytes() if path else None
