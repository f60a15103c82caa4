"""DICM's transformer hyper-encoder: relative positions, attention to the strongest keys only.

::

    y2 192@1/16 ─ linear ─ block ─ conv3/2 ─ block ─ conv3/2 ─ block ─ LN, linear ─▶ z 192@1/64

Only the sender runs it. The paper's hyper-decoder and context model are transformers too, which
choose probabilities in float, where two machines may disagree: integer networks
(``integer_checkerboard``) take their place.

Source: Qian et al., "Entroformer: A Transformer-based Entropy Model for Learned Image
Compression", ICLR 2022, as DICM uses it (Tang, Yi, Wang, IEEE Trans. Broadcasting 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.dicm.backbones import PAPER, DicmWidths

EXPANSION = 4
SLOPE = 0.2
SIDES = (7, 5, 5)  # of the tables of relative positions at 1/16, 1/32, 1/64
KEEP = 32  # strongest keys of a query at 1/16; half and a quarter of it at 1/32 and 1/64
KEEP_IN_TRAINING = (16, 64)  # drawn from, the end left out


class RelativePosition(nn.Module):
    """A learned vector per offset (rows, columns) between two tokens, shared by the heads.

    Offsets up to an L1 distance of ``side // 2`` have a vector each; all others share one.
    """

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.radius = side // 2
        self.table = nn.Parameter(torch.zeros(side * side, channels))

    def scores(self, queries: Tensor, height: int, width: int) -> Tensor:
        """Return query times vector of every pair: (N, heads, T, C) -> (N, heads, T, T)."""
        by_offset = queries @ self.table.mT  # (N, heads, T, side^2)
        index = self.offsets(height, width, queries.device)
        return torch.gather(by_offset, 3, index.expand(*by_offset.shape[:3], -1))

    def offsets(self, height: int, width: int, device: torch.device) -> Tensor:
        """Return the row of the table (T, T) of every query and key, T = height * width."""
        rows, columns = (torch.arange(extent, device=device) for extent in (height, width))
        # Expanded, not repeated: graphs of repeated rows failed at other sizes than the exported.
        row = rows[:, None].expand(height, width).flatten()
        column = columns[None, :].expand(height, width).flatten()
        down = row[None, :] - row[:, None]
        right = column[None, :] - column[:, None]
        index = (down + self.radius) * (2 * self.radius + 1) + right + self.radius
        near = down.abs() + right.abs() <= self.radius
        # Row 0 is a corner of the square: too far to be an offset of its own.
        return torch.where(near, index, torch.zeros_like(index))


class SparseAttention(nn.Module):
    """Multi-head attention to the ``keep`` highest scores of each query."""

    def __init__(self, side: int, width: int = PAPER.tokens, heads: int = PAPER.heads) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.position = RelativePosition(side, width // heads)
        self.project_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, size: tuple[int, int], keep: int) -> Tensor:
        """Map (N, T, width) tokens of a map of ``size``, row by row, to the same shape.

        Where scores are equal, more than ``keep`` keys count.
        """
        queries, keys, values = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.project_in(tokens).chunk(3, dim=2)
        )
        scores = queries @ keys.mT + self.position.scores(queries, *size)
        # The scale is that of the whole width, not of a head: the published one.
        weights = _strongest(scores * tokens.shape[2] ** -0.5, keep).softmax(dim=3)
        out: Tensor = self.project_out((weights @ values).transpose(1, 2).flatten(2))
        return out


def _strongest(scores: Tensor, keep: int) -> Tensor:
    # All but the highest scores fall so far that softmax gives 0: far and unlike tokens add no
    # noise to a query.
    lowest = torch.finfo(scores.dtype).min
    # Padded, so that a map of fewer tokens needs no other graph.
    highest = torch.topk(F.pad(scores, (0, keep), value=lowest), keep, dim=3, sorted=True).values
    return scores.masked_fill(scores < highest[..., -1:], lowest)


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(LN x), then x + MLP(LN x), on a map of ``width`` channels."""

    def __init__(self, side: int, width: int = PAPER.tokens, heads: int = PAPER.heads) -> None:
        super().__init__()
        hidden = EXPANSION * width
        self.norm = nn.LayerNorm(width)
        self.attention = SparseAttention(side, width, heads)
        mlp = nn.Linear(width, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), *mlp)

    def forward(self, x: Tensor, keep: int) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        height, width = x.shape[2:]
        tokens = x.flatten(2).mT
        tokens = tokens + self.attention(self.norm(tokens), (height, width), keep)
        tokens = tokens + self.mlp(tokens)
        mapped: Tensor = tokens.mT.unflatten(2, (height, width))
        return mapped


class HyperEncoder(nn.Module):
    """Latent y2 (N, 192, 4h, 4w) to the real-valued hyper-latent z (N, 192, h, w)."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        tokens = widths.tokens
        self.embed = nn.Conv2d(widths.latents, tokens, 1)
        self.blocks = nn.ModuleList(TransformerBlock(side, tokens, widths.heads) for side in SIDES)
        self.downs = nn.ModuleList(nn.Conv2d(tokens, tokens, 3, 2, 1) for _ in SIDES[1:])
        self.norm = nn.LayerNorm(tokens)
        self.project = nn.Linear(tokens, widths.hyper)

    def forward(self, y: Tensor) -> Tensor:
        """Return z before rounding; odd sizes are rounded up."""
        # In training the number of keys is drawn anew, so that no query relies on all of them.
        keep = int(torch.randint(*KEEP_IN_TRAINING, ())) if self.training else KEEP
        x = self.blocks[0](self.embed(y), keep)
        for number, down in enumerate(self.downs, start=1):
            # A quarter of the tokens at each coarser scale, half of the keys.
            x = self.blocks[number](down(x), keep >> number)
        tokens = x.permute(0, 2, 3, 1)
        z: Tensor = self.project(self.norm(tokens)).permute(0, 3, 1, 2)
        return z
