"""What OpenAPI tells of bodies and answers: examples that a client can be written against."""

from __future__ import annotations

from typing import Any

from cdvision.serving.errors import error_body

JsonObject = dict[str, Any]

_BINARY = {"type": "string", "format": "binary"}
_FILES = {
    "type": "object",
    "required": ["files"],
    "properties": {"files": {"type": "array", "minItems": 1, "items": _BINARY}},
}
_DETECTION = {
    "xyxy": [14.2, 20.5, 310.0, 402.7],
    "confidence": 0.91,
    "class_id": 15,
    "class_name": "cat",
}
DETECTIONS = {"image_size": [451, 300], "detections": [_DETECTION]}
MASK = {"size": [300, 451], "counts": "Xg51k800001O0"}
CLASSES = {"classes": [{"class_id": 285, "class_name": "Egyptian cat", "probability": 0.75}]}
ENCODED = {"stream": "Q0RWAQ...", "bytes": 1684, "quality": 4, "width": 451, "height": 300}
_ERRORS = {
    400: ("no multipart form", error_body("BadRequest", "multipart form: Missing boundary.")),
    401: ("the API key is missing or wrong", error_body("Unauthorized", "API key: expected ...")),
    404: ("no such model is served", error_body("NotFound", "model: expected one that is served")),
    408: ("the body took too long", error_body("RequestTimeout", "body: expected all of it ...")),
    413: ("the body is too large", error_body("RequestEntityTooLarge", "body: expected at most")),
    422: (
        "the bytes, the parameters or the task cannot be served",
        error_body("BitstreamError", "bad stream: magic at byte 0", offset=0, field="magic"),
    ),
    503: ("busy, or not ready yet: see Retry-After", error_body("ServiceUnavailable", "busy: ...")),
}


def segmented() -> JsonObject:
    """Return the example of an answer with masks (COCO run lengths)."""
    return {**DETECTIONS, "detections": [{**_DETECTION, "mask": MASK}]}


def body_of(media_type: str) -> JsonObject:
    """Return the part of an operation that tells of its body: raw bytes, or files in a form."""
    content = {
        media_type: {"schema": _BINARY},
        "multipart/form-data": {"schema": _FILES},
    }
    return {"requestBody": {"required": True, "content": content}}


def answers(example: JsonObject, description: str) -> dict[int | str, JsonObject]:
    """Return the responses of an operation that answers with JSON."""
    return {200: {"description": description, "content": _json(example)}, **errors()}


def stream_answers() -> dict[int | str, JsonObject]:
    """Return the responses of an operation that answers with a stream, or JSON on request."""
    stream = {"application/octet-stream": {"schema": _BINARY}, **_json(ENCODED)}
    return {200: {"description": "The stream.", "content": stream}, **errors()}


def errors() -> dict[int | str, JsonObject]:
    """Return what every operation may refuse with."""
    return {
        status: {"description": description, "content": _json(example)}
        for status, (description, example) in _ERRORS.items()
    }


def _json(example: JsonObject) -> JsonObject:
    return {"application/json": {"schema": {"type": "object"}, "example": example}}
