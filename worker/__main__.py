"""`python -m worker [--device auto|cpu|cuda:N] [--listen HOST:PORT]`: one worker process."""

from __future__ import annotations

import argparse
import logging
import sys

try:
    import structlog
    import uvloop
    from pydantic import ValidationError

    from worker import tracing
    from worker.device import keep_one_heap, spin_briefly
    from worker.server import serve
    from worker.settings import Settings, WrongSetting
except ImportError as error:
    print(f"worker: the package {error.name!r} is missing; `make run` installs what is needed", file=sys.stderr)
    sys.exit(2)  # As for a wrong setting: another start would fail the same way.

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
            value = "..." if "TOKEN" in name else wrong["input"] or ""
            print(f"{name}={value}: {wrong['msg']}", file=sys.stderr)
        return WRONG_SETTING
    try:
        tracing.configure(settings.worker_id)
    except WrongSetting as error:
        print(f"worker: {error}", file=sys.stderr)
        return WRONG_SETTING
    configure_logs(settings)
    keep_one_heap()
    spin_briefly()
    try:
        uvloop.run(serve(settings))
    except WrongSetting as error:
        print(f"worker: {error}", file=sys.stderr)
        return WRONG_SETTING
    return 0


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
    logging.getLogger("worker").setLevel(level)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
