"""The build backend: setuptools, and the package ``ziglang`` only where no C compiler works."""

from __future__ import annotations

import os

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

import build_core

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(settings: dict[str, str] | None = None) -> list[str]:
    """Return what pip installs into the build environment first."""
    return build_meta.get_requires_for_build_wheel(settings) + _compiler()


def get_requires_for_build_editable(settings: dict[str, str] | None = None) -> list[str]:
    """Return what pip installs into the build environment first."""
    return build_meta.get_requires_for_build_editable(settings) + _compiler()


def _compiler() -> list[str]:
    cross = bool(os.environ.get("CDVISION_TARGET"))
    return ["ziglang"] if cross or not build_core.working_compiler() else []
