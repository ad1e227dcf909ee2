"""Logging of the process: one JSON object a line on stderr, with the session where there is one.

Set up by the command line alone, since it is the process's: a program that embeds the server keeps
its own. No transcript and no audio is ever logged, here or anywhere; libraries that would write
frames or addresses with keys in them are kept to warnings.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

_TALKATIVE = ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets", "asyncio", "libav")
"""At info uvicorn logs addresses with ``?api_key=``, at debug websockets logs frames."""


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send this process's logs, structlog's and the standard library's, to ``stream`` as JSON.

    Args:
        level: debug, info, warning or error.
        stream: none is stderr.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


__all__ = ["configure_logging"]
