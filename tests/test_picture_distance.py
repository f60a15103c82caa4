"""Distances of pictures: against hand-made cases, closed forms and a peer's figures."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cdvision.errors import CdvisionError
from cdvision.evaluation.picture_distance import PictureJudge, ms_ssim, psnr
from cdvision.evaluation.picture_distance.pixel_distance import STABLE, WEIGHTS

Pictures = NDArray[np.uint8]


def waves(side: int, count: int = 2) -> Pictures:
    """Return smooth pictures: something for every scale to see."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    found = [
        np.stack([np.sin((3 + k + n) * rows + (7 - n) * columns * (k + 1)) for k in range(3)], -1)
        for n in range(count)
    ]
    return (127.5 + 100 * np.array(found)).astype(np.uint8)


def noisy(pictures: Pictures, spread: float, seed: int = 0) -> Pictures:
    noise = np.random.default_rng(seed).normal(0, spread, pictures.shape)
    return np.clip(np.rint(pictures + noise), 0, 255).astype(np.uint8)


def flat(value: int, side: int = 64) -> Pictures:
    return np.full((1, side, side, 3), value, np.uint8)


# --- PSNR


def test_psnr_of_known_errors() -> None:
    one_channel = flat(100)
    one_channel[..., 0] += 30  # a mean square error of 900 / 3
    found = psnr(np.concatenate([flat(101), one_channel, flat(100)]), np.repeat(flat(100), 3, 0))
    np.testing.assert_allclose(found[:2], [20 * np.log10(255), 10 * np.log10(255**2 / 300)])
    assert found[2] == np.inf


@pytest.mark.parametrize("distance", [psnr, ms_ssim, PictureJudge().judge])
def test_what_is_no_pair_of_pictures_is_refused(distance: object) -> None:
    assert callable(distance)
    with pytest.raises(CdvisionError, match=r"expected the originals' shape \(1, 64, 64, 3\)"):
        distance(flat(1, 32), flat(1))
    with pytest.raises(CdvisionError, match=r"expected \(N, H, W, 3\) uint8, found float64"):
        distance(flat(1) / 2, flat(1))
    with pytest.raises(CdvisionError, match="expected"):
        distance(flat(1)[:0], flat(1)[:0])


# --- MS-SSIM


def test_ms_ssim_of_flat_pictures_is_luminance_alone() -> None:
    """No contrast and no structure differ; luminance counts at the last scale only."""
    luminance = (2 * 100 * 150 + STABLE[0]) / (100**2 + 150**2 + STABLE[0])
    five, three = (ms_ssim(flat(100, side), flat(150, side))[0] for side in (176, 64))
    assert five == pytest.approx(luminance ** WEIGHTS[4], abs=1e-5)
    assert three == pytest.approx(luminance ** (WEIGHTS[2] / sum(WEIGHTS[:3])), abs=1e-5)


def test_one_scale_is_ssim_by_its_definition() -> None:
    """Every place's window, one after the other, as the paper writes it."""
    wanted, found = waves(13, 1), noisy(waves(13, 1), 30)
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    places = []
    for y, x, c in np.ndindex(3, 3, 3):
        a, b = (p[0, y : y + 11, x : x + 11, c].astype(float) for p in (found, wanted))
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
        cov = (window * (a - ma) * (b - mb)).sum()
        luminance = (2 * ma * mb + STABLE[0]) / (ma**2 + mb**2 + STABLE[0])
        places.append(luminance * (2 * cov + STABLE[1]) / (va + vb + STABLE[1]))
    by_channel = np.reshape(places, (9, 3)).mean(axis=0)
    np.testing.assert_allclose(ms_ssim(found, wanted)[0], by_channel.mean(), atol=2e-5)


def test_five_scales_are_those_of_a_peer() -> None:
    """Figures of pytorch-msssim 1.0.0 in float64, on the same pictures."""
    wanted = waves(192)
    cases = {6: (0.9793962, 0.9772484), 25: (0.8326950, 0.8180991), 60: (0.6264863, 0.6020601)}
    for spread, figures in cases.items():
        np.testing.assert_allclose(ms_ssim(noisy(wanted, spread), wanted), figures, atol=1e-5)


def test_ms_ssim_falls_with_noise_and_knows_its_least_size() -> None:
    wanted = waves(128)
    figures = np.array([ms_ssim(noisy(wanted, spread), wanted) for spread in (0, 4, 12, 40)])
    np.testing.assert_allclose(figures[0], 1, atol=1e-6)
    assert (np.diff(figures, axis=0) < -0.005).all()
    np.testing.assert_allclose(ms_ssim(wanted, noisy(wanted, 12)), figures[2], atol=1e-6)
    assert 0 <= ms_ssim(255 - wanted, wanted)[0] < 0.3, "turned structure counts as none"
    with pytest.raises(CdvisionError, match="sides of at least 11 pixels, found 10"):
        ms_ssim(flat(1, 10), flat(1, 10))


def test_pixels_are_judged_without_any_network() -> None:
    wanted = waves(32, 40)  # more than a batch
    judged = PictureJudge().judge(noisy(wanted, 10), wanted)
    assert set(judged) == {"psnr", "ms_ssim"}
    assert judged["psnr"].shape == (40,)
    np.testing.assert_array_equal(judged["ms_ssim"][35:], ms_ssim(noisy(wanted, 10), wanted)[35:])
