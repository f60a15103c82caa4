"""Errors as answers: one JSON shape for whatever was wrong with a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cdvision.errors import BitstreamError, CdvisionError, EngineError, ModelError

UNPROCESSABLE = 422
JsonObject = dict[str, Any]


class ServiceError(CdvisionError):
    """A request that the service refuses for a reason of its own.

    Args:
        status: HTTP status, 4xx or 503.
        message: one line for people.
        headers: further headers, such as ``Retry-After``.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}

    def response(self) -> JSONResponse:
        """Return the answer."""
        body = error_body(HTTPStatus(self.status).phrase.replace(" ", ""), str(self))
        return JSONResponse(body, self.status, self.headers)


class UnknownModel(ServiceError):
    """The request names a model that is not served here."""

    def __init__(self, message: str) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, message)


def error_body(
    type_: str, message: str, *, offset: int | None = None, field: str | None = None
) -> JsonObject:
    """Return ``{"error": {"type", "message", "offset", "field"}}``."""
    return {"error": {"type": type_, "message": message, "offset": offset, "field": field}}


def describe_error(error: CdvisionError) -> JsonObject:
    """Return the body that tells of an error in what was sent."""
    if isinstance(error, BitstreamError):
        return error_body("BitstreamError", str(error), offset=error.offset, field=error.field)
    return error_body(type(error).__name__, str(error))


def error_status(error: CdvisionError) -> int:
    """Return 422 where the input is to blame, 500 where the engine or the package is."""
    if isinstance(error, ServiceError):
        return error.status
    ours = isinstance(error, EngineError | ModelError)
    return HTTPStatus.INTERNAL_SERVER_ERROR if ours else UNPROCESSABLE


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app in the one shape."""
    app.add_exception_handler(CdvisionError, _on_cdvision_error)
    app.add_exception_handler(RequestValidationError, _on_bad_parameters)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def _on_cdvision_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ServiceError):
        return error.response()
    if not isinstance(error, CdvisionError):
        raise error
    return JSONResponse(describe_error(error), error_status(error))


def _on_bad_parameters(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    body = error_body("ParameterError", f"{field}: {first['msg']}", field=field)
    return JSONResponse(body, UNPROCESSABLE)


def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    name = HTTPStatus(error.status_code).phrase.replace(" ", "")
    return JSONResponse(error_body(name, str(error.detail)), error.status_code, error.headers)


def _on_bug(_: Request, error: Exception) -> JSONResponse:
    """Tell nothing of the inside: the log has the traceback."""
    return JSONResponse(error_body("InternalError", "a fault of the service, see its log"), 500)
