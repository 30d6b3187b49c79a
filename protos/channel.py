"""What the channels of all callers have in common: options, TLS, and the token that workers may ask for.

It knows nothing of what is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc

from protos.tls import Tls

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.enable_http_proxy", 0),
    # By default flow control grows its windows to the bandwidth, and a worker runs minutes of audio ahead of a reader
    # that has stopped. So: no probing, and windows of a second: a chunk that does not fit costs another round trip.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 48 * 1024),
    # A frozen worker is noticed within 4 s. Without the ping timeout of HTTP/2 itself that takes a minute.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 2500),
    # A worker that comes back is found again in a moment.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

R = TypeVar("R")

RETRY_BUFFER_BYTES = 8 * 1024 * 1024
"""What a call may have sent and still be tried again: a recording of 30 s is 3 MB, and by default 256 KiB are kept."""


def open_channel(target: str, tls: Tls | None = None, token: str = "", service_config: str = "") -> grpc.Channel:
    """Open a channel; it connects when it is used.

    Args:
        target: gRPC target, such as `127.0.0.1:50051`, `dns:///name:port` or `unix:/run/worker.sock`.
        tls: Certificates; plaintext if None. The files are read now: a channel keeps what it was opened with.
        token: Sent with every call, in `authorization`; none if empty. Without TLS whoever is on the way can read it.
        service_config: gRPC's own rules for balancing and retries, as JSON. Without it one channel is one worker, and
            what a failed call may do is decided above the channel.

    Raises:
        ValueError: A file of `tls` cannot be used; says which.
    """
    options = _options(tls, service_config)
    channel = grpc.secure_channel(target, _credentials(tls), options) if tls else grpc.insecure_channel(target, options)
    if token:
        _sign(channel, token)
    return channel


def open_aio_channel(
    target: str, tls: Tls | None = None, token: str = "", service_config: str = ""
) -> grpc.aio.Channel:
    """Do as `open_channel` does, for asyncio."""
    options = _options(tls, service_config)
    channel = (
        grpc.aio.secure_channel(target, _credentials(tls), options)
        if tls
        else grpc.aio.insecure_channel(target, options)
    )
    if token:
        _sign(channel, token)
    return channel


def _options(tls: Tls | None, service_config: str) -> Sequence[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [*CHANNEL_OPTIONS, ("grpc.enable_retries", int(bool(service_config)))]
    if service_config:
        options += [
            ("grpc.service_config", service_config),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
            # Names are looked up again when a connection is lost, and by default at most every 30 s.
            ("grpc.dns_min_time_between_resolutions_ms", 2000),
        ]
    if tls and tls.name:
        options.append(("grpc.ssl_target_name_override", tls.name))
    return options


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    pem = tls.read()
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def _sign(channel: grpc.Channel | grpc.aio.Channel, token: str) -> None:
    """Make a channel, of either kind, send a token with every call.

    gRPC's own call credentials refuse plaintext, and its interceptors would be eight methods in two classes, of which
    those for asyncio cost a task for each call and a generator's turn for each chunk.
    """
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, kind, _signing(getattr(channel, kind), ("authorization", f"Bearer {token}")))


def _signing(make: Callable[..., Callable[..., R]], ours: tuple[str, str]) -> Callable[..., Callable[..., R]]:
    def signing(*args: object, **more: object) -> Callable[..., R]:
        method = make(*args, **more)

        def call(*args: object, metadata: Iterable[object] | None = None, **more: object) -> R:
            return method(*args, metadata=(*(metadata or ()), ours), **more)

        return call

    return signing
