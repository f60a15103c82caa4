"""Keeps every quality of one model at its target rate while it trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError

# Mean bytes of a 416 x 312 crop that the eight qualities of `small` aim at. Whole photos, with
# their skies and walls, take about three quarters of that.
TARGET_BYTES = (280.0, 470.0, 780.0, 1250.0, 1900.0, 2900.0, 4000.0, 6600.0)
REFERENCE_PIXELS = 416 * 312


def targets_between(low: float, high: float, count: int = len(TARGET_BYTES)) -> tuple[float, ...]:
    """Return targets of bytes or bits in equal ratios, the first and the last as given.

    >>> [round(target) for target in targets_between(100, 800, 4)]
    [100, 200, 400, 800]

    Raises:
        CdvisionError: the first is not below the last.
    """
    if not 0 < low < high:
        raise CdvisionError(f"rate targets: expected 0 < LOW < HIGH, found {low:g} and {high:g}")
    return tuple(low * (high / low) ** (place / (count - 1)) for place in range(count))


class RateControl(nn.Module):
    """One Lagrangian multiplier a quality, steered so that the rate meets the target.

    Fixed multipliers would have to be searched anew for every change of loss, network or data;
    targets stay. The multiplier follows the log-ratio of rate and target: a slow integral
    controller, whose steady state is the multiplier that a search would have found.
    """

    log_target: Tensor
    log_multiplier: Tensor
    log_rate: Tensor

    def __init__(self, targets: tuple[float, ...] = TARGET_BYTES, *, speed: float = 0.01) -> None:
        super().__init__()
        self.speed = speed
        target = torch.tensor(targets)
        self.register_buffer("log_target", torch.log(target))
        self.register_buffer("log_rate", torch.log(target))
        # Distortion saved by a byte falls about as 1 / rate: a start, not a tuning.
        self.register_buffer("log_multiplier", torch.log(2.0 / target))

    def forward(self, bits: Tensor, sent: Tensor, quality: Tensor, pixels: int) -> Tensor:
        """Return the weighted rate term of a batch and update the multipliers.

        Args:
            bits: (N,) differentiable bits of each image, which the loss weighs.
            sent: (N,) bits of the symbols that are really sent, which steer. At low rates the
                noise of the first counts a tenth of a bit for every symbol that is skipped: a
                quality steered by it ended at 51 bytes where it should have had 1200.
            quality: (N,) int64 qualities, 0-based.
            pixels: pixels of each network input.
        """
        reference_bytes = bits / 8 * (REFERENCE_PIXELS / pixels)
        loss = (torch.exp(self.log_multiplier)[quality] * reference_bytes).mean()
        if self.training:
            self._steer(sent.detach() / 8 * (REFERENCE_PIXELS / pixels), quality)
        return loss

    def rates(self) -> list[float]:
        """Return the running mean bytes (geometric) of a reference photo at each quality."""
        return [float(r) for r in torch.exp(self.log_rate)]

    @torch.no_grad()
    def _steer(self, reference_bytes: Tensor, quality: Tensor) -> None:
        for q in set(quality.tolist()):
            rate = torch.log(reference_bytes[quality == q].mean().clamp_min(1.0))
            self.log_rate[q].lerp_(rate, 0.05)
            error = (self.log_rate[q] - self.log_target[q]).clamp(-1.0, 1.0)
            self.log_multiplier[q] += self.speed * error
