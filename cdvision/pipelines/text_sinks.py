"""Results as text: JSON lines, CSV, COCO json."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cdvision.errors import CdvisionError
from cdvision.pipelines.schema import result_row
from cdvision.results.coco_categories import COCO_CATEGORY_IDS

if TYPE_CHECKING:
    from cdvision.analysis import AnalysisResult

ERRORS_SUFFIX = ".errors.jsonl"

CSV_COLUMNS = (
    "key", "index", "kind", "class_id", "class_name", "confidence",
    "left", "top", "right", "bottom", "error",
)  # fmt: skip

LAST_NUMBER = re.compile(r"(\d+)$")


def json_line(result: AnalysisResult) -> str:
    """Return a result as one line of JSON: what was not asked for is left out.

    >>> from cdvision.analysis import AnalysisResult
    >>> json_line(AnalysisResult(0, key="a.cdv", image_size=(640, 480), size=9))
    '{"key":"a.cdv","index":0,"bytes":9,"image_size":[640,480]}'
    """
    record: dict[str, Any] = {"key": result.name, "index": result.index, "bytes": result.size}
    if result.image_size is not None:
        record["image_size"] = list(result.image_size)
    if result.detections is not None:
        record["detections"] = result.detections.to_dict()["detections"]
    if result.classification is not None:
        record.update(result.classification.to_dict())
    if result.attributes is not None:
        record.update(result.attributes.to_dict())
    if result.error is not None:
        record["error"] = str(result.error)
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


class JsonLinesWriter:
    """One result a line; see ``json_line``."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")

    def write(self, result: AnalysisResult) -> None:
        """Write one line."""
        self._file.write(json_line(result) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvWriter:
    """One box, class or attribute that is present a line.

    A stream in which nothing was found, or that failed, has a line too.

    ``kind`` is ``box``, ``class``, ``attribute``, ``nothing`` or ``error``; ``confidence`` of a
    class or attribute is its probability.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._csv = csv.DictWriter(self._file, CSV_COLUMNS, restval="")
        self._csv.writeheader()

    def write(self, result: AnalysisResult) -> None:
        """Write the lines of one result."""
        common = {"key": result.name, "index": result.index}
        self._csv.writerows({**common, **line} for line in csv_lines(result))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def csv_lines(result: AnalysisResult) -> Iterator[dict[str, Any]]:
    """Yield the lines of one result, without its key."""
    row = result_row(result)
    if result.error is not None:
        yield {"kind": "error", "error": row["error"]}
        return
    for box in row["boxes"] or ():
        box.pop("mask")
        yield {"kind": "box", **{name: _rounded(value) for name, value in box.items()}}
    for label in row["classes"] or ():
        yield {"kind": "class", "confidence": _rounded(label.pop("probability")), **label}
    present = [attribute for attribute in row["attributes"] or () if attribute["present"]]
    for attribute in present:
        confidence = _rounded(attribute["probability"])
        yield {"kind": "attribute", "class_name": attribute["name"], "confidence": confidence}
    if not row["boxes"] and not row["classes"] and not present:
        yield {"kind": "nothing"}


class CocoWriter:
    """COCO results, as ``pycocotools`` loads them; errors go to a file beside it.

    The image id is the number at the end of a key's stem (``000000000139.cdv``: 139), or the
    stream's index where there is none.

    Args:
        path: of the file.
        category_ids: category of each class; COCO's own numbers, with their gaps, by default.
    """

    def __init__(self, path: Path, category_ids: Sequence[int] = COCO_CATEGORY_IDS) -> None:
        self._path, self._category_ids = path, category_ids
        self._first, self._seen = True, set[int]()
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._file.write("[")

    def write(self, result: AnalysisResult) -> None:
        """Write the boxes of one result, or its error."""
        if result.error is not None:
            errors = self._path.with_name(self._path.name + ERRORS_SUFFIX)
            with errors.open("a", encoding="utf-8") as file:
                file.write(json_line(result) + "\n")
            return
        if result.detections is None:
            raise CdvisionError(f"{result.name}: COCO json holds boxes; ask for 'detect'")
        for entry in result.detections.to_coco(self._image_id(result), self._category_ids):
            self._file.write(("\n" if self._first else ",\n") + json.dumps(entry))
            self._first = False

    def close(self) -> None:
        """End the list and close the file."""
        self._file.write("\n]\n")
        self._file.close()

    def _image_id(self, result: AnalysisResult) -> int:
        number = LAST_NUMBER.search(Path(result.name).stem)
        image_id = int(number[1]) if number else result.index
        if image_id in self._seen:
            raise CdvisionError(
                f"{result.name}: image {image_id} came before; COCO json needs keys that end in "
                "different numbers"
            )
        self._seen.add(image_id)
        return image_id


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
