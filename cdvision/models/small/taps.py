"""Taps: the small networks from dequantised latents to the features that one tail expects."""

from __future__ import annotations

from torch import Tensor, nn

from cdvision.models.small.nanodet import COARSE_CHANNELS, FINE_CHANNELS, DetectorFeatures
from cdvision.networks.layers import ResidualBlock, expand_and_shuffle


class DetectorTap(nn.Module):
    """Latents at 1/16 to the detector's features at two scales.

    ::

        y (C)@1/16 ─ residual blocks ─┬─ 1x1 ─ shuffle x2 ─▶ fine 116@1/8
                                      └─ 1x1 ──────────────▶ coarse 232@1/16

    Everything nonlinear happens at 1/16, where a weight costs a quarter of what it costs at 1/8.
    """

    def __init__(self, channels: int, *, hidden: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.context = nn.Sequential(*(ResidualBlock(channels, hidden) for _ in range(blocks)))
        self.fine = nn.Conv2d(channels, 4 * FINE_CHANNELS, 1)
        self.coarse = nn.Conv2d(channels, COARSE_CHANNELS, 1)

    def forward(self, y: Tensor) -> DetectorFeatures:
        """Map (N, C, h, w) to (N, 116, 2h, 2w) and (N, 232, h, w)."""
        y = self.context(y)
        return DetectorFeatures(expand_and_shuffle(self.fine, y, 2), self.coarse(y))
