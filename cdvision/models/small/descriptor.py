"""The global descriptor: what a classifier makes of the whole picture, in some dozen bytes.

::

    RGB 224² ─ MobileNetV2 ─ pool 1280 ─ project D ─ gain[q] ─ round ─▶ symbols
    symbols ─ rescale[q] ─ expand 1280 ─▶ the pooled features

Its probabilities are tables, one a quality and element; nothing has to be computed before they
are known. "Global descriptor" is the word of MPEG's CDVS (ISO/IEC 15938-13) for what a whole
picture is told by.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.mobilenet_v2 import EMBEDDING, MobileNetEmbedding
from cdvision.networks.scales import QUALITIES

ELEMENTS = 512  # of a descriptor
BOUND = 31  # symbols lie in [-31, 31]


class DescriptorEncoder(nn.Module):
    """The classifier's window to symbols: the sender's network of the descriptor."""

    def __init__(self, elements: int = ELEMENTS) -> None:
        super().__init__()
        self.network = MobileNetEmbedding()
        self.project = nn.Linear(EMBEDDING, elements)
        self.log_gain = nn.Parameter(torch.zeros(QUALITIES, elements))
        self.prior = FactorisedPrior(elements, qualities=QUALITIES, bound=BOUND)

    def forward(self, window: Tensor, quality: Tensor) -> Tensor:
        """Map (N, 3, 224, 224) RGB 0..255 and (N,) qualities to symbols (N, D), in float."""
        scaled: Tensor = self.project(self.network(window)) * torch.exp(self.log_gain)[quality]
        return torch.round(scaled.clamp(-BOUND, BOUND))


class DescriptorTap(nn.Module):
    """Symbols to the classifier's pooled features."""

    def __init__(self, elements: int = ELEMENTS) -> None:
        super().__init__()
        self.log_rescale = nn.Parameter(torch.zeros(QUALITIES, elements))
        self.expand = nn.Linear(elements, EMBEDDING)

    def forward(self, symbols: Tensor, quality: Tensor) -> Tensor:
        """Map (N, D) and (N,) qualities to (N, 1280)."""
        embedding: Tensor = self.expand(symbols * torch.exp(self.log_rescale)[quality])
        return embedding
