"""Every package of the base install has an aarch64 wheel: what the index said, in a lock file."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

import pytest

requirements = pytest.importorskip("packaging.requirements")

from packaging.tags import Tag  # noqa: E402
from packaging.utils import canonicalize_name, parse_wheel_filename  # noqa: E402

from cdvision.export.wheel_lock import ENGINES, RECEIVER, WheelLock, read_lock  # noqa: E402

REPOSITORY = Path(__file__).parent.parent
TARGET = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "aarch64"}


@pytest.fixture(scope="module")
def lock() -> WheelLock:
    return read_lock()


def needs(text: str, python: str) -> str | None:
    """The name that a requirement asks for on the target, or None where it does not apply."""
    requirement = requirements.Requirement(text)
    marker = requirement.marker
    environment = {**TARGET, "python_version": python, "python_full_version": f"{python}.0"}
    if marker is not None and not marker.evaluate({**environment, "extra": ""}):
        return None
    return canonicalize_name(requirement.name)


def runs_on(tag: Tag, python: str) -> bool:
    """Whether a wheel of this tag runs on CPython of this version on aarch64, with glibc 2.35."""
    major, minor = (int(part) for part in python.split("."))
    own = f"cp{major}{minor}"
    interpreter = tag.interpreter in (own, "py3") or (
        tag.abi == "abi3" and int(tag.interpreter.removeprefix(f"cp{major}")) <= minor
    )
    platforms = ("any", *read_lock().platforms)
    return interpreter and tag.abi in (own, "abi3", "none") and tag.platform in platforms


def test_the_base_install_is_pinned_within_its_limits(lock: WheelLock) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        requirement = requirements.Requirement(text)
        package = lock.packages[canonicalize_name(requirement.name)]
        assert package.needed_for == RECEIVER
        assert requirement.specifier.contains(package.version), text


def test_pins_need_nothing_that_is_not_pinned(lock: WheelLock) -> None:
    for name, package in lock.packages.items():
        for python in lock.pythons:
            for text in package.requires:
                needed = needs(text, python)
                if needed is None:
                    continue
                assert needed in lock.packages, f"{name} needs {text}"
                version = lock.packages[needed].version
                assert requirements.Requirement(text).specifier.contains(version), f"{name}: {text}"


def test_every_pin_has_an_aarch64_wheel(lock: WheelLock) -> None:
    assert {"numpy", "numba", "llvmlite", "onnxruntime", "pillow"} <= lock.packages.keys()
    for name, package in lock.packages.items():
        assert set(package.wheels) == set(lock.pythons) >= {"3.11", "3.12"}
        for python, file in package.wheels.items():
            found, version, _, tags = parse_wheel_filename(file)
            assert (found, str(version)) == (name, package.version)
            assert any(runs_on(tag, python) for tag in tags), file


def test_no_pin_brings_torch(lock: WheelLock) -> None:
    assert not {"torch", "torchvision", "compressai"} & lock.packages.keys()
    assert any(pin.startswith("onnx==") for pin in lock.requirements(ENGINES))


def test_the_lock_says_when_the_index_was_asked(lock: WheelLock) -> None:
    assert date(2026, 1, 1) <= date.fromisoformat(lock.taken) <= date.today()


def test_the_check_refuses_wheels_for_other_machines() -> None:
    def fits(file: str, python: str = "3.12") -> bool:
        return any(runs_on(tag, python) for tag in parse_wheel_filename(file)[3])

    assert fits("a-1-cp312-cp312-manylinux_2_17_aarch64.manylinux2014_aarch64.whl")
    assert fits("a-1-cp39-abi3-manylinux_2_28_aarch64.whl")
    assert fits("a-1-py3-none-any.whl")
    assert not fits("a-1-cp312-cp312-manylinux_2_28_x86_64.whl")
    assert not fits("a-1-cp311-cp311-manylinux_2_28_aarch64.whl")
    assert not fits("a-1-cp312-cp312-manylinux_2_39_aarch64.whl")
