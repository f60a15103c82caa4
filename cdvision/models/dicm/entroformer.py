"""DICM's transformer hyper-encoder, after Entroformer.

::

    y2 192@1/16 ─ linear ─ block ─ conv3/2 ─ block ─ conv3/2 ─ block ─ LN, linear ─▶ z 192@1/64

Only the sender runs it. The paper's hyper-decoder and context model are transformers too, which
choose probabilities in float, where two machines may disagree: integer networks
(``integer_checkerboard``) take their place.

Source: Qian et al., "Entroformer", ICLR 2022; Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.transformer import TransformerBlock

SIDES = (7, 5, 5)  # of the tables of relative positions at 1/16, 1/32, 1/64
KEEP = 32  # strongest keys of a query at 1/16; half and a quarter of it at 1/32 and 1/64
KEEP_IN_TRAINING = (16, 64)  # drawn from, the end left out


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
