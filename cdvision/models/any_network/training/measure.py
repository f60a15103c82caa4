"""What an encoder's streams keep of each network that it is for, on photos held out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdvision.building.map_tables import build_coder
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.fit.measure import FigureSums, QualityFigures, held_out_images
from cdvision.fit.network import SplitNetwork
from cdvision.fit.photos import PhotoFile
from cdvision.fit.streams import image_tensor, stream_size
from cdvision.models.any_network.network import AnyNetworkModel
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import PHOTO_INPUT
from cdvision.package.families import HYPERPRIOR
from cdvision.photo import fit_photo


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
def measure_networks(
    model: AnyNetworkModel,
    networks: Mapping[str, SplitNetwork],
    files: Sequence[PhotoFile],
    device: torch.device,
) -> list[NetworkFigures]:
    """Measure a trained model on held-out photos, with streams as a sender would write them."""
    # Tables are built on the CPU; the model itself stays where it is.
    coder = build_coder(copy.deepcopy(model.eval()).cpu())
    levels = torch.arange(QUALITIES, device=device)
    sums = {name: FigureSums(QUALITIES) for name in networks}
    for photo in (fit_photo(image, PHOTO_INPUT) for image in held_out_images(files)):
        image = image_tensor(photo.pixels, device)
        features = {name: network.features(image) for name, network in networks.items()}
        gathered = model.encoder.gather(list(features.values())).expand(QUALITIES, -1, -1, -1)
        symbols, hyper = model.encode_features(gathered, levels)
        received = [
            # Symbols that are skipped never arrive, and cost nothing.
            coder.received({SYMBOLS: s, HYPER: z}, level)
            for level, (s, z) in enumerate(zip(_integers(symbols), _integers(hyper), strict=True))
        ]
        sizes = [
            stream_size(HYPERPRIOR, coder, one, level + 1, photo.source_size, photo.pixels)
            for level, one in enumerate(received)
        ]
        arrived = torch.from_numpy(np.stack([one[SYMBOLS] for one in received])).to(symbols)
        y = model.dequantiser(arrived, hyper, levels)
        for name, target in features.items():
            found = model.tap(name)(y, levels)
            sums[name].add_features(found, target, sizes)
            sums[name].add_outputs(networks[name].outputs(found), networks[name].outputs(target))
    return [NetworkFigures(name, one.photos, one.figures()) for name, one in sums.items()]


def _integers(values: Tensor) -> NDArray[np.int32]:
    return values.cpu().numpy().astype(np.int32)
