"""Attributes of a face from its codes, without any generator.

::

    rows 0..b-1 (basic layer) ─ MLP ─────────┐
    the other rows ─ MLP, zero at first ─────┼─ sum ─▶ 40 logits
    F, 4x4 means ─ linear, zero at first ────┘

Each later part only corrects what the first layer of a stream says. Where a layer has not arrived,
its rows are what the codec predicts (the mean style at worst), and the head is trained on such
rows too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.models.faces.resize_area import resize_area
from cdvision.models.faces.widths import FACE, FaceWidths

FEATURE_CELLS = 4  # cells a side of F's means


class AttributeHead(nn.Module):
    """Decoded codes to attribute logits.

    Args:
        widths: sizes.
        use_feature: read F too, where it is given.
    """

    def __init__(self, widths: FaceWidths = FACE, *, use_feature: bool = False) -> None:
        super().__init__()
        self.widths = widths
        basic, others = widths.basic_rows, widths.rows - widths.basic_rows
        self.basic = _perceptron(basic * widths.style, widths.head, widths.attributes)
        self.others = _perceptron(others * widths.style, widths.head, widths.attributes)
        _start_at_zero(self.others[-1])
        self.feature: nn.Linear | None = None
        if use_feature:
            cells = FEATURE_CELLS**2 * widths.feature_channels
            self.feature = nn.Linear(cells, widths.attributes)
            _start_at_zero(self.feature)

    def forward(self, rows: Tensor, feature: Tensor | None = None) -> Tensor:
        """Map rows (N, rows, style), and F if the head reads it, to logits (N, attributes)."""
        logits: Tensor = self.from_basic(rows)
        logits = logits + self.others(rows[:, self.widths.basic_rows :].flatten(1))
        if self.feature is not None and feature is not None:
            logits = logits + self.feature(resize_area(feature, FEATURE_CELLS).flatten(1))
        return logits

    def from_basic(self, rows: Tensor) -> Tensor:
        """Return logits of the first ``basic_rows`` rows alone: (N, >= basic_rows, style)."""
        logits: Tensor = self.basic(rows[:, : self.widths.basic_rows].flatten(1))
        return logits


def with_basic_only(rows: Tensor, basic_rows: int, missing: Tensor) -> Tensor:
    """Replace all but the first rows of (N, rows, style) by ``missing`` (1 or N, rows, style)."""
    kept = rows[:, :basic_rows]
    others = missing[:, basic_rows:].expand(len(rows), -1, -1)
    return torch.cat([kept, others], 1)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.LeakyReLU(0.1),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def _start_at_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
