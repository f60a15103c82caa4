"""Optimisation profiles: the smallest, usual and largest shape of every input of an engine."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from cdvision.engines.plan_cache import Profile, Shape
from cdvision.errors import CdvisionError
from cdvision.export.graph_contract import Axes
from cdvision.export.standalone_graph import axes_of
from cdvision.package.card import ModelCard

Triple = tuple[int, int, int]
BATCHES: Triple = (1, 4, 16)
REGIONS: Triple = (1, 200, 1000)  # two-stage detectors here propose at most 1000


@dataclass(frozen=True)
class ShapeRange:
    """What an engine must take; each triple is smallest, usual, largest.

    Attributes:
        sides: of the network input, in pixels; height and width alike.
        batches: streams or photos at once.
        regions: proposals at once, for the box and mask heads of two-stage detectors.
    """

    sides: Triple
    batches: Triple = BATCHES
    regions: Triple = REGIONS

    @classmethod
    def for_card(
        cls, card: ModelCard, sides: Triple | None = None, batches: Triple | None = None
    ) -> ShapeRange:
        """Check options against a model; its own input sizes and batches of 1 to 16 where None.

        Raises:
            CdvisionError: not in rising order, or no sides that the model takes.
        """
        spec = card.input
        found = cls(sides or (spec.multiple, spec.size, spec.size), batches or BATCHES)
        for name, triple in (("sizes", found.sides), ("batches", found.batches)):
            if not 0 < triple[0] <= triple[1] <= triple[2]:
                raise CdvisionError(
                    f"{name}: expected smallest <= usual <= largest, found {triple}"
                )
        if any(side % spec.multiple for side in found.sides) or found.sides[2] > spec.max_size:
            raise CdvisionError(
                f"sizes: expected multiples of {spec.multiple} up to {spec.max_size}, "
                f"found {found.sides}"
            )
        return found

    def profile(self, model: onnx.ModelProto) -> Profile:
        """Return the profile of a stand-alone graph, from the names of its axes."""
        return {value.name: self._shapes(axes_of(value)) for value in model.graph.input}

    def _shapes(self, axes: Axes) -> tuple[Shape, Shape, Shape]:
        least, usual, most = (
            concrete_shape(axes, batch=batch, height=side, width=side, regions=count)
            for side, batch, count in zip(self.sides, self.batches, self.regions, strict=True)
        )
        return least, usual, most


def concrete_shape(
    axes: Axes, *, batch: int, height: int, width: int, regions: int = 1
) -> tuple[int, ...]:
    """Return the shape of an input for a batch of network inputs.

    >>> concrete_shape(("batch", 128, "h16", "w16"), batch=2, height=416, width=320)
    (2, 128, 26, 20)

    Raises:
        ValueError: an axis that is no function of these numbers.
    """
    sizes = {"batch": batch, "height": height, "width": width, "regions": regions}
    for axis in axes:
        strided = re.fullmatch(r"([hw])(\d+)", str(axis))
        if strided:
            side = height if strided[1] == "h" else width
            # Rounded up (the floor of the negative), as padded convolutions do.
            sizes[strided[0]] = -(-side // int(strided[2]))
        elif isinstance(axis, str) and axis not in sizes:
            raise ValueError(f"expected an axis such as batch, height or h16, found {axis!r}")
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)
