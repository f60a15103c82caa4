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

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.models.faces.codec import DecodedFaces, FaceCodec, StyleCodes
from cdvision.models.faces.hsc_transforms import (
    FeatureNetwork,
    SemanticNetwork,
    SideNetwork,
    SliceMean,
)
from cdvision.models.faces.integer_slices import IntegerSlices, base_tables, build_slice_networks
from cdvision.models.faces.receiver.hsc import BASE, DETAIL, HscCoder
from cdvision.models.faces.widths import BASE_SIDE, HscWidths
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.quantisation import add_uniform_noise, gaussian_bits, round_straight_through
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS, scale_of

BASE_BOUND = 63  # base symbols lie in [-63, 63]
Rounding = Callable[[Tensor], Tensor]


class HscSent(NamedTuple):
    """What a receiver has of a batch, and what base and detail cost."""

    rows: Tensor
    feature: Tensor
    noisy_bits: Tensor  # (N, 2), differentiable
    bits: Tensor  # (N, 2), of the symbols that are really sent


class QuantisedDetail(NamedTuple):
    """The detail latent on its way through the quantiser, all (N, C_d, h, h)."""

    residual: Tensor
    symbols: Tensor
    scale_index: Tensor
    scaled: Tensor  # symbols plus mean: what the receiver has, up to the gain


class HscCodec(FaceCodec):
    """Base (N, C_b, 2, 2) and detail (N, C_d, h, h) of rows and of F (N, C, 2h, 2w)."""

    sends_feature = True

    def __init__(self, widths: HscWidths) -> None:
        super().__init__()
        self.widths = widths
        self.semantic = SemanticNetwork(widths)
        self.feature = FeatureNetwork(widths)
        self.side = SideNetwork(widths)
        self.means = nn.ModuleList(SliceMean(widths, k) for k in range(widths.slices))
        self.scales = IntegerSlices(
            widths, qualities=QUALITIES, levels=SCALE_LEVELS, bound=BASE_BOUND
        )
        # Nothing is known before the base: fixed tables of each quality and channel.
        self.prior = FactorisedPrior(widths.base, qualities=QUALITIES, bound=BASE_BOUND)
        self.base_log_gain = nn.Parameter(torch.zeros(QUALITIES, widths.base))
        self.base_log_rescale = nn.Parameter(torch.zeros(QUALITIES, widths.base))
        self.detail_log_gain = nn.Parameter(torch.zeros(QUALITIES, widths.detail))
        self.detail_log_rescale = nn.Parameter(torch.zeros(QUALITIES, widths.detail))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes (channels, side, side) of base and detail."""
        widths = self.widths
        return {
            BASE: (widths.base, BASE_SIDE, BASE_SIDE),
            DETAIL: (widths.detail, widths.detail_side, widths.detail_side),
        }

    def encode(self, codes: StyleCodes, quality: Tensor) -> dict[str, Tensor]:
        """Return the integers that are sent for rows and F."""
        base = torch.round(self._scaled_base(codes.rows, quality))
        # The detail is predicted from what the receiver will have, not from the rows themselves.
        decoded = self.decode_rows(base, quality)
        scaled = self._scaled_detail(codes.feature, quality)
        return {BASE: base, DETAIL: self.quantise(scaled, base, decoded, quality).symbols}

    def decode(self, latents: Mapping[str, Tensor], count: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode rows from the base, and F where the detail has arrived."""
        rows = self.decode_rows(latents[BASE], quality)
        return DecodedFaces(rows, (self.decode_feature(latents[DETAIL], rows, quality), count > 1))

    def decode_base(self, base: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode the base alone, which holds all rows and nothing of F."""
        return DecodedFaces(self.decode_rows(base, quality))

    def decode_rows(self, base: Tensor, quality: Tensor) -> Tensor:
        """Return rows (N, rows, style) from base symbols."""
        return self.semantic.synthesise(base * _factor(self.base_log_rescale, quality))

    def decode_feature(self, detail: Tensor, rows: Tensor, quality: Tensor) -> Tensor:
        """Return F from detail symbols and from what ``decode_rows`` gave."""
        parts = torch.split(detail, self.widths.slice_channels, dim=1)
        scaled = self._in_slices(rows, quality, lambda k, mean: parts[k] + mean)
        return self._unscaled_feature(scaled, quality)

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
            # What the decoded base and the slices before have told is not sent again.
            residual = parts[position] - mean
            rounded = rounding(residual) * (index > 0)  # index 0: skipped, the receiver has a 0
            residuals.append(residual)
            symbols.append(rounded)
            indices.append(index)
            return rounded + mean

        decoded = self._in_slices(rows, quality, resolve)
        joined = [torch.cat(parts, 1) for parts in (residuals, symbols, indices)]
        return QuantisedDetail(joined[0], joined[1], joined[2], decoded)

    def forward(self, rows: Tensor, feature: Tensor, quality: Tensor) -> HscSent:
        """Send rows and F as in training: straight-through rounding, noise in the rate."""
        with torch.autocast(rows.device.type, enabled=False):  # half precision holds no such bits
            return self._send(rows.float(), feature.float(), quality)

    def _send(self, rows: Tensor, feature: Tensor, quality: Tensor) -> HscSent:
        bounded = self._scaled_base(rows, quality)
        # Noise may not leave the outermost bins, which are as wide as the others.
        base, limit = round_straight_through(bounded), BASE_BOUND + 0.5
        noisy = add_uniform_noise(bounded).clamp(-limit, limit)
        decoded = self.decode_rows(base, quality)
        scaled = self._scaled_detail(feature, quality)
        sent = self.quantise(scaled, base, decoded, quality, round_straight_through)
        scale = scale_of(sent.scale_index)
        received = self._unscaled_feature(sent.scaled, quality)
        noisy_bits = (
            self.prior.bits(noisy, quality),
            gaussian_bits(add_uniform_noise(sent.residual), scale),
        )
        bits = (
            self.prior.bits(base, quality),
            gaussian_bits(sent.symbols, scale) * (sent.scale_index > 0),  # skipped ones are free
        )
        return HscSent(decoded, received, _per_face(*noisy_bits), _per_face(*bits))

    def feature_error(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean squared error of F, each channel's as a share of its variance."""
        return ((found - wanted) / self.feature.spread).square().mean()

    def build_coder(self) -> HscCoder:
        """Freeze the prior and the integer networks; raises ModelError without the proofs."""
        from cdvision.building.map_tables import symbol_tables  # heavy; no receiver builds

        side, slices = build_slice_networks(self.scales)
        return HscCoder(
            base_tables=base_tables(self.prior),
            symbol_tables=symbol_tables(),
            side=side,
            slices=slices,
            qualities=QUALITIES,
            base_side=BASE_SIDE,
        )

    def _scaled_base(self, rows: Tensor, quality: Tensor) -> Tensor:
        # The proof of the integer networks rests on this bound.
        scaled = self.semantic.analyse(rows) * _factor(self.base_log_gain, quality)
        return scaled.clamp(-BASE_BOUND, BASE_BOUND)

    def _scaled_detail(self, feature: Tensor, quality: Tensor) -> Tensor:
        return self.feature.analyse(feature) * _factor(self.detail_log_gain, quality)

    def _unscaled_feature(self, scaled: Tensor, quality: Tensor) -> Tensor:
        return self.feature.synthesise(scaled * _factor(self.detail_log_rescale, quality))

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


def _per_face(*layers: Tensor) -> Tensor:
    return torch.stack([bits.flatten(1).sum(1) for bits in layers], dim=1)
