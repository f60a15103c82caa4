"""What a tap learns from: dequantised latents beside the features of the same photo, in memory.

Encoder and network run once a photo, not once a step. Examples that do not fit into memory are made
window by window: each is learned from for some passes, while another thread makes the next. What is
drawn depends on seed and step alone: a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cdvision.errors import ImageError
from cdvision.fitting.network import SplitNetwork
from cdvision.fitting.photos import PhotoFile, none_usable
from cdvision.fitting.streams import StreamReader, image_tensor

QUALITIES_PER_PHOTO = 3  # of the model's eight, drawn for each photo
PASSES = 8  # over a window, where there are several
SAMPLE = 8  # photos that show how large examples are
MEMORY_SHARE = 0.4  # of what is free, for examples
CROP_CELLS = 14  # of the latents: about the whole of a small photo


@dataclass(frozen=True)
class Example:
    """One photo: latents (Q, C, h, w) of Q qualities and features (F, H, W), both float16."""

    latents: Tensor
    features: Tensor
    qualities: Sequence[int]  # 1 and up

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.latents.nbytes + self.features.nbytes


class ExampleMaker:
    """Makes examples of photos; ``left_out`` names those that cannot be used, and why."""

    def __init__(self, reader: StreamReader, network: SplitNetwork, seed: int = 0) -> None:
        self.reader, self.network, self._seed = reader, network, seed
        self.left_out: dict[str, str] = {}

    def make(self, file: PhotoFile) -> Example | None:
        """Return the example of a photo, or None where it cannot be read."""
        try:
            pixels = self.reader.pixels(file.image())
        except ImageError as error:
            self.left_out[file.name] = str(error)
            return None
        # Seeded by the photo: whatever window it is made for, it has the same qualities.
        rng = np.random.default_rng((self._seed, int(file.rank * 2**32)))
        qualities = spread_qualities(self.reader.package.card.qualities, rng)
        latents = self.reader.decode(self.reader.latents(pixels, qualities), qualities)
        features = self.network.features(image_tensor(pixels, self.reader.device))[0]
        return Example(latents.half().cpu(), features.half().cpu().contiguous(), qualities)


def spread_qualities(count: int, rng: np.random.Generator) -> list[int]:
    """Draw one quality from each third of a model's, so that no photo lacks a good one.

    >>> spread_qualities(8, np.random.default_rng(0))
    [3, 5, 8]
    """
    parts = np.array_split(np.arange(1, count + 1), min(QUALITIES_PER_PHOTO, count))
    return [int(rng.choice(part)) for part in parts]


class Batch(NamedTuple):
    """Crops to learn from; what lies beyond a photo is 0, as at the border of a convolution."""

    latents: Tensor  # (N, C, s, s)
    qualities: Tensor  # (N,) int64, counted from 0
    features: Tensor  # (N, F, S, S)
    counts: Tensor  # (N, 1, S, S), 1 where the photo is and 0 beyond it

    def to(self, device: torch.device) -> Batch:
        """Move everything to a device."""
        return Batch(*(part.to(device) for part in self))


class Window:
    """Examples in memory, and crops of them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        # The median short side: larger crops would be zeros for half of the photos.
        sides = sorted(min(e.latents.shape[2:]) for e in examples)
        self._side = min(CROP_CELLS, sides[len(sides) // 2])

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """Cut so many crops, each from a photo and at a quality that are drawn."""
        chosen = rng.integers(len(self.examples), size=size)
        crops = [self._crop(self.examples[i], rng) for i in chosen]
        return Batch(*(torch.stack(parts) for parts in zip(*crops, strict=True)))

    def _crop(self, example: Example, rng: np.random.Generator) -> Batch:
        place = int(rng.integers(len(example.latents)))
        latents = example.latents[place]
        side, (height, width) = self._side, latents.shape[1:]
        scale = example.features.shape[1] / height  # cells of the features across one latent
        # Features coarser than the latents: crops begin and end with whole cells of them.
        step = max(1, round(1 / scale))
        side = -(-side // step) * step
        room = [max(0, extent - side) // step + 1 for extent in (height, width)]
        top, left = (step * int(rng.integers(places)) for places in room)
        rows, columns = min(side, height - top), min(side, width - left)
        # Crops of one batch are of one size: photos that are smaller are padded behind.
        beyond = (0, side - columns, 0, side - rows)
        y = F.pad(latents[:, top : top + rows, left : left + columns], beyond)
        first, last = round(scale * top), round(scale * (top + rows))
        start, stop = round(scale * left), round(scale * (left + columns))
        cut = example.features[:, first:last, start:stop]
        outside = [round(scale * v) for v in beyond]
        counts = F.pad(torch.ones(1, *cut.shape[1:]), outside)
        quality = torch.tensor(example.qualities[place] - 1)
        return Batch(y.float(), quality, F.pad(cut, outside).float(), counts)


class ExampleSource:
    """Windows of examples, one after the other; ``batch`` crops of one are a step.

    They take ``memory`` bytes, or a share of what is free where it is None.
    """

    def __init__(
        self,
        maker: ExampleMaker,
        files: Sequence[PhotoFile],
        batch: int,
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        self._maker, self._files, self._seed = maker, files, seed
        # The first photo opens sessions: it is made before the clock runs.
        first, started = maker.make(files[0]), time.perf_counter()
        made = [first, *(maker.make(file) for file in files[1:SAMPLE])]
        seconds_each = (time.perf_counter() - started) / max(1, len(made) - 1)
        sample = [example for example in made if example is not None]
        self.positive = bool(sample) and min(float(e.features.min()) for e in sample) >= 0
        room = free_memory() if memory is None else memory
        self._count = photos_that_fit(sample, len(files), room)
        self.seconds_before_training = self._count * seconds_each
        self.all_fit = self._count == len(files)
        self._steps = max(1, PASSES * self._count // batch)
        self._pool, self._closed = ThreadPoolExecutor(1), Event()
        self._windows: dict[int, Future[Window]] = {}

    def window(self, step: int) -> Window:
        """Return the window of a step; another thread makes the one after it."""
        number = 0 if self.all_fit else step // self._steps
        wanted = [number] if self.all_fit else [number, number + 1]
        for one in wanted:
            if one not in self._windows:
                self._windows[one] = self._pool.submit(self._make_window, one, one == number)
        # Windows that are over are let go: memory is planned for two.
        self._windows = {one: self._windows[one] for one in wanted}
        return self._windows[number].result()

    def close(self) -> None:
        """Give up a window that is being made."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make_window(self, number: int, visible: bool) -> Window:
        """Make one window; a bar is shown where somebody waits for it."""
        # Its photos follow from its number alone: a resumed run needs no window before it.
        first, chosen = number * self._count, list[PhotoFile]()
        while len(chosen) < self._count:
            turn, start = divmod(first + len(chosen), len(self._files))
            order = np.random.default_rng((self._seed, turn)).permutation(len(self._files))
            chosen += [self._files[i] for i in order[start : start + self._count - len(chosen)]]
        examples = []
        for file in tqdm(chosen, desc="photos", unit="photo", disable=None if visible else True):
            if self._closed.is_set():
                break
            if (example := self._maker.make(file)) is not None:
                examples.append(example)
        if not examples:
            raise none_usable(len(chosen), self._maker.left_out, otherwise="stopped")
        return Window(examples)


def free_memory() -> int:
    """Bytes that examples may take: a share of what the machine has free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        # What caches hold counts too: it is given back when it is needed.
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return int(MEMORY_SHARE * 1024 * free)
    except (OSError, StopIteration):
        # Other systems tell what is built in: half of it may be taken already.
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return int(MEMORY_SHARE * pages * size / 2)


def photos_that_fit(sample: Sequence[Example], photos: int, memory: int) -> int:
    """Photos of a window: all, or half of what the memory holds, for there are then two."""
    each = max((example.nbytes for example in sample), default=1)
    if each * photos <= memory:
        return photos
    return max(1, min(photos, memory // (2 * each)))
