"""The one table layout of results: the same columns and types whatever was asked or found.

A row is a stream; a ``Column`` of the table of tasks is a list of structs: null where it was not
asked for or the stream failed, empty where nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cdvision.optional_imports import import_optional
from cdvision.tasks import Column, tasks

if TYPE_CHECKING:
    import pyarrow as pa

    from cdvision.analysis import AnalysisResult

Row = dict[str, Any]

# Arrow's words for types where they differ from Spark's, which ``Column.fields`` uses.
ARROW_TYPES = {"bigint": "int64", "int": "int32", "float": "float32"}


def answer_columns() -> dict[str, Column]:
    """Return the column of every answer that goes into tables, by the answer's name."""
    found: dict[str, Column] = {}
    for task in tasks().values():
        if task.column is not None:
            found.setdefault(task.answer, task.column)
    return found


def table_columns() -> dict[str, str | Column]:
    """Return every column of a table by its name: a type in Spark's words, or a ``Column``.

    >>> list(table_columns())[3:7]
    ['width', 'height', 'boxes', 'classes']
    """
    return {
        "key": "string",
        "index": "bigint",
        "bytes": "bigint",
        "width": "int",
        "height": "int",
        **{column.name: column for column in answer_columns().values()},
        "error": "string",
    }


def spark_schema() -> str:
    """Return the schema of results as Spark takes it; ``arrow_schema`` says the same for Arrow."""
    return ", ".join(f"{name} {_spark_type(kind)}" for name, kind in table_columns().items())


def arrow_schema() -> pa.Schema:
    """Return the Arrow schema of results; boxes are float32 pixels of the source photo.

    ``mask`` is the ``counts`` string of a COCO run-length mask of the photo's size, or null.
    """
    pa = import_optional("pyarrow", "a table of results")
    return pa.schema([(name, _arrow_type(pa, kind)) for name, kind in table_columns().items()])


def result_row(result: AnalysisResult) -> Row:
    """Return a result as plain Python values under the names of ``table_columns``.

    >>> from cdvision.analysis import AnalysisResult
    >>> from cdvision.errors import CdvisionError
    >>> row = result_row(AnalysisResult(3, error=CdvisionError("cut"), key="a", size=7))
    >>> row["key"], row["index"], row["bytes"], row["boxes"], row["error"]
    ('a', 3, 7, None, 'cut')
    """
    row: Row = dict.fromkeys(table_columns())
    row |= {"key": result.name, "index": result.index, "bytes": result.size}
    row["width"], row["height"] = result.image_size or (None, None)
    for answer, column in answer_columns().items():
        # Answers of one kind share a column.
        if answer in result.answers:
            row[column.name] = [*(row[column.name] or ()), *result.answers[answer].to_rows()]
    if result.error is not None:
        row["error"] = result.error_text
    return row


def results_table(results: Iterable[AnalysisResult]) -> pa.Table:
    """Return results as an Arrow table of ``arrow_schema``, also where there are none."""
    pa = import_optional("pyarrow", "a table of results")
    return pa.Table.from_pylist([result_row(one) for one in results], schema=arrow_schema())


def _spark_type(kind: str | Column) -> str:
    if isinstance(kind, str):
        return kind
    fields = ", ".join(f"{name}: {word}" for name, word in kind.fields.items())
    return f"array<struct<{fields}>>"


def _arrow_type(pa: Any, kind: str | Column) -> Any:
    if isinstance(kind, str):
        return pa.type_for_alias(ARROW_TYPES.get(kind, kind))
    fields = [(name, _arrow_type(pa, word)) for name, word in kind.fields.items()]
    return pa.list_(pa.struct(fields))
