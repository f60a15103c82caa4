"""The other paths under ``/v1``: encoding, inspection, picture codecs and the served models."""

from __future__ import annotations

import base64
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

import cdvision
from cdvision.serving.json_answers import answer_body, answer_request, service_of, timing_header
from cdvision.serving.openapi import describe_body, json_responses, stream_responses
from cdvision.serving.request_body import read_body
from cdvision.serving.service import Answer
from cdvision.serving.task_routes import STREAM_TYPE

Encoder = Annotated[str | None, Query(max_length=200, description="Default: the first served.")]
Quality = Annotated[int | None, Query(ge=1, le=8, description="1 is the smallest stream.")]
Size = Annotated[int | None, Query(ge=32, le=8192, description="Long side of the network input.")]
Sender = Annotated[
    str | None, Query(max_length=200, description="Default: the first of the model's.")
]

router = APIRouter(prefix="/v1")
_photos = describe_body("image/*")


@router.post(
    "/inspect",
    openapi_extra=describe_body(STREAM_TYPE),
    responses=json_responses({"width": 451, "layers": []}, "Header and layers."),
)
async def inspect(request: Request) -> Response:
    """Tell what the header of a stream says; damaged and cut layers are told, not refused."""

    async def look(stream: bytes) -> Answer:
        return Answer(cdvision.inspect(stream).to_dict())

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

    async def to_json(photo: bytes) -> Answer:
        stream, took = await encoded(photo)
        return Answer(_describe_stream(stream), took=took)

    body = await read_body(request, service.settings)
    if body.multipart or _wants_json(request):
        return await answer_body(body, to_json)
    stream, took = await encoded(body.payloads[0].data)
    return Response(stream, 200, timing_header([Answer({}, took=took)]), STREAM_TYPE)


@router.post(
    "/picture-codecs",
    openapi_extra=_photos,
    responses=json_responses({"width": 416, "codecs": []}, "Bytes in each picture codec."),
)
async def picture_codecs(request: Request, model: Encoder = None) -> Response:
    """Tell how many bytes the same picture takes in JPEG, WebP and HEVC, for comparison."""
    return await answer_request(
        request, partial(service_of(request).picture_codec_sizes, model=model)
    )


@router.get("/models", responses=json_responses({"models": []}, "The first is the default."))
async def models(request: Request) -> Response:
    """List the models that are served, their tasks, senders, sizes and qualities."""
    return JSONResponse({"models": service_of(request).models.describe()})


def _describe_stream(stream: bytes) -> dict[str, Any]:
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
