"""Bjøntegaard's deltas: exact cases, recorded curves, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from cdvision.bench.bjontegaard import bd_accuracy, bd_rate, non_dominated
from cdvision.errors import CdvisionError

pytest.importorskip("bjontegaard")
RATE = np.array([500.0, 1000, 2000, 4000, 8000])
AP = np.array([0.12, 0.21, 0.28, 0.33, 0.345])


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 3.0])
def test_scaled_rates_give_the_factor(factor: float) -> None:
    assert bd_rate(RATE, AP, factor * RATE, AP) == pytest.approx(100 * (factor - 1))


def test_shifted_accuracy_gives_the_shift() -> None:
    assert bd_accuracy(RATE, AP, RATE, AP - 0.03) == pytest.approx(-0.03)


def test_straight_lines_over_a_part_only() -> None:
    """Accuracy = log10 rate, and = log10 rate + 0.5: the mean differences are exact."""
    rate = 10.0 ** np.arange(2, 6)
    assert bd_accuracy(rate, np.log10(rate), 10 * rate, np.log10(10 * rate) + 0.5) == (
        pytest.approx(0.5)
    )
    assert bd_rate(rate, np.log10(rate), 10 * rate, np.log10(10 * rate) + 0.5) == (
        pytest.approx(100 * (10**-0.5 - 1))
    )


def test_figures_of_recorded_curves() -> None:
    """HEVC against AVIF and JPEG in front of NanoDet-Plus, as our own integration had them."""
    hevc = [2162, 4411, 9168, 23076], [0.218, 0.298, 0.350, 0.369]
    avif = [3506, 5235, 7792, 15332], [0.274, 0.317, 0.323, 0.366]
    jpeg = [4767, 8296, 14073, 23006], [0.082, 0.229, 0.334, 0.361]
    assert bd_rate(*avif, *hevc) == pytest.approx(-11.755656133731463, rel=1e-9)
    assert bd_accuracy(*avif, *hevc) == pytest.approx(0.0077527914502372175, rel=1e-9)
    assert bd_rate(*jpeg, *hevc) == pytest.approx(-62.1035219147672, rel=1e-9)
    assert bd_accuracy(*jpeg, *hevc) == pytest.approx(0.08674190196136487, rel=1e-9)


def test_a_better_test_curve_needs_fewer_bytes() -> None:
    """The signs: the first curve is the anchor, and fewer bytes are a gain."""
    assert bd_rate(RATE, AP, RATE / 4, AP) == pytest.approx(-75)
    assert bd_rate(RATE / 4, AP, RATE, AP) == pytest.approx(300)
    assert bd_accuracy(RATE, AP, RATE / 4, AP) > 0.05 > -0.05 > bd_accuracy(RATE / 4, AP, RATE, AP)


def test_order_does_not_matter_and_dominated_points_neither() -> None:
    order = np.random.default_rng(1).permutation(len(RATE))
    wanted = bd_rate(RATE, AP, 0.7 * RATE, AP)
    assert bd_rate(RATE[order], AP[order], 0.7 * RATE, AP) == pytest.approx(wanted)
    noisy = np.append(0.7 * RATE, [5000.0, 6000]), np.append(AP, [0.3, 0.1])
    assert bd_rate(RATE, AP, *noisy) == pytest.approx(wanted)


def test_non_dominated_against_the_definition() -> None:
    random = np.random.default_rng(3)
    rate, accuracy = random.integers(1, 9, 40) * 100, random.integers(1, 9, 40) / 10
    kept = non_dominated(rate, accuracy)
    points = set(zip(rate.tolist(), accuracy.tolist(), strict=True))

    def beaten(point: tuple[float, float]) -> bool:
        return any(r <= point[0] and a >= point[1] for r, a in points - {point})

    wanted = {point for point in points if not beaten(point)}
    assert {(rate[i], accuracy[i]) for i in kept} == wanted
    assert len(kept) == len(wanted)
    assert (np.diff(rate[kept]) > 0).all()
    assert (np.diff(accuracy[kept]) > 0).all()


def test_refuses_a_small_overlap() -> None:
    with pytest.raises(CdvisionError, match=r"share 0% .* of accuracy"):
        bd_rate(RATE, AP, RATE, AP + 1)
    with pytest.raises(CdvisionError, match=r"of log rate, at least 25%"):
        bd_accuracy(RATE, AP, RATE * 10, AP)
    barely = AP + 0.8 * np.ptp(AP)
    with pytest.raises(CdvisionError, match=r"share 20%"):
        bd_rate(RATE, AP, RATE, barely)
    assert bd_rate(RATE, AP, RATE, barely, min_overlap=0.15) < 0


def test_a_short_curve_inside_a_long_one_is_covered_whole() -> None:
    """A tenth of the long one's range, and all of the short one's own."""
    short = np.array([0.20, 0.21, 0.22])
    assert (
        bd_rate(RATE, AP, [800.0, 900, 1000], short)
        < 0
        < bd_rate([800.0, 900, 1000], short, RATE, AP)
    )


def test_refuses_few_points_and_strange_figures() -> None:
    with pytest.raises(CdvisionError, match="test: 2 of 2 points"):
        bd_rate(RATE, AP, RATE[:2], AP[:2])
    with pytest.raises(CdvisionError, match="anchor: 1 of 5 points"):
        bd_accuracy(RATE, AP[::-1], RATE, AP)
    with pytest.raises(CdvisionError, match="as many accuracies as rates"):
        bd_rate(RATE, AP[:3], RATE, AP)
    for rate, accuracy in ((RATE - 500, AP), (RATE, AP * np.nan)):
        with pytest.raises(CdvisionError, match="test: expected finite figures"):
            bd_rate(RATE, AP, rate, accuracy)
