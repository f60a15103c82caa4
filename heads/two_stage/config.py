"""What the selection of a two-stage detector has to know, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cdvision.errors import ModelError

BOX_CELLS, MASK_CELLS = 7, 14
"""Cells a side that a region is pooled to for the box head and for the mask head."""


@dataclass(frozen=True, kw_only=True)
class TwoStageConfig:
    """Anchors, thresholds and strides of one detector; a model package keeps it as JSON."""

    # Of the pyramid levels that regions are pooled from, powers of two, finest first.
    strides: tuple[int, ...]
    # For every level that proposes (one more may propose than is pooled from).
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[tuple[float, ...], ...]  # height / width of the anchors of every level
    proposals_per_level: int = 1000  # best proposals of a level that compete
    proposals: int = 1000  # best of all that reach the box head
    # Overlap from which the weaker of two proposals of a level is dropped.
    proposal_iou: float = 0.7
    proposal_score: float = 0.0  # least objectness of a proposal, 0 to 1
    # What the box head's deltas x, y, w, h are multiplied by in training.
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    samples: int = 2  # sampling points of RoIAlign, a side of a cell
    masks: bool = False  # whether there is a mask head

    def __post_init__(self) -> None:
        levels = len(self.anchor_sizes)
        if len(self.aspect_ratios) != levels or levels < len(self.strides) or not self.strides:
            raise ModelError(
                f"two-stage config: expected anchor sizes and aspect ratios for the same levels, "
                f"at least the {len(self.strides)} with a stride, found {levels} and "
                f"{len(self.aspect_ratios)}"
            )
        if any(stride < 1 or stride & (stride - 1) for stride in self.strides):
            raise ModelError(f"two-stage config: strides must be powers of 2, found {self.strides}")
        if len(self.box_weights) != 4 or self.samples < 1:
            raise ModelError(
                f"two-stage config: expected four box weights and at least one sample, found "
                f"{self.box_weights} and {self.samples}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TwoStageConfig:
        """Read what `to_dict` wrote, lists for tuples allowed; raises ModelError."""
        unknown = set(values) ^ {field.name for field in fields(cls)}
        if unknown:
            raise ModelError(f"two-stage config: missing or unknown fields {sorted(unknown)}")
        return cls(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
