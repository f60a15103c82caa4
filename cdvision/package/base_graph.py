"""The smaller graph that answers where the base layer alone has arrived.

::

    layers 0..n, their number, quality ─ answer.TAIL ─▶ outputs
    layer 0, quality ─────────────────── base.TAIL ───▶ the same outputs of the base layer alone

``answer.TAIL`` decodes every layer, zeros where one is missing, and then leaves what has not
arrived out of its outputs. Where no stream of a batch has more than the base layer, ``base.TAIL``
gives those outputs without that work: attributes of `hsc` for a tenth of the time. A package may
do without such a graph.
"""

from __future__ import annotations

from cdvision.engines import Arrays
from cdvision.package.card import ModelCard
from cdvision.package.stream_codec import BASE_LAYER, LAYER_COUNT, layer_name

ANSWER, BASE = "answer", "base"  # first parts of the graphs' names
BASE_INPUTS = (layer_name(BASE_LAYER), "quality")


def leanest_run(card: ModelCard, graph: str, inputs: Arrays) -> tuple[str, Arrays]:
    """Return the graph that gives a graph's outputs for the least work, and what it takes.

    Args:
        card: of the package that holds the graphs.
        graph: a graph's name, such as ``"answer.attributes"``.
        inputs: of that graph, any batch.
    """
    kind, _, tail = graph.partition(".")
    count, base = inputs.get(LAYER_COUNT), f"{BASE}.{tail}"
    if kind != ANSWER or count is None or f"{base}.onnx" not in card.files:
        return graph, inputs
    if (count > 1).any():
        return graph, inputs
    return base, {name: inputs[name] for name in BASE_INPUTS}
