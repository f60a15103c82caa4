"""Structured logs: one JSON object a line, and never a byte of what was sent."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

LOGGER = "cdvision.service"


class JsonFormatter(logging.Formatter):
    """One line of JSON a record: time, level, logger, message, and the fields of the caller."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; ``extra={"fields": {...}}`` adds fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_config(level: str = "INFO") -> dict[str, Any]:
    """Return the ``logging.config`` dictionary for uvicorn and the service: JSON on stderr.

    uvicorn's own access log is off: the service's line of a request says more.
    """
    to_stderr = {"handlers": ["stderr"], "level": level, "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "cdvision.serving.logs.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {
            LOGGER: to_stderr,
            "uvicorn": to_stderr,
            "uvicorn.access": {"handlers": [], "level": level, "propagate": False},
        },
    }
