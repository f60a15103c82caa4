"""Frames with their times from files, cameras and network streams, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError, ImageError
from cdvision.optional_imports import import_optional

JITTER = 1e-3  # seconds that a frame may come early


def read_frames(source: str | Path, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield time in seconds and (H, W, 3) uint8 RGB of frames, ``fps`` a second at most.

    Raises:
        CdvisionError: PyAV is not installed (extra ``video``).
        ImageError: the source cannot be read.
    """
    av: Any = import_optional("av", "reading a video")
    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise ImageError(f"{source}: holds no video")
            yield from _sampled(container.decode(container.streams.video[0]), fps)
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(f"{source}: cannot be read as a video ({error})") from error


def _sampled(frames: Iterator[Any], fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the first frame of each of 1 / fps seconds."""
    if not fps > 0:
        raise CdvisionError(f"fps: expected a number above 0, found {fps!r}")
    start, wanted = None, 0
    for frame in frames:
        shown = 0.0 if frame.time is None else float(frame.time)
        start = shown if start is None else start
        time = shown - start
        if time + JITTER >= wanted / fps:
            wanted = int((time + JITTER) * fps) + 1
            yield time, frame.to_ndarray(format="rgb24")
