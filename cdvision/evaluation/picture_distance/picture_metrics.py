"""LPIPS and DISTS of pictures, with the weights that `cdvision bench picture-metrics` prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdvision.errors import CdvisionError, ModelError
from cdvision.evaluation.picture_distance.feature_distance import dists, lpips
from cdvision.evaluation.picture_distance.feature_networks import VGG16_CHANNELS, AlexNet, Vgg16
from cdvision.evaluation.picture_distance.metric_weights import WEIGHTS_FILE, default_folder
from cdvision.evaluation.picture_distance.pixel_distance import Pictures
from cdvision.package.loader import file_sha256

LEAST_SIDE = 32  # pixels: AlexNet has nothing left of smaller ones
# LPIPS normalises pictures in -1..1, DISTS those in 0..1: nearly the same colours of ImageNet.
LPIPS_MEAN, LPIPS_SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
DISTS_MEAN, DISTS_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PictureMetrics(nn.Module):
    """LPIPS (Alex) and DISTS in float32; weights are random until they are loaded.

    Attributes:
        digest: SHA-256 of the file of weights; empty before they are loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.digest = ""
        self.alexnet, self.vgg16 = AlexNet(), Vgg16()
        self.linear = nn.ParameterList(torch.rand(channels) for channels in AlexNet.CHANNELS)
        self.alpha, self.beta = (
            nn.Parameter(torch.rand(3 + sum(VGG16_CHANNELS))) for _ in range(2)
        )
        self.requires_grad_(False).eval()

    def lpips(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return LPIPS (N,) of (N, 3, H, W) RGB pictures in 0..255, sides of 32 or more."""
        found, wanted = (
            _normalised(2 * x / 255 - 1, LPIPS_MEAN, LPIPS_SPREAD) for x in (found, wanted)
        )
        return lpips(self.alexnet(found), self.alexnet(wanted), list(self.linear))

    def dists(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return DISTS (N,) of (N, 3, H, W) RGB pictures in 0..255, taken at their own size."""
        stages = [
            [x, *self.vgg16(_normalised(x, DISTS_MEAN, DISTS_SPREAD))]
            for x in (found / 255, wanted / 255)
        ]
        return dists(stages[0], stages[1], self.alpha, self.beta)

    def compare(self, found: Pictures, wanted: Pictures) -> dict[str, NDArray[np.float64]]:
        """Return ``lpips`` and ``dists``, (N,) float64, of (N, H, W, 3) uint8 pictures.

        Raises:
            CdvisionError: the pictures are smaller than 32 pixels.
        """
        if min(found.shape[1:3]) < LEAST_SIDE:
            raise CdvisionError(
                f"LPIPS: expected sides of at least {LEAST_SIDE} pixels, "
                f"found {found.shape[2]} x {found.shape[1]}"
            )
        with torch.inference_mode():
            pair = [
                torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float() for x in (found, wanted)
            ]
            figures = {"lpips": self.lpips(*pair), "dists": self.dists(*pair)}
        return {name: value.double().numpy() for name, value in figures.items()}


def _normalised(x: Tensor, mean: tuple[float, ...], spread: tuple[float, ...]) -> Tensor:
    shape = (1, 3, 1, 1)
    return (x - x.new_tensor(mean).view(shape)) / x.new_tensor(spread).view(shape)


def load_picture_metrics(folder: Path | None = None) -> PictureMetrics:
    """Load the weights that `cdvision bench picture-metrics` wrote.

    Args:
        folder: that it wrote to; the user's cache by default.

    Raises:
        ModelError: the file is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = (folder or default_folder()) / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"{path} is missing: `cdvision bench picture-metrics` prepares it")
    metrics = PictureMetrics()
    try:
        metrics.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path}: expected the weights of LPIPS and DISTS: {error}") from error
    metrics.digest = file_sha256(path)
    return metrics
