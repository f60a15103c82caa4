"""What several tests of whole models share."""

from __future__ import annotations

import numpy as np

from cdvision.entropy.hyperprior import Latents


def same_latents(first: Latents, second: Latents) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def gradient(width: int, height: int) -> np.ndarray:
    """Draw a picture of any size that is not flat."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([across % 256, down % 256, (3 * across + 5 * down) % 256], -1).astype(np.uint8)
