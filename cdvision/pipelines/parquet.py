"""Results and streams in Parquet files: written a row group at a time, in one schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cdvision.optional_imports import import_optional
from cdvision.pipelines.schema import arrow_schema, results_table

if TYPE_CHECKING:
    from cdvision.analysis import AnalysisResult

ROW_GROUP = 1024


class ParquetSinkWriter:
    """One result a row; the file has all columns, also where nothing was written.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        parquet = import_optional("pyarrow.parquet", "writing Parquet")
        self._file = parquet.ParquetWriter(path, arrow_schema(), compression="zstd")
        self._results: list[AnalysisResult] = []

    def write(self, result: AnalysisResult) -> None:
        """Write one result, when a row group is full."""
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
