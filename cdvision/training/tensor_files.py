"""Safetensors files of any size, the large ones in parts that any way of moving files takes.

A machine that is lent may return no file above 16 MiB. What is larger therefore lies in parts,
``weights.safetensors.1of3-9f3a2b11`` and so on; put together they are the file:
``cat weights.safetensors.*of* > weights.safetensors``. The last digits are the checksum of the
whole, so that parts of two states are never mixed.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from cdvision.errors import CdvisionError

PART_BYTES = 15 * 2**20


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors; whatever happens meanwhile, what was there before can still be read.

    Raises:
        OSError: the disk is full, or nothing may be written there.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = save(contiguous, None if metadata is None else dict(metadata))
    before, partial = _files(path), path.with_suffix(".partial")
    written = _names(path, data)
    try:
        for number, name in enumerate(written):
            partial.write_bytes(data[number * PART_BYTES :][:PART_BYTES])
            os.replace(partial, name)
    except OSError:
        for name in (partial, *(name for name in written if name not in before)):
            name.unlink(missing_ok=True)
        raise
    for name in before:
        if name not in written:
            name.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file or its parts.

    Raises:
        CdvisionError: there is neither, a part is missing, or one is damaged.
    """
    files = written_files(path)
    data = b"".join(file.read_bytes() for file in files)
    if files != [path] and not files[0].name.endswith(f"{zlib.crc32(data):08x}"):
        raise CdvisionError(f"{path}: its parts are damaged: expected the checksum in their names")
    return dict(load(data))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file or of its parts, and nothing else; raises CdvisionError."""
    with open(written_files(path)[0], "rb") as file:
        # Eight bytes say how long the JSON header behind them is; see safetensors' format.
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))


def written_files(path: Path) -> list[Path]:
    """Return the file, or the parts of the newest state that is complete; raises CdvisionError."""
    states: dict[str, list[Path]] = {}
    for file in _files(path):
        states.setdefault(file.name.partition("of")[2] if file != path else "", []).append(file)
    complete = [
        files for state, files in states.items()
        if not state or len(files) == int(state.partition("-")[0])
    ]  # fmt: skip
    if not complete:
        found = ", ".join(file.name for file in _files(path)) or "nothing"
        raise CdvisionError(f"{path}: expected the file or all of its parts, found {found}")
    return max(complete, key=lambda files: files[-1].stat().st_mtime_ns)


def is_written(path: Path) -> bool:
    """Tell whether there is a file, or parts of one."""
    return bool(_files(path))


def _names(path: Path, data: bytes) -> list[Path]:
    count = -(-len(data) // PART_BYTES)
    if count <= 1:
        return [path]
    # As many digits as the count has: sorted names are the order of the parts.
    digits, checksum = len(str(count)), zlib.crc32(data)
    numbers = (f"{number:0{digits}}of{count}-{checksum:08x}" for number in range(1, count + 1))
    return [path.with_name(f"{path.name}.{number}") for number in numbers]


def _files(path: Path) -> list[Path]:
    """Return the file and all parts that lie there, of whatever state."""
    named = re.compile(re.escape(path.name) + r"(\.\d+of\d+-[0-9a-f]{8})?")
    if not path.parent.is_dir():
        return []
    return sorted(file for file in path.parent.iterdir() if named.fullmatch(file.name))
