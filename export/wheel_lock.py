"""The pinned packages of a receiver, and the aarch64 wheel that each of them has.

``aarch64_lock.json`` is what the package index said on the day that stands in it; ``make
aarch64-lock`` asks again (``refresh_lock.py``). Bundles take their requirements from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOCK_FILE = Path(__file__).parent / "aarch64_lock.json"
RECEIVER, ENGINES = "receiver", "engines"


@dataclass(frozen=True)
class LockedPackage:
    """One package at one version.

    Attributes:
        version: as pinned.
        needed_for: ``"receiver"``: the base install needs it; ``"engines"``: only
            ``cdvision export`` on the target does.
        requires: its own requirements without extras, in pip's notation.
        wheels: file name of the wheel that pip takes, by version of Python.
    """

    version: str
    needed_for: str
    requires: tuple[str, ...]
    wheels: Mapping[str, str]


@dataclass(frozen=True)
class WheelLock:
    """All packages of a receiver.

    Attributes:
        taken: day on which the index was asked, as YYYY-MM-DD.
        platforms: tags of the wheels that were allowed.
        pythons: versions of Python that all pins have wheels for.
        packages: by name, in lower case.
    """

    taken: str
    platforms: tuple[str, ...]
    pythons: tuple[str, ...]
    packages: Mapping[str, LockedPackage]

    def requirements(self, needed_for: str) -> list[str]:
        """Pins such as ``numpy==2.4.6`` of what is needed for one purpose, by name."""
        return [
            f"{name}=={package.version}"
            for name, package in sorted(self.packages.items())
            if package.needed_for == needed_for
        ]

    def to_json(self) -> str:
        """Serialise for ``aarch64_lock.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_lock() -> WheelLock:
    """Read the lock that came with this version."""
    values: dict[str, Any] = json.loads(LOCK_FILE.read_text(encoding="utf-8"))
    packages = {
        name: LockedPackage(**{**package, "requires": tuple(package["requires"])})
        for name, package in values["packages"].items()
    }
    return WheelLock(
        values["taken"], tuple(values["platforms"]), tuple(values["pythons"]), packages
    )
