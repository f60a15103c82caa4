"""Transformer over the rows of a face's style: what is known of earlier layers tells of later ones.

::

    values of a known row ─ linear of that row ─▶ token ┐
    row that is not known: a learned token ─────────────┴ + quality ─ blocks ─ linear of the row ─▶

One token a row; all attend to known rows only, so any number of rows is told at once.

Source of the idea: Mao et al., "Scalable Face Image Coding via StyleGAN Prior", IEEE TIP 2024; the
details are not public, the design is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.scales import QUALITIES

EXPANSION = 2


class RowLinear(nn.Module):
    """A linear layer for each row: (N, rows, inputs) to (N, rows, out)."""

    def __init__(self, rows: int, inputs: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, out, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(rows, out))

    def forward(self, x: Tensor) -> Tensor:
        """Map every row by its own matrix."""
        return map_each(x, self.weight) + self.bias


def map_each(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each of (N, T, inputs) by a matrix of its own, (T, out, inputs): (N, T, out)."""
    return (x.transpose(0, 1) @ weight.mT).transpose(0, 1)


class RowBlock(nn.Module):
    """Pre-norm transformer block whose tokens attend to the known ones, which come first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, EXPANSION * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(EXPANSION * width, width),
        )

    def forward(self, tokens: Tensor, known: int) -> Tensor:
        """Map (N, T, width) to the same shape."""
        queries, keys, values = (
            torch.unflatten(part, 2, (self.heads, -1)).transpose(1, 2)
            for part in self.project_in(self.norm(tokens)).chunk(3, dim=2)
        )
        # Only known tokens are keys: no row may read another that is still to come.
        scores = queries @ keys[:, :, :known].mT * queries.shape[3] ** -0.5
        weights = F.dropout(scores.softmax(dim=3), self.dropout, self.training)
        attended = (weights @ values[:, :, :known]).transpose(1, 2).flatten(2)
        tokens = tokens + self.project_out(attended)
        result: Tensor = tokens + self.mlp(tokens)
        return result


class RowTransformer(nn.Module):
    """Values of known layers to something of every row of the layers behind them.

    ``shapes`` are rows and symbols a row of each layer; as much is told of every row as it has
    symbols, and at first all of it is 0.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        *,
        width: int,
        heads: int,
        blocks: int,
        dropout: float = 0.1,  # thousands of faces are few
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        known, coming = self.shapes[:-1], self.shapes[1:]
        self.embed = nn.ModuleList(RowLinear(rows, symbols, width) for rows, symbols in known)
        self.place = nn.ParameterList(torch.randn(rows, width) for rows, _ in known)
        self.awaited = nn.ParameterList(torch.randn(rows, width) for rows, _ in coming)
        self.quality = nn.Parameter(torch.zeros(QUALITIES, width))
        self.blocks = nn.ModuleList(RowBlock(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        told = [RowLinear(rows, width, symbols) for rows, symbols in coming]
        for linear in told:
            # Nothing is told at first: the linear prediction beside it stands as the start set it.
            nn.init.zeros_(linear.weight)
        self.tell = nn.ModuleList(told)

    def forward(self, known: Sequence[Tensor], quality: Tensor) -> list[Tensor]:
        """Return what is told of every layer behind the known ones, (N, rows, symbols) each.

        ``known`` are the values (N, rows, symbols) of the first layers.
        """
        rows = [
            embed(values) + place
            for embed, values, place in zip(self.embed, known, self.place, strict=False)
        ]
        # Rows that are asked for bring no value: each is a learned question.
        awaited = [tokens.expand(len(quality), -1, -1) for tokens in self.awaited[len(known) - 1 :]]
        tokens = torch.cat([*rows, *awaited], dim=1) + self.quality[quality][:, None]
        count = sum(part.shape[1] for part in rows)
        for block in self.blocks:
            tokens = block(tokens, count)
        sizes = [part.shape[1] for part in awaited]
        found = torch.split(self.norm(tokens[:, count:]), sizes, dim=1)
        return [tell(x) for tell, x in zip(self.tell[len(known) - 1 :], found, strict=True)]
