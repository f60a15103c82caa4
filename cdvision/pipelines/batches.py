"""What clusters call: tables of streams in, tables of results out; tables of images likewise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from cdvision.analysis import BATCH_SIZE, Analyzer, StreamItem
from cdvision.errors import CdvisionError
from cdvision.model import load
from cdvision.optional_imports import import_optional
from cdvision.pipelines.cells import cell_bytes, cell_key, cell_stream, width_note
from cdvision.pipelines.schema import results_table
from cdvision.texts import printable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    Batch: TypeAlias = pa.Table | pd.DataFrame | Mapping[str, Sequence[Any]]


class StreamPredictor:
    """Answers for a table of streams; ``schema.arrow_schema`` is what it returns, always.

    A bad stream is a row with an error. Anything else that goes wrong raises: whoever runs this
    may try the batch again.

    Args:
        model: name or folder of the model.
        tasks: any of the card's tasks, one or several.
        column: column of the streams.
        key: column of their keys; rows are numbered from 0 in each batch where None.
        device: ``"cpu"`` or ``"cuda"``.
        threads: threads of the engine; 1 because a cluster gives each actor its own core.
        batch_size: streams of one input size that the engine takes at once.
        options: of the tasks, such as ``confidence`` and ``top``.
    """

    def __init__(
        self,
        model: str = "small",
        tasks: str | Sequence[str] = ("detect",),
        *,
        column: str = "stream",
        key: str | None = "key",
        device: str = "cpu",
        threads: int = 1,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> None:
        import_optional("pyarrow", "a table of results")
        self._column, self._key = column, key
        self._analyzer = Analyzer(
            load(model, device=device, threads=threads),
            tasks,
            batch_size=batch_size,
            # On a GPU one batch is decoded while the other is computed.
            workers=2 if device != "cpu" else 1,
            **options,
        )

    def __call__(self, batch: Batch) -> pa.Table:
        """Return one row for each row, in order."""
        return results_table(self._analyzer(list(self._items(batch))))

    def _items(self, batch: Batch) -> Iterator[StreamItem]:
        cells, note = column_values(batch, self._column), column_note(batch, self._column)
        keys = [None] * len(cells) if self._key is None else column_values(batch, self._key)
        for number, (key, cell) in enumerate(zip(keys, cells, strict=True)):
            # What is no stream becomes an error record, as a damaged stream does.
            yield cell_key(key, number), cell_stream(cell, self._column, note)


class PhotoEncoder:
    """Encodes a table of image files into a table of streams.

    Columns of the result: ``key`` (string), ``stream`` (binary, null where it failed),
    ``photo_bytes`` (int64, null where the cell holds no file), ``error`` (string, null where all
    went well). ``column`` holds the files' bytes, ``key`` their names; other arguments are those of
    ``cdvision.load`` and ``Model.encode``, and refused here where they are out of range.
    """

    def __init__(
        self,
        model: str = "small",
        quality: int | None = None,
        *,
        size: int | None = None,
        column: str = "bytes",
        key: str = "path",
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        import_optional("pyarrow", "a table of streams")  # refused at once, not in the first batch
        self._model = load(model, device=device, threads=threads)
        self._model.check_encoding(quality, size=size)
        self._quality, self._size, self._column, self._key = quality, size, column, key

    def __call__(self, batch: Batch) -> pa.Table:
        """Return one row for each row, in order."""
        names, cells = column_values(batch, self._key), column_values(batch, self._column)
        note = column_note(batch, self._column)
        rows = [
            {"key": printable(cell_key(name, number)), **self._encoded(cell, note)}
            for number, (name, cell) in enumerate(zip(names, cells, strict=True))
        ]
        # Types are named: a batch of failures alone would make a column of nulls, another type.
        types = {"key": "string", "stream": "binary", "photo_bytes": "int64", "error": "string"}
        pa = import_optional("pyarrow", "a table of streams")
        schema = pa.schema([(name, pa.type_for_alias(word)) for name, word in types.items()])
        return pa.Table.from_pylist(rows, schema=schema)

    def _encoded(self, cell: Any, note: str | None) -> dict[str, Any]:
        """Return the other columns of one row; ``note`` says what its column does to bytes."""
        photo = cell_bytes(cell, self._column)
        if isinstance(photo, CdvisionError):
            return {"error": str(photo)}
        try:
            stream = self._model.encode(photo, self._quality, size=self._size)
        except CdvisionError as error:
            told = str(error) if note is None else f"{error}; {note}"
            return {"photo_bytes": len(photo), "error": told}
        return {"photo_bytes": len(photo), "stream": stream}


def column_values(batch: Batch, name: str) -> list[Any]:
    """Return one column of an Arrow table, a pandas frame or a dict of arrays; it must be there."""
    names = list(getattr(batch, "column_names", batch))
    if name not in names:
        raise CdvisionError(f"expected a column {name!r}, found: {', '.join(map(str, names))}")
    values: Any = batch[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)


def column_note(batch: Batch, name: str) -> str | None:
    """Say what the width of a batch's column does to bytes; see ``width_note``."""
    column: Any = batch[name]
    return width_note(column)
