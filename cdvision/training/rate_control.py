"""Keeps every quality of one model at its target rate while it trains.

Rate control finds what a byte is worth at each quality by itself, but slowly. A run that goes on
from another begins with the prices that the other has found; otherwise they are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from cdvision.training.finished import Finished

# Mean bytes of a 416 x 312 crop that the eight qualities of `small` aim at. Whole photos, with
# their skies and walls, take about three quarters of that.
TARGET_BYTES = (280.0, 470.0, 780.0, 1250.0, 1900.0, 2900.0, 4000.0, 6600.0)
REFERENCE_PIXELS = 416 * 312
LEAST_PRICE = 0.01  # of a byte, over the mean error that a byte saves
RECORD_KEY = "log_multipliers"  # of a training record

# Images (N, 3, S, S) and qualities (N,) to the loss without its rate, and bits sent (N,).
Compare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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

        The loss weighs the differentiable ``bits`` (N,) of images of so many pixels; those really
        ``sent`` (N,) steer. ``quality`` is (N,) int64, 0-based.
        """
        # At low rates the noise of ``bits`` counts a tenth of a bit for every symbol that is
        # skipped: a quality steered by it ended at 51 bytes where it should have had 1200.
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
            # Logarithms: a tenth too much counts the same at 280 bytes and at 6600.
            rate = torch.log(reference_bytes[quality == q].mean().clamp_min(1.0))
            self.log_rate[q].lerp_(rate, 0.05)
            # Clipped: a rate that is far off must not throw the price away with one batch.
            error = (self.log_rate[q] - self.log_target[q]).clamp(-1.0, 1.0)
            self.log_multiplier[q] += self.speed * error


def recorded_prices(control: RateControl) -> dict[str, list[float]]:
    """Return the logarithms of the prices, for a training record."""
    return {RECORD_KEY: [round(float(m), 5) for m in control.log_multiplier]}


def restore_prices(control: RateControl, start: Finished) -> bool:
    """Take over the prices of a run or package; targets stay. False where it tells none."""
    prices = start.checkpointed("rate").get("log_multiplier", start.record.get(RECORD_KEY))
    if prices is None:
        return False
    control.log_multiplier.copy_(torch.as_tensor(prices))
    return True


@torch.no_grad()
def measure_prices(control: RateControl, compare: Compare, images: Sequence[Tensor]) -> None:
    """Price a byte at each quality by the error that one more saves on images (N, 3, S, S)."""
    found = np.empty((len(control.log_multiplier), len(images), 2))
    for number, row in enumerate(found):
        for place, image in enumerate(images):
            quality = torch.full((len(image),), number, device=image.device)
            error, bits = compare(image, quality)
            # Bits of a crop count as bytes of a photo of the size that targets are meant for.
            scale = REFERENCE_PIXELS / (image.shape[2] * image.shape[3])
            row[place] = float(error), float(bits.mean()) / 8 * scale
    errors, sizes = found.mean(axis=1).T.tolist()
    start_prices(control, errors, sizes)


def start_prices(
    control: RateControl,
    errors: Sequence[float],
    sizes: Sequence[float],
    *,
    unit: Sequence[float] | None = None,
) -> None:
    """Begin steering with what one byte more would save in error, at each quality.

    ``sizes`` are the mean bytes where the errors were measured; ``unit`` is what the loss divides
    the error of each quality by.
    """
    # A slope needs sizes that rise: those that do not are moved apart by a thousandth of a byte.
    rising = np.maximum.accumulate(np.asarray(sizes, np.float64)) + 1e-3 * np.arange(len(sizes))
    saved = -np.gradient(np.asarray(errors, np.float64), rising)
    # No quality may begin with bytes for nothing: its rate would run away before it is steered.
    price = np.maximum(saved, LEAST_PRICE * max(errors) / max(sizes))
    price = price if unit is None else price / np.asarray(unit)
    control.log_multiplier.copy_(torch.from_numpy(np.log(price)))
    control.log_rate.copy_(torch.log(torch.tensor(sizes)))
