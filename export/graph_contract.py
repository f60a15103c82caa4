"""What goes into and comes out of each dense graph: axes and meanings, from the card alone.

Axes have one vocabulary: ``batch``, ``regions``, ``height`` and ``width`` in pixels of the network
input, ``h16`` or ``w16`` for that side over 16, rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdvision.package.card import ModelCard

Axes = tuple[str | int, ...]

MEANINGS = {
    "image": "picture of the network input's size, RGB, 0 to 255",
    "window": "central square of the photo, RGB, 0 to 255",
    "descriptor": "quantised global descriptor of the whole picture",
    "quality": "rate knob, counted from 0 (a stream's quality less one)",
    "symbols": "quantised latents; what the entropy model skips is 0",
    "hyper": "quantised hyper-latents, which choose the entropy tables",
    "layers": "how many layers have arrived",
    "score": "how much the picture looks like what the model is for",
    "rows": "weights of rows: what part of the photo the classifier looks at",
    "columns": "weights of columns: what part of the photo the classifier looks at",
    "regions": "features pooled from the pyramid, one entry a proposal",
    "features": "what the tail expects at its split point",
    "scores": "class probabilities of each cell, all levels in a row",
    "distances": "logits of the distribution of each cell's distances: left, top, right, bottom",
    "logits": "class logits",
    "masks": "mask logits, one mask a class",
    "pyramid": "level of the feature pyramid, finest first",
    "objectness": "logits of the region proposals of a level",
    "deltas": "box deltas, in units of anchors or proposals",
}


def meaning(name: str) -> str:
    """Say what an input or output holds; levels and layers are numbered (``pyramid0``)."""
    stem = name.rstrip("0123456789")
    level = name[len(stem) :]
    text = MEANINGS.get(name) or MEANINGS.get(stem, "quantised latents; zeros where not arrived")
    return f"{text} (number {level})" if level and name not in MEANINGS else text


def tail_of(graph: str) -> str | None:
    """Name of the tail that a graph belongs to; None for the encoder.

    >>> tail_of("answer.nanodet_plus_m")
    'nanodet_plus_m'
    """
    return graph.partition(".")[2] or None


def named_axes(card: ModelCard, graph: str, name: str, found: Sequence[str | int]) -> Axes:
    """Name the dynamic axes of a graph's input or output.

    ``found`` are its axes in the graph's file: integers where fixed, any text where dynamic.
    """
    known = _known_axes(card, graph).get(name, ())
    # Heads behind proposals take regions of one picture: their first axis is no batch.
    first = "regions" if graph.startswith(("box.", "mask.")) else "batch"
    names = [*known] if len(known) == len(found) else [first]
    names += [f"{name}_axis{place}" for place in range(len(names), len(found))]
    return tuple(
        size if isinstance(size, int) else axis for size, axis in zip(found, names, strict=True)
    )


def _known_axes(card: ModelCard, graph: str) -> Mapping[str, tuple[str, ...]]:
    axes = {"image": ("batch", "height", "width", "rgb"), "quality": ("batch",)}
    for name, spec in card.latents.items():
        if spec.stride is not None:  # other shapes are fixed, and stand in the file
            axes[name] = ("batch", "channels", f"h{spec.stride}", f"w{spec.stride}")
    tail = card.tails.get(tail_of(graph) or "")
    if tail is not None:
        stride = tail.features.stride
        # A classifier weighs the cells of the map that it pools, finer than its features may be.
        windows = tail.settings.get("pool_stride", stride)
        axes["features"] = ("batch", "channels", f"h{stride}", f"w{stride}")
        axes["rows"] = ("batch", "cells", f"h{windows}")
        axes["columns"] = ("batch", "cells", f"w{windows}")
    return axes
