"""Results as text: JSON lines, CSV, COCO json."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import replace
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


def json_line(result: AnalysisResult, *, ascii_only: bool = False) -> str:
    """Return a result as one line of JSON: what was not asked for is left out.

    ``ascii_only`` escapes all other letters, for consoles that may not know them.

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
        record["error"] = result.error_text
    return json.dumps(record, separators=(",", ":"), ensure_ascii=ascii_only)


class TextWriter:
    """Base of what writes one format into a text file of its own."""

    readable = True  # whatever its end, what stands in it can be read

    def __init__(self, path: Path) -> None:
        # Line by line: a full disk is noticed at once, not when all has been computed.
        self._file: TextIO = path.open("w", 1, encoding="utf-8", newline="")

    def write(self, result: AnalysisResult) -> bool:
        """Write one result; True where the format cannot hold it."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()


class JsonLinesWriter(TextWriter):
    """One result a line; see ``json_line``."""

    def write(self, result: AnalysisResult) -> bool:
        """Write one line."""
        self._file.write(json_line(result) + "\n")
        return False


class CsvWriter(TextWriter):
    """One entry of a column a line, such as a box, a class, or an attribute that is present.

    A stream in which nothing was found, or that failed, has a line too. ``kind`` is that of the
    entry's column (``box``, ``class``, ``attribute`` ...), ``nothing`` or ``error``;
    ``confidence`` of a class or attribute is its probability.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._columns = answer_columns()
        fields = [name for column in self._columns.values() for name in _csv_entry(column.fields)]
        # Entries of different tasks share names: each stands in the header once.
        header = dict.fromkeys([*CSV_FIRST, *fields, "error"])
        self._csv = csv.DictWriter(self._file, list(header), restval="")
        self._csv.writeheader()

    def write(self, result: AnalysisResult) -> bool:
        """Write the lines of one result."""
        common = {"key": result.name, "index": result.index}
        self._csv.writerows({**line, **common} for line in self._lines(result))
        return False

    def _lines(self, result: AnalysisResult) -> list[dict[str, Any]]:
        if result.error is not None:
            return [{"kind": "error", "error": result.error_text}]
        return [
            {**_csv_entry(entry), "kind": column.kind}
            for answer, column in self._columns.items()
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

    Categories have COCO's own numbers, with their gaps. A result whose image number came before
    goes to the errors, with its answers: a finished run is not given up for a name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._errors, self._seen = errors_path(path), set[int | None]()
        self._before = "["

    def write(self, result: AnalysisResult) -> bool:
        """Write the entries of one result, or its error."""
        image_id = self._image_id(result) if result.error is None else None
        if result.error is None and image_id in self._seen:
            told = f"image {image_id} came before; COCO json needs keys that end in other numbers"
            result = replace(result, error=CdvisionError(told))
        if result.error is not None:
            with self._errors.open("a", encoding="utf-8") as file:
                file.write(json_line(result) + "\n")
            return True
        answers = answers_with("to_coco", result)
        self._seen.add(image_id)
        for answer in answers:
            for entry in answer.to_coco(image_id, COCO_CATEGORY_IDS):
                # A list is written entry by entry: what was found need not fit in memory.
                self._file.write(f"{self._before}\n{json.dumps(entry)}")
                self._before = ","
        return False

    def close(self) -> None:
        """End the list and close the file."""
        self._file.write("[\n]\n" if self._before == "[" else "\n]\n")
        super().close()

    def _image_id(self, result: AnalysisResult) -> int:
        # COCO names photos by their numbers, 000000000139.jpg; elsewhere the index has to do.
        number = LAST_NUMBER.search(Path(result.name).stem)
        return int(number[1]) if number else result.index


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
