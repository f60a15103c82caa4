"""Taps of `small`: dequantised latents to what a NanoDet's tail takes."""

from __future__ import annotations

from torch import Tensor, nn

from cdvision.models.small.nanodet import DetectorFeatures, DetectorWidth, coarse_stage
from cdvision.networks.layers import ResidualBlock, expand_and_shuffle


class DetectorTap(nn.Module):
    """Latents at 1/16 to the detector's features at two scales.

    ::

        y (C)@1/16 ─ residual blocks ─┬─ 1x1 ─ shuffle x2 ─▶ fine@1/8
                                      └─ 1x1 ──────────────▶ coarse@1/16
    """

    # Everything nonlinear happens at 1/16, where a weight costs a quarter of what it costs at 1/8.

    def __init__(
        self, channels: int, width: DetectorWidth, *, hidden: int = 256, blocks: int = 3
    ) -> None:
        super().__init__()
        self.context = nn.Sequential(*(ResidualBlock(channels, hidden) for _ in range(blocks)))
        self.fine = nn.Conv2d(channels, 4 * width.fine, 1)
        self.coarse = nn.Conv2d(channels, width.coarse, 1)

    def forward(self, y: Tensor) -> DetectorFeatures:
        """Map (N, C, h, w) to features at two scales: (2h, 2w) and (h, w)."""
        y = self.context(y)
        return DetectorFeatures(expand_and_shuffle(self.fine, y, 2), self.coarse(y))


class WideDetectorTap(DetectorTap):
    """The tap of a wider detector than the latents were made for.

    ::

        y ─ residual blocks ─ 3x3 ─ h (rank) ─┬─ 1x1 ─ shuffle x2 ─┬────────────────────────▶ fine
           (``context``)   (``opening``)      │                    └─ stage 3 ─ 1x1 ─┐
                                              └─ 1x1 ────────────────────────────── + ─▶ coarse

    Latents that were made for a narrower detector do not hold what stage 3 of a wider one computes,
    but what it computes it from: so the receiver runs that stage itself, on features that it has
    decoded, and corrects its answer. Training begins where regression ends, see
    ``training/wide_start.py``.
    """

    def __init__(
        self,
        channels: int,
        width: DetectorWidth,
        *,
        hidden: int = 256,
        blocks: int = 3,
        rank: int = 192,
    ) -> None:
        super().__init__(rank, width, blocks=0)
        self.context = nn.Sequential(*(ResidualBlock(channels, hidden) for _ in range(blocks)))
        self.opening = nn.Conv2d(channels, rank, 3, padding=1)
        self.stage3 = coarse_stage(width)
        self.mix = nn.Conv2d(width.coarse, width.coarse, 1, bias=False)

    def forward(self, y: Tensor) -> DetectorFeatures:
        """Map (N, C, h, w) to features at two scales: (2h, 2w) and (h, w)."""
        hidden = self.opening(self.context(y))
        fine = expand_and_shuffle(self.fine, hidden, 2)
        return DetectorFeatures(fine, self.mix(self.stage3(fine)) + self.coarse(hidden))
