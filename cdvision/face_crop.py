"""Cuts and aligns a face as the training faces (CelebA-HQ) are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cdvision.errors import ImageError
from cdvision.image_files import to_rgb

# The cut's side in these distances; the greater holds.
EYE_TO_EYE, EYE_TO_MOUTH = 4.0, 3.6
# Times the result's side: the resolution at which a large face is cut.
MOST = 8
# Of the eyes-to-mouth vector: the cut's centre lies below the middle of the eyes.
DOWN = 0.1


def crop_face(
    image: Image.Image | NDArray[np.uint8], landmarks: ArrayLike | None = None, size: int = 128
) -> NDArray[np.uint8]:
    """Return a face cut out, turned upright and resized to (size, size, 3) RGB.

    >>> from PIL import Image
    >>> crop_face(Image.new("RGB", (300, 200)), size=64).shape
    (64, 64, 3)

    The cut follows CelebA-HQ: a square along the eyes, whose side is four times the eyes' distance
    or 3.6 times that of eyes and mouth, whichever is greater. Where it leaves the picture, the
    picture's edge is repeated.

    Args:
        image: a Pillow image, or (H, W, 3) uint8 RGB.
        landmarks: five points (x, y) in pixels: left eye, right eye, nose tip, left and right
            corner of the mouth, left and right as the viewer sees them. None: the central square.
        size: side of the result in pixels.

    Raises:
        ImageError: landmarks that are not five finite points, eyes and mouth in one place, or
            float or 32-bit pixels.

    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, appendix C.
    """
    picture = to_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))
    if size < 1:
        raise ImageError(f"expected a size of at least one pixel, found {size}")
    if landmarks is None:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
    else:
        square = _turned(picture, *_cut(np.asarray(landmarks, dtype=np.float64)), size)
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def _cut(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cut's centre, and the vector from it to the middle of its right edge."""
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ImageError(
            "landmarks of a face should be five finite points (x, y): eyes, nose and corners of "
            f"the mouth, found shape {points.shape}"
        )
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    across, down = points[1] - points[0], mouth - eyes
    # The mean of both directions: one alone would follow every tilt of an eye or a corner.
    right = across + np.array([down[1], -down[0]])
    length = np.hypot(*right)
    if length < 1e-6:
        raise ImageError("landmarks of a face should not lie in one place")
    half = max(np.hypot(*across) * EYE_TO_EYE / 2, np.hypot(*down) * EYE_TO_MOUTH / 2)
    return eyes + DOWN * down, right / length * half


def _turned(
    picture: Image.Image, centre: NDArray[Any], right: NDArray[Any], size: int
) -> Image.Image:
    """Cut a turned square, at its own resolution within limits."""
    side = int(np.clip(np.ceil(2 * np.hypot(*right)), size, MOST * size))
    below = np.array([-right[1], right[0]])
    corner, step_x, step_y = centre - right - below, 2 * right / side, 2 * below / side
    # Pillow samples at pixel centres: output (x + 0.5, y + 0.5) reads matrix @ that.
    matrix = (step_x[0], step_y[0], corner[0], step_x[1], step_y[1], corner[1])
    margin = _margin(picture, [corner + a * 2 * right + b * 2 * below
                               for a in (0, 1) for b in (0, 1)])  # fmt: skip
    matrix = (*matrix[:2], matrix[2] + margin, *matrix[3:5], matrix[5] + margin)
    padded = np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return Image.fromarray(padded).transform(
        (side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )


def _margin(picture: Image.Image, corners: list[NDArray[Any]]) -> int:
    """Return by how many pixels the cut leaves the picture, at most twice its long side."""
    outside = max(
        max(-corner.min(), corner[0] - picture.width, corner[1] - picture.height)
        for corner in corners
    )
    # Two pixels more, because bicubic sampling reads that far beyond a place.
    return int(np.clip(np.ceil(outside) + 2, 2, 2 * max(picture.size)))
