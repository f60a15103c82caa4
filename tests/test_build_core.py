"""Building the core: one set of flags, targets by name, what happens where there is no compiler."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cdvision.core import library

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

import build_core  # noqa: E402

HOST = build_core.host()
SYSTEM = pytest.mark.skipif(build_core.working_compiler() is None, reason="no C compiler here")


@pytest.mark.parametrize("name", build_core.TARGETS)
def test_every_compiler_gets_the_same_flags_and_a_named_processor(
    name: str, tmp_path: Path
) -> None:
    target = build_core.target_named(name)
    for compiler in (["gcc"], build_core.zig_compiler()):
        command = build_core.command_for(compiler, target, tmp_path / target.library)
        assert {*build_core.FLAGS} <= {*command}
        assert not any("native" in word for word in command)
        named = [word for word in command if word.startswith(("-march=", "-mcpu="))]
        assert named == [
            f"-march={target.cpu}" if compiler == ["gcc"] else f"-mcpu={target.zig_cpu}"
        ]
        assert sum(word.endswith(".c") for word in command) == len(build_core.sources()) > 10


def test_flags_keep_floats_as_they_are() -> None:
    assert "-ffp-contract=off" in build_core.FLAGS
    assert not any("fast-math" in flag for flag in build_core.FLAGS)


@SYSTEM
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_build_is_a_library_of_this_abi(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    built = build_core.build(tmp_path, compiler=[compiler])
    assert built.name == library.NAME
    assert [path.name for path in tmp_path.iterdir()] == [library.NAME]  # no scratch left
    assert library.load_library(built).cdv_abi() == library.ABI


@SYSTEM
def test_a_failed_build_says_why_and_keeps_the_old_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / build_core.target_named(HOST).library
    old.write_bytes(b"old")
    monkeypatch.setattr(build_core, "FLAGS", ("--no-such-flag-of-a-compiler",))
    with pytest.raises(SystemExit, match="ziglang"):
        build_core.build(tmp_path)
    assert old.read_bytes() == b"old"
    assert len([*tmp_path.iterdir()]) == 1


def test_without_a_compiler_the_backend_asks_for_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import build_backend; print(build_backend.get_requires_for_build_wheel())"
    for path, cross, expected in (
        ("/nonexistent", "", True),
        (os.environ["PATH"], "aarch64-linux", True),
        (os.environ["PATH"], "", build_core.working_compiler() is None),
    ):
        variables = {**os.environ, "PATH": path, "CDVISION_TARGET": cross}
        variables.pop("CC", None)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, env=variables, capture_output=True,
            text=True,
        )  # fmt: skip
        if "No module named 'setuptools'" in done.stderr:
            pytest.skip("setuptools is not installed here")
        assert ("ziglang" in done.stdout) is expected, done.stderr


def test_a_missing_or_foreign_library_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImportError, match=r"not built.*build_core\.py"):
        library.load_library(tmp_path / library.NAME)
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    with pytest.raises(ImportError, match="another version"):
        library.load_library(library.FOLDER / library.NAME)


def test_an_import_says_that_a_c_file_is_newer(tmp_path: Path) -> None:
    built, source = tmp_path / library.NAME, tmp_path / "rans.c"
    source.write_text("")
    built.write_bytes(b"")
    os.utime(built, (100, 100))
    with pytest.warns(UserWarning, match="older than its C files"):
        library.warn_if_stale(built)
    os.utime(source, (50, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        library.warn_if_stale(built)


def test_a_handle_frees_what_it_holds_once() -> None:
    freed: list[int] = []
    handle = library.Handle(ctypes.c_void_p(12), freed.append)
    assert not freed
    del handle
    assert freed == [12]
