"""The `sfic-style` codec's networks: W+ rows to integers in three layers, and back.

::

    rows of layer l ─ linear ─▶ y ─ (- mean) · gain[q] ─ round ─▶ symbols of layer l
    mean: 0 in the basic layer; behind it, what decoded layers tell (linear + transformer, float)
    scale: fixed tables[q, row, symbol], or an integer transformer over decoded symbols (exact)
    symbols · rescale[q] + mean ─ linear ─▶ rows of layer l; of a missing layer: mean ─ linear ─▶
    symbols · rescale[q] ─ linear ─▶ corrections of the layers before it

Rows of one layer share their linear map: W+ rows of one face are highly redundant, and rows coded
one by one would tell the same thing several times.

Source of the idea: Mao et al., "Scalable Face Image Coding via StyleGAN Prior", IEEE TIP 2024.
Which rows belong to which layer, sizes and losses are not public: the design is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.faces.codec import DecodedFaces, FaceCodec, StyleCodes
from cdvision.models.faces.receiver.style_layers import LAYERS, StyleLayersCoder
from cdvision.models.faces.row_transformer import RowTransformer
from cdvision.models.faces.scale_transformer import (
    INDEX_UNIT,
    IntegerScaleTransformer,
    build_scale_transformer,
)
from cdvision.models.faces.widths import FaceWidths
from cdvision.networks.quantisation import add_uniform_noise, gaussian_bits, round_straight_through
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS, scale_of

Rounding = Callable[[Tensor], Tensor]
MIDDLE_ROWS = 4
SYMBOLS = (64, 64, 32)  # a row of each layer


@dataclass(frozen=True)
class StyleLayout:
    """Which rows belong to which layer, and how wide the networks are."""

    rows: tuple[int, ...]  # of each layer, in order
    symbols: tuple[int, ...]  # of a row of each layer
    style: int  # values of a row
    width: int = 128  # channels of the transformer's tokens
    heads: int = 8  # of its attention
    blocks: int = 3  # its depth
    scale_width: int = 0  # channels of the integer transformer's tokens; 0 for fixed tables
    corrected: bool = False  # what a layer says anew corrects those before it as well

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and symbols a row of each layer."""
        return tuple(zip(self.rows, self.symbols, strict=True))


def style_layout(
    widths: FaceWidths, *, scale_width: int = 0, corrected: bool = False
) -> StyleLayout:
    """Lay rows out after StyleGAN's coarse, middle and fine convention.

    >>> from cdvision.models.faces.widths import FACE
    >>> style_layout(FACE).shapes
    ((4, 64), (4, 64), (4, 32))
    """
    # StyleGAN's convention: pose and shape first, then features, then colours.
    fine = widths.rows - widths.basic_rows - MIDDLE_ROWS
    return StyleLayout(
        rows=(widths.basic_rows, MIDDLE_ROWS, fine),
        symbols=tuple(min(count, widths.style // 4) for count in SYMBOLS),
        style=widths.style,
        scale_width=scale_width,
        corrected=corrected,
    )


class SentRows(NamedTuple):
    """What a receiver has of a batch after each layer, and what the layers cost."""

    rows: tuple[Tensor, ...]  # after each layer: (N, rows, style)
    symbols: tuple[Tensor, ...]  # of each layer: (N, rows, symbols), integers
    residuals: tuple[Tensor, ...]  # the same before rounding
    noisy_bits: Tensor  # (N, layers), differentiable
    bits: Tensor  # (N, layers), of the symbols that are really sent


class StyleLayers(FaceCodec):
    """W+ rows to integers (N, rows, symbols) in layers, and back; F is not sent."""

    sends_feature = False

    def __init__(self, layout: StyleLayout) -> None:
        super().__init__()
        self.layout = layout
        shapes = layout.shapes
        # All rows of a layer go through one map: together they are redundant.
        flat = [(rows * layout.style, rows * symbols) for rows, symbols in shapes]
        self.analysis = nn.ModuleList(nn.Linear(values, out) for values, out in flat)
        self.synthesis = nn.ModuleList(nn.Linear(out, values) for values, out in flat)
        self.log_gain, self.log_rescale, self.fixed = (
            nn.ParameterList(torch.zeros(QUALITIES, *shape) for shape in shapes) for _ in range(3)
        )
        counts = [out for _, out in flat]
        self.linear = nn.ModuleList(
            nn.Linear(sum(counts[:known]), sum(counts[known:]), bias=False)
            for known in range(1, len(counts))
        )
        self.correction = nn.ModuleList(
            nn.Linear(counts[layer], sum(counts[:layer]), bias=False)
            for layer in range(1, len(counts) if layout.corrected else 1)
        )
        self.transformer = RowTransformer(
            shapes, width=layout.width, heads=layout.heads, blocks=layout.blocks
        )
        self.scales = (
            IntegerScaleTransformer(shapes, width=layout.scale_width)
            if layout.scale_width
            else None
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Rows and symbols a row of each layer."""
        return dict(zip(LAYERS, self.layout.shapes, strict=True))

    def encode(self, codes: StyleCodes, quality: Tensor) -> dict[str, Tensor]:
        """Return the integers of rows."""
        symbols = self._send(codes.rows, quality, torch.round).symbols
        return dict(zip(LAYERS, symbols, strict=True))

    def decode(self, latents: Mapping[str, Tensor], count: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode rows; those of missing layers are predicted."""
        base, *later = (latents[name] for name in LAYERS)
        values = self.received([], base, 0.0, quality)
        told = self.means(values, quality)
        chosen = [*values, *told]
        # Every face of a batch walks through all layers, and keeps what its own layers told.
        for known, symbols in enumerate(later, start=1):
            values = self.received(values, symbols, told[0], quality)
            told = self.means(values, quality)
            arrived = (count > known)[:, None, None]
            chosen = [
                torch.where(arrived, new, old)
                for new, old in zip([*values, *told], chosen, strict=True)
            ]
        return DecodedFaces(self._rows(chosen))

    def decode_base(self, base: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode rows from the basic layer alone, the others predicted."""
        values = self.received([], base, 0.0, quality)
        return DecodedFaces(self._rows([*values, *self.means(values, quality)]))

    @torch.no_grad()
    def build_coder(self) -> StyleLayersCoder:
        """Freeze tables and transformer; raises ModelError where a sum may stop being exact."""
        from cdvision.building.map_tables import symbol_tables  # heavy; no receiver builds

        fixed = 1 if self.scales is not None else len(self.layout.rows)
        return StyleLayersCoder(
            tables=symbol_tables(),
            fixed=tuple(
                self.fixed_index(layer).cpu().numpy().astype(np.uint16) for layer in range(fixed)
            ),
            transformer=None if self.scales is None else build_scale_transformer(self.scales),
        )

    def forward(self, rows: Tensor, quality: Tensor) -> SentRows:
        """Send W+ rows (N, rows, style) as in training: straight-through rounding, noisy rates."""
        with torch.autocast(rows.device.type, enabled=False):  # half precision holds no such bits
            return self._send(rows.float(), quality, round_straight_through)

    def _send(self, rows: Tensor, quality: Tensor, rounding: Rounding) -> SentRows:
        steps: list[tuple[Tensor, ...]] = []
        values: list[Tensor] = []
        told: list[Tensor] = []
        after: list[Tensor] = []
        for y in self.analyse(rows):
            # Both ends predict from decoded layers, so what was rounded off before is known.
            mean = told[0] if told else torch.zeros_like(y)
            earlier = [symbols for symbols, *_ in steps]
            steps.append(self._quantise(y - mean, earlier, quality, rounding))
            values = self.received(values, steps[-1][0], mean, quality)
            told = self.means(values, quality)
            after.append(self._rows([*values, *told]))
        symbols, residuals, noisy_bits, bits = zip(*steps, strict=True)
        noisy, sent = torch.stack(noisy_bits, dim=1), torch.stack(bits, dim=1)
        return SentRows(tuple(after), symbols, residuals, noisy, sent)

    def _quantise(
        self, deviation: Tensor, earlier: Sequence[Tensor], quality: Tensor, rounding: Rounding
    ) -> tuple[Tensor, ...]:
        """Return the symbols of a layer, the same before rounding, and noisy and real bits (N,)."""
        layer = len(earlier)
        residual = deviation * torch.exp(self.log_gain[layer])[quality]
        index = self.index(earlier, quality)
        # Index 0 means that a symbol is not sent: the receiver takes the mean.
        symbols, scale = rounding(residual) * (index > 0), scale_of(index)
        # Uniform noise stands for rounding, which has no gradient.
        noisy = gaussian_bits(add_uniform_noise(residual), scale)
        bits = gaussian_bits(symbols, scale) * (index > 0)
        return symbols, residual, noisy.flatten(1).sum(1), bits.flatten(1).sum(1)

    def index(self, earlier: Sequence[Tensor], quality: Tensor) -> Tensor:
        """Return the scale index (N, rows, symbols) of the layer after the ``earlier`` symbols."""
        if earlier and self.scales is not None:
            index: Tensor = self.scales(earlier, quality)
            return index
        return self.fixed_index(len(earlier))[quality]

    def fixed_index(self, layer: int) -> Tensor:
        """Return the fixed scale indices (qualities, rows, symbols) of a layer."""
        # Learned as logarithms of scales, so that one step is the same share of any width.
        index = round_straight_through(self.fixed[layer] * INDEX_UNIT)
        return index.clamp(0, SCALE_LEVELS - 1)

    def received(
        self, values: Sequence[Tensor], symbols: Tensor, mean: Tensor | float, quality: Tensor
    ) -> list[Tensor]:
        """Return what a receiver has of all known layers once the next one's symbols are there."""
        latest = mean + symbols * torch.exp(self.log_rescale[len(values)])[quality]
        if not values or not self.layout.corrected:
            return [*values, latest]
        # Rows of a face depend on each other: what was rounded off in an early layer shows in the
        # rows of a later one, and is put back.
        told = self.correction[len(values) - 1]((latest - mean).flatten(1))
        parts = told.split([value[0].numel() for value in values], dim=1)
        return [v + part.view_as(v) for v, part in zip(values, parts, strict=True)] + [latest]

    def means(self, values: Sequence[Tensor], quality: Tensor) -> list[Tensor]:
        """Return what the first layers' values tell of all layers behind them."""
        shapes = self.layout.shapes[len(values) :]
        if not shapes:
            return []
        known = torch.cat([value.flatten(1) for value in values], dim=1)
        parts = self.linear[len(values) - 1](known).split([r * s for r, s in shapes], dim=1)
        # The transformer begins at zero and adds what no linear map can tell.
        told = self.transformer(values, quality)
        return [
            part.unflatten(1, shape) + more
            for part, shape, more in zip(parts, shapes, told, strict=True)
        ]

    def analyse(self, rows: Tensor) -> list[Tensor]:
        """Return the latents (N, rows, symbols) of every layer, before prediction and gain."""
        parts = torch.split(rows, list(self.layout.rows), dim=1)
        return [
            analysis(part.flatten(1)).unflatten(1, shape)
            for analysis, part, shape in zip(self.analysis, parts, self.layout.shapes, strict=True)
        ]

    def _rows(self, values: Sequence[Tensor]) -> Tensor:
        parts = [
            synthesis(value.flatten(1)).unflatten(1, (rows, -1))
            for synthesis, value, rows in zip(self.synthesis, values, self.layout.rows, strict=True)
        ]
        return torch.cat(parts, dim=1)
