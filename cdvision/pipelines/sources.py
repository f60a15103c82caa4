"""Where streams come from: folders, globs, single files, WebDataset tars and Parquet.

Each yields (key, bytes) pairs, or (key, error) for an error record; a damaged container raises.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from cdvision.errors import CdvisionError
from cdvision.optional_imports import import_optional
from cdvision.pipelines.cells import PADDED, cell_key, cell_stream
from cdvision.pipelines.tars import member_bytes, tar_members
from cdvision.texts import several
from cdvision.whole_files import count_by_suffix, list_folder

Keyed: TypeAlias = tuple[str, bytes | CdvisionError]

log = logging.getLogger(__name__)

STREAM_SUFFIX = ".cdv"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PARQUET_SUFFIX = ".parquet"
STREAM_COLUMN, KEY_COLUMN = "stream", "key"
ROWS = 256  # of Parquet, in memory at once


def read_sources(
    sources: str | Path | Iterable[str | Path],
    *,
    column: str = STREAM_COLUMN,
    key: str = KEY_COLUMN,
) -> Iterator[Keyed]:
    """Yield the streams of one place or several: folders, globs, tars, Parquet, single streams.

    A Parquet file has the streams in ``column``, names in ``key`` (or the rows' numbers). Raises
    CdvisionError for a place that is not there, holds no stream, or cannot be read.
    """
    for source in several(sources):
        yield from read_source(source, column=column, key=key)


def read_source(
    source: str | Path, *, column: str = STREAM_COLUMN, key: str = KEY_COLUMN
) -> Iterator[Keyed]:
    """Yield the streams of one place; see ``read_sources``."""
    if not str(source):
        raise CdvisionError("a source: expected a path, found an empty text (an unset variable?)")
    path = Path(source)
    # os.path, not Path: it takes loops of links and over-long names for what is not there.
    if os.path.isdir(path):
        return folder_streams(path, column=column, key=key)
    if not os.path.lexists(path):
        return _glob_streams(str(source), column=column, key=key)
    return _file_streams(path, path.name, column=column, key=key)


def folder_streams(
    folder: str | Path, *, column: str = STREAM_COLUMN, key: str = KEY_COLUMN
) -> Iterator[Keyed]:
    """Yield the streams below a folder, sorted, those in its tars and Parquet files too.

    Keys of ``.cdv`` files are paths relative to the folder. A folder below it that cannot be read
    is an error record; a link to a folder is not followed, and logged.
    """
    folder, found = Path(folder), 0
    listing = list_folder(folder)
    for path in listing.files:
        name = path.relative_to(folder)
        if _is_source(name):
            found += 1
            yield from _file_streams(path, name.as_posix(), column=column, key=key)
    for path, reason in listing.unread:
        yield path.as_posix(), CdvisionError(f"{path} cannot be read: {reason}")
    for path in listing.links:
        log.warning("%s is not read: a link to a folder", path)
    if not found and not listing.unread:
        held = count_by_suffix(listing.files)
        hint = f"; it holds {held}" if held else ""
        raise CdvisionError(f"{folder}: expected {STREAM_SUFFIX} streams, found none{hint}")


def tar_streams(path: str | Path) -> Iterator[Keyed]:
    """Yield the ``.cdv`` members of a WebDataset tar in their order; keys are their names there.

    A link to a member is read as that member. Raises CdvisionError where there is no stream.
    """
    others, found = list[Path](), 0
    for name, tar, member in tar_members(Path(path)):
        if name.lower().endswith(STREAM_SUFFIX):
            found += 1
            yield name, member_bytes(tar, member)
        else:
            others.append(Path(name))
    if not found:
        held = f"; it holds {count_by_suffix(others)}, photos are encoded first" if others else ""
        raise CdvisionError(f"{path}: expected {STREAM_SUFFIX} streams, found none{held}")


def parquet_streams(
    path: str | Path, *, column: str = STREAM_COLUMN, key: str = KEY_COLUMN, name: str = ""
) -> Iterator[Keyed]:
    """Yield the streams in a binary column of a Parquet file, a few hundred rows at a time.

    Rows without a key are numbered, behind the ``name`` of the file.
    """
    pq = import_optional("pyarrow.parquet", "reading Parquet")
    pa = import_optional("pyarrow", "reading Parquet")
    try:
        with pq.ParquetFile(path) as file:
            schema, number = file.schema_arrow, 0
            if column not in schema.names:
                found = ", ".join(schema.names)
                raise CdvisionError(f"{path}: expected a column {column!r}, found: {found}")
            fixed = pa.types.is_fixed_size_binary(schema.field(column).type)
            wanted = [name for name in (key, column) if name in schema.names]
            for batch in file.iter_batches(ROWS, columns=wanted):
                keys = batch[key].to_pylist() if key in wanted else [None] * len(batch)
                for told, cell in zip(keys, batch[column].to_pylist(), strict=True):
                    stream = cell_stream(cell, f"row {number}: {column}", PADDED if fixed else None)
                    yield cell_key(told, f"{name}{number}"), stream
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise CdvisionError(f"{path}: expected a Parquet file, found: {error}") from error


def _is_source(name: Path) -> bool:
    lower = name.name.lower()
    if lower.endswith(PARQUET_SUFFIX):  # Spark begins names of what is no part with _ or .
        return not any(part.startswith(("_", ".")) for part in name.parts)
    return lower.endswith((STREAM_SUFFIX, *TAR_SUFFIXES))


def _file_streams(path: Path, name: str, **columns: str) -> Iterator[Keyed]:
    lower = path.name.lower()
    if lower.endswith(TAR_SUFFIXES):
        return tar_streams(path)
    if lower.endswith(PARQUET_SUFFIX):
        return parquet_streams(path, **columns, name="" if name == path.name else f"{name}:")
    return iter([_read(path, name)])


def _glob_streams(pattern: str, **columns: str) -> Iterator[Keyed]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise CdvisionError(f"{pattern}: no such file or folder, and nothing matches it")
    for match in matches:
        if os.path.isdir(match):
            yield from read_source(match, **columns)
        else:  # names alone may repeat from folder to folder
            yield from _file_streams(Path(match), match, **columns)


def _read(path: Path, key: str) -> Keyed:
    try:
        return key, path.read_bytes()
    except OSError as error:
        return key, CdvisionError(f"{path} cannot be read: {error.strerror}")
