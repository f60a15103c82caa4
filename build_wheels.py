"""``make wheels``: an sdist and a wheel for each platform in dist/, checked; then every Python.

::

    python build_wheels.py                 sdist, six wheels, what auditwheel says of Linux's
    python build_wheels.py --matrix        the same, and this machine's wheel in each CPython found

Wheels are built by zig, which brings each target's C library. Needs the packages build, auditwheel,
ziglang, setuptools and wheel, which ``make`` installs. Those for macOS and Windows have never
been run. A wheel serves every CPython, since nothing in it uses CPython's C interface.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_core

REPOSITORY = Path(__file__).resolve().parent
DIST = REPOSITORY / "dist"
OLDEST = (3, 10)
SMOKE = """
import sys, cdvision
bits = cdvision.encode(sys.argv[1])
found = cdvision.detect(bits)
assert len(found) > 0, found
print(f"Python {sys.version.split()[0]}: {len(bits)} bytes, {len(found)} detections")
"""


def main() -> None:
    """Build, check, and say what was made."""
    parser = argparse.ArgumentParser(description="build cdvision's sdist and wheels")
    parser.add_argument("--matrix", action="store_true", help="try each CPython of this machine")
    parser.add_argument("--only", choices=build_core.TARGETS, help="one platform")
    options = parser.parse_args()
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", str(DIST), str(REPOSITORY))
    for target in [options.only] if options.only else build_core.TARGETS:
        print(build_wheel(target), flush=True)  # noqa: T201
    for wheel in sorted(DIST.glob("*manylinux*.whl")):
        run(sys.executable, "-m", "auditwheel", "show", str(wheel))
    if options.matrix:
        try_pythons(find_wheel(build_core.host()))


def build_wheel(target: str) -> str:
    """Build one platform's wheel and return its name."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "setup.cfg")
        config.write_text(f"[build]\nbuild_base = {scratch}/build\n")
        variables = {"CDVISION_TARGET": target, "DIST_EXTRA_CONFIG": str(config)}
        pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation"]
        run(*pip, f"--wheel-dir={DIST}", str(REPOSITORY), **variables)
    return find_wheel(target).name


def find_wheel(target: str) -> Path:
    """Return the wheel of a platform; exits where there is none."""
    tag = build_core.target_named(target).wheel
    found = sorted(DIST.glob(f"*-py3-none-{tag}.whl"))
    if not found:
        sys.exit(f"build_wheels: no wheel for {target} in {DIST}")
    return found[0]


def try_pythons(wheel: Path) -> None:
    """Install a wheel into a new environment of each CPython, and detect from an encoded photo."""
    photo = REPOSITORY / "examples" / "photos" / "astronaut.jpg"
    for python in interpreters():
        with tempfile.TemporaryDirectory() as folder:
            run(str(python), "-m", "venv", folder)
            inside = str(Path(folder, "bin", "python"))
            run(inside, "-m", "pip", "install", "-qq", "--disable-pip-version-check", str(wheel))
            run(inside, "-P" if version_of(python) >= (3, 11) else "-I", "-c", SMOKE, str(photo))


def interpreters() -> list[Path]:
    """Return a CPython of each version from the oldest on: of pyenv's, and those on the path."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    paths = [*pyenv.glob("*/bin/python3")]
    on_path = (shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], 20))
    paths += [Path(name) for name in on_path if name and ".pyenv/shims" not in name]
    found = {version: path for path in paths if (version := version_of(path)) >= OLDEST}
    return [found[version] for version in sorted(found)]


def version_of(python: Path) -> tuple[int, ...]:
    """Return an interpreter's version, (0,) of one that does not answer or is no CPython."""
    ask = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True)  # noqa: S603
    name, *version = done.stdout.split() or ["none"]
    return tuple(map(int, version)) if name == "cpython" else (0,)


def run(*command: str, **variables: str) -> None:
    """Run a command; ends the whole with one line where it fails."""
    done = subprocess.run(command, env={**os.environ, **variables})  # noqa: S603
    if done.returncode:
        sys.exit(f"build_wheels: {' '.join(command[:6])} ... failed ({done.returncode})")


if __name__ == "__main__":
    main()
