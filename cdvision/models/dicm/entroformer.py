"""DICM's transformer hyper-prior and context model, after Entroformer.

::

    y2 192@1/16 ─ linear ─ block ─ conv3/2 ─ block ─ conv3/2 ─ block ─ LN, linear ─▶ z 192@1/64
    z ─ linear ─ block ─ conv3, shuffle x2 ─ block ─ conv3, shuffle x2 ─ block ─▶ 384@1/16 ┐
    visible y2 ─ linear ─ 6 blocks ─▶ 384@1/16 at the hidden positions ─────────────────── ┴ 1x1 ─
                                                            LeakyReLU ─ 1x1 ─▶ log sigma, mean

Only the hyper-encoder serves streams: it runs on the sender alone, and what it computes is
rounded and sent. The rest chooses probabilities in float, so two machines may disagree and the
receiver would decode garbage. It is kept as the reference in training that says what the integer
networks that replace it cost in bits.

Source: Qian et al., "Entroformer", ICLR 2022; Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.models.dicm.transformer import SLOPE, TransformerBlock
from cdvision.models.dicm.widths import PAPER, DicmWidths

SIDES = (7, 5, 5)  # of the tables of relative positions at 1/16, 1/32, 1/64
KEEP = 32  # strongest keys of a query at 1/16; half and a quarter of it at 1/32 and 1/64
KEEP_IN_TRAINING = (16, 64)  # drawn from, the end left out
CONTEXT_BLOCKS = 6
LOWEST_LOG_SCALE = -7.0


class HyperEncoder(nn.Module):
    """Latent y2 (N, 192, 4h, 4w) to the real-valued hyper-latent z (N, 192, h, w).

    In training the number of keys that a query attends to is drawn anew in every pass.
    """

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
        keep = _keys(training=self.training)
        x = self.blocks[0](self.embed(y), keep)
        for number, down in enumerate(self.downs, start=1):
            x = self.blocks[number](down(x), keep >> number)
        tokens = x.permute(0, 2, 3, 1)
        z: Tensor = self.project(self.norm(tokens)).permute(0, 3, 1, 2)
        return z


class FloatHyperDecoder(nn.Module):
    """Hyper-latent (N, 192, h, w), rounded, to side information (N, 384, 4h, 4w)."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        tokens = widths.tokens
        self.embed = nn.Conv2d(widths.hyper, tokens, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(side, tokens, widths.heads) for side in reversed(SIDES)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(tokens, 4 * tokens, 3, 1, 1), nn.PixelShuffle(2))
            for _ in SIDES[1:]
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return what the hyper-latent tells of every position of y2."""
        keep = _keys(training=self.training)
        x: Tensor = self.blocks[0](self.embed(z), keep >> len(self.ups))
        for number, up in enumerate(self.ups, start=1):
            x = self.blocks[number](up(x), keep >> (len(self.ups) - number))
        return x


class ContextTransformer(nn.Module):
    """What the visible positions of y2 tell of the hidden ones."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        self.embed = nn.Conv2d(widths.latents, widths.tokens, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(SIDES[0], widths.tokens, widths.heads) for _ in range(CONTEXT_BLOCKS)
        )

    def forward(self, y: Tensor, visible: Tensor) -> Tensor:
        """Return context (N, 384, h, w), 0 at the visible positions.

        Args:
            y: (N, 192, h, w) rounded latent; values at hidden positions are never read.
            visible: (N, 1, h, w) bool: ``first_pass`` in use, random with probability 1/2 in
                training.
        """
        keep = _keys(training=self.training)
        x: Tensor = self.embed(y.masked_fill(~visible, 0.0))
        for block in self.blocks:
            x = block(x, keep, visible)
        return x.masked_fill(visible, 0.0)


class GaussianParameters(NamedTuple):
    """One Gaussian per symbol, both (N, 192, h, w)."""

    mean: Tensor
    log_scale: Tensor  # at least -7


class ParameterNetwork(nn.Module):
    """Side information and context, (N, 384, h, w) each, to one Gaussian per symbol of y2."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        tokens = widths.tokens
        self.layers = nn.Sequential(
            nn.Conv2d(2 * tokens, 4 * tokens, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(4 * tokens, 2 * widths.latents, 1),
        )

    def forward(self, hyper: Tensor, context: Tensor) -> GaussianParameters:
        """Return mean and log scale."""
        log_scale, mean = self.layers(torch.cat([hyper, context], dim=1)).chunk(2, dim=1)
        return GaussianParameters(mean, log_scale.clamp_min(LOWEST_LOG_SCALE))


def first_pass(height: int, width: int) -> Tensor:
    """Return (1, 1, height, width) bool: positions of odd row + column, which are coded first."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1)[None, None]


def _keys(*, training: bool) -> int:
    return int(torch.randint(*KEEP_IN_TRAINING, ())) if training else KEEP
