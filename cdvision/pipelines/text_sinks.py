"""Results as text: JSON lines, CSV, COCO json."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cdvision.errors import CdvisionError
from cdvision.package.families import imported
from cdvision.pipelines.schema import answer_columns
from cdvision.results.connectors import COCO_CATEGORY_IDS
from cdvision.tasks import tasks

if TYPE_CHECKING:
    from cdvision.analysis import AnalysisResult

# One line of CSV tells an entry of any column, so entries of all kinds share names.
CSV_NAMES = {"probability": "confidence", "name": "class_name"}
CSV_LEFT_OUT = {"mask", "present"}  # runs of a mask are long; what is not present has no line
CSV_FIRST = (
    "key", "index", "kind", "class_id", "class_name", "confidence",
    "left", "top", "right", "bottom",
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
    for answer in result.answers.values():
        record.update(answer.to_dict())
    if result.error is not None:
        record["error"] = str(result.error)
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


class TextWriter:
    """Base of what writes one format into a text file of its own."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", newline="")

    def write(self, result: AnalysisResult) -> None:
        """Write one result."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()


class JsonLinesWriter(TextWriter):
    """One result a line; see ``json_line``."""

    def write(self, result: AnalysisResult) -> None:
        """Write one line."""
        self._file.write(json_line(result) + "\n")


class CsvWriter(TextWriter):
    """One entry of a column a line, such as a box, a class, or an attribute that is present.

    A stream in which nothing was found, or that failed, has a line too. ``kind`` is that of the
    entry's column (``box``, ``class``, ``attribute`` ...), ``nothing`` or ``error``;
    ``confidence`` of a class or attribute is its probability.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._csv = csv.DictWriter(self._file, csv_header(), restval="")
        self._csv.writeheader()

    def write(self, result: AnalysisResult) -> None:
        """Write the lines of one result."""
        common = {"key": result.name, "index": result.index}
        self._csv.writerows({**line, **common} for line in csv_lines(result))


def csv_header() -> list[str]:
    """Return the names at the top of a CSV file, those of all tasks' columns among them."""
    fields = [name for column in answer_columns().values() for name in _csv_entry(column.fields)]
    return list(dict.fromkeys([*CSV_FIRST, *fields, "error"]))


def csv_lines(result: AnalysisResult) -> list[dict[str, Any]]:
    """Return the lines of one result, without its key."""
    if result.error is not None:
        return [{"kind": "error", "error": str(result.error)}]
    return [
        {**_csv_entry(entry), "kind": column.kind}
        for answer, column in answer_columns().items()
        if answer in result.answers
        for entry in result.answers[answer].to_rows()
        if entry.get("present", True)
    ] or [{"kind": "nothing"}]


def _csv_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry under the names of CSV, real numbers with four digits."""
    return {
        CSV_NAMES.get(name, name): round(value, 4) if isinstance(value, float) else value
        for name, value in entry.items()
        if name not in CSV_LEFT_OUT
    }


class CocoWriter(TextWriter):
    """COCO results, as ``pycocotools`` loads them; errors go to a file beside it.

    The image id is the number at the end of a key's stem (``000000000139.cdv``: 139), or the
    stream's index where there is none. Categories have COCO's own numbers, with their gaps.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._errors, self._seen = errors_path(path), set[int]()
        self._before = "["

    def write(self, result: AnalysisResult) -> None:
        """Write the entries of one result, or its error."""
        if result.error is not None:
            with self._errors.open("a", encoding="utf-8") as file:
                file.write(json_line(result) + "\n")
            return
        answers, image_id = answers_with("to_coco", result), self._image_id(result)
        for answer in answers:
            for entry in answer.to_coco(image_id, COCO_CATEGORY_IDS):
                # A list is written entry by entry: what was found need not fit in memory.
                self._file.write(f"{self._before}\n{json.dumps(entry)}")
                self._before = ","

    def close(self) -> None:
        """End the list and close the file."""
        self._file.write("[\n]\n" if self._before == "[" else "\n]\n")
        super().close()

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


def answers_with(method: str, result: AnalysisResult) -> list[Any]:
    """Return the answers of a result that offer a method; raises CdvisionError where none does."""
    found = [answer for answer in result.answers.values() if hasattr(answer, method)]
    if not found:
        able = [task.name for task in tasks().values() if hasattr(imported(task.result), method)]
        asked = " or ".join(map(repr, able))
        raise CdvisionError(f"{result.name}: no answer offers {method}; ask for {asked}")
    return found


def errors_path(path: Path) -> Path:
    """Return where a format without room for errors leaves them."""
    return path.with_name(path.name + ".errors.jsonl")
