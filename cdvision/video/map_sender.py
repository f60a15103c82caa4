"""A model's sender as videos use it: keys, and the symbols that a receiver is to have next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import EncodedLayer
from cdvision.entropy.delta_coder import MapState
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import ModelError
from cdvision.package.graph_names import QUALITY
from cdvision.photo import FittedPhoto, ImageLike, fit_photo, read_photo

if TYPE_CHECKING:
    from cdvision.model import Model


class MapSender:
    """Runs the graphs of a sender at one quality (from 1).

    Raises:
        ModelError: the model has no graph for delta packets.
    """

    def __init__(self, model: Model, quality: int, size: int | None = None) -> None:
        if model.card.sequence is None:
            raise ModelError(f"model {model.name!r} sends photos, not videos")
        self.model, self.spec, self.quality = model, model.card.sequence, quality
        self._size = size
        # A window is for the layers that videos leave out.
        self._input = replace(model.card.input, window=None)

    def fitted(self, frame: ImageLike, channels: str = "rgb") -> FittedPhoto:
        """Return a frame inside the network input."""
        return fit_photo(read_photo(frame, channels), self._input, self._size)

    def key(self, photo: FittedPhoto) -> tuple[EncodedLayer, MapState]:
        """Return the map layer of a photo, and what a receiver of it has."""
        sender = next(iter(self.model.card.senders.values()))
        graph = next(n for n, one in sender.graphs.items() if self.spec.layer in one.layers)
        latents = self._run(graph, image=photo.pixels)
        coder, level = self.model.package.coder, self.quality - 1
        encoded = coder.encode_layer(self.spec.layer, latents, level, {})
        return encoded, MapState.of_key(encoded.received, coder, level)

    def next_symbols(self, photo: FittedPhoto, state: MapState) -> NDArray[np.int32]:
        """Return the symbols (C, h, w) that a receiver in ``state`` is to have next."""
        given = {"previous": state.symbols, HYPER: state.hyper}
        return self._run(self.spec.graph, image=photo.pixels, **given)[SYMBOLS]

    def _run(self, graph: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        batch = {name: value[None] for name, value in inputs.items()}
        level = np.array([self.quality - 1], np.int64)
        outputs = self.model.engine.run(graph, {**batch, QUALITY: level})
        return {name: value[0] for name, value in outputs.items()}
