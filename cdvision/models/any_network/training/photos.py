"""Photos of any folder, decoded and kept in memory at the size that training looks at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cdvision.errors import CdvisionError, ImageError
from cdvision.fit.photos import PhotoFile
from cdvision.fit.streams import LEAST_SIDE
from cdvision.photo import read_photo
from cdvision.training.photo_bank import PhotoBank, plan_for

MOST_SHORT = 320  # pixels of a kept photo's short side: crops are shrunk from no more


def photo_bank(
    files: Sequence[PhotoFile], device: torch.device
) -> tuple[PhotoBank, dict[str, str]]:
    """Decode photos; those that cannot be used are left out.

    Returns:
        The photos, and the reason for each that was left out, by name.

    Raises:
        CdvisionError: none can be used.
    """
    photos: list[Tensor] = []
    left_out: dict[str, str] = {}
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(_decode, files)
        bar = tqdm(decoded, total=len(files), desc="photos", unit="photo", disable=None)
        for file, found in zip(files, bar, strict=True):
            if isinstance(found, str):
                left_out[file.name] = found
            else:
                photos.append(found.to(device))
    if not photos:
        name, reason = next(iter(left_out.items()), ("", "there is none"))
        raise CdvisionError(f"none of {len(files)} photos can be used: {name}: {reason}")
    return PhotoBank(photos, plan_for(photos)), left_out


def _decode(file: PhotoFile) -> Tensor | str:
    """Return a photo (3, H, W) uint8, or why it cannot be used."""
    try:
        image = read_photo(file.read())
    except (ImageError, OSError) as error:
        return str(error).removeprefix("image bytes: ")
    short = min(image.size)
    if short < LEAST_SIDE:
        return f"{image.size[0]} x {image.size[1]} pixels: expected at least {LEAST_SIDE}"
    if short > MOST_SHORT:
        width, height = (max(1, round(side * MOST_SHORT / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
