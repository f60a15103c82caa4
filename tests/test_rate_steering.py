"""How rates are steered to their targets: bytes of a reference photo, quality by quality."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from cdvision.models.dicm.training.rates import bits_per_pixel, rate_term, spread  # noqa: E402
from cdvision.models.faces.training.codec_stage import target_bytes  # noqa: E402
from cdvision.training.rate_control import (  # noqa: E402
    REFERENCE_PIXELS,
    RateControl,
    targets_between,
)

HALF = REFERENCE_PIXELS // 2


def test_steering_follows_bytes_of_a_reference_photo_by_hand() -> None:
    control = RateControl((100.0, 100.0), speed=0.01)
    start = math.log(2 / 100)
    assert control.log_multiplier.tolist() == pytest.approx([start, start])
    # Two crops of half the pixels: 75 and 125 bytes are 150 and 250 of a whole photo, mean 200.
    bits = 8 * torch.tensor([75.0, 125.0])
    control(torch.zeros(2), bits, torch.tensor([1, 1]), HALF)
    rate = math.log(100) + 0.05 * math.log(2)  # a twentieth of the way in the logarithm
    assert control.log_rate.tolist() == pytest.approx([math.log(100), rate])
    moved = start + 0.01 * 0.05 * math.log(2)
    assert control.log_multiplier.tolist() == pytest.approx([start, moved])
    control(torch.zeros(1), torch.tensor([8.0 * 100]), torch.tensor([1]), REFERENCE_PIXELS)
    rate += 0.05 * (math.log(100) - rate)
    moved += 0.01 * (rate - math.log(100))
    assert float(control.log_multiplier[1]) == pytest.approx(moved)


@pytest.mark.parametrize(("bits", "sign"), [(8e9, 1.0), (0.0, -1.0)])
def test_no_step_of_steering_is_longer_than_its_speed(bits: float, sign: float) -> None:
    control = RateControl((100.0,), speed=0.02)
    before = float(control.log_multiplier[0])
    control.log_rate.fill_(math.log(100) + 9 * sign)  # far off
    control(torch.zeros(1), torch.tensor([bits]), torch.tensor([0]), REFERENCE_PIXELS)
    assert float(control.log_multiplier[0]) == pytest.approx(before + 0.02 * sign)
    assert math.isfinite(float(control.log_rate[0]))  # nothing sent counts as one byte


def test_the_rate_term_has_gradients_of_its_bits_alone() -> None:
    control = RateControl((100.0, 200.0))
    noisy = torch.tensor([800.0, 1600.0], requires_grad=True)
    sent = torch.tensor([1e5, 1e5], requires_grad=True)
    control(noisy, sent, torch.tensor([0, 1]), HALF).backward()
    # price / 8 bits / the mean of two, and a reference photo has twice the pixels
    wanted = [2 / 100 / 8 / 2 * 2, 2 / 200 / 8 / 2 * 2]
    assert noisy.grad is not None
    assert noisy.grad.tolist() == pytest.approx(wanted, rel=1e-5)
    assert sent.grad is None


def test_bits_per_pixel_are_steered_alike() -> None:
    control = rate_term([0.5, 0.25], [0.2, 0.4])
    assert bits_per_pixel(control) == pytest.approx([0.2, 0.4])
    assert control.speed > 0
    assert rate_term([0.5, 0.25]).speed == 0
    prices = torch.exp(control.log_multiplier) * REFERENCE_PIXELS / 8
    assert prices.tolist() == pytest.approx([0.5, 0.25])  # of a bit per pixel
    assert spread(1.0, 2) == pytest.approx((8.0, 0.25))
    assert spread(1.0, 3)[1] == pytest.approx(math.sqrt(8.0 * 0.25))


def test_targets_lie_in_equal_ratios() -> None:
    assert targets_between(1.0, 8.0, 4) == pytest.approx((1, 2, 4, 8))
    first, second, third = target_bytes((10.0, 80.0), (100.0, 800.0))
    assert (first[0], first[-1]) == pytest.approx((10, 80))
    assert (second[0], third[0]) == pytest.approx((0.6 * 90, 0.4 * 90))
    assert (second[-1], third[-1]) == pytest.approx((0.6 * 720, 0.4 * 720))
