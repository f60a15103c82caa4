"""All distances of decoded pictures from their originals at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.evaluation.picture_distance.frechet import frechet_distance
from cdvision.evaluation.picture_distance.pixel_error import Pictures, check_pairs, psnr
from cdvision.evaluation.picture_distance.structural_similarity import ms_ssim

if TYPE_CHECKING:
    from torch import Tensor

    from cdvision.evaluation.picture_distance.feature_network import FeatureNetwork

BATCH = 32  # pairs that go through the network at a time


class Judged(NamedTuple):
    """Figures of N pairs.

    Attributes:
        each: (N,) float64 by name: ``psnr`` (dB), ``ms_ssim``, and, with a network,
            ``lpips_style`` and ``dists_style``.
        frechet: Fréchet distance of all pictures' pooled features from the originals'; None
            without a network, or with fewer than two pictures.
    """

    each: dict[str, NDArray[np.float64]]
    frechet: float | None


@dataclass(frozen=True)
class PictureJudge:
    """Compares pictures with originals.

    Attributes:
        network: whose activations are compared; without one, pixels only.
    """

    network: FeatureNetwork | None = None

    def judge(self, found: Pictures, wanted: Pictures) -> Judged:
        """Compare (N, H, W, 3) uint8 pictures with originals of the same shape.

        Raises:
            CdvisionError: the shapes differ, or the pictures are smaller than 11 pixels.
        """
        check_pairs(found, wanted)
        batches = [slice(start, start + BATCH) for start in range(0, len(found), BATCH)]
        judged = [self._judge_batch(found[batch], wanted[batch]) for batch in batches]
        each = {name: np.concatenate([one[name] for one in judged]) for name in judged[0]}
        ours, originals = (each.pop(name, None) for name in ("found", "wanted"))
        if ours is None or originals is None or len(ours) < 2:
            return Judged(each, None)
        return Judged(each, frechet_distance(ours, originals))

    def _judge_batch(self, found: Pictures, wanted: Pictures) -> dict[str, NDArray[np.float64]]:
        figures = {"psnr": psnr(found, wanted), "ms_ssim": ms_ssim(found, wanted)}
        if self.network is None:
            return figures
        return figures | _feature_figures(self.network, found, wanted)


def _feature_figures(
    network: FeatureNetwork, found: Pictures, wanted: Pictures
) -> dict[str, NDArray[np.float64]]:
    import torch

    from cdvision.evaluation.picture_distance.feature_distance import dists_style, lpips_style
    from cdvision.evaluation.picture_distance.feature_network import pooled

    with torch.inference_mode():
        pictures = [
            torch.from_numpy(p.transpose(0, 3, 1, 2).copy()).float() for p in (found, wanted)
        ]
        stages = [network(picture) for picture in pictures]
        with_pixels = [[picture / 255, *s] for picture, s in zip(pictures, stages, strict=True)]
        figures: dict[str, Tensor] = {
            "lpips_style": lpips_style(*stages),
            "dists_style": dists_style(*with_pixels),
            "found": pooled(stages[0]),
            "wanted": pooled(stages[1]),
        }
    return {name: value.double().numpy() for name, value in figures.items()}
