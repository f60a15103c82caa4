"""The codes of all training faces, computed once: a codec stage looks at no image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.networks import FaceNetworks

FILE = "codes.safetensors"
BATCH = 32


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
