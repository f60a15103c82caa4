"""The one table layout of results: the same columns and types whatever was asked or found.

A row is a stream. ``boxes``, ``classes`` and ``attributes`` are lists of structs: null where that
was not asked for or where the stream failed, empty where nothing was found. ``error`` is null where
all went well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cdvision.pipelines.optional import import_optional

if TYPE_CHECKING:
    import pyarrow as pa

    from cdvision.analysis import AnalysisResult
    from cdvision.results import Attributes, Classification, Detections

Row = dict[str, Any]

COLUMNS = ("key", "index", "bytes", "width", "height", "boxes", "classes", "attributes", "error")

# What Spark is told, in its own words; `arrow_schema` says the same in Arrow's.
SPARK_SCHEMA = (
    "key string, index bigint, bytes bigint, width int, height int, "
    "boxes array<struct<left: float, top: float, right: float, bottom: float, confidence: float, "
    "class_id: int, class_name: string, mask: string>>, "
    "classes array<struct<class_id: int, class_name: string, probability: float>>, "
    "attributes array<struct<name: string, probability: float, present: boolean>>, error string"
)


def arrow_schema() -> pa.Schema:
    """Return the Arrow schema of results; boxes are float32 pixels of the source photo.

    ``mask`` is the ``counts`` string of a COCO run-length mask of the photo's size, or null.
    """
    pa = import_optional("pyarrow", "a table of results")
    sides = [(side, pa.float32()) for side in ("left", "top", "right", "bottom", "confidence")]
    named = [("class_id", pa.int32()), ("class_name", pa.string())]
    types = {
        "key": pa.string(),
        "index": pa.int64(),
        "bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "boxes": pa.list_(pa.struct([*sides, *named, ("mask", pa.string())])),
        "classes": pa.list_(pa.struct([*named, ("probability", pa.float32())])),
        "attributes": pa.list_(
            pa.struct(
                [("name", pa.string()), ("probability", pa.float32()), ("present", pa.bool_())]
            )
        ),
        "error": pa.string(),
    }
    return pa.schema([(name, types[name]) for name in COLUMNS])


def result_row(result: AnalysisResult) -> Row:
    """Return a result as plain Python values under `COLUMNS`.

    >>> from cdvision.analysis import AnalysisResult
    >>> from cdvision.errors import CdvisionError
    >>> row = result_row(AnalysisResult(3, error=CdvisionError("cut"), key="a", size=7))
    >>> row["key"], row["index"], row["bytes"], row["boxes"], row["error"]
    ('a', 3, 7, None, 'cut')
    """
    width, height = result.image_size or (None, None)
    return {
        "key": result.name,
        "index": result.index,
        "bytes": result.size,
        "width": width,
        "height": height,
        "boxes": None if result.detections is None else _boxes(result.detections),
        "classes": None if result.classification is None else _classes(result.classification),
        "attributes": None if result.attributes is None else _attributes(result.attributes),
        "error": None if result.error is None else str(result.error),
    }


def results_table(results: Iterable[AnalysisResult]) -> pa.Table:
    """Return results as an Arrow table of `arrow_schema`, also where there are none."""
    return rows_table(map(result_row, results))


def rows_table(rows: Iterable[Row]) -> pa.Table:
    """Return rows as an Arrow table of `arrow_schema`."""
    pa = import_optional("pyarrow", "a table of results")
    return pa.Table.from_pylist(list(rows), schema=arrow_schema())


def _boxes(detections: Detections) -> list[Row]:
    return [
        {
            **dict(zip(("left", "top", "right", "bottom"), box.xyxy, strict=True)),
            "confidence": box.confidence,
            "class_id": box.class_id,
            "class_name": box.class_name,
            "mask": None if box.mask is None else box.mask["counts"].decode("ascii"),
        }
        for box in detections
    ]


def _attributes(attributes: Attributes) -> list[Row]:
    return [row._asdict() for row in attributes]


def _classes(classification: Classification) -> list[Row]:
    return [row._asdict() for row in classification]
