"""From payloads to JSON: one answer for a raw body, a list of them for a multipart form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from fastapi import Request
from fastapi.responses import JSONResponse

from cdvision.errors import CdvisionError
from cdvision.serving.errors import describe_error, error_status
from cdvision.serving.request_body import Payload, RequestBody, read_body
from cdvision.serving.service import Answer, Service

AnswerPayload: TypeAlias = Callable[[bytes], Awaitable[Answer]]


def service_of(request: Request) -> Service:
    """Return the service of the app that got a request."""
    service: Service = request.app.state.service
    return service


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
    outcomes = await asyncio.gather(
        *(answer(payload.data) for payload in payloads), return_exceptions=True
    )
    results: list[dict[str, Any]] = []
    for payload, outcome in zip(payloads, outcomes, strict=True):
        if isinstance(outcome, Answer):
            results.append({"name": payload.name, **outcome.values})
        elif isinstance(outcome, CdvisionError):
            results.append({"name": payload.name, **describe_error(outcome)})
        else:
            raise outcome
    answered = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, CdvisionError)]
    if answered:
        return JSONResponse({"results": results}, headers=timing_header(answered))
    return JSONResponse(
        {**describe_error(failed[0]), "results": results}, max(map(error_status, failed))
    )


def timing_header(answers: Sequence[Answer]) -> dict[str, str]:
    """Return the header that browsers show: the longest wait and run of the answers."""
    waited = 1000 * max(answer.waited for answer in answers)
    took = 1000 * max(answer.took for answer in answers)
    return {"Server-Timing": f"wait;dur={waited:.2f}, work;dur={took:.2f}"}
