"""Layers with an equalised learning rate, and the FIR resampling of StyleGAN2.

Weights are kept at unit variance and scaled at run time, so that Adam moves every layer by the
same share of its size. Sources: Karras et al., "Progressive Growing of GANs", ICLR 2018 (equalised
rates); Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of LeakyReLU
GAIN = math.sqrt(2.0)  # behind every LeakyReLU: keeps the variance of what passes


def activate(x: Tensor) -> Tensor:
    """Apply LeakyReLU(0.2) and the gain that keeps variance at one."""
    return F.leaky_relu(x, SLOPE) * GAIN


class EqualLinear(nn.Module):
    """Linear layer, ``x @ (weight * rate / sqrt(inputs)).T + bias * rate``.

    ``rate`` is the learning rate relative to other layers, ``bias`` the initial one as it acts.
    """

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        # Divided here and multiplied in use: Adam's steps, equal for all, count ``rate`` times.
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.gain = rate, rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs) to (N, outputs)."""
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class EqualConv(nn.Module):
    """Convolution with "same" padding, or (``down``) blurred and halved; an odd kernel.

    With a bias LeakyReLU follows; without, the convolution is linear.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, down: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        # The variance of a sum grows with its terms; the root of 2 in He's factor stands in GAIN.
        self.gain, self.kernel, self.down = 1 / math.sqrt(channels * kernel**2), kernel, down

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H, W), or to (N, out, H/2, W/2)."""
        if not self.down:
            x = F.conv2d(x, self.weight * self.gain, self.bias, padding=self.kernel // 2)
        else:  # the blur reaches just as far as the strided kernel needs
            x = F.conv2d(blur(x, self.kernel // 2 + 1), self.weight * self.gain, self.bias, 2)
        return x if self.bias is None else activate(x)


def fir_kernel(channels: int, like: Tensor, gain: float = 1.0) -> Tensor:
    """Return the depth-wise low-pass [1 3 3 1] x [1 3 3 1]: (channels, 1, 4, 4), sum ``gain``."""
    # Binomial weights: smooth enough that halving leaves no steps, and short.
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=like.dtype, device=like.device) / 8
    return (gain * torch.outer(taps, taps)).expand(channels, 1, 4, 4)


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Low-pass (N, C, H, W) to (N, C, H + 2 padding - 3, ...)."""
    channels = x.shape[1]
    return F.conv2d(x, fir_kernel(channels, x, gain), padding=padding, groups=channels)


def double(image: Tensor) -> Tensor:
    """Enlarge (N, C, H, W) twofold, low-passed."""
    channels = image.shape[1]
    kernel = fir_kernel(channels, image, gain=4.0)  # for the zeros between the pixels
    return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)
