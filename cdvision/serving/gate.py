"""The gate: refuses requests before their bodies are read."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdvision.serving.errors import ServiceError, error_response
from cdvision.serving.settings import ServiceSettings

GUARDED = ("/v1/", "/metrics")
# A body that is not wanted is not read either: the connection ends instead.
CLOSE = {"Connection": "close"}
MOST_DIGITS = 20  # of a length: a longer one is too large anyway, and slow to read
RETRY = {"Retry-After": "1"}


class Gate:
    """ASGI middleware for the API key, the body's size and the number of requests at work."""

    def __init__(
        self, app: ASGIApp, *, settings: ServiceSettings, ready: Callable[[], bool]
    ) -> None:
        self._app, self._settings, self._ready = app, settings, ready
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
        except ServiceError as error:
            await error_response(error)(scope, receive, send)
            return
        works = _counts_as_work(scope)
        self._at_work += works
        try:
            await self._app(scope, self._bounded(receive), send)
        finally:
            self._at_work -= works

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise ServiceError for a request that is not to be served."""
        self._check_key(scope["path"], headers)
        coding = headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity"):
            raise ServiceError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"body: expected it as it is, found Content-Encoding {coding[:40]!r}: streams and "
                "photos are compressed already",
                {"Accept-Encoding": "identity", **CLOSE},
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:MOST_DIGITS]) > self._settings.max_body_bytes:
            raise self._too_large(length[:MOST_DIGITS])
        if _counts_as_work(scope):
            told = None
            if not self._ready():
                told = "the models are being loaded"
            elif self._at_work >= self._settings.max_requests:
                told = f"busy: {self._at_work} requests at work, which is the limit; try again"
            if told is not None:
                raise ServiceError(HTTPStatus.SERVICE_UNAVAILABLE, told, {**RETRY, **CLOSE})

    def _check_key(self, path: str, headers: Headers) -> None:
        key = self._settings.api_key
        if key is None or not path.startswith(GUARDED):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        # Headers are read as Latin-1; what was sent is UTF-8. Time must not tell how much is right.
        if not hmac.compare_digest(given.strip().encode("latin-1"), key.encode()):
            raise ServiceError(
                HTTPStatus.UNAUTHORIZED,
                "API key: expected 'Authorization: Bearer KEY' or 'X-API-Key: KEY' with this "
                "service's key, found another or none",
                {"WWW-Authenticate": "Bearer", **CLOSE},
            )

    def _bounded(self, receive: Receive) -> Receive:
        """Count what arrives: a chunked body does not announce its length."""
        # What is over the limit is not read further: the client notices by the closed connection.
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._settings.max_body_bytes:
                raise self._too_large("more")
            return message

        return bounded

    def _too_large(self, found: str) -> ServiceError:
        most = self._settings.max_body_bytes
        told = f"body: expected at most {most:,} bytes, found {found}"
        return ServiceError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, told, CLOSE)


def _counts_as_work(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"].startswith("/v1/"))
