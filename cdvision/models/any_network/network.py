"""The model that ``cdvision train encoder`` makes: one stream for any set of networks.

::

    RGB ─┬ network A's front ─ gather A ─┬─ analysis ─▶ latents, as ``latent_model`` draws them
         └ network B's front ─ gather B ─┘
    y ─┬─ tap A ─▶ what A expects at its split point ─▶ the rest of A
       └─ tap B ─▶ what B expects at its split point ─▶ the rest of B

The networks themselves are their owner's: frozen, and no part of this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.fitted_tap import FittedTap, TapShape
from cdvision.networks.latent_model import LATENT_STRIDE, LatentEncoder, LatentModel
from cdvision.package.card import FeatureSpec

METRIC_CHANNELS = 1024  # of a metric on blocks: larger blocks are measured cell by cell
GATHERED = 1024  # channels at 1/16 that a network brings at most


@dataclass(frozen=True)
class AnyNetworkShape:
    """What a model of several networks is made of, as its record and its weights keep it."""

    channels: int  # of the latents
    features: Mapping[str, FeatureSpec]  # of each network, at its split point
    positive: tuple[str, ...] = ()  # networks whose features are never below 0
    width: int = 384  # channels inside a tap
    depth: int = 2  # residual blocks of a tap

    def tap(self, name: str) -> TapShape:
        """Return the shape of a network's tap."""
        spec = self.features[name]
        return TapShape(
            source=self.channels,
            features=spec.channels,
            up=max(1, LATENT_STRIDE // spec.stride),
            down=max(1, spec.stride // LATENT_STRIDE),
            width=self.width,
            depth=self.depth,
            positive=name in self.positive,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AnyNetworkShape:
        """Undo ``asdict`` and JSON."""
        features = {name: FeatureSpec(**spec) for name, spec in values["features"].items()}
        positive = tuple(values["positive"])
        return cls(**{**values, "features": features, "positive": positive})


class Gather(nn.Module):
    """One network's features to the stride of the latents, their directions in order of use.

    ::

        features@1/s ─ blocks ─ mix (1x1) ─ blocks ─▶ gathered@1/16

    The mix weighs directions by how much the network's outputs depend on them and keeps the
    first ones. It is set before training (``training/start.py``) and stays. Features have a stride
    that divides 32; ``gathered`` channels come out.
    """

    scale: Tensor

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        across = max(1, LATENT_STRIDE // spec.stride)
        self.block = metric_block(spec)
        # Where a latent's cells are too many to mix at once, smaller blocks are mixed one by one.
        self._rest = across // self.block
        self._repeat = max(1, spec.stride // LATENT_STRIDE)
        inputs = spec.channels * self.block**2
        mixed = min(inputs, max(1, GATHERED // self._rest**2))
        self.gathered = mixed * self._rest**2
        self.mix = nn.Conv2d(inputs, mixed, 1, bias=False).requires_grad_(False)
        # Weights are kept in half precision, whatever unit the features come in.
        self.register_buffer("scale", torch.ones(mixed, 1, 1))

    @torch.no_grad()
    def set_mix(self, weight: Tensor) -> None:
        """Set the mix to (mixed, block^2 * C)."""
        # Each row's greatest weight becomes 1, and its size goes into the float32 scale.
        greatest = weight.abs().amax(1, keepdim=True).clamp_min(1e-12)
        self.mix.weight.copy_((weight / greatest)[:, :, None, None])
        self.scale.copy_(greatest[:, :, None])

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H / stride, W / stride) to (N, gathered, H / 16, W / 16)."""
        mixed = self.mix(F.pixel_unshuffle(features, self.block)) * self.scale
        if self._repeat > 1:  # coarser than the latents: what repeats costs next to nothing
            repeated: Tensor = F.interpolate(mixed, scale_factor=self._repeat, mode="nearest")
            return repeated
        return F.pixel_unshuffle(mixed, self._rest)


def metric_block(spec: FeatureSpec) -> int:
    """Return the cells across a block on which a network's metric is measured."""
    # A metric is a matrix of all values of a block, and its root takes the cube of their number.
    block = max(1, LATENT_STRIDE // spec.stride)
    while block > 1 and spec.channels * block**2 > METRIC_CHANNELS:
        block //= 2
    return block


class GatheringEncoder(LatentEncoder):
    """The networks' features to latents."""

    def __init__(self, shape: AnyNetworkShape) -> None:
        gathers = {name: Gather(spec) for name, spec in shape.features.items()}
        total = sum(gather.gathered for gather in gathers.values())
        super().__init__(total, shape.channels)
        self.gathers = nn.ModuleDict(gathers)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Join the networks' features, in the order of their names in the shape."""
        parts = zip(self.gathers.values(), features, strict=True)
        return torch.cat([gather(part) for gather, part in parts], dim=1)


class AnyNetworkModel(LatentModel):
    """All that is trained of the model: encoder behind the fronts, latents, taps."""

    encoder: GatheringEncoder

    def __init__(self, shape: AnyNetworkShape) -> None:
        super().__init__(GatheringEncoder(shape), shape.channels)
        self.shape = shape
        self.taps = nn.ModuleDict({name: FittedTap(shape.tap(name)) for name in shape.features})

    def tap(self, name: str) -> FittedTap:
        """Return a network's tap."""
        return cast(FittedTap, self.taps[name])
