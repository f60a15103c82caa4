"""Losses of adversarial training: logistic, R1, path length; and augmentation for small sets.

Sources: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (all
losses, computed lazily); Mescheder et al., "Which Training Methods for GANs do actually Converge?",
ICML 2018 (R1); Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training",
NeurIPS 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATH_DECAY = 0.01  # of the running mean of path lengths
SHIFT = 1 / 8  # of the side, either way


def generator_loss(drawn: Tensor) -> Tensor:
    """Non-saturating logistic loss of logits (N,) that should say "real"."""
    return F.softplus(-drawn).mean()


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Logistic loss of logits (N,) of training faces and of drawn ones."""
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient of logits (N,) with respect to their training images, halved."""
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean() / 2


class PathLength(nn.Module):
    """How evenly a step in W moves the picture: squared distance to the running mean length."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return the penalty of images (N, 3, R, R) drawn from rows (N, rows, style)."""
        side = images.shape[2]
        noise = torch.randn_like(images) / side
        # A random direction of pictures: in the mean, the length of the whole Jacobian.
        (slope,) = torch.autograd.grad((images * noise).sum(), rows, create_graph=True)
        lengths = slope.square().sum(2).mean(1).sqrt()
        self.mean.lerp_(lengths.detach().mean(), PATH_DECAY)
        return (lengths - self.mean).square().mean()


def augment(images: Tensor) -> Tensor:
    """Vary colour and place of (N, 3, R, R) in -1..1, so that gradients pass."""
    # The discriminator never sees a picture that is not varied, so a few thousand faces last
    # longer; the same is done to drawn ones, so the generator does not learn the variations.
    n, _, side, _ = images.shape
    draws = torch.rand(3, n, 1, 1, 1, device=images.device)
    x = images + (draws[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * draws[1]
    middle = x.mean((1, 2, 3), keepdim=True)
    return _shift(middle + (x - middle) * (0.5 + draws[2]), math.ceil(SHIFT * side))


def _shift(x: Tensor, most: int) -> Tensor:
    """Move each picture by up to ``most`` pixels, zeros where nothing was."""
    n, _, height, width = x.shape
    padded = F.pad(x, (most, most, most, most))
    places = torch.randint(0, 2 * most + 1, (2, n, 1), device=x.device)
    down = (places[0] + torch.arange(height, device=x.device))[:, :, None]  # (N, H, 1)
    right = (places[1] + torch.arange(width, device=x.device))[:, None, :]  # (N, 1, W)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, :, down, right].permute(0, 3, 1, 2)
