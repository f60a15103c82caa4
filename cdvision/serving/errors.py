"""Errors as answers: one JSON shape for whatever was wrong with a request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cdvision.errors import CdvisionError, EngineError, ModelError

UNPROCESSABLE = 422
JsonObject = dict[str, Any]


class ServiceError(CdvisionError):
    """A request that the service refuses for a reason of its own, with status and headers."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


def error_body(
    type_: str, message: str, *, offset: int | None = None, field: str | None = None
) -> JsonObject:
    """Return ``{"error": {"type", "message", "offset", "field"}}``."""
    return {"error": {"type": type_, "message": message, "offset": offset, "field": field}}


def describe_error(error: CdvisionError) -> JsonObject:
    """Return the body that tells of an error in what was sent."""
    if isinstance(error, ServiceError):
        return error_body(_status_name(error.status), str(error))
    # Only a BitstreamError knows where in the bytes it is.
    place = {name: getattr(error, name, None) for name in ("offset", "field")}
    return error_body(type(error).__name__, str(error), **place)


def error_status(error: CdvisionError) -> int:
    """Return 422 where the input is to blame, 500 where the engine or the package is."""
    if isinstance(error, ServiceError):
        return error.status
    ours = isinstance(error, EngineError | ModelError)
    return HTTPStatus.INTERNAL_SERVER_ERROR if ours else UNPROCESSABLE


def error_response(error: CdvisionError) -> JSONResponse:
    """Return the answer to a request that is refused as a whole."""
    return JSONResponse(describe_error(error), error_status(error), getattr(error, "headers", None))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app in the one shape."""
    for kind in (CdvisionError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)


def _answer_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, CdvisionError):
        return error_response(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        body = error_body("ParameterError", f"{field}: {first['msg']}", field=field)
        return JSONResponse(body, UNPROCESSABLE)
    if isinstance(error, HTTPException):
        body = error_body(_status_name(error.status_code), str(error.detail))
        return JSONResponse(body, error.status_code, error.headers)
    # A bug of ours: the log has the traceback, strangers learn nothing of the inside.
    return JSONResponse(error_body("InternalError", "a fault of the service, see its log"), 500)


def _status_name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")
