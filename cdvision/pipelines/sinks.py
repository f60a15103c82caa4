"""Where results go: JSON lines, CSV, Parquet, COCO json, or ``supervision``.

A sink is written to as results come and holds little in memory. Its file appears under its name
when all is written, whole; where something goes wrong on the way, nothing appears and what was
there before stays.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from cdvision.errors import CdvisionError
from cdvision.pipelines.text_sinks import (
    ERRORS_SUFFIX,
    CocoWriter,
    CsvWriter,
    JsonLinesWriter,
    answers_with,
)

if TYPE_CHECKING:
    import supervision as sv

    from cdvision.analysis import AnalysisResult


class Writer(Protocol):
    """What writes one format into a file of its own."""

    def write(self, result: AnalysisResult) -> None:
        """Write one result."""
        ...

    def close(self) -> None:
        """Write what is left and close the file."""
        ...


@dataclass(frozen=True)
class Written:
    """What went into a sink: results, and how many of them are errors."""

    path: Path
    results: int
    errors: int


def _parquet_writer(path: Path) -> Writer:
    from cdvision.pipelines.parquet import ParquetSinkWriter

    return ParquetSinkWriter(path)


WRITERS: dict[str, Callable[[Path], Writer]] = {
    ".jsonl": JsonLinesWriter,
    ".csv": CsvWriter,
    ".parquet": _parquet_writer,
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        parts = [self._part, errors_path(self._part)]
        try:
            self._writer.close()
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
    from cdvision.results import Detections

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


def errors_path(path: Path) -> Path:
    """Return where a format without room for errors leaves them."""
    return path.with_name(path.name + ERRORS_SUFFIX)
