"""What OpenAPI tells of bodies and answers: examples that a client can be written against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdvision.serving.errors import error_body

JsonObject = dict[str, Any]
Responses = dict[int | str, JsonObject]

_BINARY = {"type": "string", "format": "binary"}
_FILES = {
    "type": "object",
    "required": ["files"],
    "properties": {"files": {"type": "array", "minItems": 1, "items": _BINARY}},
}
_ENCODED = {"stream": "Q0RWAQ...", "bytes": 1684, "quality": 4, "width": 451, "height": 300}
_ERRORS = {
    400: ("no multipart form", error_body("BadRequest", "multipart form: Missing boundary.")),
    401: ("the API key is missing or wrong", error_body("Unauthorized", "API key: expected ...")),
    404: ("no such model is served", error_body("NotFound", "model: expected one that is served")),
    408: ("the body took too long", error_body("RequestTimeout", "body: expected all of it ...")),
    415: ("the body is compressed", error_body("UnsupportedMediaType", "body: expected it as it")),
    413: ("the body is too large", error_body("RequestEntityTooLarge", "body: expected at most")),
    422: (
        "the bytes, the parameters or the task cannot be served",
        error_body("BitstreamError", "bad stream: magic at byte 0", offset=0, field="magic"),
    ),
    503: ("busy, or not ready yet: see Retry-After", error_body("ServiceUnavailable", "busy: ...")),
}


def describe_body(media_type: str) -> JsonObject:
    """Return what tells of an operation's body: raw bytes, or files in a form."""
    content = {media_type: {"schema": _BINARY}, "multipart/form-data": {"schema": _FILES}}
    return {"requestBody": {"required": True, "content": content}}


def json_responses(example: Mapping[str, Any], description: str) -> Responses:
    """Return the responses of an operation that answers with JSON."""
    return {200: {"description": description, "content": _json(example)}, **_REFUSALS}


def stream_responses() -> Responses:
    """Return the responses of an operation that answers with a stream, or JSON on request."""
    stream = {"application/octet-stream": {"schema": _BINARY}, **_json(_ENCODED)}
    return {200: {"description": "The stream.", "content": stream}, **_REFUSALS}


def _json(example: Mapping[str, Any]) -> JsonObject:
    return {"application/json": {"schema": {"type": "object"}, "example": dict(example)}}


_REFUSALS: Responses = {
    status: {"description": description, "content": _json(example)}
    for status, (description, example) in _ERRORS.items()
}
