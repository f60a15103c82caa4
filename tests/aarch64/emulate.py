"""`make test-aarch64`: the receiver on an emulated aarch64 processor.

::

    emulator (qemu, one Debian package of this machine)
       └─ arm64 Python from Debian's packages, unpacked ─ aarch64 wheels of the bundle's pins
              ├─ check_cases.py: every golden stream and every codec, bit by bit
              └─ smoke_test.py of a receiver bundle of `small`: its answers, in ONNX Runtime

Everything lies in build/aarch64, and what was fetched or compiled is kept for the next time;
nothing else is changed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from make_cases import write_cases

import cdvision
from cdvision.export.bundle import write_receiver_bundle
from cdvision.export.bundle_install import (
    download_wheels,
    installed_pins,
    write_wheel,
)
from cdvision.export.tensorrt_builder import TensorrtOptions
from cdvision.export.tensorrt_profiles import ShapeRange

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
WORK = REPOSITORY / "build" / "aarch64"
ROOT, SITE, CODE = (WORK / name for name in ("root", "site", "code"))
WHEELS, CASES, BUNDLE = (WORK / name for name in ("wheels", "cases", "bundle"))
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
CORE = "cortex-a76"  # Orin's is the A78AE; qemu's own default has vector units that no Jetson has
PACKAGES = ("python3", "libstdc++6", "libgcc-s1")
NO_EMULATOR = """\
make test-aarch64 needs an emulator, which is one package of Debian and Ubuntu:
    apt-get install qemu-user-static"""


def main() -> None:
    """Set up what is missing, make cases and bundle here, and check them there."""
    emulator = find_emulator()
    WORK.mkdir(parents=True, exist_ok=True)
    if not ROOT.is_dir():
        unpack_python()
    describe_processor()
    install_wheels()
    for folder in (CASES, BUNDLE):
        shutil.rmtree(folder, ignore_errors=True)
    write_cases(CASES)
    lay_out_code(write_wheel(WORK))
    run([*emulator, str(python()), str(HERE / "check_cases.py"), str(CASES)], environment())
    write_bundle()
    run([*emulator, str(python()), str(BUNDLE / "smoke_test.py")], environment())


def find_emulator() -> list[str]:
    """Return the start of a command line that runs arm64 programs; exits where there is none."""
    if platform.machine() == "aarch64":
        sys.exit("this machine is aarch64: `make test` is the proof here")
    found = [path for name in EMULATORS if (path := shutil.which(name)) is not None]
    if not found:
        sys.exit(NO_EMULATOR)
    return [found[0], "-L", str(ROOT)]


def unpack_python() -> None:
    """Unpack Debian's arm64 Python and what it needs, by lists of packages of our own."""
    lists, archives, root = WORK / "lists", WORK / "debs", WORK / "root.part"
    for folder in (lists / "partial", archives, root):
        folder.mkdir(parents=True, exist_ok=True)
    options = ["APT::Architecture=arm64", "APT::Architectures=arm64", f"Dir::State::Lists={lists}",
               "Dir::State::status=/dev/null", "APT::Sandbox::User=",
               f"Dir::Cache={WORK}"]  # fmt: skip
    apt = ["apt-get", "-qq", *(f"-o{option}" for option in options)]
    run([*apt, "update"])
    wanted = [*apt, "--no-install-recommends", "--simulate", "install", *PACKAGES]
    planned = subprocess.run(wanted, capture_output=True, text=True, check=True).stdout
    names = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
    run([*apt, "download", *names], cwd=archives)
    for archive in sorted(archives.glob("*.deb")):
        run(["dpkg", "-x", str(archive), str(root)])
    root.rename(ROOT)


def describe_processor() -> None:
    """Write the cpuinfo that Linux shows on CORE: ONNX Runtime reads it, and fails on x86's."""
    features = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc asimddp"
    lines = [f"Features\t: {features}", "CPU implementer\t: 0x41", "CPU architecture: 8",
             "CPU variant\t: 0x4", "CPU part\t: 0xd0b", "CPU revision\t: 1"]  # fmt: skip
    cores = [[f"processor\t: {number}", *lines, ""] for number in range(os.cpu_count() or 1)]
    path = ROOT / "proc" / "cpuinfo"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(line for core in cores for line in core) + "\n", encoding="utf-8")


def install_wheels() -> None:
    """Unpack the aarch64 wheels of the bundle's pins into a folder, where the pins changed."""
    pins = [pin for pin in installed_pins(["cdvision"]) if not pin.startswith("cdvision==")]
    installed = SITE / "pins.txt"
    if installed.is_file() and installed.read_text(encoding="utf-8").splitlines() == pins:
        return
    for folder in (SITE, WHEELS):
        shutil.rmtree(folder, ignore_errors=True)
    download_wheels(WHEELS, pins, python().name.removeprefix("python"))
    for wheel in WHEELS.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(SITE)
    installed.write_text("\n".join(pins), encoding="utf-8")


def write_bundle() -> None:
    """Write the receiver bundle of the default model, with streams of two photos."""
    model, photos = cdvision.load(), sorted((REPOSITORY / "examples" / "photos").glob("*.jpg"))
    options = TensorrtOptions("fp32", ShapeRange.for_card(model.card))
    write_receiver_bundle(model, BUNDLE, options, photos=photos[:2])


def lay_out_code(wheel: Path) -> None:
    """Unpack cdvision's wheel; what is as it was stays, so that compiled code is found again."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path, content = CODE / name, archive.read(name)
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def python() -> Path:
    """Return the arm64 interpreter; exits where there is none."""
    found = sorted((ROOT / "usr" / "bin").glob("python3.[0-9]*[0-9]"))
    if not found:
        sys.exit(f"{ROOT} holds no Python: remove it and run this again")
    return found[-1]


def environment() -> dict[str, str]:
    """Variables of the emulated process: a processor like Jetson Orin's, our packages alone."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        "QEMU_CPU": CORE,
        **os.environ,
        **threads,
        "PYTHONPATH": f"{CODE}:{SITE}",
        "PYTHONUNBUFFERED": "1",
    }


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a command; a failure ends the whole with its status."""
    done = subprocess.run(command, env=env, cwd=cwd, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} {' '.join(command[-2:])} failed with status {done.returncode}")


if __name__ == "__main__":
    main()
