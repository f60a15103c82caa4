"""From request bodies to JSON: one answer for a raw body, a list of them for a multipart form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import Request
from fastapi.responses import JSONResponse
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cdvision.errors import CdvisionError
from cdvision.serving.errors import ServiceError, describe_error, error_status
from cdvision.serving.gate import CLOSE
from cdvision.serving.service import JsonAnswer, Service
from cdvision.serving.settings import ServiceSettings

MULTIPART = "multipart/form-data"

AnswerPayload: TypeAlias = Callable[[bytes], Awaitable[JsonAnswer]]


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


def service_of(request: Request) -> Service:
    """Return the service of the app that got a request."""
    service: Service = request.app.state.service
    return service


async def read_body(request: Request, settings: ServiceSettings) -> RequestBody:
    """Read a body within its time; raises ServiceError (400, 408 or 413) where that fails."""
    multipart = request.headers.get("content-type", "").lower().startswith(MULTIPART)
    try:
        # A client that sends a byte now and then would hold its place for ever.
        payloads = await asyncio.wait_for(
            _read_payloads(request, settings, multipart), settings.body_seconds
        )
        return RequestBody(payloads, multipart)
    except asyncio.TimeoutError as error:  # the built-in one from Python 3.11 on
        told = f"body: expected all of it within {settings.body_seconds:g} s"
        raise ServiceError(HTTPStatus.REQUEST_TIMEOUT, told, CLOSE) from error
    except ClientDisconnect as error:
        told = "the client left before its body ended"
        raise ServiceError(HTTPStatus.BAD_REQUEST, told) from error


async def _read_payloads(
    request: Request, settings: ServiceSettings, multipart: bool
) -> list[Payload]:
    if multipart:
        return await _read_form(request, settings.max_streams)
    return [Payload(None, await request.body())]


async def _read_form(request: Request, most: int) -> list[Payload]:
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            payloads = [await _payload(name, value) for name, value in form.multi_items()]
    except (HTTPException, FormParserError, ValueError, LookupError) as error:
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        raise ServiceError(HTTPStatus.BAD_REQUEST, f"multipart form: {reason}", CLOSE) from error
    if not 1 <= len(payloads) <= most:
        told = f"multipart form: expected 1 to {most} files, found {len(payloads)}"
        raise ServiceError(HTTPStatus.BAD_REQUEST, told)
    return payloads


async def _payload(name: str, value: UploadFile | str) -> Payload:
    if isinstance(value, str):
        # A field without a file name: its bytes went through a text codec, which loses some.
        raise ValueError(f"field {name[:40]!r}: expected a file with a file name, found text")
    return Payload(value.filename or name, await value.read())


async def answer_request(request: Request, answer: AnswerPayload) -> JSONResponse:
    """Read a request's body and answer each of its payloads."""
    return await answer_body(await read_body(request, service_of(request).settings), answer)


async def answer_body(body: RequestBody, answer: AnswerPayload) -> JSONResponse:
    """Answer a raw body with an object or an error, a form with a list of either."""
    if body.multipart:
        return await _answer_form(body.payloads, answer)
    one = await answer(body.payloads[0].data)
    return JSONResponse(one.values, headers=timing_header([one]))


async def _answer_form(payloads: Sequence[Payload], answer: AnswerPayload) -> JSONResponse:
    """Answer each payload; the status is an error's only where none could be answered."""
    # Asked side by side, the streams of a form meet in one batch.
    asked = (answer(payload.data) for payload in payloads)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    results: list[dict[str, Any]] = []
    answered, failed = list[JsonAnswer](), list[CdvisionError]()
    for payload, outcome in zip(payloads, outcomes, strict=True):
        if isinstance(outcome, JsonAnswer):
            answered.append(outcome)
            told = outcome.values
        elif isinstance(outcome, CdvisionError):
            failed.append(outcome)
            told = describe_error(outcome)
        else:
            raise outcome
        results.append({"name": payload.name, **told})
    if answered:
        return JSONResponse({"results": results}, headers=timing_header(answered))
    # Of several statuses the highest: a fault of ours (500) weighs more than one of the input.
    status = max(map(error_status, failed))
    return JSONResponse({**describe_error(failed[0]), "results": results}, status)


def timing_header(answers: Sequence[JsonAnswer]) -> dict[str, str]:
    """Return the header that browsers show: the longest wait and run of the answers."""
    waited = 1000 * max(answer.waited for answer in answers)
    took = 1000 * max(answer.took for answer in answers)
    return {"Server-Timing": f"wait;dur={waited:.2f}, work;dur={took:.2f}"}
