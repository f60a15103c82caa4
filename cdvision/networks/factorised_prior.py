"""Factorised prior of the hyper-latent: one learned distribution a channel and quality."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.quantisation import MIN_LIKELIHOOD


class FactorisedPrior(nn.Module):
    """Mixture of logistics for every (quality, channel), integrated over unit bins.

    Its CDF has a closed form, so the tables of a package need no numerical integration.
    Source: factorised priors, Ballé et al., ICLR 2018; logistic mixtures, PixelCNN++.
    """

    def __init__(self, channels: int, *, qualities: int, bound: int, components: int = 3) -> None:
        super().__init__()
        self.bound = bound
        shape = (qualities, channels, components)
        self.logit_weight = nn.Parameter(torch.zeros(shape))
        spread = torch.linspace(-2.0, 2.0, components)
        self.location = nn.Parameter(spread.expand(shape).clone())
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def bits(self, z: Tensor, quality: Tensor) -> Tensor:
        """Bits of each element of (noisy) ``z`` (N, C, h, w); ``quality`` is (N,) int64."""
        return -torch.log2(self._likelihood(z, quality).clamp_min(MIN_LIKELIHOOD))

    def probabilities(self) -> Tensor:
        """Return the table (qualities, C, 2 * bound + 1) of every integer's probability."""
        qualities, channels, _ = self.location.shape
        values = torch.arange(-self.bound, self.bound + 1, device=self.location.device)
        z = values.view(1, 1, 1, -1).expand(qualities, channels, 1, -1).float()
        return self._likelihood(z, torch.arange(qualities, device=z.device)).squeeze(2)

    def _likelihood(self, z: Tensor, quality: Tensor) -> Tensor:
        weight = F.softmax(self.logit_weight[quality], dim=-1)[:, :, None, None]
        location = self.location[quality][:, :, None, None]
        rate = torch.exp(-self.log_scale[quality])[:, :, None, None]
        # The mass of a bin of width 1 is what the logistic CDF gains from edge to edge.
        upper = torch.sigmoid((z[..., None] + 0.5 - location) * rate)
        lower = torch.sigmoid((z[..., None] - 0.5 - location) * rate)
        # The encoder clips to [-bound, bound], so the outermost bins hold the tails.
        upper = torch.where(z[..., None] >= self.bound, torch.ones_like(upper), upper)
        lower = torch.where(z[..., None] <= -self.bound, torch.zeros_like(lower), lower)
        return (weight * (upper - lower)).sum(-1)
