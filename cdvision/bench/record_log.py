"""Finished records on disk, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError

Record = dict[str, Any]
Key = Mapping[str, str | int | float | None]


class RecordLog:
    """A file of JSON lines ``{"key": ..., "record": ...}``; each is written as it is measured.

    A line that was cut when something stopped its writer is left out, and measured again.

    Args:
        path: the file; begun where it does not exist, with its folder.

    Raises:
        CdvisionError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Record] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            if content and not content.endswith(b"\n"):  # what comes next needs its own line
                path.write_bytes(content + b"\n")
        except OSError as error:
            raise _unusable(path, error) from error
        for line in content.splitlines():
            self._read(line)

    def __len__(self) -> int:
        return len(self._records)

    def find(self, key: Key) -> Record | None:
        """Return the record that was measured under exactly this key, or None."""
        return self._records.get(_canonical(key))

    def append(self, key: Key, record: Record) -> None:
        """Keep a record, now and on disk."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"key": dict(key), "record": record}) + "\n")
        except OSError as error:
            raise _unusable(self.path, error) from error
        self._records[_canonical(key)] = record

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, record = entry["key"], entry["record"]
        except (ValueError, LookupError, TypeError):
            return
        if isinstance(key, dict) and isinstance(record, dict):
            self._records[_canonical(key)] = record


def _canonical(key: Key) -> str:
    return json.dumps(dict(key), sort_keys=True)


def _unusable(path: Path, error: OSError) -> CdvisionError:
    return CdvisionError(f"{path}: cannot keep records there ({error.strerror or error})")
