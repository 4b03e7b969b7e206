"""Structured logs: an event name and fields, on stderr; never a prompt or an answer."""

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

SECRET_FIELDS = frozenset(
    {
        "prompt",
        "messages",
        "text",
        "content",
        "completion",
        "api_key",
        "secret",
        "token",
    }
)
"""Fields that are always masked: logs contain no user text and no secrets."""


def drop_secrets(
    _logger: "WrappedLogger", _method: str, event: "EventDict"
) -> "EventDict":
    """Replace the value of every secret field with its length."""
    for name in SECRET_FIELDS & event.keys():
        event[name] = f"<{len(str(event[name]))} characters>"
    return event


def configure(*, level: str = "INFO", as_json: bool | None = None) -> None:
    """Set up this process's logging: JSON lines unless stderr is a terminal."""
    import structlog

    machine = not sys.stderr.isatty() if as_json is None else as_json
    renderer = (
        structlog.processors.JSONRenderer()
        if machine
        else structlog.dev.ConsoleRenderer(pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            drop_secrets,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger(name: str) -> "FilteringBoundLogger":
    """The logger of one module: ``logger("registry").info("joined", worker=…)``."""
    import structlog

    bound: FilteringBoundLogger = structlog.get_logger(module=name)
    return bound
