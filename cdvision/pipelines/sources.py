"""Where streams come from: folders, globs, single files, WebDataset tars and Parquet.

Each yields (key, bytes) pairs, or (key, error) for an error record; a damaged container raises.
"""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from cdvision.errors import CdvisionError
from cdvision.optional_imports import import_optional

Keyed: TypeAlias = tuple[str, bytes | CdvisionError]

STREAM_SUFFIX = ".cdv"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIX = ".parquet"
STREAM_COLUMN, KEY_COLUMN = "stream", "key"
ROWS = 256  # of Parquet, in memory at once


def read_sources(
    sources: Iterable[str | Path], *, column: str = STREAM_COLUMN, key: str = KEY_COLUMN
) -> Iterator[Keyed]:
    """Yield the streams of several places, one place after the other.

    Args:
        sources: folders (searched to the bottom), globs, ``.tar`` or ``.parquet`` files, streams.
        column: column of a Parquet file that holds the streams.
        key: column of a Parquet file that names them; the row's number where there is none.

    Raises:
        CdvisionError: a place does not exist, a folder or glob finds no stream, or a container
            cannot be read.
    """
    for source in sources:
        yield from read_source(source, column=column, key=key)


def read_source(
    source: str | Path, *, column: str = STREAM_COLUMN, key: str = KEY_COLUMN
) -> Iterator[Keyed]:
    """Yield the streams of one place; see ``read_sources``."""
    path = Path(source)
    if path.is_dir():
        return folder_streams(path)
    if not path.exists():
        return _glob_streams(str(source), column=column, key=key)
    if path.name.endswith(TAR_SUFFIXES):
        return tar_streams(path)
    if path.suffix == PARQUET_SUFFIX:
        return parquet_streams(path, column=column, key=key)
    return iter([_read(path, path.name)])


def folder_streams(folder: str | Path) -> Iterator[Keyed]:
    """Yield the ``.cdv`` files below a folder, sorted; keys are paths relative to it."""
    paths = sorted(path for path in Path(folder).rglob(f"*{STREAM_SUFFIX}") if path.is_file())
    if not paths:
        raise CdvisionError(f"{folder}: expected {STREAM_SUFFIX} streams, found none")
    for path in paths:
        yield _read(path, path.relative_to(folder).as_posix())


def tar_streams(path: str | Path) -> Iterator[Keyed]:
    """Yield the ``.cdv`` members of a WebDataset tar in their order; keys are their names there."""
    try:
        # Front to back ("r|*"), so that compressed tars and pipes can be read.
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(STREAM_SUFFIX):
                    file = tar.extractfile(member)
                    yield member.name, b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CdvisionError(f"{path}: expected a tar file, found: {error}") from error


def parquet_streams(
    path: str | Path, *, column: str = STREAM_COLUMN, key: str = KEY_COLUMN
) -> Iterator[Keyed]:
    """Yield the streams in a binary column of a Parquet file, a few hundred rows at a time."""
    pq = import_optional("pyarrow.parquet", "reading Parquet")
    pa = import_optional("pyarrow", "reading Parquet")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                found = ", ".join(names)
                raise CdvisionError(f"{path}: expected a column {column!r}, found: {found}")
            wanted = [name for name in (key, column) if name in names]
            number = 0
            for batch in file.iter_batches(ROWS, columns=wanted):
                keys = batch[key].to_pylist() if key in names else [None] * len(batch)
                for name, content in zip(keys, batch[column].to_pylist(), strict=True):
                    yield _cell(name, content, number, column)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise CdvisionError(f"{path}: expected a Parquet file, found: {error}") from error


def _cell(name: object, content: object, number: int, column: str) -> Keyed:
    key = str(number) if name is None else str(name)
    if isinstance(content, bytes):
        return key, content
    found = type(content).__name__
    return key, CdvisionError(f"row {number}: expected bytes in {column!r}, found {found}")


def _glob_streams(pattern: str, **columns: str) -> Iterator[Keyed]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise CdvisionError(f"{pattern}: no such file or folder, and nothing matches it")
    for match in matches:
        if match.endswith(STREAM_SUFFIX) and Path(match).is_file():
            yield _read(Path(match), match)  # names alone may repeat from folder to folder
        else:
            yield from read_source(match, **columns)


def _read(path: Path, key: str) -> Keyed:
    try:
        return key, path.read_bytes()
    except OSError as error:
        return key, CdvisionError(f"{path} cannot be read: {error.strerror}")
