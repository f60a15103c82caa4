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

    Raises:
        CdvisionError: the model cannot be loaded or cannot answer; pyarrow is missing.
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
            workers=2 if device != "cpu" else 1,  # on a GPU one batch is decoded meanwhile
            **options,
        )

    def __call__(self, batch: Batch) -> pa.Table:
        """Return one row for each row, in order."""
        return results_table(self._analyzer(list(self._items(batch))))

    def _items(self, batch: Batch) -> Iterator[StreamItem]:
        contents = column_values(batch, self._column)
        keys = range(len(contents)) if self._key is None else column_values(batch, self._key)
        for key, content in zip(keys, contents, strict=True):
            yield (str(key), stream_bytes(content))


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
        self._pa = import_optional("pyarrow", "a table of streams")
        self._model = load(model, device=device, threads=threads)
        self._quality, self._size, self._column, self._key = quality, size, column, key

    def __call__(self, batch: Batch) -> pa.Table:
        """Return one row for each row, in order."""
        names = column_values(batch, self._key)
        photos = column_values(batch, self._column)
        rows = [self._row(str(name), photo) for name, photo in zip(names, photos, strict=True)]
        return self._pa.Table.from_pylist(rows, schema=self._schema())

    def _row(self, name: str, photo: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"key": name, "photo_bytes": len(photo)}
        try:
            return {**row, "stream": self._model.encode(photo, self._quality, size=self._size)}
        except CdvisionError as error:
            return {**row, "error": str(error)}

    def _schema(self) -> pa.Schema:
        # Named, as a batch of failures alone would make a column of nulls: another type.
        pa = self._pa
        fields = {"key": pa.string(), "stream": pa.binary(), "photo_bytes": pa.int64()}
        return pa.schema([*fields.items(), ("error", pa.string())])


def column_values(batch: Batch, name: str) -> list[Any]:
    """Return one column of an Arrow table, a pandas frame or a dict of arrays; it must be there."""
    names = list(getattr(batch, "column_names", batch))
    if name not in names:
        raise CdvisionError(f"expected a column {name!r}, found: {', '.join(map(str, names))}")
    values: Any = batch[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)


def stream_bytes(content: object) -> bytes | CdvisionError:
    """Return the bytes in a cell, or an error that says what is there instead."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    return CdvisionError(f"expected a stream's bytes, found {type(content).__name__}")
