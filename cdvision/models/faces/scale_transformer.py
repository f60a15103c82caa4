"""Training twin of the `sfic-style` scale transformer: decoded rows to table indices, in integers.

The forward pass computes what ``receiver/scale_transformer.py`` computes, value for value; see
there for a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.entropy.integer_attention import TOKEN_BOUND
from cdvision.entropy.integer_network import IntegerLayer
from cdvision.models.faces.integer_attention import UNIT, IntegerLinear, IntegerTransformerBlock
from cdvision.models.faces.receiver.scale_transformer import ScaleTransformer
from cdvision.networks.quantisation import round_straight_through
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS

SYMBOL_BOUND = 15  # of what the network is shown; the symbols themselves may be larger
INDEX_UNIT = 10  # indices that stand for a factor of e in scale


class IntegerScaleTransformer(nn.Module):
    """Symbols of earlier layers to the table indices of the next layer's rows.

    ``shapes`` are rows and symbols a row of each layer.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], *, width: int = 64, heads: int = 8, blocks: int = 3
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        known, coming = self.shapes[:-1], self.shapes[1:]
        token = {"low": -TOKEN_BOUND, "high": TOKEN_BOUND}
        index = {"low": 0, "high": SCALE_LEVELS - 1}
        self.embed = nn.ModuleList(
            IntegerLinear(symbols, width, tokens=rows, units=(1, UNIT), shift=2, **token)
            for rows, symbols in known
        )
        told = [
            IntegerLinear(width, symbols, tokens=rows, units=(UNIT, INDEX_UNIT), shift=9, **index)
            for rows, symbols in coming
        ]
        for linear in told:  # at first the scales are those of (quality, row, symbol)
            nn.init.zeros_(linear.weight)
        self.tell = nn.ModuleList(told)
        # What a quality changes stands in biases: weights are the same for all.
        self.embed_bias, self.awaited, self.tell_bias = (
            nn.ParameterList(torch.zeros(QUALITIES, rows, size) for rows, size in sizes)
            for sizes in (
                [(rows, width) for rows, _ in known],
                [(rows, width) for rows, _ in coming],
                coming,
            )
        )
        self.blocks = nn.ModuleList(
            IntegerTransformerBlock(width, heads, 2 * width) for _ in range(blocks)
        )
        for tokens in (*self.embed_bias, *self.awaited):  # at first, the same for all qualities
            tokens.data.copy_(torch.randn(tokens.shape[1:]).expand_as(tokens))

    def start(self, indices: Sequence[Tensor]) -> None:
        """Set the indices, (qualities, rows, symbols) of every layer but the first, to begin at."""
        for bias, index in zip(self.tell_bias, indices, strict=True):
            bias.data.copy_(index / INDEX_UNIT)

    def forward(self, earlier: Sequence[Tensor], quality: Tensor) -> Tensor:
        """Return indices (N, rows, symbols) of the layer that follows the ``earlier`` symbols."""
        layer = len(earlier)
        known = [
            self.embed[i](symbols.clamp(-SYMBOL_BOUND, SYMBOL_BOUND), self.embed_bias[i][quality])
            for i, symbols in enumerate(earlier)
        ]
        count = sum(tokens.shape[1] for tokens in known)
        tokens = torch.cat([*known, self.tokens(layer)[quality]], dim=1)
        for block in self.blocks:
            tokens = block(tokens, count)
        indices: Tensor = self.tell[layer - 1](
            tokens[:, count:], self.tell_bias[layer - 1][quality]
        )
        return indices

    def tokens(self, layer: int) -> Tensor:
        """Return what stands for the rows of a layer that is still to come, as integers."""
        tokens = round_straight_through(self.awaited[layer - 1] * UNIT)
        return tokens.clamp(-TOKEN_BOUND, TOKEN_BOUND)


@torch.no_grad()
def build_scale_transformer(twin: IntegerScaleTransformer) -> ScaleTransformer:
    """Turn the training twin into the runtime's network; raises ModelError without the proofs."""
    layers = range(1, len(twin.shapes))
    awaited = torch.cat([twin.tokens(layer) for layer in layers], dim=1)
    return ScaleTransformer(
        rows=tuple(rows for rows, _ in twin.shapes),
        embed=_layers(twin.embed, twin.embed_bias),
        awaited=awaited.cpu().numpy().astype(np.int16),
        blocks=tuple(cast(IntegerTransformerBlock, block).block() for block in twin.blocks),
        tell=_layers(twin.tell, twin.tell_bias),
        bound=SYMBOL_BOUND,
    )


def _layers(linears: nn.ModuleList, biases: nn.ParameterList) -> tuple[IntegerLayer, ...]:
    return tuple(
        layer
        for linear, bias in zip(linears, biases, strict=True)
        for layer in cast(IntegerLinear, linear).layers(bias)
    )
