"""Where results go: JSON lines, CSV, Parquet, COCO json, or ``supervision``.

A file appears under its name when all is written, whole, or else not at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cdvision.errors import CdvisionError
from cdvision.optional_imports import import_optional
from cdvision.pipelines.schema import arrow_schema, results_table
from cdvision.pipelines.text_sinks import (
    CocoWriter,
    CsvWriter,
    JsonLinesWriter,
    TextWriter,
    answers_with,
    errors_path,
)
from cdvision.results import Detections

if TYPE_CHECKING:
    import supervision as sv

    from cdvision.analysis import AnalysisResult

ROW_GROUP = 1024  # rows that are held until they are written together


@dataclass(frozen=True)
class Written:
    """What went into a sink: results, and how many of them are errors."""

    path: Path
    results: int
    errors: int


class ParquetWriter:
    """One result a row; the file has all columns, also where nothing was written."""

    def __init__(self, path: Path) -> None:
        parquet = import_optional("pyarrow.parquet", "writing Parquet")
        self._file = parquet.ParquetWriter(path, arrow_schema(), compression="zstd")
        self._results: list[AnalysisResult] = []

    def write(self, result: AnalysisResult) -> None:
        """Keep one result until a row group is full."""
        self._results.append(result)
        if len(self._results) == ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write what is left and the file's end."""
        if self._results:
            self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        self._file.write_table(results_table(self._results))
        self._results = []


WRITERS: dict[str, Callable[[Path], TextWriter | ParquetWriter]] = {
    ".jsonl": JsonLinesWriter,
    ".csv": CsvWriter,
    ".parquet": ParquetWriter,
    ".json": CocoWriter,
}


class Sink:
    """A file of results; its suffix chooses the format.

    Use as a context manager: the file appears at the end of a block that ends well.

    Args:
        path: ``.jsonl`` (a result a line), ``.csv`` (a box or class a line), ``.parquet`` (a result
            a row, see ``cdvision.pipelines.schema``) or ``.json`` (COCO results; errors go to
            ``NAME.errors.jsonl`` beside it).
        force: replace a file that exists.

    Raises:
        CdvisionError: another suffix, or the file exists.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix not in WRITERS:
            known = ", ".join(WRITERS)
            raise CdvisionError(f"{path}: expected a file for results, {known}")
        if self.path.exists() and not force:
            raise CdvisionError(f"{path} exists; force (--force) replaces it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(f"{self.path.name}.part-{os.getpid()}")
        self._writer = WRITERS[self.path.suffix](self._part)
        self._counts: Counter[bool] = Counter()

    def write(self, result: AnalysisResult) -> None:
        """Write one result, an error like any other."""
        self._counts[result.error is not None] += 1
        self._writer.write(result)

    @property
    def written(self) -> Written:
        """What went in so far."""
        return Written(self.path, self._counts.total(), self._counts[True])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        parts = [self._part, errors_path(self._part)]
        try:
            self._writer.close()
            # Renaming is atomic: who looks sees the old file or the new one, whole.
            if kind is None:
                for part, path in zip(parts, [self.path, errors_path(self.path)], strict=True):
                    if part.exists():
                        part.replace(path)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def write_results(
    results: Iterable[AnalysisResult], path: str | Path, *, force: bool = False
) -> Written:
    """Write all results into one file, whole or not at all; see ``Sink``."""
    with Sink(path, force=force) as sink:
        for result in results:
            sink.write(result)
    return sink.written


def supervision_detections(
    results: Iterable[AnalysisResult],
) -> Iterator[tuple[str, sv.Detections]]:
    """Yield (name, ``supervision.Detections``) for each answer that offers it, for trackers, zones.

    A failed stream has no boxes, and its error in ``metadata["error"]``.

    Raises:
        CdvisionError: supervision is not installed, or no answer can be converted.
    """
    for result in results:
        if result.error is None:
            found = answers_with("to_supervision", result)
        else:
            found = [Detections.empty(result.image_size or (1, 1))]
        for answer in found:
            converted = answer.to_supervision()
            if result.error is not None:
                converted.metadata["error"] = str(result.error)
            yield result.name, converted
