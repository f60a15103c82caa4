"""The outermost layer: every request gets an id, a log line, and is counted."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdvision.serving.logs import LOGGER
from cdvision.serving.metrics import Metrics

log = logging.getLogger(LOGGER)
SERVER_ERROR = 500


@dataclass
class _Traffic:
    status: int = SERVER_ERROR  # what a request ends with that raises before it answers
    received: int = 0
    sent: int = 0


class RequestLog:
    """ASGI middleware that counts and logs requests, without their payloads or parameters.

    Args:
        app: what answers the requests.
        metrics: where they are counted.
        paths: the service's paths; all others share one label, so that nobody can fill the memory
            with made-up ones.
    """

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
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.requests.labels(path, _method(scope), str(traffic.status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        self._metrics.received.inc(traffic.received)
        fields = {
            "request": request_id,
            "method": _method(scope),
            "path": path,
            "status": traffic.status,
            "received_bytes": traffic.received,
            "sent_bytes": traffic.sent,
            "ms": round(1000 * seconds, 2),
        }
        log.info("request", extra={"fields": fields})


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
    return scope["method"] if scope["method"] in known else "other"
