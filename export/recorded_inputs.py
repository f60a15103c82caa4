"""What the graphs of a model really receive: recorded while it encodes and answers photos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cdvision.engines import Arrays, Engine
from cdvision.errors import CdvisionError
from cdvision.image_files import PHOTO_SUFFIXES
from cdvision.package.graph_names import LAYER_COUNT, cheapest_graph
from cdvision.photo import ImageLike
from cdvision.tasks import find_task

if TYPE_CHECKING:
    from cdvision.model import Model

Inputs = Mapping[str, NDArray[Any]]
Recorded = dict[str, list[Inputs]]
STREAM_SUFFIX = ".cdv"
Item = TypeVar("Item")


class RecordingEngine:
    """Passes every run on to another engine and keeps its inputs, down to a mask head's regions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.recorded: Recorded = {}

    def run(self, graph: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one graph on named arrays and return its named outputs."""
        self.recorded.setdefault(graph, []).append(dict(inputs))
        return self._engine.run(graph, inputs)


def record_inputs(
    model: Model, photos: Iterable[ImageLike], qualities: Sequence[int] | None = None
) -> Recorded:
    """Encode photos, ask everything of their streams, and return the inputs of every graph.

    Args:
        model: on any engine; it is left as it was.
        photos: paths, bytes, PIL images or arrays; a path that ends in ``.cdv`` is a stream.
        qualities: at which each photo is encoded; the smallest, the default and the largest
            where None.
    """
    card = model.card
    # Latents are larger at a higher rate: calibration must see every range of values.
    chosen = qualities or sorted({1, card.default_quality, card.qualities})
    engine, recorder = model.engine, RecordingEngine(model.engine)
    model.engine = recorder
    try:
        for photo in photos:
            if isinstance(photo, Path) and photo.suffix.lower() == STREAM_SUFFIX:
                _ask_everything(model, photo.read_bytes())
                continue
            for quality in chosen:
                _ask_everything(model, model.encode(photo, quality))
    finally:
        model.engine = engine
    return recorder.recorded


def _ask_everything(model: Model, bits: bytes) -> None:
    stream = model.open(bits)
    for name in model.card.tails:
        stream.features(name)
        graph = f"answer.{name}"
        if f"{graph}.onnx" not in model.card.files:  # the tap of a user's network may end there
            continue
        stream.dense(name)
        inputs = stream.graph_inputs(name)
        if LAYER_COUNT in inputs:
            # As if the base layer alone had arrived: a graph of its own may answer from it.
            alone = {**inputs, LAYER_COUNT: np.ones_like(inputs[LAYER_COUNT])}
            chosen, taken = cheapest_graph(model.card, graph, alone)
            if chosen != graph:
                model.engine.run(chosen, taken)
    for task in model.card.tasks:  # masks, and the heads behind proposals
        stream.ask(task, **find_task(task).thorough)


def photos_in(folder: Path, most: int | None = None) -> list[Path]:
    """Find photos and streams below a folder, by name; ``most`` of them, evenly spread.

    Raises:
        CdvisionError: there is none.
    """
    suffixes = (*PHOTO_SUFFIXES, STREAM_SUFFIX)
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if not found:
        kinds = ", ".join(suffixes)
        raise CdvisionError(f"{folder} holds no photo: expected files that end in {kinds}")
    return found if most is None else spread(found, most)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items, spread evenly over all."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]


def drawn_photos() -> list[NDArray[np.uint8]]:
    """Draw smooth pictures of three shapes, to compare engines where there is no photo.

    Not for calibration: they have none of the ranges of real photos.
    """
    pictures = []
    for number, (height, width) in enumerate(((224, 288), (288, 224), (256, 256))):
        rows, columns = np.mgrid[0:height, 0:width] / height
        # Another frequency and direction in each colour, so that no channel repeats another.
        waves = [np.sin((5 + 4 * k) * rows + (9 - 2 * k) * columns + number) for k in range(3)]
        pictures.append((127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))
    return pictures
