"""Request bodies: one payload as it is, or several in a multipart form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from cdvision.serving.errors import ServiceError
from cdvision.serving.gate import CLOSE
from cdvision.serving.settings import ServiceSettings

MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Payload:
    """One payload of a request; ``name`` is its file name, or the field's, where it has one."""

    name: str | None
    data: bytes


@dataclass(frozen=True)
class RequestBody:
    """The payloads of a request; ``multipart`` says whether the answer is a list."""

    payloads: Sequence[Payload]
    multipart: bool


async def read_body(request: Request, settings: ServiceSettings) -> RequestBody:
    """Read a body within its time.

    Raises:
        ServiceError: 408 it takes too long, 413 it is too large, 400 it is no multipart form or
            the client left.
    """
    try:
        async with asyncio.timeout(settings.body_seconds):
            if request.headers.get("content-type", "").lower().startswith(MULTIPART):
                return RequestBody(await _read_form(request, settings.max_streams), True)
            return RequestBody([Payload(None, await request.body())], False)
    except TimeoutError as error:
        raise ServiceError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"body: expected all of it within {settings.body_seconds:g} s",
            CLOSE,
        ) from error
    except ClientDisconnect as error:
        raise ServiceError(HTTPStatus.BAD_REQUEST, "the client left before its body ended") from (
            error
        )


async def _read_form(request: Request, most: int) -> list[Payload]:
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            payloads = [await _payload(name, value) for name, value in form.multi_items()]
    except (HTTPException, FormParserError, ValueError, LookupError) as error:
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        raise ServiceError(HTTPStatus.BAD_REQUEST, f"multipart form: {reason}", CLOSE) from error
    if not 1 <= len(payloads) <= most:
        raise ServiceError(
            HTTPStatus.BAD_REQUEST,
            f"multipart form: expected 1 to {most} files, found {len(payloads)}",
        )
    return payloads


async def _payload(name: str, value: UploadFile | str) -> Payload:
    if isinstance(value, str):
        # A field without a file name: its bytes went through a text codec, which loses some.
        raise ValueError(f"field {name[:40]!r}: expected a file with a file name, found text")
    return Payload(value.filename or name, await value.read())
