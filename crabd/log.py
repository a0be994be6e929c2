"""Logging to stderr, through structlog: for a person at a terminal, for the journal, or as JSON lines."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

# What sd-daemon(3) has the journal read at the beginning of a line: the levels of syslog(3).
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure_logging(level: str, mask: Callable[[str], str] = str) -> None:
    """Set the process's logging up; called once at the start and again on reload.

    ``mask`` hides the secrets in a line, once it is one.
    """

    def hide(_logger: WrappedLogger, _method: str, line: str) -> str:
        return mask(line)

    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]
    structlog.configure(
        processors=[*shared, *choose_renderers(), hide],  # type: ignore[list-item]  # it takes the line that a renderer makes
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def choose_renderers() -> list[Processor]:
    """Choose how an event becomes a line, by who reads stderr."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if sys.stderr.isatty():
        return [stamp, structlog.dev.ConsoleRenderer()]
    # Without local variables: among them are what people say, and keys.
    tracebacks = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    if is_journal(sys.stderr.fileno()):
        # The journal has the time of its own.
        return [tracebacks, JournalRenderer()]
    return [stamp, tracebacks, structlog.processors.JSONRenderer()]


def is_journal(descriptor: int) -> bool:
    """Tell whether the journal reads what is written there; systemd.exec(5) says how to."""
    found = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalRenderer:
    """Renders the priority, the event's name, and its facts as JSON, all on one line."""

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = PRIORITIES[event.pop("level")]
        # Escaped as in JSON, so that no line break can begin a line with a priority of its own.
        name = json.dumps(event.pop("event"))[1:-1]
        facts = f" {json.dumps(event, default=repr)}" if event else ""
        return f"<{priority}>{name}{facts}"
