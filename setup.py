"""Builds the native core (``build_core.py``) into the package; the rest is in pyproject.toml.

The library has no CPython API in it, so one wheel a platform serves every Python.
"""

import os
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
import build_core

# The platform to build for, where it is not this machine's: `make wheels` sets it.
TARGET = os.environ.get("CDVISION_TARGET", "")


class BuildWithCore(build_py):
    """Compiles the core into the package: into the source tree for an editable install."""

    def run(self) -> None:  # noqa: D102
        super().run()
        folder = build_core.FOLDER
        if not self.editable_mode:
            folder = Path(self.build_lib, "cdvision", "core")
        self.built = build_core.build(folder, target=TARGET)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:  # noqa: D102
        built = [] if self.editable_mode else [str(self.built)]
        return [*super().get_outputs(include_bytecode), *built]


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3 of one platform."""

    def get_tag(self) -> tuple[str, str, str]:  # noqa: D102
        platform = super().get_tag()[2]
        return "py3", "none", build_core.TARGETS[TARGET].wheel if TARGET else platform


class PlatformDistribution(Distribution):
    """Holds compiled code, though no extension module."""

    def has_ext_modules(self) -> bool:  # noqa: D102
        return True


setup(
    cmdclass={"build_py": BuildWithCore, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
)
