"""The `hsc` codec: style rows and feature F of a face as two layers of integers, and back.

::

    rows ─ semantic network ─ gain[q] ─ round ─▶ base ─ 1/gain[q] ─ semantic network ─▶ rows'
                                                  │                                       │
                  integer networks: scales ◀──────┤             side network (float) ◀────┘
                        │                                             │
    F ─ feature network ─ gain[q] ─ minus mean ─ round ─▶ detail      └─▶ mean of each slice
                                                  └─ plus mean ─ 1/gain[q] ─ feature network ─▶ F'

There is no hyper-latent: the decoded base plays that role. The detail is cut into slices; each
slice's scales and means also see the slices before it. Scales decide bits and are integers
(``integer_slices``); means only move values, and float.

Source: HSC (arXiv 2502.16799, IEEE TIP 2025). Apart from it: eight qualities by a gain each, and
scales and means from networks of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.models.faces.hsc_transforms import FeatureNetwork, rows_transform
from cdvision.models.faces.hsc_widths import HscWidths
from cdvision.models.faces.integer_slices import IntegerSlices
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.layers import ConvAct, zero_init
from cdvision.networks.quantisation import (
    add_uniform_noise,
    gaussian_bits,
    round_straight_through,
)
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS, scale_of

BASE_BOUND = 63  # base symbols lie in [-63, 63]
Rounding = Callable[[Tensor], Tensor]


class HscLatents(NamedTuple):
    """Integers held in float: base (N, C_b, 2, 2), detail (N, C_d, h, h)."""

    base: Tensor
    detail: Tensor


class HscSent(NamedTuple):
    """What a receiver has of a batch, and what it cost; bits are (N,)."""

    rows: Tensor
    feature: Tensor
    base_noisy_bits: Tensor  # differentiable
    base_bits: Tensor  # of the symbols that are really sent
    detail_noisy_bits: Tensor
    detail_bits: Tensor


class QuantisedDetail(NamedTuple):
    """The detail latent on its way through the quantiser, all (N, C_d, h, h)."""

    residual: Tensor
    symbols: Tensor
    scale_index: Tensor
    scaled: Tensor  # symbols plus mean: what the receiver has, up to the gain


class SideNetwork(nn.Sequential):
    """Decoded rows as an "image" to side information for means: (N, C, s, s) -> (N, S, h, h)."""

    def __init__(self, widths: HscWidths) -> None:
        halvings = (widths.image_side // widths.detail_side).bit_length() - 1
        strides = [2 if k < halvings else 1 for k in range(max(halvings, 2))]
        inputs = [widths.image_channels, *(widths.side for _ in strides[1:])]
        layers: list[nn.Module] = [
            ConvAct(channels, widths.side, 3, stride=stride)
            for channels, stride in zip(inputs, strides, strict=True)
        ]
        super().__init__(*layers, nn.Conv2d(widths.side, widths.side, 3, padding=1))


class SliceMean(nn.Sequential):
    """Side information and the slices before, decoded, to a slice's means; zero at first."""

    def __init__(self, widths: HscWidths, position: int) -> None:
        channels, hidden = widths.slice_channels, widths.hidden
        first, second, third = widths.kernels
        super().__init__(
            ConvAct(widths.side + position * channels, hidden, first),
            ConvAct(hidden, hidden, second),
            zero_init(nn.Conv2d(hidden, channels, third, padding=third // 2)),
        )


class HscCodec(nn.Module):
    """Both layers of the codec; qualities count from 0.

    Args:
        widths: sizes.
    """

    def __init__(self, widths: HscWidths) -> None:
        super().__init__()
        self.widths = widths
        self.semantic = rows_transform(widths)
        self.feature = FeatureNetwork(widths)
        self.side = SideNetwork(widths)
        self.means = nn.ModuleList(SliceMean(widths, k) for k in range(widths.slices))
        self.scales = IntegerSlices(
            widths, qualities=QUALITIES, levels=SCALE_LEVELS, bound=BASE_BOUND
        )
        self.prior = FactorisedPrior(widths.base, qualities=QUALITIES, bound=BASE_BOUND)
        self.base_log_gain = nn.Parameter(torch.zeros(QUALITIES, widths.base))
        self.base_log_rescale = nn.Parameter(torch.zeros(QUALITIES, widths.base))
        self.detail_log_gain = nn.Parameter(torch.zeros(QUALITIES, widths.detail))
        self.detail_log_rescale = nn.Parameter(torch.zeros(QUALITIES, widths.detail))

    def encode(self, rows: Tensor, feature: Tensor, quality: Tensor) -> HscLatents:
        """Return the integers that are sent for rows and F.

        Args:
            rows: (N, rows, style).
            feature: (N, C, 2h, 2w).
            quality: (N,) int64.
        """
        base = torch.round(self._scaled_base(rows, quality))
        decoded = self.decode_base(base, quality)
        detail = self.quantise(self._scaled_detail(feature, quality), base, decoded, quality)
        return HscLatents(base, detail.symbols)

    def decode_base(self, base: Tensor, quality: Tensor) -> Tensor:
        """Return rows (N, rows, style) from base symbols."""
        return self.semantic.synthesise(base * _factor(self.base_log_rescale, quality))

    def decode_detail(self, detail: Tensor, rows: Tensor, quality: Tensor) -> Tensor:
        """Return F (N, C, 2h, 2w) from detail symbols and from what ``decode_base`` gave."""
        parts = torch.split(detail, self.widths.slice_channels, dim=1)
        scaled = self._in_slices(rows, quality, lambda k, mean: parts[k] + mean)
        return self.feature.synthesise(scaled * _factor(self.detail_log_rescale, quality))

    def quantise(
        self,
        scaled: Tensor,
        base: Tensor,
        rows: Tensor,
        quality: Tensor,
        rounding: Rounding = torch.round,
    ) -> QuantisedDetail:
        """Quantise a scaled detail latent slice by slice, given the base as decoded."""
        side, parts = self.scales.side(base), torch.split(scaled, self.widths.slice_channels, dim=1)
        residuals: list[Tensor] = []
        symbols: list[Tensor] = []
        indices: list[Tensor] = []

        def resolve(position: int, mean: Tensor) -> Tensor:
            before = torch.cat([scaled[:, :0], *symbols], 1)
            index = self.scales.index(position, side, before, quality)
            residual = parts[position] - mean
            rounded = rounding(residual) * (index > 0)
            residuals.append(residual)
            symbols.append(rounded)
            indices.append(index)
            return rounded + mean

        decoded = self._in_slices(rows, quality, resolve)
        joined = [torch.cat(parts, 1) for parts in (residuals, symbols, indices)]
        return QuantisedDetail(joined[0], joined[1], joined[2], decoded)

    def forward(self, rows: Tensor, feature: Tensor, quality: Tensor) -> HscSent:
        """Send rows and F as in training: straight-through rounding, noise in the rate."""
        with torch.autocast(rows.device.type, enabled=False):
            return self._send(rows.float(), feature.float(), quality)

    def _send(self, rows: Tensor, feature: Tensor, quality: Tensor) -> HscSent:
        bounded = self._scaled_base(rows, quality)
        base, limit = round_straight_through(bounded), BASE_BOUND + 0.5
        noisy = add_uniform_noise(bounded).clamp(-limit, limit)
        decoded = self.decode_base(base, quality)
        scaled = self._scaled_detail(feature, quality)
        sent = self.quantise(scaled, base, decoded, quality, round_straight_through)
        scale = scale_of(sent.scale_index)
        return HscSent(
            rows=decoded,
            feature=self.feature.synthesise(
                sent.scaled * _factor(self.detail_log_rescale, quality)
            ),
            base_noisy_bits=_per_face(self.prior.bits(noisy, quality)),
            base_bits=_per_face(self.prior.bits(base, quality)),
            detail_noisy_bits=_per_face(gaussian_bits(add_uniform_noise(sent.residual), scale)),
            detail_bits=_per_face(gaussian_bits(sent.symbols, scale) * (sent.scale_index > 0)),
        )

    def _scaled_base(self, rows: Tensor, quality: Tensor) -> Tensor:
        scaled = self.semantic.analyse(rows) * _factor(self.base_log_gain, quality)
        return scaled.clamp(-BASE_BOUND, BASE_BOUND)

    def _scaled_detail(self, feature: Tensor, quality: Tensor) -> Tensor:
        return self.feature.analyse(feature) * _factor(self.detail_log_gain, quality)

    def _in_slices(
        self, rows: Tensor, quality: Tensor, resolve: Callable[[int, Tensor], Tensor]
    ) -> Tensor:
        """Return the scaled detail (N, C_d, h, h).

        ``resolve(position, mean)`` maps a slice's means to its values, both scaled by the gain.
        Networks see values without the gain, the same at every quality.
        """
        size = self.widths.slice_channels
        gains = torch.split(_factor(self.detail_log_gain, quality), size, dim=1)
        undo = torch.split(_factor(self.detail_log_rescale, quality), size, dim=1)
        known = self.side(self.semantic.image(rows))
        scaled: list[Tensor] = []
        for position, mean_of in enumerate(self.means):
            values = resolve(position, mean_of(known) * gains[position])
            scaled.append(values)
            known = torch.cat([known, values * undo[position]], 1)
        return torch.cat(scaled, 1)


def _factor(logarithm: Tensor, quality: Tensor) -> Tensor:
    return torch.exp(logarithm)[quality][:, :, None, None]


def _per_face(bits: Tensor) -> Tensor:
    return bits.flatten(1).sum(1)
