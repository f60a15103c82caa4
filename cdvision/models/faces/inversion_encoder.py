"""General inversion encoder: a face to the codes from which a style generator draws it.

::

    image ─ trunk ─┬─ 1/4 ──┐
                   ├─ 1/8 ──┼─ 3x3 grids of means, concatenated ─ linear, LeakyReLU ─ linear ─▶ S
                   ├─ 1/16 ─┤                    │
                   ├─ 1/32 ─┘                    └─▶ pooled (for the face / not a face score)
                   └─ the stage nearest to F's side ─ two 3x3 convolutions ─▶ F

    F, standardised ─ 3x3 convolutions down to 4² ─ linear, LeakyReLU ─ linear ─ directions ─▶ + S

S are W+ rows, written as the generator's mean style plus what the face adds; F is the activation
at one layer of the generator. The hidden layer of the style head is narrow on purpose: rows of one
face are highly redundant, and a codec pays for every direction in which they can move.

Where F is not sent, a refiner (ours) brings its shapes into the rows: 28 bytes hold all that the
style head says of a picture.

Sources: Yao et al., "A Style-Based GAN Encoder for High Fidelity Reconstruction", ECCV 2022; rows
as the only code of a face: Mao et al., "Scalable Face Image Coding via StyleGAN Prior", IEEE TIP
2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.trunks import TRUNK_CLASSES, FaceTrunk, resize_area
from cdvision.models.faces.widths import FACE, FaceWidths

GRID = 3  # cells a side of a stage's means
LAST_SIDE = 4  # cells a side of what the linear layers read
CHANNELS, HIDDEN, DIRECTIONS = 128, 320, 256


class InversionCodes(NamedTuple):
    """Codes of a batch: rows (N, rows, style), feature (N, C, side, side), pooled (N, P)."""

    rows: Tensor
    feature: Tensor
    pooled: Tensor


class InversionEncoder(nn.Module):
    """Faces (N, 3, R, R), RGB 0..255, to :class:`InversionCodes`."""

    mean: Tensor

    def __init__(self, widths: FaceWidths = FACE) -> None:
        super().__init__()
        self.widths = widths
        self.trunk: FaceTrunk = TRUNK_CLASSES[widths.trunk](widths.trunk_side)
        self.pooled_size = sum(_cells(c) ** 2 * c for c in self.trunk.channels)
        self.standard = Standardise(self.pooled_size)
        self.hidden = nn.Linear(self.pooled_size, widths.head)
        self.styles = nn.Linear(widths.head, widths.rows * widths.style)
        self.register_buffer("mean", torch.zeros(widths.style))  # the generator's mean style
        self.stage = _nearest_stage(self.trunk, widths.feature_side)
        self.feature = FeatureHead(self.trunk.channels[self.stage], widths)

    def forward(self, image: Tensor) -> InversionCodes:
        """Return the codes of a batch of faces."""
        stages = self.trunk(image)
        pooled = self.pool(stages)
        return InversionCodes(self.rows(pooled), self.feature(stages[self.stage]), pooled)

    def pool(self, stages: list[Tensor]) -> Tensor:
        """Return the means of every stage's grid as one vector (N, P)."""
        # Means of a coarse grid: where things are matters to style, but only roughly.
        grids = [resize_area(x, _cells(x.shape[1])).flatten(1) for x in stages]
        return torch.cat(grids, 1)

    def rows(self, pooled: Tensor) -> Tensor:
        """Map pooled (N, P) to W+ rows (N, rows, style)."""
        hidden = F.leaky_relu(self.hidden(self.standard(pooled)), 0.1)
        added: Tensor = self.styles(hidden).view(-1, self.widths.rows, self.widths.style)
        # An untrained head then says the mean face, from which training starts.
        return self.mean + added

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor], *, feature: bool) -> None:
        """Take the input statistics of heads that have none yet; with ``feature``, of F's too.

        ``batches`` are training faces, each (N, 3, R, R) in 0..255.
        """
        pooled, cells = [], []
        for image in batches:
            stages = self.trunk(image)
            pooled.append(self.pool(stages))
            cells.append(stages[self.stage].permute(0, 2, 3, 1).flatten(0, 2))
        if not self.standard.fitted:
            self.standard.fit(torch.cat(pooled))
        if feature and not self.feature.standard.fitted:
            self.feature.standard.fit(torch.cat(cells))


class Standardise(nn.Module):
    """Values to zero mean and unit spread over training faces; buffers, not trained."""

    center: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @property
    def fitted(self) -> bool:
        """Whether there are statistics."""
        return bool((self.scale != 1).any())

    def fit(self, sample: Tensor) -> None:
        """Take the statistics of (M, size); a value that never changes keeps its scale."""
        spread = sample.std(0)
        self.center.copy_(sample.mean(0))
        # One over the spread of a constant would blow up the first face that differs.
        self.scale.copy_(torch.where(spread > 1e-4, 1 / spread, torch.ones_like(spread)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, size) to the same shape, kept within 6 spreads."""
        # Values that no training face had would push a codec out of its tables.
        return ((x - self.center) * self.scale).clamp(-6, 6)


class FaceScore(nn.Module):
    """Face, or something else: pooled features (N, P) to logits (N,) by one logistic unit.

    An image scores as a face at ``threshold`` or more.
    """

    threshold: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standardise(size)
        self.unit = nn.Linear(size, 1)
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return one logit an image."""
        logits: Tensor = self.unit(self.standard(pooled))
        return logits[:, 0]


class FeatureHead(nn.Module):
    """A stage of the trunk, standardised, to F: (N, channels, h, w) to (N, C, side, side)."""

    def __init__(self, channels: int, widths: FaceWidths) -> None:
        super().__init__()
        out = widths.feature_channels
        self.side = widths.feature_side
        self.standard = Standardise(channels)
        self.first = nn.Conv2d(channels, out, 3, 1, 1)
        self.second = nn.Conv2d(out, out, 3, 1, 1)
        # A linear path beside the deep one: most of F is a mixture of the trunk's channels.
        self.linear = nn.Conv2d(channels, out, 1)

    def forward(self, stage: Tensor) -> Tensor:
        """Return F."""
        stage = resize_area(stage, self.side)
        # Channels last for the statistics, which are a channel's.
        stage = self.standard(stage.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        hidden = F.leaky_relu(self.first(stage), 0.1)
        result: Tensor = self.linear(stage) + self.second(hidden)
        return result


def _cells(channels: int) -> int:
    """Means a side: the widest stage is pooled whole, or its weights would outnumber the rest."""
    return 1 if channels > 1024 else GRID


def _nearest_stage(trunk: FaceTrunk, side: int) -> int:
    """Return the deepest stage that still has a value for each of F's."""
    # Finer stages tell less of meaning; coarser ones would have to be enlarged.
    fine = [i for i, stride in enumerate(trunk.strides) if trunk.side // stride >= side]
    return fine[-1] if fine else 0


class RowRefiner(nn.Module):
    """Rows and F of one face to better rows; F's side is a power of two of at least 4."""

    def __init__(self, widths: FaceWidths = FACE) -> None:
        super().__init__()
        values, channels = widths.rows * widths.style, widths.feature_channels
        self.standard = Standardise(channels)
        self.convs = nn.ModuleList()
        for _ in range((widths.feature_side // LAST_SIDE).bit_length() - 1):
            self.convs.append(nn.Conv2d(channels, CHANNELS, 3, 2, 1))
            channels = CHANNELS
        self.hidden = nn.Linear(channels * LAST_SIDE**2, min(HIDDEN, values))
        self.out = nn.Linear(min(HIDDEN, values), min(DIRECTIONS, values))
        self.directions = nn.Linear(min(DIRECTIONS, values), values, bias=False)
        for layer in (*self.convs, self.hidden):
            # For the slope of the LeakyReLU behind: activations keep their variance.
            nn.init.kaiming_normal_(layer.weight, a=0.1)
        nn.init.zeros_(self.out.weight)  # at first, rows are the encoder's
        nn.init.zeros_(self.out.bias)

    def forward(self, rows: Tensor, feature: Tensor) -> Tensor:
        """Map rows (N, rows, style) and F (N, C, side, side) to rows of the same shape."""
        # Directions differ a thousandfold in length: half precision would lose the short ones.
        added: Tensor = self.directions(self.steps(feature).to(rows.dtype))
        return rows + added.view_as(rows)

    def steps(self, feature: Tensor) -> Tensor:
        """Map F to how far to go along each direction, (N, directions)."""
        x = self.standard(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        told: Tensor = self.out(F.leaky_relu(self.hidden(x.flatten(1)), 0.1))
        return told
