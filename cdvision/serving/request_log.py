"""The outermost layer: every request gets an id, is counted, and has one line of JSON in the log.

Never is a byte of what was sent logged, nor a parameter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from time import perf_counter
from typing import Any
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdvision.serving.metrics import Metrics

LOGGER = "cdvision.service"
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
SERVER_ERROR = 500

log = logging.getLogger(LOGGER)


class JsonFormatter(logging.Formatter):
    """One line of JSON a record: time, level, logger, message, and the fields of the caller."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; ``extra={"fields": {...}}`` adds fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_config() -> dict[str, Any]:
    """Return the ``logging.config`` dictionary for uvicorn and the service: JSON on stderr."""
    to_stderr = {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        # uvicorn's own access log is off: the service's line of a request says more.
        "loggers": {
            LOGGER: to_stderr,
            "uvicorn": to_stderr,
            "uvicorn.access": {**to_stderr, "handlers": []},
        },
    }


@dataclass
class _Traffic:
    status: int = SERVER_ERROR  # what a request ends with that raises before it answers
    received: int = 0
    sent: int = 0


class RequestLog:
    """ASGI middleware that counts and logs requests, those to ``paths`` under their own labels."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        traffic, request_id, begin = _Traffic(), uuid4().hex, perf_counter()

        async def counted_receive() -> Message:
            message = await receive()
            traffic.received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                traffic.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            traffic.sent += len(message.get("body", b""))
            await send(message)

        with self._metrics.at_work.track_inprogress():
            try:
                await self._app(scope, counted_receive, counted_send)
            finally:
                self._report(scope, traffic, request_id, perf_counter() - begin)

    def _report(self, scope: Scope, traffic: _Traffic, request_id: str, seconds: float) -> None:
        # Labels live as long as the process: made-up paths and methods must not fill its memory.
        path = scope["path"] if scope["path"] in self._paths else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(path, method, str(traffic.status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        self._metrics.received.inc(traffic.received)
        fields = {
            "request": request_id,
            "method": method,
            "path": path,
            "status": traffic.status,
            "received_bytes": traffic.received,
            "sent_bytes": traffic.sent,
            "ms": round(1000 * seconds, 2),
        }
        log.info("request", extra={"fields": fields})
