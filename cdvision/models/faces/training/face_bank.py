"""Decoded, aligned training faces with their attributes, and their codes, computed once."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.image_files import PHOTO_SUFFIXES
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.training.photo_bank import photo_contents

HELD_OUT = 0.1  # last share of the training faces: thresholds, calibration and looks, no gradients
SHIFT, ZOOM, JITTER = 0.05, 0.08, 0.15  # of the side, of the size, of brightness and contrast
FILE = "codes.safetensors"
BATCH = 32


class Faces(NamedTuple):
    """A batch: images (N, 3, R, R) float32 in 0..255, attributes (N, A) float32, 0 or 1."""

    images: Tensor
    attributes: Tensor


@dataclass(frozen=True)
class FaceBank:
    """Faces of one part of a set, on one device."""

    images: Tensor  # (M, 3, R, R) uint8
    attributes: Tensor  # (M, A) float32, 0 or 1; A is 0 without labels
    names: tuple[str, ...]  # of the attributes

    def batch(self, size: int, rng: np.random.Generator, *, vary: bool = False) -> Faces:
        """Draw faces, half of them mirrored; ``vary`` them a little, as imperfect crops are."""
        chosen = torch.from_numpy(rng.integers(len(self.images), size=size))
        chosen = chosen.to(self.images.device)
        images = self.images[chosen].float()
        # Faces are about symmetric: twice as many for nothing.
        images = torch.where(_drawn(rng, size, images, (0, 1)) < 0.5, images.flip(3), images)
        return Faces(_vary(images, rng) if vary else images, self.attributes[chosen])

    def batches(self, size: int) -> Iterator[Faces]:
        """Return all faces in order, as they are."""
        parts = zip(torch.split(self.images, size), torch.split(self.attributes, size), strict=True)
        return (Faces(images.float(), attributes) for images, attributes in parts)


def read_face_banks(
    faces: Path, labels: Path | None, *, resolution: int, device: torch.device,
    limit: int | None = None,
) -> tuple[FaceBank, FaceBank]:  # fmt: skip
    """Decode the training faces and return those to train on, and the last tenth, held out.

    Args:
        faces: a folder or tar of square, aligned faces; sorted by name.
        labels: csv with a column ``file``, maybe ``split`` (rows other than ``train`` are left
            out), and one 0/1 column an attribute.
        resolution: side to which faces are resized.
        device: where they are kept.
        limit: read the first faces only.

    Raises:
        CdvisionError: no face, a face without a label, or a label that is not 0 or 1.
    """
    table = {} if labels is None else _read_labels(labels)
    files = sorted(_files(faces, None if labels is None else table))[:limit]
    if len(files) < 2:
        raise CdvisionError(f"{faces}: expected at least two training faces, found {len(files)}")
    # Decoding leaves Python's lock: two threads are about twice as fast as one.
    with ThreadPoolExecutor(2) as pool:
        decoded = list(pool.map(lambda file: _decode(file[1], resolution), files))
    images = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().to(device)
    names = tuple(next(iter(table.values()))) if table else ()
    values = [[float(table[file][name]) for name in names] for file, _ in files]
    attributes = torch.tensor(values).view(len(files), len(names)).to(device)
    # By name, not drawn: every stage and the benchmark hold out the same faces.
    kept = len(files) - max(1, round(HELD_OUT * len(files)))
    return (
        FaceBank(images[:kept], attributes[:kept], names),
        FaceBank(images[kept:], attributes[kept:], names),
    )


def _read_labels(path: Path) -> dict[str, dict[str, int]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("split", "train") == "train"]
    if not rows or "file" not in rows[0]:
        raise CdvisionError(f"{path}: expected a column `file` and training rows, found none")
    names = [name for name in rows[0] if name not in ("file", "split")]
    for row in rows:
        if any(row[name] not in ("0", "1") for name in names):
            raise CdvisionError(f"{path}: {row['file']}: expected 0 or 1 for every attribute")
    return {row["file"]: {name: int(row[name]) for name in names} for row in rows}


def _files(source: Path, wanted: Mapping[str, object] | None) -> Iterator[tuple[str, bytes]]:
    def keep(name: str) -> bool:
        return name.lower().endswith(PHOTO_SUFFIXES) and (wanted is None or name in wanted)

    return ((Path(name).name, data) for name, data in photo_contents(source, keep))


def _decode(data: bytes, resolution: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
    if picture.size != (resolution, resolution):
        picture = picture.resize((resolution, resolution), Image.Resampling.BOX)
    return np.asarray(picture)


def _vary(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift, zoom and re-light (N, 3, R, R)."""
    n = len(images)
    zoom = _drawn(rng, n, images, (-ZOOM, ZOOM)).exp().view(n)
    # Sampling grids run from -1 to 1, so a shift by a share of the side is twice as long there.
    theta = torch.zeros(n, 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    for axis in (0, 1):
        theta[:, axis, 2] = 2 * _drawn(rng, n, images, (-SHIFT, SHIFT)).view(n)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = 1 + _drawn(rng, n, images, (-JITTER, JITTER))
    light = 255 * _drawn(rng, n, images, (-JITTER, JITTER)) / 2
    # Contrast turns around each face's mean, and brightness moves it.
    mean = moved.mean((1, 2, 3), keepdim=True)
    return ((moved - mean) * gain + mean + light).clamp(0, 255)


def _drawn(
    rng: np.random.Generator, size: int, like: Tensor, limits: tuple[float, float]
) -> Tensor:
    """Draw one uniform number an image: (size, 1, 1, 1)."""
    # From numpy, like all draws of a stage: a resumed run draws the same.
    values = rng.uniform(*limits, size=(size, 1, 1, 1)).astype(np.float32)
    return torch.from_numpy(values).to(like.device)


@dataclass(frozen=True)
class FaceCodes:
    """Codes of M faces, and of their mirror images behind them where they were asked for."""

    rows: Tensor  # (M, rows, style) float32
    feature: Tensor  # (M, C, side, side) float16: 400 MB for 6,500 faces at 128 pixels
    attributes: Tensor  # (M, A) float32, 0 or 1; A is 0 without labels

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, size: int, rng: np.random.Generator) -> FaceCodes:
        """Draw faces with replacement; codes in float32."""
        chosen = torch.from_numpy(rng.integers(len(self), size=size)).to(self.rows.device)
        return self.at(chosen)

    def at(self, chosen: Tensor) -> FaceCodes:
        """Return the codes at positions (size,), in float32."""
        feature = self.feature[chosen].float()
        return FaceCodes(self.rows[chosen], feature, self.attributes[chosen])


@torch.no_grad()
def encode_faces(networks: FaceNetworks, bank: FaceBank, *, mirror: bool = False) -> FaceCodes:
    """Return the codes of all faces of a bank on its device; ``mirror``: of mirrored ones too."""
    networks.to(bank.images.device).eval()
    rows: list[Tensor] = []
    features: list[Tensor] = []
    for flip in (False, True) if mirror else (False,):
        for faces in bank.batches(BATCH):
            # A codec stage has no pictures to mirror: the encoder does it once for all.
            codes = networks.codes(faces.images.flip(3) if flip else faces.images)
            rows.append(codes.rows.float())
            features.append(codes.feature.half())
    attributes = bank.attributes.repeat(2 if mirror else 1, 1)
    return FaceCodes(torch.cat(rows), torch.cat(features), attributes)


def cached_codes(
    path: Path, networks: FaceNetworks, bank: FaceBank, *, mirror: bool = False
) -> FaceCodes:
    """Return the codes of a bank from ``path`` if they stand there, or compute and keep them."""
    key = _key(networks, bank, mirror)
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return FaceCodes(**{n: t.to(bank.images.device) for n, t in tensors.items()})
    codes = encode_faces(networks, bank, mirror=mirror)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"rows": codes.rows, "feature": codes.feature, "attributes": codes.attributes}
    save_file({n: t.contiguous().cpu() for n, t in tensors.items()}, path, metadata={"key": key})
    return codes


def _key(networks: FaceNetworks, bank: FaceBank, mirror: bool) -> str:
    """Hash the encoder's numbers, some of the faces, and what was asked for."""
    # A file of another encoder, or of other faces, is written anew.
    digest = hashlib.sha256(f"{len(bank.images)} {mirror}".encode())
    refiner = {} if networks.refiner is None else networks.refiner.state_dict()
    for name, value in (networks.encoder.state_dict() | refiner).items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    digest.update(bank.images[:: max(1, len(bank.images) // 50)].cpu().numpy().tobytes())
    return digest.hexdigest()
