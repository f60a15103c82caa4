"""What a byte is worth at each quality when training begins: taken over, or measured.

Rate control finds these prices by itself, but slowly. A run that goes on from another begins with
those that the other has found; from a package that does not tell them, they are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cdvision.training.finished import Finished
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl

LEAST_PRICE = 0.01  # of a byte, over the mean error that a byte saves
RECORD_KEY = "log_multipliers"  # of a training record

Compare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images (N, 3, S, S) and qualities (N,) to the loss without its rate, and bits sent (N,)."""


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
