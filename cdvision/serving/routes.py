"""The paths under ``/v1``: those of the tasks, made from ``cdvision.tasks``, and the others."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from inspect import Parameter, Signature
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

import cdvision
from cdvision.serving.openapi import describe_body, json_responses, stream_responses
from cdvision.serving.payloads import (
    answer_body,
    answer_request,
    read_body,
    service_of,
    timing_header,
)
from cdvision.serving.service import JsonAnswer
from cdvision.tasks import Task, TaskOption, tasks

STREAM_TYPE = "application/octet-stream"
MOST = 1000  # the highest whole number of an option without a limit of its own
LONGEST_NAME = 200

Encoder = Annotated[
    str | None, Query(max_length=LONGEST_NAME, description="Default: the first served.")
]
Sender = Annotated[
    str | None, Query(max_length=LONGEST_NAME, description="Default: the first of the model's.")
]
Quality = Annotated[int | None, Query(ge=1, le=8, description="1 is the smallest stream.")]
Size = Annotated[int | None, Query(ge=32, le=8192, description="Long side of the network input.")]

router = APIRouter(prefix="/v1")
_photos = describe_body("image/*")


def task_router() -> APIRouter:
    """Return a path for each task that goes into tables, and ``/v1/tasks``, which lists them."""
    router = APIRouter(prefix="/v1")
    asked = [task for task in tasks().values() if task.in_tables]
    for task in asked:
        result = task.result.partition(":")[2]
        router.add_api_route(
            f"/{task.name}",
            _endpoint(task),
            methods=["POST"],
            name=task.name,
            description=task.summary,
            openapi_extra=describe_body(STREAM_TYPE),
            responses=json_responses(task.example, f"The answer, as {result}.to_dict() gives it."),
        )

    @router.get("/tasks", responses=json_responses({"tasks": []}, "In the order of the table."))
    async def list_tasks() -> Response:
        """List the tasks, with their options; of those with one ``answer`` the first says most."""
        return JSONResponse({"tasks": [_describe(task) for task in asked]})

    return router


def _endpoint(task: Task) -> Callable[..., Awaitable[Response]]:
    async def ask(request: Request, model: str | None, **options: Any) -> Response:
        answer = service_of(request).answer
        return await answer_request(request, partial(answer, task, options, model=model))

    # FastAPI reads the parameters of a query from the signature: the task's options become some.
    writer = Query(None, max_length=LONGEST_NAME, description="Default: the stream's own.")
    parameters = [
        Parameter("request", Parameter.KEYWORD_ONLY, annotation=Request),
        *(_parameter(option) for option in task.options if option.batched),
        Parameter("model", Parameter.KEYWORD_ONLY, annotation=str | None, default=writer),
    ]
    ask.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return ask


def _parameter(option: TaskOption) -> Parameter:
    """Return the parameter of a query that carries an option."""
    kind = type(option.default)
    query = Query(
        option.default,
        description=option.help,
        ge=option.low,
        le=MOST if kind is int and option.high is None else option.high,
        # a NaN is neither too low nor too high
        allow_inf_nan=False if kind is float else None,
    )
    return Parameter(option.name, Parameter.KEYWORD_ONLY, annotation=kind, default=query)


def _describe(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "summary": task.summary,
        "answer": task.answer,
        "column": asdict(task.column) if task.column else None,
        "options": [asdict(option) for option in task.options if option.batched],
    }


@router.post(
    "/inspect",
    openapi_extra=describe_body(STREAM_TYPE),
    responses=json_responses({"width": 451, "layers": []}, "Header and layers."),
)
async def inspect(request: Request) -> Response:
    """Tell what the header of a stream says; damaged and cut layers are told, not refused."""

    async def look(stream: bytes) -> JsonAnswer:
        return JsonAnswer(cdvision.inspect(stream).to_dict())

    return await answer_request(request, look)


@router.post("/encode", openapi_extra=_photos, responses=stream_responses())
async def encode(
    request: Request,
    quality: Quality = None,
    size: Size = None,
    model: Encoder = None,
    sender: Sender = None,
) -> Response:
    """Turn an image file into a stream: its bytes, or JSON with base64 where Accept asks for it.

    Several files in a multipart form are answered in JSON.
    """
    service = service_of(request)
    encoded = partial(service.encode, model=model, quality=quality, size=size, sender=sender)

    async def to_json(photo: bytes) -> JsonAnswer:
        stream, took = await encoded(photo)
        info = cdvision.inspect(stream)
        header = {"quality": info.quality, "width": info.width, "height": info.height}
        text = base64.b64encode(stream).decode("ascii")
        return JsonAnswer({"stream": text, "bytes": len(stream), **header}, took=took)

    body = await read_body(request, service.settings)
    accept = request.headers.get("accept", "").lower()
    # A client that takes both gets the stream itself: base64 is a third longer.
    if body.multipart or ("application/json" in accept and STREAM_TYPE not in accept):
        return await answer_body(body, to_json)
    stream, took = await encoded(body.payloads[0].data)
    return Response(stream, 200, timing_header([JsonAnswer({}, took=took)]), STREAM_TYPE)


@router.post(
    "/picture-codecs",
    openapi_extra=_photos,
    responses=json_responses(
        {
            "width": 451,
            "height": 300,
            "accuracy": {"figure": "AP", "value": 0.313, "data": "COCO 2017 val, 128 photos"},
            "codecs": [{"name": "jpeg", "title": "JPEG", "bytes": 7105}],
        },
        "Bytes in each picture codec.",
    ),
)
async def picture_codecs(
    request: Request, model: Encoder = None, quality: Quality = None
) -> Response:
    """Tell how many bytes JPEG, WebP and HEVC need for the accuracy of a stream of this quality."""
    sizes = partial(service_of(request).picture_codec_sizes, model=model, quality=quality)
    return await answer_request(request, sizes)


@router.get("/models", responses=json_responses({"models": []}, "The first is the default."))
async def models(request: Request) -> Response:
    """List the models that are served, their tasks, senders, sizes and qualities."""
    return JSONResponse({"models": service_of(request).models.describe()})
