"""Writes a wheel of this very installation, whether it came from a wheel or stands in a checkout.

A bundle must hold the code that it was tested with. Building from the sources would need them, a
build backend and the network; the installed files and their metadata are always there. Models stay
out: a bundle brings its own part of one.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import cdvision
from cdvision.errors import CdvisionError
from cdvision.version import __version__

SUFFIXES = (".py", ".typed", ".txt", ".html", ".json", ".md")
PACKAGES = "packages"  # of the models; a bundle brings its own part of one
WHEEL = "Wheel-Version: 1.0\nGenerator: cdvision\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same files give the same wheel on every day


def write_wheel(folder: Path) -> Path:
    """Write ``cdvision-VERSION-py3-none-any.whl`` into a folder and return its path.

    Raises:
        CdvisionError: the installation has no metadata, or that of another version.
    """
    installed = _installed()
    about = f"cdvision-{__version__}.dist-info"
    files = {**_code_files(), **_metadata_files(installed, about)}
    files[f"{about}/RECORD"] = _record(files, f"{about}/RECORD")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"cdvision-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path


def _installed() -> metadata.Distribution:
    """Find the metadata that pip wrote; setuptools leaves another kind in a checkout."""
    for found in metadata.distributions(name="cdvision"):
        if found.read_text("METADATA") is None:
            continue
        if found.version != __version__:
            raise CdvisionError(
                f"cdvision {__version__} was installed as {found.version}: install it again"
            )
        return found
    raise CdvisionError(
        "a bundle is made from an installed cdvision: run `pip install -e .` in the checkout first"
    )


def _code_files() -> dict[str, bytes]:
    """Every file of the package by its path in the wheel; heads and export may lie elsewhere."""
    from cdvision import export, heads

    roots = {"cdvision": cdvision, "cdvision/heads": heads, "cdvision/export": export}
    return {
        f"{prefix}/{name}": content
        for prefix, module in roots.items()
        for name, content in _files_below(Path(module.__path__[0]))
    }


def _files_below(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.suffix in SUFFIXES and path.is_file() and PACKAGES not in relative.parts:
            yield relative.as_posix(), path.read_bytes()


def _metadata_files(installed: metadata.Distribution, about: str) -> dict[str, bytes]:
    files = {f"{about}/WHEEL": WHEEL.encode()}
    for path in installed.files or ():
        kept = path.name in ("METADATA", "entry_points.txt") or path.parent.name == "licenses"
        if kept and path.parts[0].endswith(".dist-info"):
            files["/".join((about, *path.parts[1:]))] = path.read_binary()
    return files


def _record(files: Mapping[str, bytes], own: str) -> bytes:
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    return "\n".join([*lines, f"{own},,", ""]).encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
