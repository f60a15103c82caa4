"""Compile cdvision/core to one shared library: ``python build_core.py [--target NAME]``.

One set of flags for every compiler: the target and its oldest processor are named, never the build
machine's own; products are not fused with sums, so floats are the same bits everywhere; faster
instructions are chosen at run time. Needs no package; ``setup.py`` and ``make`` call it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent / "cdvision" / "core"
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fwrapv", "-fvisibility=hidden", "-DNDEBUG")
CANDIDATES = ("cc", "gcc", "clang")


class Target(NamedTuple):
    """One platform: what the compilers, zig and wheels call it, and the library's name there."""

    cpu: str  # the baseline, as gcc and clang name it
    zig: str
    zig_cpu: str
    wheel: str
    library: str


TARGETS = {
    "x86_64-linux": Target(
        "x86-64", "x86_64-linux-gnu.2.17", "x86_64", "manylinux_2_17_x86_64", "libcdv.so"
    ),
    "aarch64-linux": Target(
        "armv8-a", "aarch64-linux-gnu.2.17", "generic", "manylinux_2_17_aarch64", "libcdv.so"
    ),
    "x86_64-macos": Target(
        "x86-64", "x86_64-macos.11.0", "x86_64", "macosx_11_0_x86_64", "libcdv.dylib"
    ),
    "aarch64-macos": Target(
        "armv8-a", "aarch64-macos.11.0", "apple_m1", "macosx_11_0_arm64", "libcdv.dylib"
    ),
    "x86_64-windows": Target("x86-64", "x86_64-windows-gnu", "x86_64", "win_amd64", "cdv.dll"),
    "aarch64-windows": Target("armv8-a", "aarch64-windows-gnu", "generic", "win_arm64", "cdv.dll"),
}


def host() -> str:
    """Return the name of the target that runs this."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = {"Darwin": "macos", "Windows": "windows"}.get(platform.system(), "linux")
    return f"{machine}-{system}"


def target_named(name: str) -> Target:
    """Return a target; of a Linux that is not listed, one with the compiler's own baseline."""
    if name in TARGETS:
        return TARGETS[name]
    cpu = name.removesuffix("-linux")
    if not name.endswith("-linux"):
        raise SystemExit(f"build_core: unknown target {name!r}: expected one of {sorted(TARGETS)}")
    return Target("", f"{cpu}-linux-gnu", "baseline", f"linux_{cpu}", "libcdv.so")


def sources() -> list[Path]:
    """Return the C files, in a fixed order."""
    return sorted(FOLDER.glob("*.c"))


def working_compiler() -> list[str] | None:
    """Return the command of a compiler that makes shared libraries here: $CC's, or a usual one."""
    asked = os.environ.get("CC")
    for command in [shlex.split(asked)] if asked else [[name] for name in CANDIDATES]:
        if _works(command):
            return command
    return None


def _works(command: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <stdlib.h>\nint probe(void) { return abs(-1); }\n")
        output = ["-shared", "-fPIC", "-o", str(Path(folder, "probe.so"))]
        try:
            done = subprocess.run([*command, str(source), *output], capture_output=True)  # noqa: S603
        except OSError:
            return False
        return done.returncode == 0


def zig_compiler() -> list[str]:
    """Return the command of the compiler in the package ``ziglang``."""
    return [sys.executable, "-m", "ziglang", "cc"]


def command_for(compiler: list[str], target: Target, output: Path) -> list[str]:
    """Return the whole command that compiles the core for a target."""
    if "ziglang" in compiler or "zig" in Path(compiler[0]).name:
        # zig takes the build machine's processor and adds traps unless it is told otherwise.
        machine = ["-target", target.zig, f"-mcpu={target.zig_cpu}", "-fno-sanitize=undefined"]
    else:
        machine = [f"-march={target.cpu}"] if target.cpu else []
    windows = target.library.endswith(".dll")
    link = ["-shared", "-s"] if not target.library.endswith(".dylib") else ["-shared"]
    link += [] if windows else ["-fPIC"]
    files = [str(source) for source in sources()]
    libraries = [] if windows else ["-lm"]
    return [*compiler, *machine, *FLAGS, *link, *files, "-o", str(output), *libraries]


def build(output_folder: Path, *, compiler: list[str] | None = None, target: str = "") -> Path:
    """Compile the library into a folder; returns its path.

    Without ``compiler`` it is the system's, or zig's where that fails or a target is named: zig
    brings each target's C library, and an old one.

    Raises:
        SystemExit: nothing compiles it; the message says what to do.
    """
    name = target or host()
    platform_target = target_named(name)
    chosen = compiler or (None if target else working_compiler()) or zig_compiler()
    output_folder.mkdir(parents=True, exist_ok=True)
    output = output_folder / platform_target.library
    # Written beside its place and moved there: a process that has the old one loaded keeps it.
    with tempfile.TemporaryDirectory(dir=output_folder) as folder:
        made = Path(folder, output.name)
        done = subprocess.run(  # noqa: S603
            command_for(chosen, platform_target, made), capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(
                f"build_core: {shlex.join(chosen)} failed; install a C compiler (Debian: apt-get "
                f"install gcc libc6-dev) or the package ziglang\n{done.stderr}"
            )
        made.replace(output)
    return output


def main() -> None:
    """Compile for this machine into the source tree, or as the options say."""
    parser = argparse.ArgumentParser(description="compile cdvision/core")
    parser.add_argument("--compiler", help="command of a compiler; 'zig' is the one of ziglang")
    parser.add_argument("--target", default="", choices=["", *TARGETS])
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the library")
    options = parser.parse_args()
    compiler = shlex.split(options.compiler) if options.compiler else None
    if options.compiler == "zig":
        compiler = zig_compiler()
    print(build(options.output, compiler=compiler, target=options.target))  # noqa: T201


if __name__ == "__main__":
    main()
