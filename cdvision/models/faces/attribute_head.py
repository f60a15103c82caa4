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

from cdvision.models.faces.trunks import resize_area
from cdvision.models.faces.widths import FACE, FaceWidths

FEATURE_CELLS = 4  # cells a side of F's means


class AttributeHead(nn.Module):
    """Decoded codes to attribute logits.

    With ``use_feature`` it reads F too, where it is given.
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
        basic = self.widths.basic_rows
        logits: Tensor = self.basic(rows[:, :basic].flatten(1))
        # Sums of parts: what a missing layer would add is left out without another network.
        logits = logits + self.others(rows[:, basic:].flatten(1))
        if self.feature is None or feature is None:
            return logits
        return logits + self.from_feature(feature)

    def from_feature(self, feature: Tensor) -> Tensor:
        """Return what F (N, C, side, side) adds to the logits."""
        if self.feature is None:
            raise TypeError("this head was built without F")
        added: Tensor = self.feature(resize_area(feature, FEATURE_CELLS).flatten(1))
        return added


def with_basic_only(rows: Tensor, basic_rows: int, missing: Tensor) -> Tensor:
    """Replace all but the first rows of (N, rows, style) by ``missing`` (1 or N, rows, style)."""
    # A receiver of the base layer alone has exactly these rows.
    kept = rows[:, :basic_rows]
    others = missing[:, basic_rows:].expand(len(rows), -1, -1)
    return torch.cat([kept, others], 1)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.LeakyReLU(0.1),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def _start_at_zero(layer: nn.Module) -> None:
    # The head begins as its basic part alone; gradients still reach weights that are zero.
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
