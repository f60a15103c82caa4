"""What training counts bytes with: rate control, the prior, Gaussian bits, rounding."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from cdvision.networks.factorised_prior import FactorisedPrior  # noqa: E402
from cdvision.networks.quantisation import (  # noqa: E402
    MIN_LIKELIHOOD,
    gaussian_bits,
    round_straight_through,
)
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl  # noqa: E402


def test_multipliers_follow_the_rates() -> None:
    control, before = RateControl(), RateControl().log_multiplier.clone()
    targets = torch.exp(control.log_target)
    quality = torch.tensor([0, 1, 1, 5])
    bits = 8 * targets[quality] * torch.tensor([2.0, 0.4, 0.6, 1.0])
    for _ in range(20):
        control(torch.zeros(4), bits, quality, REFERENCE_PIXELS)  # what is sent steers
    moved = control.log_multiplier - before
    assert moved[0] > 1e-3  # too many bytes: bytes become dearer
    assert moved[1] < -1e-3
    assert abs(moved[5]) < 1e-6
    assert (moved[[2, 3, 4, 6, 7]] == 0).all()
    control.eval()
    control(bits, bits * 100, quality, REFERENCE_PIXELS)
    assert torch.equal(control.log_multiplier - before, moved)


def test_the_rate_term_counts_bytes_of_a_reference_photo() -> None:
    control = RateControl().eval()
    bits = torch.tensor([8000.0, 4000.0])
    loss = control(bits, 0 * bits, torch.tensor([3, 7]), REFERENCE_PIXELS // 2)  # and no more
    price = torch.exp(control.log_multiplier)[[3, 7]]
    assert float(loss) == pytest.approx(float((price * torch.tensor([2000.0, 1000.0])).mean()))


def test_rate_control_finds_the_multiplier_of_its_target() -> None:
    control, quality = RateControl(speed=0.02), torch.tensor([4])
    for _ in range(1500):  # a codec whose rate falls as its price rises
        rate = 40.0 / torch.exp(control.log_multiplier[4])
        bits = 8 * rate[None] / 30
        control(bits, bits, quality, REFERENCE_PIXELS)
    assert control.rates()[4] == pytest.approx(float(torch.exp(control.log_target[4])), rel=0.02)


def test_the_prior_is_a_distribution() -> None:
    torch.manual_seed(0)
    prior = FactorisedPrior(6, qualities=3, bound=9)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
        table = prior.probabilities()
        values = torch.arange(-9, 10).float()
        z = values.view(1, 1, 1, -1).expand(3, 6, 1, -1)
        bits = prior.bits(z, torch.arange(3))
    assert table.shape == (3, 6, 19)
    assert (table > 0).all()
    torch.testing.assert_close(table.sum(-1), torch.ones(3, 6))
    torch.testing.assert_close(bits.squeeze(2), -torch.log2(table.clamp_min(MIN_LIKELIHOOD)))


def test_gaussian_bits_equal_the_integral() -> None:
    scales = [0.11, 0.5, 1.0, 7.0, 64.0]
    for scale in scales:
        values = torch.linspace(-12 * min(scale, 4.0), 12 * min(scale, 4.0), 97)
        found = gaussian_bits(values, torch.full_like(values, scale))
        for value, bits in zip(values.tolist(), found.tolist(), strict=True):
            edges = [(abs(value) + side) / (scale * math.sqrt(2)) for side in (-0.5, 0.5)]
            mass = 0.5 * (math.erfc(edges[0]) - math.erfc(edges[1]))
            assert bits == pytest.approx(-math.log2(max(mass, MIN_LIKELIHOOD)), rel=2e-3, abs=2e-3)


def test_gaussian_bits_have_a_gradient_everywhere_that_matters() -> None:
    x = torch.tensor([0.2, 3.0, -8.0], requires_grad=True)
    scale = torch.tensor([0.5, 1.0, 4.0], requires_grad=True)
    gaussian_bits(x, scale).sum().backward()
    assert (x.grad.sign() == x.detach().sign()).all()
    assert (scale.grad[1:] < 0).all()  # values far outside want wider scales


def test_rounding_passes_the_gradient_on() -> None:
    x = torch.tensor([-1.6, 0.4, 2.5], requires_grad=True)
    rounded = round_straight_through(x)
    rounded.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert rounded.tolist() == [-2.0, 0.0, 2.0]
    assert x.grad.tolist() == [1.0, 2.0, 3.0]
