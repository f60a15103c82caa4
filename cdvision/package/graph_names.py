"""What the dense graphs of a package are called, and which of them a question needs.

::

    SENDER              picture, quality ─▶ latents
    tap.TAIL            latents, quality ─▶ features
    answer.TAIL         latents, quality ─▶ features and dense outputs
    TASK.TAIL           the same and more, where a task has a graph of its own (``segment``)
    base.TAIL           latents of the first layer, quality ─▶ what ``answer.TAIL`` gives of them

``answer.TAIL`` of a tail that is answered from several layers takes them all, zeros where one has
not arrived, and their number. Where no stream of a batch has more than the first, ``base.TAIL``
gives the same outputs for less: attributes of `hsc` for a tenth of the time. A package may do
without such a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cdvision.package.card import ModelCard

Arrays = Mapping[str, NDArray[Any]]

TAP, ANSWER, BASE = "tap", "answer", "base"
QUALITY = "quality"  # input of every graph: (N,) int64, counts from 0
LAYER_COUNT = "layers"  # input: (N,) int64, how many layers of each stream have arrived


def cheapest_graph(card: ModelCard, graph: str, inputs: Arrays) -> tuple[str, Arrays]:
    """Return the graph that gives the outputs of ``graph`` for the least work, and its inputs.

    ``inputs`` are those of ``graph``, any batch.
    """
    kind, _, tail = graph.partition(".")
    count, base = inputs.get(LAYER_COUNT), f"{BASE}.{tail}"
    if kind != ANSWER or count is None or f"{base}.onnx" not in card.files or (count > 1).any():
        return graph, inputs
    names = [*card.latents_of(card.tails[tail].layers[:1]), QUALITY]
    return base, {name: inputs[name] for name in names}
