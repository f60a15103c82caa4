"""Where results go: JSON lines, CSV, Parquet, COCO json, or ``supervision``.

A file appears under its name when all is written, whole, or else not at all: results that were
written before something failed are kept beside it, as ``NAME.partial.SUFFIX``.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from cdvision.whole_files import part_of, unwritable

if TYPE_CHECKING:
    import supervision as sv
    from typing_extensions import Self

    from cdvision.analysis import AnalysisResult

log = logging.getLogger(__name__)

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
        self.readable = False

    def write(self, result: AnalysisResult) -> bool:
        """Keep one result until a row group is full; nothing is refused."""
        self._results.append(result)
        if len(self._results) == ROW_GROUP:
            self._write_group()
        return False

    def close(self) -> None:
        """Write what is left and the file's end, without which nobody can read it."""
        if self._results:
            self._write_group()
        self._file.close()
        self.readable = True

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

    Use as a context manager: the file appears at the end of a block that ends well. Where it does
    not, ``partial`` says where the results are that had been written.

    Args:
        path: ``.jsonl`` (a result a line), ``.csv`` (a box or class a line), ``.parquet`` (a result
            a row, see ``cdvision.pipelines.schema``) or ``.json`` (COCO results; errors go to
            ``NAME.errors.jsonl`` beside it).
        force: replace a file that exists.

    Raises:
        CdvisionError: another suffix, the file exists, or it cannot be written: here, or in
            ``write``, which then names the file of what was written before.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in WRITERS:
            known = ", ".join(WRITERS)
            raise CdvisionError(f"{path}: expected a file for results, {known}")
        if os.path.exists(path) and not force:
            raise CdvisionError(f"{path} exists; force (--force) replaces it")
        self._part = part_of(self.path)
        self.partial: Path | None = None
        self._counts: Counter[bool] = Counter()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = WRITERS[suffix](self._part)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def write(self, result: AnalysisResult) -> None:
        """Write one result, an error like any other."""
        try:
            # A writer may find that it cannot hold a result: that is an error of this result.
            failed = self._writer.write(result) or result.error is not None
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._counts[failed] += 1

    @property
    def written(self) -> Written:
        """What went in so far."""
        return Written(self.path, self._counts.total(), self._counts[True])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._writer.close()
            if kind is None:
                # Renaming is atomic: who looks sees the old file or the new one, whole.
                self._move_to(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            self._keep_partial()

    def _move_to(self, path: Path) -> None:
        for part, place in zip(self._parts, (path, errors_path(path)), strict=True):
            if part.exists():
                part.replace(place)

    def _keep_partial(self) -> None:
        """Keep what was written of a file that is not whole, and say where."""
        if self._part.exists() and self._counts and self._writer.readable:
            self.partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
            self._move_to(self.partial)
            count = self.written.results
            log.warning("%s is not whole: %d results are in %s", self.path, count, self.partial)
        for part in self._parts:
            part.unlink(missing_ok=True)

    @property
    def _parts(self) -> tuple[Path, Path]:
        return self._part, errors_path(self._part)


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
