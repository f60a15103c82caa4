"""What clusters call: tables of streams in, tables of results out; tables of images likewise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from cdvision.analysis import BATCH_SIZE, Analyzer, StreamItem
from cdvision.errors import CdvisionError
from cdvision.model import load
from cdvision.optional_imports import import_optional
from cdvision.pipelines.schema import results_table

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
        tasks: any of the card's tasks.
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
        tasks: Sequence[str] = ("detect",),
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
        contents = column_values(batch, self._column)
        keys = range(len(contents)) if self._key is None else column_values(batch, self._key)
        for key, content in zip(keys, contents, strict=True):
            # What is no stream becomes an error record, as a damaged stream does.
            found = type(content).__name__
            is_stream = isinstance(content, (bytes, bytearray, memoryview))
            wrong = CdvisionError(f"expected a stream's bytes, found {found}")
            yield str(key), bytes(content) if is_stream else wrong


class PhotoEncoder:
    """Encodes a table of image files into a table of streams.

    Columns of the result: ``key`` (string), ``stream`` (binary, null where it failed),
    ``photo_bytes`` (int64), ``error`` (string, null where all went well). ``column`` holds the
    files, ``key`` their names; other arguments are those of ``cdvision.load`` and ``Model.encode``.
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
        self._quality, self._size, self._column, self._key = quality, size, column, key

    def __call__(self, batch: Batch) -> pa.Table:
        """Return one row for each row, in order."""
        names = column_values(batch, self._key)
        photos = column_values(batch, self._column)
        rows = []
        for name, photo in zip(names, photos, strict=True):
            row: dict[str, Any] = {"key": str(name), "photo_bytes": len(photo)}
            try:
                row["stream"] = self._model.encode(photo, self._quality, size=self._size)
            except CdvisionError as error:
                row["error"] = str(error)
            rows.append(row)
        # Types are named: a batch of failures alone would make a column of nulls, another type.
        types = {"key": "string", "stream": "binary", "photo_bytes": "int64", "error": "string"}
        pa = import_optional("pyarrow", "a table of streams")
        schema = pa.schema([(name, pa.type_for_alias(word)) for name, word in types.items()])
        return pa.Table.from_pylist(rows, schema=schema)


def column_values(batch: Batch, name: str) -> list[Any]:
    """Return one column of an Arrow table, a pandas frame or a dict of arrays; it must be there."""
    names = list(getattr(batch, "column_names", batch))
    if name not in names:
        raise CdvisionError(f"expected a column {name!r}, found: {', '.join(map(str, names))}")
    values: Any = batch[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)
