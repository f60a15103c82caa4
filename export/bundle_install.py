"""The part of a bundle that pip installs: cdvision's wheel, pins, and wheels for offline use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cdvision.errors import CdvisionError
from cdvision.version import __version__

ENGINE_REQUIREMENTS = ("onnx",)  # `cdvision export` on the target needs it
WHEELS = "wheels"  # folder of an offline bundle
MODELS = "packages"  # folders of models in cdvision's wheel; a bundle brings its own part of one
# glibc 2.35 is JetPack 6's. pip takes wheels for an older glibc only where each one is named.
GLIBC_MINORS = range(35, 16, -1)
PLATFORMS = ("aarch64-linux", "x86_64-linux")


@dataclass(frozen=True)
class InstallOptions:
    """How a bundle is installed on its target.

    Attributes:
        wheel: cdvision's wheel for the target; where None, pip makes or fetches one here.
        offline: version of the target's Python, such as ``"3.12"``, for a bundle with every wheel
            for the platform; where None, the target's pip asks an index.
        platform: the target, one of ``PLATFORMS``.
    """

    wheel: Path | None = None
    offline: str | None = None
    platform: str = PLATFORMS[0]


MADE_HERE = InstallOptions()


def write_install(folder: Path, options: InstallOptions, extra: Sequence[str] = ()) -> None:
    """Write cdvision's wheel, pinned requirements and, for offline use, all of their wheels.

    Args:
        folder: of the bundle; made where missing.
        options: the wheel, and whether the target has a network.
        extra: packages of ``requirements-engines.txt``; no such file where empty.

    Raises:
        CdvisionError: pip makes or finds no wheel.
    """
    wheel = write_wheel(folder, options.wheel, options.platform)
    needed = _needed(metadata.distribution("cdvision"))
    base, whole = installed_pins(needed), installed_pins([*needed, *extra])
    source = []
    if options.offline is not None:
        download_wheels(folder / WHEELS, whole, options.offline, options.platform)
        source = ["--no-index", f"--find-links {WHEELS}"]
    _write_lines(folder / "requirements.txt", [*source, *base, f"./{wheel.name}"])
    if extra:
        rest = [pin for pin in whole if pin not in base]
        _write_lines(folder / "requirements-engines.txt", [*source, *rest])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_wheel(folder: Path, source: Path | None = None, platform: str = PLATFORMS[0]) -> Path:
    """Write cdvision's wheel without its models into a folder and return its path.

    Args:
        folder: made where missing.
        source: the target's wheel of this version; where None, pip makes or fetches one from the
            place that cdvision was installed from.
        platform: of the target, one of ``PLATFORMS``.

    Raises:
        CdvisionError: pip makes no wheel, or it is of another version or platform.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole = source or _wheel_from_pip(Path(scratch), platform)
        if not whole.name.startswith(f"cdvision-{__version__}-"):
            raise CdvisionError(f"expected a wheel of cdvision {__version__}, found {whole.name}")
        if platform.removesuffix("-linux") not in whole.name:
            raise CdvisionError(
                f"expected a wheel for {platform}, found {whole.name} (--platform says which "
                "target, --wheel takes its wheel)"
            )
        return _without_models(whole, folder / whole.name)


def _wheel_from_pip(scratch: Path, platform: str) -> Path:
    """Build or fetch the whole wheel; what a build leaves behind goes to ``scratch`` too."""
    config, origin = scratch / "setup.cfg", _origin()
    config.write_text(f"[build]\nbuild_base = {scratch}/build\n[egg_info]\negg_base = {scratch}\n")
    variables = {"DIST_EXTRA_CONFIG": str(config)}
    if platform != host_platform():
        variables["CDVISION_TARGET"] = platform  # setup.py builds the core for it
    if origin == f"cdvision=={__version__}":
        only = ["--only-binary=:all:", *platform_tags(platform)]
        _pip("download", "--no-deps", f"--dest={scratch}", *only, origin)
    else:
        _pip("wheel", "--no-deps", f"--wheel-dir={scratch}", origin, **variables)
    (wheel,) = scratch.glob("cdvision-*.whl")
    return wheel


def _origin() -> str:
    """Say where pip finds this very cdvision: checkout, the wheel it came from, or the index."""
    checkout = Path(__file__).resolve().parent.parent  # export/ stands at its top
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    recorded = metadata.distribution("cdvision").read_text("direct_url.json")
    return json.loads(recorded)["url"] if recorded else f"cdvision=={__version__}"


def host_platform() -> str:
    """Return this machine as ``PLATFORMS`` names it."""
    return sysconfig.get_platform().rpartition("-")[2] + "-linux"


def platform_tags(platform: str) -> list[str]:
    """Return pip's options for the wheels that a platform of ``PLATFORMS`` takes."""
    machine = platform.removesuffix("-linux")
    tags = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
    return [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]


def _without_models(source: Path, target: Path) -> Path:
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as part:
        for entry in whole.infolist():
            if MODELS in entry.filename.split("/"):
                continue
            content = whole.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):  # one line a file, its path first
                lines = content.decode().splitlines(keepends=True)
                kept = (line for line in lines if MODELS not in line.split(",")[0].split("/"))
                content = "".join(kept).encode()
            part.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return target


def installed_pins(names: Sequence[str]) -> list[str]:
    """Pin packages, and all that they need, to the versions installed here: ``numpy==2.4.6``."""
    found: dict[str, str] = {}
    waiting = [*names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()  # the index's spelling
        try:
            about = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for other systems
            continue
        if name not in found:
            found[name] = about.version
            waiting += _needed(about)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _needed(about: metadata.Distribution) -> list[str]:
    """Names of what a package needs without extras; their markers are left out of account."""
    # "name[extra]>=1; marker": only the marker says that an extra asks for it.
    texts = [text for text in about.requires or () if "extra" not in text.partition(";")[2]]
    return [found[0] for text in texts if (found := re.match(r"[\w.-]+", text))]


def download_wheels(
    folder: Path, requirements: Sequence[str], python: str, platform: str = PLATFORMS[0]
) -> None:
    """Download the wheels of requirements, and of what they need, for a platform's Python.

    Raises:
        CdvisionError: a package has no such wheel, or the index does not answer.
    """
    _pip("download", f"--dest={folder}", f"--python-version={python}", "--implementation=cp",
         "--only-binary=:all:", *platform_tags(platform), *requirements)  # fmt: skip


def _pip(command: str, *arguments: str, **variables: str) -> None:
    line = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(  # noqa: S603
        [*line, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        # The cause stands last, below pip's own traceback or above hints on where to look.
        causes = [line for line in done.stderr.splitlines() if "rror" in line]
        raise CdvisionError(f"pip {command} failed: {causes[-1] if causes else done.stderr}")
