"""Training twin of the `sfic-style` scale transformer: decoded rows to table indices, in integers.

The forward pass computes what ``receiver/scale_transformer.py`` (see there for a picture) and
``cdvision.entropy.integer_attention`` compute, value for value; weights, biases and activations are
integers held in float32, exact below 2^24. Gradients pass through rounding, and through the softmax
that the look-up stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.core.networks import WEIGHT_BITS
from cdvision.entropy.integer_attention import (
    PROJECTED_BOUND,
    TOKEN_BOUND,
    IntegerBlock,
    exponent_table,
)
from cdvision.entropy.integer_network import IntegerLayer
from cdvision.models.faces.receiver.scale_transformer import ScaleTransformer
from cdvision.models.faces.row_transformer import map_each
from cdvision.networks.integer_hyper import ACTIVATION_BOUND, WEIGHT_BOUND
from cdvision.networks.quantisation import round_straight_through, straight_through
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS

UNIT = 32  # integers that stand for what a float network would call 1.0
OCTAVE = 16  # distance of scores that halves a key's weight
SCORE_SHIFT = 7
SYMBOL_BOUND = 15  # of what the network is shown; the symbols themselves may be larger
INDEX_UNIT = 10  # indices that stand for a factor of e in scale


class IntegerLinear(nn.Module):
    """Linear layer of integers, one for all tokens or one for each, requantised and clipped.

    ``out = clip((sum(w * x) + b + 2^(shift-1)) >> shift, low, high)`` with ``w`` in [-127, 127].

    ``tokens`` have layers of their own, or one for all by default; ``units`` are the integers that
    stand for 1.0 at the input and at the output.
    """

    def __init__(
        self,
        inputs: int,
        out: int,
        *,
        tokens: int = 1,
        units: tuple[int, int] = (UNIT, UNIT),
        shift: int,
        low: int,
        high: int,
    ) -> None:
        super().__init__()
        self.shift, self.low, self.high = shift, low, high
        # Parameters are on the scale of a float network's, so one learning rate fits all: weights
        # move in steps of 2^-shift times the ratio of the units.
        self.bias_step = units[1] * 2**shift
        self.weight_step = self.bias_step / units[0]
        self.weight = nn.Parameter(torch.randn(tokens, out, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(tokens, out))

    def integer_weight(self) -> Tensor:
        """Return the weights as integers (tokens, out, inputs)."""
        return round_straight_through(
            (self.weight * self.weight_step).clamp(-WEIGHT_BOUND, WEIGHT_BOUND)
        )

    def integer_bias(self) -> Tensor:
        """Return the biases as integers (tokens, out)."""
        return round_straight_through(self.bias * self.bias_step)

    def forward(self, x: Tensor, extra_bias: Tensor | None = None) -> Tensor:
        """Map integers (N, T, inputs) to (N, T, out).

        ``extra_bias`` (N, T, out), where 1.0 is the output's unit, is added before rounding.
        """
        weight, bias = self.integer_weight(), self.integer_bias()
        total = F.linear(x, weight[0]) if len(weight) == 1 else map_each(x, weight)
        total = total + bias
        if extra_bias is not None:
            total = total + round_straight_through(extra_bias * self.bias_step)
        # A power of two divides a float32 exactly, so this is the runtime's rounding shift.
        scaled = total * 2**-self.shift
        shifted = straight_through(scaled, torch.floor(scaled + 0.5))
        return shifted.clamp(self.low, self.high)

    @torch.no_grad()
    def layers(self, extra_bias: Tensor | None = None) -> tuple[IntegerLayer, ...]:
        """Return the runtime's layers; ``extra_bias`` is (qualities, tokens, out)."""
        weight = self.integer_weight().cpu().numpy().astype(np.int8)[..., None, None]
        bias = self.integer_bias()[None]
        if extra_bias is not None:
            bias = bias + torch.round(extra_bias * self.bias_step)
        biases = bias.cpu().numpy().astype(np.int32)
        return tuple(
            IntegerLayer(w, np.ascontiguousarray(biases[:, i]), self.shift, self.low, self.high)
            for i, w in enumerate(weight)
        )


class IntegerTransformerBlock(nn.Module):
    """Attention to the known tokens, then a layer of ``hidden`` channels, in integers only."""

    exponents: Tensor

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        inner, outer = PROJECTED_BOUND, TOKEN_BOUND
        # Shifts keep typical sums within the bounds: they grow with the width, as do weights'
        # steps.
        self.project_in = IntegerLinear(width, 3 * width, shift=7, low=-inner, high=inner)
        self.project_out = IntegerLinear(width, width, shift=8, low=-outer, high=outer)
        self.expand = IntegerLinear(width, hidden, shift=7, low=0, high=ACTIVATION_BOUND)
        self.contract = IntegerLinear(hidden, width, shift=8, low=-outer, high=outer)
        table = torch.from_numpy(exponent_table(OCTAVE).astype(np.float32))
        self.register_buffer("exponents", table, persistent=False)
        for closing in (self.project_out, self.contract):  # what they add starts small
            nn.init.normal_(closing.weight, std=0.3 * closing.weight.shape[2] ** -0.5)

    def forward(self, tokens: Tensor, known: int) -> Tensor:
        """Map integers (N, T, width), of which the first ``known`` tokens are keys."""
        attended = self._attend(self.project_in(tokens), known)
        tokens = _bounded(tokens + self.project_out(attended))
        return _bounded(tokens + self.contract(self.expand(tokens)))

    def _attend(self, projected: Tensor, known: int) -> Tensor:
        queries, keys, values = (
            torch.unflatten(part, 2, (self.heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=2)
        )
        scaled = queries @ keys[:, :, :known].mT * 2**-SCORE_SHIFT
        # Base 2: a key whose score is OCTAVE lower weighs half, as the look-up table has it.
        softmax = torch.softmax(scaled * (math.log(2) / OCTAVE), dim=3) * 2**WEIGHT_BITS
        weights = straight_through(softmax, self._weights(scaled.detach()))
        total = (weights @ values[:, :, :known]) * 2**-WEIGHT_BITS
        attended = straight_through(total, torch.floor(total + 0.5))
        return attended.transpose(1, 2).flatten(2)

    def _weights(self, scaled: Tensor) -> Tensor:
        """Look integer weights up, by the distance from each query's best score."""
        # Only distances count, so the best score looks up the largest weight and none overflows.
        scores = torch.floor(scaled + 0.5)
        distance = (scores.amax(dim=3, keepdim=True) - scores).clamp(max=len(self.exponents) - 1)
        exponents = self.exponents[distance.long()]
        mass = exponents.sum(dim=3, keepdim=True)
        # round(e 2^bits / mass) with integers doubled; exact, for no quotient comes near a half.
        return torch.floor((exponents * 2 ** (WEIGHT_BITS + 1) + mass) / (2 * mass))

    def block(self) -> IntegerBlock:
        """Return the runtime's block; raises ModelError where a proof fails."""
        names = ("project_in", "project_out", "expand", "contract")
        layers = {name: getattr(self, name).layers()[0] for name in names}
        table = self.exponents.cpu().numpy().astype(np.uint16)
        return IntegerBlock(**layers, heads=self.heads, shift=SCORE_SHIFT, exponents=table)


def _bounded(tokens: Tensor) -> Tensor:
    return tokens.clamp(-TOKEN_BOUND, TOKEN_BOUND)


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
            # Random, so that rows can be told apart at all.
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
        # Tokens of decoded rows come first; only they are keys.
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
