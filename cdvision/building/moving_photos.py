"""Sequences made of photos: what tables of delta packets are counted on beside real clips."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError
from cdvision.image_files import PHOTO_SUFFIXES
from cdvision.photo import read_photo

SIZE = (360, 640)  # height and width of the frames, pixels
NOISE = 3.0  # largest sigma of a sensor's noise, grey levels
Frame = NDArray[np.uint8]


def read_arrays(sources: Sequence[Path], most: int, splits: Mapping[str, str]) -> list[Frame]:
    """Return up to ``most`` photos (H, W, 3) of folders and tars, from each source as many.

    Files that ``splits`` names count where their split is ``train``.

    Raises:
        CdvisionError: there is none.
    """
    share = -(-most // max(1, len(sources)))
    photos = [
        np.asarray(read_photo(data))
        for source in sources
        for data, _ in zip(_contents(source, splits), range(share), strict=False)
    ]
    if not photos:
        raise CdvisionError("no photo found to make sequences of")
    return photos[:most]


def _contents(source: Path, splits: Mapping[str, str]) -> Iterator[bytes]:
    def counts(name: str) -> bool:
        path = Path(name)
        trained = splits.get(path.name, "train") == "train"
        return trained and path.suffix.lower() in PHOTO_SUFFIXES

    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if counts(path.name))
        yield from (path.read_bytes() for path in files)
        return
    with tarfile.open(source) as archive:
        for member in archive:
            if counts(member.name):
                file = archive.extractfile(member)
                if file is not None:
                    yield file.read()


def moving_frames(photos: Sequence[Frame], frames: int, rng: np.random.Generator) -> list[Frame]:
    """Return one sequence: a still or shaking background, objects that cross it, light, noise."""
    background = _resized(_drawn(photos, rng), 1.15)
    pieces = [_piece(_drawn(photos, rng), rng) for _ in range(int(rng.integers(0, 4)))]
    starts = [rng.uniform((-40, -60), SIZE) for _ in pieces]
    speeds = [rng.normal(0, (6, 18)) for _ in pieces]
    pan = rng.normal(0, 3, 2) * (rng.random() < 0.25)
    shake = rng.choice([0.0, 0.0, 1.0])
    light, sigma = rng.choice([0.0, 0.0, 1.5]), rng.uniform(0, NOISE)
    made, level = [], 0.0
    for number in range(frames):
        shift = np.rint(20 + pan * number + rng.normal(0, 1, 2) * shake).astype(int)
        frame = _window(background, shift)
        for piece, start, speed in zip(pieces, starts, speeds, strict=True):
            _paste(frame, piece, np.rint(start + speed * number).astype(int))
        level += float(rng.normal(0, 1)) * light
        noisy = frame + level + rng.normal(0, sigma + 1e-3, frame.shape)
        made.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return made


def _drawn(photos: Sequence[Frame], rng: np.random.Generator) -> Frame:
    return photos[int(rng.integers(len(photos)))]


def _resized(photo: Frame, scale: float) -> Frame:
    from PIL import Image

    height, width = (round(side * scale) for side in SIZE)
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))


def _piece(photo: Frame, rng: np.random.Generator) -> Frame:
    """Cut the middle of a photo, 30 to 160 pixels high."""
    from PIL import Image

    height, width = photo.shape[:2]
    box = (width // 4, height // 6, 3 * width // 4, 5 * height // 6)
    tall = int(rng.integers(30, 160))
    wide = max(8, round(tall * (box[2] - box[0]) / max(1, box[3] - box[1])))
    return np.asarray(Image.fromarray(photo).resize((wide, tall), box=box))


def _window(background: Frame, shift: NDArray[np.int64]) -> NDArray[np.float32]:
    height, width = SIZE
    top = int(np.clip(shift[0], 0, background.shape[0] - height))
    left = int(np.clip(shift[1], 0, background.shape[1] - width))
    return background[top : top + height, left : left + width].astype(np.float32)


def _paste(frame: NDArray[np.float32], piece: Frame, place: NDArray[np.int64]) -> None:
    top, left = (max(0, int(at)) for at in place)
    bottom, right = (
        min(extent, int(at) + side)
        for extent, at, side in zip(frame.shape, place, piece.shape, strict=False)
    )
    if top < bottom and left < right:
        row, column = top - int(place[0]), left - int(place[1])
        cut = piece[row : row + bottom - top, column : column + right - left]
        frame[top:bottom, left:right] = cut
