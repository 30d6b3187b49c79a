"""Channels to workers for what runs beside them, by the variables that gateways and workers read themselves."""

from __future__ import annotations

import os

import grpc

from protos.channel import open_channel
from protos.tls import Tls


def channel(target: str, name: str = "") -> grpc.Channel:
    """Open a channel to a worker, with this process's certificates and token, if it has them.

    Args:
        target: Where it listens, `HOST:PORT` or `unix:PATH`.
        name: What its certificate must name; what SONORANT_TLS_NAME says, or the host of `target`, if empty.

    Raises:
        ValueError: A certificate cannot be used.
    """
    own, key, authority, given = (os.environ.get(f"SONORANT_TLS_{each}", "") for each in ("CERT", "KEY", "CA", "NAME"))
    # Without an authority of its own a certificate can only vouch for itself.
    tls = Tls(authority or own, own, key, name or given) if own or authority else None
    return open_channel(target, tls, os.environ.get("SONORANT_WORKER_TOKEN", ""))
