"""Optimisation profiles: the smallest, usual and largest shape of every input of an engine."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from cdvision.engines.plan_cache import Profile, Shape
from cdvision.errors import CdvisionError
from cdvision.export.graph_contract import concrete_shape
from cdvision.export.standalone_graph import axes_of
from cdvision.package.card import ModelCard

Triple = tuple[int, int, int]
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
    batches: Triple = (1, 4, 16)
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
        sides = sides or (spec.multiple, spec.size, spec.size)
        for name, triple in (("sizes", sides), ("batches", batches or (1, 4, 16))):
            if not 0 < triple[0] <= triple[1] <= triple[2]:
                raise CdvisionError(
                    f"{name}: expected smallest <= usual <= largest, found {triple}"
                )
        if any(side % spec.multiple for side in sides) or sides[2] > spec.max_size:
            raise CdvisionError(
                f"sizes: expected multiples of {spec.multiple} up to {spec.max_size}, found {sides}"
            )
        return cls(sides, batches or (1, 4, 16))

    def profile(self, model: onnx.ModelProto) -> Profile:
        """Return the profile of a stand-alone graph, from the names of its axes."""
        return {value.name: self._shapes(value) for value in model.graph.input}

    def _shapes(self, value: onnx.ValueInfoProto) -> tuple[Shape, Shape, Shape]:
        least, usual, most = (
            concrete_shape(axes_of(value), batch=batch, height=side, width=side, regions=count)
            for side, batch, count in zip(self.sides, self.batches, self.regions, strict=True)
        )
        return least, usual, most
