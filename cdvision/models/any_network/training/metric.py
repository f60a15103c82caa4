"""What errors in each network's features cost, for networks of any kind.

A network that passes gradients is asked which directions its outputs depend on. For one that does
not, an ONNX file, plain variance counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cdvision.fit.network import SplitNetwork
from cdvision.models.any_network.network import metric_block
from cdvision.package.card import FeatureSpec
from cdvision.training.feature_metric import (
    PROBES,
    block_moments,
    blocks,
    metric_root,
    weighted_error,
)

FLOOR = 0.1  # share of a plain identity: what no probe was sensitive to may matter elsewhere


class NetworkMetric(nn.Module):
    """The metric on one network's features.

    Attributes:
        root: (D, D), D the values of a block; the error of a block is ``|root @ difference|^2``,
            scaled so that a code that sends nothing loses 1.
        block: cells across a block.
    """

    root: Tensor

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.block = metric_block(spec)
        self.register_buffer("root", torch.eye(spec.channels * self.block**2))

    def measure(self, network: SplitNetwork, batches: Sequence[Tensor]) -> Tensor:
        """Measure on images (N, 3, S, S); return the covariance of blocks (D, D), float64."""
        probes = (self._probe(network, image) for image in batches for _ in range(PROBES))
        covariance, moment = block_moments(probes)
        # Where no gradient passes, every direction matters alike.
        if not moment.any():
            moment = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        self.root.copy_(metric_root(covariance, moment, FLOOR))
        return covariance

    def error(self, found: Tensor, target: Tensor) -> Tensor:
        """Mean weighted error of features (N, C, H / stride, W / stride)."""
        return weighted_error(self.root, found, target, self.block)

    def _probe(self, network: SplitNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature blocks, and the gradient there of a random projection of the outputs."""
        features = network.features(image).requires_grad_(True)
        gradient = torch.zeros_like(features)
        parts = list(_projections(network.outputs(features)))
        if parts:
            (gradient,) = torch.autograd.grad(torch.stack(parts).sum(), features)
        return blocks(features.detach(), self.block), blocks(gradient, self.block)


def _projections(outputs: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Project every output that passes gradients; each counts the same, whatever its size."""
    for value in outputs.values():
        if value.requires_grad:
            plain = value.detach()
            unit = (plain - plain.mean()).square().sum().sqrt().clamp_min(1e-12)
            # Of random sums, the mean square of the gradient is that of all outputs added up.
            yield (value * torch.randn_like(plain)).sum() / unit
