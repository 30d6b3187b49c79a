"""`python -m worker [--device auto|cpu|cuda:N] [--listen HOST:PORT]`: one worker process."""

from __future__ import annotations

import argparse
import logging
import sys

import structlog
import uvloop
from pydantic import ValidationError

from worker.server import serve
from worker.settings import Settings

WRONG_SETTING = 2
"""Exit status that tells a supervisor that another start would fail the same way."""


def main() -> int:
    """Run a worker; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="A Sonorant worker: models behind gRPC.")
    parser.add_argument("--device", help="auto, cpu or cuda:N (SONORANT_DEVICE)")
    parser.add_argument("--listen", help="address to listen at, HOST:PORT or unix:PATH (SONORANT_LISTEN)")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for wrong in error.errors():
            name = f"SONORANT_{'_'.join(map(str, wrong['loc'][:1])).upper()}"
            print(f"{name}={wrong['input']}: {wrong['msg']}", file=sys.stderr)
        return WRONG_SETTING
    configure_logs(settings)
    try:
        uvloop.run(serve(settings))
    except (ValueError, OSError) as error:
        print(f"worker: {error}", file=sys.stderr)
        return WRONG_SETTING
    return 0


def configure_logs(settings: Settings) -> None:
    """Write events to standard error, one a line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *(
                [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
                if settings.log_format == "json"
                else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
