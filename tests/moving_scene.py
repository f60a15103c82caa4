"""A short video that tests share: a box crosses a photo, then nothing moves."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

import cdvision

PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg"
SIZE = 224


def scene(frames: int = 8) -> list[np.ndarray]:
    """Return frames (168, 224, 3) uint8; the last three are the same."""
    still = np.asarray(Image.open(PHOTO).convert("RGB").resize((224, 168)))
    made = []
    for number in range(frames):
        frame = still.copy()
        left = 12 * min(number, frames - 3)
        frame[60:100, left : left + 40] = (200, 30, 30)
        made.append(frame)
    return made


@cache
def packets() -> tuple[bytes, ...]:
    """Return two keys, four packets that change something behind each, and still ones."""
    sender = cdvision.VideoEncoder(cdvision.load("small"), 4, key_seconds=1.6, size=SIZE)
    return tuple(sender.push(frame) for frame in (*scene(), *scene()))
