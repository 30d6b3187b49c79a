"""`python -m gateway`: one gateway process, HTTP/1.1 by Hypercorn on uvloop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys

try:
    import structlog
    import uvloop
    from hypercorn.config import Config
    from pydantic import ValidationError
    from starlette.applications import Starlette

    from gateway import tracing
    from gateway.app import create_app
    from gateway.auth import KeysFileError
    from gateway.server import serve
    from gateway.settings import Settings
except ImportError as error:
    print(f"gateway: the package {error.name!r} is missing; `make run` installs what is needed", file=sys.stderr)
    sys.exit(2)  # As for a wrong setting: another start would fail the same way.

WRONG_SETTING = 2
"""Exit status that tells a supervisor that another start would fail the same way."""

SEND_BUFFER_BYTES = 64 * 1024
"""Left alone, the kernel buffers megabytes, minutes of speech, for a client that has stopped reading."""

CLOSE_S = 2.0
"""How long connections may take to close once the streams have ended or the grace is over."""

NO_KEYS = (
    "anybody who can reach {settings.host} port {settings.port} can use this server, since it asks for no API key: "
    "set SONORANT_API_KEYS_FILE to a file of keys (`python -m gateway.auth NAME >> FILE` makes one), or "
    "SONORANT_HOST=127.0.0.1 to serve this machine alone"
)

PING_S = 20.0
"""How often a WebSocket is pinged: proxies close those that are silent, and a peer that is no more is found at last."""

log = structlog.get_logger("gateway")


def main() -> int:
    """Run a gateway; return the exit status."""
    try:
        settings = Settings()
    except ValidationError as error:
        for wrong in error.errors():
            name = f"SONORANT_{'_'.join(map(str, wrong['loc'][:1])).upper()}"
            value = "..." if "TOKEN" in name else wrong["input"] or ""
            print(f"{name}={value}: {wrong['msg']}", file=sys.stderr)
        return WRONG_SETTING
    try:
        tracing.configure()
    except tracing.WrongTracing as error:
        print(f"gateway: {error}", file=sys.stderr)
        return WRONG_SETTING
    configure_logs(settings)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        where = f"SONORANT_HOST={settings.host} SONORANT_PORT={settings.port}"
        print(f"gateway: {where}: cannot listen there: {error.strerror or error}", file=sys.stderr)
        return WRONG_SETTING
    if not settings.api_keys_file and not _is_loopback(settings.host):
        log.warning(NO_KEYS.format(settings=settings))
    try:
        uvloop.run(run(settings, listener))
    except KeysFileError as error:
        print(f"SONORANT_API_KEYS_FILE={settings.api_keys_file}: {error}", file=sys.stderr)
        return WRONG_SETTING
    return 0


async def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then let the streams end."""
    app = create_app(settings)
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.backlog = 1024
    config.graceful_timeout = 2 * CLOSE_S  # Never reached: `_drained` has waited, and the process then ends.
    config.keep_alive_timeout = 75.0
    config.include_server_header = False
    config.websocket_max_message_size = settings.max_body_bytes
    config.websocket_ping_interval = PING_S
    config.errorlog = logging.getLogger("hypercorn")
    ending = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, ending.set)

    def exit_now() -> None:
        tracing.end()
        os._exit(0)

    async def drained() -> None:
        await ending.wait()
        await _drained(app, settings.grace_s)
        # Hypercorn waits for what it has written to be read, which a client that has stalled never does.
        asyncio.get_running_loop().call_later(CLOSE_S, exit_now)

    log.info("gateway listens", host=settings.host, port=settings.port, workers=list(settings.workers))
    await serve(app, config, shutdown_trigger=drained)  # type: ignore[arg-type]
    tracing.end()
    log.info("gateway ended")


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket; accepted connections inherit its send buffer.

    Raises:
        OSError: The address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((host, port))
    return listener


def configure_logs(settings: Settings) -> None:
    """Write events of ours and of the libraries to standard error, one a line, without the values of variables."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([tracing.add_trace_id] if tracing.is_on() else []),
    ]
    if settings.log_format == "json":
        tracebacks = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        last: list[structlog.typing.Processor] = [tracebacks, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last], foreign_pre_chain=shared
        )
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING))
    logging.getLogger("gateway").setLevel(level)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


async def _drained(app: Starlette, grace_s: float) -> None:
    """Refuse new speech, and wait until what has begun is over or the grace is."""
    app.state.draining = True
    app.state.sessions.drain()
    log.info("gateway drains", streams=app.state.fleet.outstanding, grace_s=grace_s)
    try:
        async with asyncio.timeout(grace_s):
            await asyncio.gather(app.state.sessions.idle(), app.state.fleet.idle())
    except TimeoutError:
        log.warning("grace is over; streams are cut", streams=app.state.fleet.outstanding)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
