"""The paths under ``/v1``: each reads its body, asks the service, and answers in JSON."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

import cdvision
from cdvision.errors import CdvisionError
from cdvision.serving import contract
from cdvision.serving.bodies import Body, Part, read_body
from cdvision.serving.errors import describe_error, error_status
from cdvision.serving.service import Answer, Asked, Service

STREAM_TYPE = "application/octet-stream"

Confidence = Annotated[
    float, Query(ge=0, le=1, allow_inf_nan=False, description="Least confidence of a box.")
]
Top = Annotated[int, Query(ge=1, le=1000, description="How many classes.")]
ModelName = Annotated[
    str | None, Query(max_length=200, description="Default: the one that wrote the stream.")
]
Encoder = Annotated[str | None, Query(max_length=200, description="Default: the first served.")]
Quality = Annotated[int | None, Query(ge=1, le=8, description="1 is the smallest stream.")]
Size = Annotated[int | None, Query(ge=32, le=8192, description="Long side of the network input.")]

router = APIRouter(prefix="/v1")
_streams = contract.body_of(STREAM_TYPE)
_photos = contract.body_of("image/*")


@router.post(
    "/detect",
    openapi_extra=_streams,
    responses=contract.answers(contract.DETECTIONS, "Boxes in pixels of the photo, best first."),
)
async def detect(
    request: Request, confidence: Confidence = 0.3, model: ModelName = None
) -> Response:
    """Say what is where, from a stream."""
    return await _ask(request, Asked("detect", confidence=confidence, model=model))


@router.post(
    "/segment",
    openapi_extra=_streams,
    responses=contract.answers(contract.segmented(), "Boxes with masks as COCO run lengths."),
)
async def segment(
    request: Request, confidence: Confidence = 0.3, model: ModelName = None
) -> Response:
    """Outline what is in the photo, from a stream."""
    return await _ask(request, Asked("segment", confidence=confidence, model=model))


@router.post(
    "/classify",
    openapi_extra=_streams,
    responses=contract.answers(contract.CLASSES, "The most probable classes, best first."),
)
async def classify(request: Request, top: Top = 5, model: ModelName = None) -> Response:
    """Say what the photo shows, from a stream."""
    return await _ask(request, Asked("classify", top=top, model=model))


@router.post(
    "/attributes",
    openapi_extra=_streams,
    responses=contract.answers({"attributes": {}}, "Attributes of a face."),
)
async def attributes(request: Request, model: ModelName = None) -> Response:
    """Tell the attributes of a face, from a stream; 422 where no served model has that task."""
    return await _ask(request, Asked("attributes", model=model))


@router.post(
    "/inspect",
    openapi_extra=_streams,
    responses=contract.answers({"width": 451, "layers": []}, "Header and layers."),
)
async def inspect(request: Request) -> Response:
    """Tell what the header of a stream says; damaged and cut layers are told, not refused."""

    async def look(part: Part) -> Answer:
        return Answer(cdvision.inspect(part.data).to_dict())

    return await _answer_parts(request, look)


@router.post("/encode", openapi_extra=_photos, responses=contract.stream_answers())
async def encode(
    request: Request, quality: Quality = None, size: Size = None, model: Encoder = None
) -> Response:
    """Turn an image file into a stream: its bytes, or JSON with base64 where Accept asks for it.

    Several files in a multipart form are answered in JSON.
    """
    service = _service(request)

    async def to_stream(part: Part) -> Answer:
        begin = perf_counter()
        stream = await service.encode(part.data, model, quality, size)
        return Answer({"stream": stream}, took=perf_counter() - begin)

    async def to_json(part: Part) -> Answer:
        answer = await to_stream(part)
        return Answer(_encoded(answer.values["stream"]), took=answer.took)

    body = await read_body(request, service.settings)
    if body.multipart or _wants_json(request):
        return await _answer_body(body, to_json)
    answer = await to_stream(body.parts[0])
    return Response(answer.values["stream"], 200, _timing([answer]), STREAM_TYPE)


@router.post(
    "/picture-codecs",
    openapi_extra=_photos,
    responses=contract.answers({"width": 416, "codecs": []}, "Bytes in each picture codec."),
)
async def picture_codecs(request: Request, model: Encoder = None) -> Response:
    """Tell how many bytes the same picture takes in JPEG, WebP and HEVC, for comparison."""
    service = _service(request)

    async def measure(part: Part) -> Answer:
        begin = perf_counter()
        sizes = await service.picture_codec_sizes(part.data, model)
        return Answer(sizes, took=perf_counter() - begin)

    return await _answer_parts(request, measure)


@router.get("/models", responses=contract.answers({"models": []}, "The first is the default."))
async def models(request: Request) -> Response:
    """List the models that are served, their tasks, sizes and qualities."""
    return JSONResponse({"models": _service(request).models.describe()})


async def _ask(request: Request, asked: Asked) -> Response:
    service = _service(request)
    return await _answer_parts(request, lambda part: service.answer(asked, part.data))


async def _answer_parts(request: Request, answer: Callable[[Part], Awaitable[Answer]]) -> Response:
    body = await read_body(request, _service(request).settings)
    return await _answer_body(body, answer)


async def _answer_body(body: Body, answer: Callable[[Part], Awaitable[Answer]]) -> Response:
    """Answer a raw body with an object or an error, a form with a list of either."""
    if not body.multipart:
        one = await answer(body.parts[0])
        return JSONResponse(one.values, headers=_timing([one]))
    return await _answer_list(body.parts, answer)


async def _answer_list(
    parts: Sequence[Part], answer: Callable[[Part], Awaitable[Answer]]
) -> Response:
    """Answer each part; the status is an error's only where no part could be answered."""
    outcomes = await asyncio.gather(*map(answer, parts), return_exceptions=True)
    results: list[dict[str, Any]] = []
    for part, outcome in zip(parts, outcomes, strict=True):
        if isinstance(outcome, Answer):
            results.append({"name": part.name, **outcome.values})
        elif isinstance(outcome, CdvisionError):
            results.append({"name": part.name, **describe_error(outcome)})
        else:
            raise outcome
    answered = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, CdvisionError)]
    if answered:
        return JSONResponse({"results": results}, headers=_timing(answered))
    return JSONResponse(
        {**describe_error(failed[0]), "results": results}, max(map(error_status, failed))
    )


def _encoded(stream: bytes) -> dict[str, Any]:
    info = cdvision.inspect(stream)
    return {
        "stream": base64.b64encode(stream).decode("ascii"),
        "bytes": len(stream),
        "quality": info.quality,
        "width": info.width,
        "height": info.height,
    }


def _wants_json(request: Request) -> bool:
    """Whether Accept names JSON and not the stream's own type."""
    accept = request.headers.get("accept", "").lower()
    return "application/json" in accept and STREAM_TYPE not in accept


def _timing(answers: Sequence[Answer]) -> dict[str, str]:
    """Return the header that browsers show: the longest wait and run of the answers."""
    waited = 1000 * max(answer.waited for answer in answers)
    took = 1000 * max(answer.took for answer in answers)
    return {"Server-Timing": f"wait;dur={waited:.2f}, work;dur={took:.2f}"}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
