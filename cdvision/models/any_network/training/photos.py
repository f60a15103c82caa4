"""Photos of any folder, decoded and kept in memory at the size that training looks at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cdvision.errors import ImageError
from cdvision.fit.examples import none_usable
from cdvision.fit.photos import PhotoFile
from cdvision.training.photo_bank import PhotoBank, plan_for

MOST_SHORT = 320  # pixels of a kept photo's short side: crops are shrunk from no more


def photo_bank(
    files: Sequence[PhotoFile], device: torch.device
) -> tuple[PhotoBank, dict[str, str]]:
    """Decode photos; return them, and the reason for each that was left out, by name.

    Raises CdvisionError where none can be used.
    """
    photos: list[Tensor] = []
    left_out: dict[str, str] = {}
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(_decode, files)
        bar = tqdm(decoded, total=len(files), desc="photos", unit="photo", disable=None)
        for file, found in zip(files, bar, strict=True):
            if isinstance(found, ImageError):
                left_out[file.name] = str(found)
            else:
                photos.append(found.to(device))
    if not photos:
        raise none_usable(len(files), left_out, otherwise="there is none")
    return PhotoBank(photos, plan_for(photos)), left_out


def _decode(file: PhotoFile) -> Tensor | ImageError:
    """Return a photo (3, H, W) uint8, or why it cannot be used."""
    try:
        image = file.image()
    except ImageError as error:
        return error
    short = min(image.size)
    if short > MOST_SHORT:
        width, height = (max(1, round(side * MOST_SHORT / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
