"""A style-based generator: W+ rows (and, if wanted, a feature map at one layer) to a face.

::

    z ─ mapping ─ w ─ broadcast ─▶ rows (N, rows, style)
    constant 4² ─ conv ─┬─ up, conv ─┬─ up, conv ─┬─ ... ─┬─ up, conv ─┐
        rows 0, 1      rgb  rows 1-3  rgb  rows 3-5 rgb    rgb          rgb ─▶ image R²
                                                  └─ F replaces the activation of ``feature_side``

Row i is the style of the i-th convolution; the RGB convolution of a side shares its row with the
first convolution of the next side. A convolution whose input is scaled by the style and whose
output is rescaled to unit variance equals StyleGAN2's modulated weights; written so, it is one
dense convolution for any batch, in training and in ONNX graphs alike.

Sources: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020; the
feature input: Yao et al., "A Style-Based GAN Encoder for High Fidelity Reconstruction", ECCV 2022.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.equal_layers import GAIN, SLOPE, EqualLinear, activate, blur, double
from cdvision.models.faces.widths import CONSTANT_SIDE, FACE, FaceWidths

MAPPING_RATE = 0.01  # learning rate of the mapping network, relative to the rest
EPSILON = 1e-8


class Mapping(nn.Module):
    """Normal noise z to styles w, (N, style) to (N, style)."""

    mean: Tensor

    def __init__(self, style: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualLinear(style, style, rate=MAPPING_RATE) for _ in range(layers)
        )
        self.register_buffer("mean", torch.zeros(style))  # of w, followed by training

    def forward(self, z: Tensor) -> Tensor:
        """Map z, normalised to unit length per value, to w."""
        # Only the direction of z counts: its length would be one more thing to learn.
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPSILON)
        for layer in self.layers:
            x = activate(layer(x))
        return x


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style; weights are (out, channels, k, k).

    ``up`` doubles height and width, low-passed; ``demodulate`` rescales each output channel to the
    variance that unit styles would give.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, style: int, *,
        up: bool = False, demodulate: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        # Scales begin around one: a plain convolution.
        self.affine = EqualLinear(style, channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel))
        self.gain = 1 / math.sqrt(channels * kernel**2)
        self.up, self.demodulate = up, demodulate

    def forward(
        self, x: Tensor, row: Tensor, shift: Tensor | None = None, gain: float = 1.0
    ) -> Tensor:
        """Map (N, channels, H, W) and styles (N, style) to (N, out, H, W), or twice the size.

        ``gain`` is of the result, ``shift`` included, which is broadcast.
        """
        scale, weight = self.affine(row), self.weight * self.gain
        y = self._convolve(x * _plane(scale, x), weight)
        factor = torch.full_like(scale[:, :1], gain)
        if self.demodulate:
            # Inputs of unit variance: the output's is the sum of squared weights times styles.
            power = scale.square() @ weight.square().sum((2, 3)).t()  # (N, out)
            factor = gain * torch.rsqrt(power + EPSILON)
        if shift is None:
            return y * _plane(factor, y)
        # One operation: at full size, passes over memory cost more than convolutions.
        return torch.addcmul((gain * shift).to(y.dtype), y, _plane(factor, y))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(x, weight, padding=weight.shape[2] // 2)
        # Zeros between the pixels take three of four parts of the energy: the gain gives it back.
        return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4.0)


def _plane(values: Tensor, like: Tensor) -> Tensor:
    """Shape (N, C) to multiply maps, in their precision: a wider factor would widen the maps."""
    return values[:, :, None, None].to(like.dtype)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, fixed noise if there is any, bias and LeakyReLU."""

    noise: Tensor

    def __init__(
        self, channels: int, out: int, side: int, style: int, *, up: bool, noise: bool
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, out, 3, style, up=up)
        self.bias = nn.Parameter(torch.zeros(out))
        self.noisy = noise
        if noise:
            self.register_buffer("noise", torch.randn(side, side))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, side, side)."""
        shift = self.bias[:, None, None]
        if self.noisy:
            shift = shift + self.noise * self.noise_strength
        return F.leaky_relu(self.conv(x, row, shift, GAIN), SLOPE)  # SLOPE commutes with GAIN


class ToRgb(nn.Module):
    """The side's part of the picture, added to the enlarged picture of the sides before."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, 3, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, row: Tensor, image: Tensor | None) -> Tensor:
        """Map (N, channels, H, W) and the picture so far, (N, 3, H/2, W/2), to (N, 3, H, W)."""
        added: Tensor = self.conv(x, row, self.bias[:, None, None])
        return added if image is None else double(image) + added


class StyleBlock(nn.Module):
    """The layers of one side: (up,) conv, rgb; ``first_row`` is the style of the first of them."""

    def __init__(self, widths: FaceWidths, side: int, *, noise: bool) -> None:
        super().__init__()
        style, out = widths.style, widths.channels(side)
        # Rows 0 and 1 are of 4 pixels; each later side begins with the row of the RGB before it.
        self.side, self.first_row = side, max(0, 2 * widths.sides.index(side) - 1)
        self.up: StyledConv | None = None
        if side > CONSTANT_SIDE:
            inner = widths.channels(side // 2)
            self.up = StyledConv(inner, out, side, style, up=True, noise=noise)
        self.conv = StyledConv(out, out, side, style, up=False, noise=noise)
        self.rgb = ToRgb(out, style)

    def activation(self, x: Tensor, rows: Tensor) -> Tensor:
        """Map the activation of the side before to (N, channels, side, side)."""
        row = self.first_row
        if self.up is not None:
            x, row = self.up(x, rows[:, row]), row + 1
        result: Tensor = self.conv(x, rows[:, row])
        return result

    def paint(self, x: Tensor, rows: Tensor, image: Tensor | None) -> Tensor:
        """Return the picture with this side's part added, (N, 3, side, side)."""
        # Behind the convolutions of this side: one at 4 pixels, two at all others.
        row = self.first_row + (1 if self.up is None else 2)
        result: Tensor = self.rgb(x, rows[:, row], image)
        return result


class StyleGenerator(nn.Module):
    """StyleGAN2's generator at any resolution and width; F enters at ``feature_side``.

    With ``fixed_noise`` it keeps one noise map and strength per convolution, as downloaded weights
    have; ours has none, since a decoder's picture must not change from call to call.
    """

    def __init__(self, widths: FaceWidths = FACE, *, fixed_noise: bool = False) -> None:
        super().__init__()
        self.widths, self.fixed_noise = widths, fixed_noise
        self.mapping = Mapping(widths.style, widths.mapping_layers)
        start = widths.channels(CONSTANT_SIDE)
        self.constant = nn.Parameter(torch.randn(start, CONSTANT_SIDE, CONSTANT_SIDE))
        self.blocks = nn.ModuleList(
            StyleBlock(widths, side, noise=fixed_noise) for side in widths.sides
        )

    def broadcast(self, w: Tensor) -> Tensor:
        """Give every layer the same style: (N, style) to W+ rows (N, rows, style)."""
        return w[:, None].expand(-1, self.widths.rows, -1)

    def forward(self, z: Tensor) -> Tensor:
        """Draw faces: z (N, style) of normal noise to images (N, 3, R, R), about -1..1."""
        return self.synthesise(self.broadcast(self.mapping(z)))

    def synthesise(self, rows: Tensor, feature: Tensor | None = None) -> Tensor:
        """Draw images (N, 3, R, R), about -1..1, not clipped, from rows (N, rows, style).

        ``feature`` F (N, channels, side, side) replaces the activation that the rows give at
        ``feature_side``. Coarser sides still paint their part from the rows.
        """
        x, image = self._start(rows), None
        for block in self.layers():
            given = feature is not None and block.side == self.widths.feature_side
            # F replaces the activation alone: coarser sides have painted their part already.
            x = feature if given else block.activation(x, rows)  # type: ignore[assignment]
            image = block.paint(x, rows, image)
        return cast(Tensor, image)  # there is a block for 4 pixels at least

    def activation(self, rows: Tensor) -> Tensor:
        """Return the generator's own F of rows (N, rows, style): (N, channels, side, side)."""
        x = self._start(rows)
        for block in self.layers():
            x = block.activation(x, rows)
            if block.side == self.widths.feature_side:
                break
        return x

    def _start(self, rows: Tensor) -> Tensor:
        return self.constant.expand(rows.shape[0], -1, -1, -1)

    def layers(self) -> list[StyleBlock]:
        """Return the blocks of all sides, 4 pixels first."""
        return [block for block in self.blocks if isinstance(block, StyleBlock)]


def to_pixels(drawn: Tensor) -> Tensor:
    """Map what a generator draws, about -1..1, to 0..255, not rounded."""
    return ((drawn + 1) * 127.5).clamp(0, 255)
