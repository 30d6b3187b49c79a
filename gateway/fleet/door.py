"""How this process reaches its workers: the certificates and the token that every channel of the gateway has.

They are the process's own and are set once, before there are channels, so links need not carry them.
"""

from __future__ import annotations

import asyncio

import grpc
import structlog

from protos.channel import open_aio_channel
from protos.tls import Tls

ASK_EVERY_S = 10.0
"""How long a worker may not be reached until the log says why, and how often that is looked at."""

ANSWER_S = 5.0

log = structlog.get_logger(__name__)

_tls: Tls | None = None
_token = ""
_asking: set[asyncio.Task[None]] = set()


def configure(tls: Tls | None, token: str) -> None:
    """Set what channels are opened with from now on.

    Args:
        tls: Certificates; plaintext if None.
        token: What workers ask for; none if empty.
    """
    global _tls, _token
    _tls, _token = tls, token


def open_channel(address: str) -> grpc.aio.Channel:
    """Open the channel to a worker; the log says why where it does not come to be.

    Raises:
        ValueError: A file of certificates cannot be used any more.
    """
    channel = open_aio_channel(address, _tls, _token)
    asking = asyncio.create_task(_say_why_not(channel, address))
    _asking.add(asking)
    asking.add_done_callback(_asking.discard)
    return channel


async def _say_why_not(channel: grpc.aio.Channel, address: str) -> None:
    """Ask at times why a worker is not reached: calls that wait for the connection are never told, and wait on."""
    # Health checks need no token, and the messages are empty.
    check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
    said = ""
    while True:
        await asyncio.sleep(ASK_EVERY_S)
        state = channel.get_state()
        if state is grpc.ChannelConnectivity.SHUTDOWN:
            return
        if state is grpc.ChannelConnectivity.READY:
            said = ""
            continue
        try:
            await check(b"", timeout=ANSWER_S)
        except grpc.aio.AioRpcError as error:
            why = error.details()
            if why and why != said:
                log.warning("worker cannot be reached", address=address, why=why)
                said = why
