"""What exact scales cost: the same symbols under fixed tables, integer and float transformers.

Three models of the scales of one trained codec's residuals are fitted to the very same numbers:

* fixed: one scale a (quality, row, symbol), from tables;
* integer: the integer transformer, which any machine computes alike;
* float: a float transformer of the width that the published description leaves open (256). It
  serves no stream, since two machines may disagree about it; it is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.models.faces.row_transformer import RowTransformer
from cdvision.models.faces.scale_transformer import INDEX_UNIT, IntegerScaleTransformer
from cdvision.models.faces.style_layers import StyleLayers
from cdvision.networks.quantisation import add_uniform_noise, gaussian_bits
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS, scale_of

KINDS = ("fixed", "integer", "float")
BATCH, LEARNING_RATE, SYMBOL_BOUND = 128, 1e-3, 15.0
FLOAT_WIDTH, FLOAT_BLOCKS = 256, 3


class Drawn(NamedTuple):
    """Symbols and residuals of a batch, layer by layer, and qualities (N,)."""

    symbols: Sequence[Tensor]
    residuals: Sequence[Tensor]
    quality: Tensor


class ScaleModel(nn.Module):
    """Gives the scale index of every later layer: (N, rows, symbols) each."""

    def __init__(self, codec: StyleLayers, kind: str) -> None:
        super().__init__()
        shapes = codec.layout.shapes
        self.kind = kind
        self.fixed = nn.ParameterList(part.detach().clone() for part in list(codec.fixed)[1:])
        self.network: nn.Module | None = None
        if kind == "integer":
            self.network = exact = IntegerScaleTransformer(shapes)
            exact.start([part * INDEX_UNIT for part in self.fixed])
        if kind == "float":
            self.network = RowTransformer(shapes, width=FLOAT_WIDTH, heads=8, blocks=FLOAT_BLOCKS)

    def forward(self, layer: int, drawn: Drawn) -> Tensor:
        """Return the index of layer 1 or higher; real-valued only in the float model."""
        fixed, earlier = self.fixed[layer - 1][drawn.quality], drawn.symbols[:layer]
        if self.network is None:
            return _index(fixed)
        if self.kind == "integer":
            index: Tensor = self.network(earlier, drawn.quality)
            return index
        seen = [symbols.clamp(-SYMBOL_BOUND, SYMBOL_BOUND) for symbols in earlier]
        told = self.network(seen, drawn.quality)[0]
        return _index(fixed + told)


def _index(told: Tensor) -> Tensor:
    return torch.clamp(told * INDEX_UNIT, 0, SCALE_LEVELS - 1)


def compare_scales(
    codec: StyleLayers, rows: Tensor, held_out: Tensor, *, steps: int
) -> dict[str, list[list[float]]]:
    """Fit every kind of scales on training rows and return its bits on held-out ones.

    Returns:
        For each kind, quality by quality, the mean bits a face of each layer behind the first.
    """
    found = {}
    for kind in KINDS:
        model = fit_scales(codec, rows, kind, steps=steps)
        found[kind] = [later_bits(model, codec, held_out, quality) for quality in range(QUALITIES)]
    return found


def fit_scales(
    codec: StyleLayers, rows: Tensor, kind: str, *, steps: int, seed: int = 0
) -> ScaleModel:
    """Fit scales to a codec's residuals on training rows by maximum likelihood.

    Args:
        codec: trained; it stays as it is.
        rows: of training faces, (M, rows, style).
        kind: "fixed", "integer" or "float".
        steps: of Adam.
        seed: of what is drawn.
    """
    torch.manual_seed(seed)
    codec.eval()
    model = ScaleModel(codec, kind).to(rows.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        drawn = _draw(codec, rows[torch.randint(len(rows), (BATCH,), device=rows.device)])
        bits = [
            gaussian_bits(add_uniform_noise(residual), scale_of(model(layer, drawn))).sum((1, 2))
            for layer, residual in enumerate(drawn.residuals)
            if layer
        ]
        optimizer.zero_grad()
        torch.stack(bits).sum(0).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def later_bits(model: ScaleModel, codec: StyleLayers, rows: Tensor, quality: int) -> list[float]:
    """Mean bits a face of each later layer's symbols, as coding rounds them, at a quality."""
    drawn = _draw(codec, rows, torch.full((len(rows),), quality, device=rows.device))
    return [
        _coded_bits(residual, model(layer, drawn))
        for layer, residual in enumerate(drawn.residuals)
        if layer
    ]


def _coded_bits(residual: Tensor, index: Tensor) -> float:
    """Bits of rounded residuals; zeros of the lowest scale are skipped, as the coder does."""
    index, symbols = torch.round(index), torch.round(residual)
    bits = gaussian_bits(symbols, scale_of(index)) * ((index > 0) | (symbols != 0))
    return float(bits.sum((1, 2)).mean())


@torch.no_grad()
def _draw(codec: StyleLayers, rows: Tensor, quality: Tensor | None = None) -> Drawn:
    if quality is None:
        quality = torch.randint(QUALITIES, (len(rows),), device=rows.device)
    sent = codec(rows, quality)
    return Drawn(sent.symbols, sent.residuals, quality)
