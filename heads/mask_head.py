"""Dense mask branch on a detector's pyramid: prototypes, and a small network of its own a cell.

::

    features@1/8 ─ 1x1 ─┐
    p8@1/8 ─────── 1x1 ─┤
    p16@1/16 ─ 1x1 ─ x2 ┼─ sum ─ residual blocks ─ 1x1 ─ shuffle x2 ─▶ prototypes 12@1/4
    p32@1/32 ─ 1x1 ─ x4 ┘
    embedding of every cell in the detection head ─ 1x1 ─▶ code 64 of every cell
    code of a chosen cell ─▶ coefficients 129

A cell's coefficients are the weights of a network of two layers. It looks at the prototypes and at
the place in the cell's box, and tells for every pixel whether it belongs to the object. Only the
cells that survive suppression are asked: see ``dynamic_masks.py`` for that.

Source: Tian et al., "Conditional Convolutions for Instance Segmentation" (CondInst), ECCV 2020, of
depth 2 and with places relative to the box and not to the cell; prototypes after Bolya et al.,
"YOLACT", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.heads.dynamic_masks import COEFFICIENTS, HIDDEN, PLACES, PROTOTYPES
from cdvision.networks.layers import ConvAct, ResidualBlock

# So small that all cells start with nearly the same network.
LAST_STD = 0.01


class MaskHead(nn.Module):
    """Prototypes from the finer levels, coefficients from the detection head's embeddings.

    The map at the split point, at 1/8, has ``features`` channels, every pyramid level and every
    embedding ``channels``. The branch has ``width`` channels, and ``hidden`` units between an
    embedding and its coefficients. Prototypes are made of the first three levels.
    """

    def __init__(
        self, features: int, channels: int, *, levels: int = 4, width: int = 64, hidden: int = 64
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (features, *[channels] * 3))
        self.refine = nn.Sequential(
            nn.LeakyReLU(0.1), ResidualBlock(width, 96), ResidualBlock(width, 96)
        )
        self.project = nn.Conv2d(width, 4 * PROTOTYPES, 1)
        # Each level has a head, and so a language, of its own.
        self.squeeze = nn.ModuleList(ConvAct(channels, hidden) for _ in range(levels))
        self.control = nn.Linear(hidden, COEFFICIENTS)
        _start(self.control)

    def forward(
        self, features: Tensor, pyramid: Sequence[Tensor], embeddings: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes (N, 64, M) of all cells, control (N, 129, 65), prototypes (N, 12, H/4, W/4).

        Control is a constant: weights and bias that turn a code into coefficients. Who has chosen
        five cells of thousands does it for five.

        Args:
            features: (N, features, H/8, W/8).
            pyramid: maps at 1/8, 1/16, 1/32 and 1/64.
            embeddings: what ``DistributionHead.embeddings`` gives of them.
        """
        weight, bias = self.control.weight, self.control.bias
        control = torch.cat([weight, bias[:, None]], dim=1).expand(len(features), -1, -1)
        return self.codes(embeddings), control, self.prototypes(features, pyramid)

    def prototypes(self, features: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Return the maps that all objects of a picture share."""
        pairs = zip(self.laterals, (features, *pyramid[:3]), strict=True)
        at8, p8, p16, p32 = (lateral(level) for lateral, level in pairs)
        # From coarse to fine, so that each resolution is enlarged once.
        fused = at8 + p8 + _double(p16 + _double(p32))
        return F.pixel_shuffle(self.project(self.refine(fused)), 2)

    def codes(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return (N, 64, M) of embeddings (N, channels, h, w) a level, M cells in all."""
        pairs = zip(self.squeeze, embeddings, strict=True)
        return torch.cat([squeeze(level).flatten(2) for squeeze, level in pairs], dim=2)

    def cell_codes(self, cells: Sequence[Tensor]) -> Tensor:
        """Return codes (P, 64) of picked embeddings, (p, channels) a level; p may be 0."""
        codes = []
        # On single cells a 1x1 convolution is a linear layer.
        for squeeze, level in zip(self.squeeze, cells, strict=True):
            conv, activation = (cast(ConvAct, squeeze)[part] for part in (0, 1))
            weight, bias = cast(nn.Conv2d, conv).weight, cast(nn.Conv2d, conv).bias
            codes.append(activation(F.linear(level, weight.flatten(1), bias)))
        return torch.cat(codes)

    def coefficients(self, codes: Tensor) -> Tensor:
        """Return the networks (P, 129) of cells with codes (P, 64)."""
        coefficients: Tensor = self.control(codes)
        return coefficients


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _start(control: nn.Linear) -> None:
    """Start from one ordinary network for all cells, from which each learns to differ."""
    # That network's weights are the bias here, of He's variance: sqrt(2 / inputs) before a ReLU.
    first = HIDDEN * (PROTOTYPES + PLACES)
    nn.init.normal_(control.weight, std=LAST_STD)
    bias = torch.zeros(COEFFICIENTS)
    bias[:first].normal_(std=math.sqrt(2 / (PROTOTYPES + PLACES)))
    bias[first + HIDDEN : -1].normal_(std=math.sqrt(1 / HIDDEN))
    control.bias = nn.Parameter(bias)
