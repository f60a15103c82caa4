"""A tap before training: strides, and the regression that it starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


from cdvision.fitting.examples import Example, Window  # noqa: E402
from cdvision.fitting.fitting import tap_shape  # noqa: E402
from cdvision.fitting.options import FitOptions  # noqa: E402
from cdvision.fitting.stage import start_from_regression  # noqa: E402
from cdvision.networks.fitted_tap import FittedTap, TapShape  # noqa: E402
from cdvision.package.card import FeatureSpec  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("stride", "size"), [(4, 16), (8, 8), (16, 4), (32, 2)])
def test_taps_meet_strides_finer_and_coarser_than_the_latents(stride: int, size: int) -> None:
    options = FitOptions(width=16, depth=1)
    shape = tap_shape(FeatureSpec(6, 16), FeatureSpec(5, stride), options)
    tap = FittedTap(replace(shape, positive=True))
    found = tap(torch.randn(2, 6, 4, 4), torch.tensor([0, 7]))
    assert found.shape == (2, 5, size, size)
    assert found.min() >= 0
    with pytest.raises(CdvisionError, match="a stride that divides 16"):
        tap_shape(FeatureSpec(6, 16), FeatureSpec(5, 12), options)


@pytest.mark.parametrize(("up", "down"), [(2, 1), (1, 2)])
def test_regression_finds_what_is_linear(up: int, down: int) -> None:
    torch.manual_seed(0)
    shape = TapShape(4, 3, up=up, down=down, width=16, depth=1)
    truth, tap = FittedTap(shape), FittedTap(shape)
    y = torch.randn(6, 1, 4, 12, 12).half()
    with torch.no_grad():
        level = torch.zeros(1, dtype=torch.int64)
        examples = [Example(one, truth(one.float(), level)[0].half(), [1]) for one in y]
    spread = torch.tensor([1.0, 0.5, 2.0])  # no weight changes what is exact
    start_from_regression(tap, Window(examples).batch, spread, np.random.default_rng(0))
    with torch.no_grad():
        wanted = truth(y[0].float(), level)
        error = (tap(y[0].float(), level) - wanted).square().mean()
        assert error < 1e-4 * wanted.var()


def test_each_quality_scales_and_then_shifts_what_the_first_convolution_gives() -> None:
    tap = FittedTap(TapShape(2, 3, width=4, depth=1))  # blocks begin as the identity
    y = torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        tap.gain[1], tap.shift[1] = 2.0, 5.0
        found = tap(y, torch.tensor([0, 1]))
        opened = tap.opening(y)
        wanted = torch.cat([tap.closing(opened[:1]), tap.closing(2 * opened[1:] + 5)])
    torch.testing.assert_close(found, wanted)
