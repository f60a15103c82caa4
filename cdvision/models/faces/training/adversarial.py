"""The discriminator of StyleGAN2, the losses of adversarial training, and augmentation.

::

    image R² ─ 1x1 ─┬─ 3x3 ─ blur, 3x3/2 ─┬─ ... ─ 4² ─ spread of the batch ─ 3x3 ─ linear ─ logit
                    └─ blur, 1x1/2 ───────┘

Sources: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (network,
and all losses, computed lazily); Karras et al., "Progressive Growing of GANs", ICLR 2018 (spread of
the batch); Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018
(R1); Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.equal_layers import EqualConv, EqualLinear, activate
from cdvision.models.faces.widths import CONSTANT_SIDE, FACE, FaceWidths

GROUP = 4  # pictures whose spread is compared
PATH_DECAY = 0.01  # of the running mean of path lengths
SHIFT = 1 / 8  # of the side, either way


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = EqualConv(channels, channels, 3)
        self.second = EqualConv(channels, out, 3, down=True)
        self.shortcut = EqualConv(channels, out, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/2, W/2)."""
        # Two paths of unit variance: over the root of two, their sum has it again.
        result: Tensor = (self.second(self.first(x)) + self.shortcut(x)) / math.sqrt(2)
        return result


class StyleDiscriminator(nn.Module):
    """Tell training faces from drawn ones: (N, 3, R, R) in -1..1 to logits (N,), high for real."""

    def __init__(self, widths: FaceWidths = FACE) -> None:
        super().__init__()
        sides = widths.sides[::-1]
        self.from_rgb = EqualConv(3, widths.channels(sides[0]), 1)
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(widths.channels(side), widths.channels(side // 2))
                for side in sides[:-1]
            )
        )
        last = widths.channels(CONSTANT_SIDE)
        self.conv = EqualConv(last + 1, last, 3)
        self.hidden = EqualLinear(last * CONSTANT_SIDE**2, last)
        self.logit = EqualLinear(last, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return one logit an image."""
        x = self.conv(with_spread(self.blocks(self.from_rgb(image))))
        logits: Tensor = self.logit(activate(self.hidden(x.flatten(1))))
        return logits[:, 0]


def with_spread(x: Tensor) -> Tensor:
    """Append a channel that holds the mean standard deviation of each group of pictures.

    Pictures i, i + N/g, i + 2N/g ... form a group, g the greatest divisor of N up to ``GROUP``.
    """
    n, c, h, w = x.shape
    size = next(g for g in range(min(GROUP, n), 0, -1) if n % g == 0)
    groups = x.float().view(size, n // size, c, h, w)
    # Pictures that are all alike give it away: a generator cannot repeat one good face.
    spread = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    plane = spread.repeat(size)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([x, plane.to(x.dtype)], 1)


def generator_loss(drawn: Tensor) -> Tensor:
    """Non-saturating logistic loss of logits (N,) that should say "real"."""
    return F.softplus(-drawn).mean()


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Logistic loss of logits (N,) of training faces and of drawn ones."""
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient of logits (N,) with respect to their training images, halved."""
    # Logits do not mix pictures, so the gradient of their sum has each picture's own.
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
        # Over the side: the penalty of a picture does not grow with its pixels.
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
    # Brightness, then saturation from grey to twice, then contrast by a half to one and a half.
    x = images + (draws[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * draws[1]
    middle = x.mean((1, 2, 3), keepdim=True)
    return _shift(middle + (x - middle) * (0.5 + draws[2]), math.ceil(SHIFT * side))


def _shift(x: Tensor, most: int) -> Tensor:
    """Move each picture by up to ``most`` pixels, zeros where nothing was."""
    n, _, height, width = x.shape
    padded = F.pad(x, (most, most, most, most))
    # Whole pixels by indexing: nothing is smoothed, which a discriminator would see.
    places = torch.randint(0, 2 * most + 1, (2, n, 1), device=x.device)
    down = (places[0] + torch.arange(height, device=x.device))[:, :, None]  # (N, H, 1)
    right = (places[1] + torch.arange(width, device=x.device))[:, None, :]  # (N, 1, W)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, :, down, right].permute(0, 3, 1, 2)
