"""What an encoder's streams keep of each network that it serves, on photos held out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cdvision.building.map_tables import build_coder
from cdvision.entropy.coder import Latents
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import CdvisionError, ImageError
from cdvision.fit.measure import MOST_PHOTOS, Measurement, QualityFigures
from cdvision.fit.network import SplitNetwork
from cdvision.fit.photos import PhotoFile
from cdvision.models.any_network.network import Served
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import PHOTO_INPUT
from cdvision.package.families import HYPERPRIOR
from cdvision.photo import fit_photo, read_photo
from cdvision.stream import Layer, write_stream


@dataclass(frozen=True)
class NetworkFigures:
    """Figures of one network at every quality, and the photos that they are of."""

    network: str
    photos: int
    qualities: Sequence[QualityFigures]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        rows = [one.to_dict() for one in self.qualities]
        return {"network": self.network, "photos": self.photos, "qualities": rows}


@torch.no_grad()
def measure_served(
    model: Served,
    networks: Mapping[str, SplitNetwork],
    files: Sequence[PhotoFile],
    device: torch.device,
) -> list[NetworkFigures]:
    """Measure a trained model on held-out photos, with streams as a sender would write them.

    Raises:
        CdvisionError: none of the photos can be read.
    """
    sender = _Sender(model.eval(), device)
    sums = {
        name: Measurement(QUALITIES, spec.channels) for name, spec in model.shape.features.items()
    }
    seen = 0
    for file in tqdm(files[:MOST_PHOTOS], desc="held out", unit="photo", disable=None):
        try:
            photo = fit_photo(read_photo(file.read()), PHOTO_INPUT)
        except (ImageError, OSError):
            continue
        image = torch.from_numpy(photo.pixels).to(device).permute(2, 0, 1)[None].float()
        features = {name: n.features(image) for name, n in networks.items()}
        y, sizes = sender.sent(list(features.values()), photo.source_size, image)
        for name, target in features.items():
            found = model.tap(name)(y, sender.levels)
            sums[name].add_features(found, target, sizes)
            sums[name].add_outputs(networks[name].outputs(found), networks[name].outputs(target))
        seen += 1
    if not seen:
        raise CdvisionError(f"none of {len(files)} held-out photos can be read")
    return [NetworkFigures(name, seen, found.figures()) for name, found in sums.items()]


class _Sender:
    """Encodes a photo at every quality, to the last byte."""

    def __init__(self, model: Served, device: torch.device) -> None:
        self._model, self.levels = model, torch.arange(QUALITIES, device=device)
        self._coder = build_coder(_on_cpu(model))

    def sent(
        self, features: Sequence[Tensor], source: tuple[int, int], image: Tensor
    ) -> tuple[Tensor, list[int]]:
        """Return what arrives (Q, C, h, w), and the bytes of each stream."""
        gathered = self._model.encoder.gather(features).expand(QUALITIES, -1, -1, -1)
        symbols, hyper = self._model.encode_features(gathered, self.levels)
        kept, sizes = [], []
        for level, (s, z) in enumerate(zip(_integers(symbols), _integers(hyper), strict=True)):
            latents = self._coder.received({SYMBOLS: s, HYPER: z}, level)
            sizes.append(self._size(latents, level, source, image))
            kept.append(torch.from_numpy(np.asarray(latents[SYMBOLS])))
        received = torch.stack(kept).to(symbols)
        return self._model.dequantiser(received, hyper, self.levels), sizes

    def _size(self, latents: Latents, level: int, source: tuple[int, int], image: Tensor) -> int:
        stream = write_stream(
            codec=HYPERPRIOR,
            fingerprint=self._coder.fingerprint[:4],
            width=source[0],
            height=source[1],
            input_width=image.shape[3],
            input_height=image.shape[2],
            quality=level + 1,
            layers=[Layer(*body) for body in self._coder.encode(latents, level).items()],
        )
        return len(stream)


def _integers(values: Tensor) -> Sequence[Any]:
    return list(values.cpu().numpy().astype(np.int32))


def _on_cpu(model: Served) -> Served:
    return copy.deepcopy(model).cpu()
