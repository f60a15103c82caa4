"""Counts what delta packets would say of sequences, and gives a package their tables.

::

    frames ─ MapSender ─ closed loop ─ count_change ─▶ counts ─ counted_tables ─▶ sequence.npz
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvision.building.delta_tables import counted_tables, new_counts
from cdvision.building.moving_photos import moving_frames
from cdvision.entropy.delta_coder import DeltaCoder, MapState, count_change
from cdvision.export.partial_package import write_card
from cdvision.model import Model
from cdvision.package.card import ModelCard, SequenceSpec
from cdvision.package.loader import SEQUENCE_FILE, ModelPackage
from cdvision.photo import ImageLike
from cdvision.video.map_sender import MapSender
from cdvision.video.sources import read_frames

GRAPH = "delta"
KEY_FRAMES = 50  # between keys, as a camera of 5 frames a second sends them
QUALITIES = (2, 4, 6)
CLIP_QUALITY = 4
FRAMES = 10  # of a sequence made of photos
Counts = NDArray[np.uint32]


def with_spec(model: Model, layer: int) -> Model:
    """Return a model whose card says that it has delta packets, before there are tables."""
    card = replace(model.card, sequence=SequenceSpec(GRAPH, layer, ""))
    other = model.with_engine(model.engine)
    other.card = card
    return other


def count_frames(sender: MapSender, frames: Iterable[ImageLike], counts: Counts) -> int:
    """Add the packets of one sequence to counts; returns how many frames there were."""
    state: MapState | None = None
    number = -1
    for number, frame in enumerate(frames):
        photo = sender.fitted(frame)
        if state is None or number % KEY_FRAMES == 0:
            _, state = sender.key(photo)
        else:
            state = count_change(state, sender.next_symbols(photo, state), counts)
    return number + 1


def count_clip(model: Model, clip: Path, fps: float, counts: Counts) -> int:
    """Add the packets of a video file."""
    sender = MapSender(model, CLIP_QUALITY)
    return count_frames(sender, (frame for _, frame in read_frames(clip, fps)), counts)


def count_photos(
    model: Model, photos: Sequence[NDArray[np.uint8]], sequences: int, seed: int, counts: Counts
) -> int:
    """Add the packets of sequences made of photos, at several qualities in turn."""
    rng, frames = np.random.default_rng(seed), 0
    for number in range(sequences):
        sender = MapSender(model, QUALITIES[number % len(QUALITIES)])
        frames += count_frames(sender, moving_frames(photos, FRAMES, rng), counts)
    return frames


def add_tables(
    package: ModelPackage, layer: int, counts: Counts, counted_on: str, folder: Path
) -> ModelCard:
    """Write tables and card of a package whose other files lie in ``folder`` already.

    Args:
        package: the model's.
        layer: id of the layer of its map.
        counts: (253, 256).
        counted_on: the data, for the card's readers.
        folder: of the new package; the old one's, to change it in place.
    """
    deltas = DeltaCoder(counted_tables(counts))
    np.savez_compressed(folder / SEQUENCE_FILE, **deltas.arrays)  # type: ignore[arg-type]
    fingerprint = deltas.fingerprint(package.coder).hex()
    spec = SequenceSpec(GRAPH, layer, fingerprint, counted_on)
    files = dict.fromkeys([*package.card.files, f"{GRAPH}.onnx", SEQUENCE_FILE])
    return write_card(replace(package.card, sequence=spec), folder, files)


__all__ = ["add_tables", "count_clip", "count_frames", "count_photos", "new_counts", "with_spec"]
