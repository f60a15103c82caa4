"""How far decoded pictures are from the originals: error, structure, LPIPS and DISTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdvision.evaluation.picture_distance.pixel_distance import Pictures, check_pairs, ms_ssim, psnr

if TYPE_CHECKING:
    from cdvision.evaluation.picture_distance.picture_metrics import PictureMetrics

__all__ = ["PictureJudge", "ms_ssim", "psnr"]

BATCH = 32  # pairs that go through the networks at a time
Figures = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class PictureJudge:
    """Compares pictures with originals.

    Attributes:
        metrics: LPIPS and DISTS with their weights; without them, pixels only.
    """

    metrics: PictureMetrics | None = None

    def judge(self, found: Pictures, wanted: Pictures) -> Figures:
        """Compare (N, H, W, 3) uint8 pictures with originals of the same shape.

        Returns:
            (N,) float64 by name: ``psnr`` (dB) and ``ms_ssim``; with metrics ``lpips`` and
            ``dists`` too.

        Raises:
            CdvisionError: the shapes differ, or the pictures are smaller than 11 pixels (with
                metrics 32).
        """
        check_pairs(found, wanted)
        batches = [slice(start, start + BATCH) for start in range(0, len(found), BATCH)]
        judged = []
        for batch in batches:
            pair = found[batch], wanted[batch]
            figures: Figures = {"psnr": psnr(*pair), "ms_ssim": ms_ssim(*pair)}
            judged.append(figures | (self.metrics.compare(*pair) if self.metrics else {}))
        return {name: np.concatenate([one[name] for one in judged]) for name in judged[0]}
