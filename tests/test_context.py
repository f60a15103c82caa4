"""The spatial prediction: phases, causality, sender and receiver in step; the hyper-analysis."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from cdvision.models.small.network import Small  # noqa: E402
from cdvision.networks.context import SpatialPrediction, join, split  # noqa: E402
from cdvision.networks.hyper import HyperAnalysis  # noqa: E402
from cdvision.networks.latent_model import Dequantiser  # noqa: E402

A, C, D, B = range(4)
QUALITY = torch.tensor([5])


def prediction(channels: int = 3) -> SpatialPrediction:
    torch.manual_seed(0)
    module = SpatialPrediction(channels, qualities=8)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False)


def test_phases_come_apart_and_together() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    phases = split(x)
    assert torch.equal(phases[A], x[:, :, ::2, ::2])
    assert torch.equal(phases[C], x[:, :, ::2, 1::2])
    assert torch.equal(phases[D], x[:, :, 1::2, ::2])
    assert torch.equal(phases[B], x[:, :, 1::2, 1::2])
    assert torch.equal(join(phases), x)


def neighbourhood(row: int, column: int) -> set[tuple[int, int]]:
    """Cells whose value may be used for the mean of a cell of an 8 x 8 map."""
    if (row % 2, column % 2) == (0, 0):
        return set()
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    if (row % 2, column % 2) == (1, 1):
        steps = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    return {(row + y, column + x) for y, x in steps}


@pytest.mark.parametrize("cell", [(2, 2), (3, 3), (2, 3), (3, 2)])
def test_a_mean_depends_on_its_neighbours_and_on_nothing_else(cell: tuple[int, int]) -> None:
    module, row, column = prediction(), *cell
    values = torch.randn(1, 3, 8, 8)

    def mean(latents: torch.Tensor) -> torch.Tensor:
        found, parts = {}, split(latents)

        def resolve(mean: torch.Tensor, phase: int) -> torch.Tensor:
            found[phase] = mean
            return parts[phase]

        module(split(torch.zeros_like(latents)), QUALITY, resolve)
        return join(tuple(found[phase] for phase in range(4)))[0, :, row, column]

    used = set()
    for y in range(8):
        for x in range(8):
            changed = values.clone()
            changed[0, :, y, x] += 1
            if not torch.equal(mean(changed), mean(values)):
                used.add((y, x))
    assert used == neighbourhood(row, column)


def test_images_of_a_batch_do_not_mix() -> None:
    module, latents = prediction(), torch.randn(3, 3, 8, 6)

    def predict(latents: torch.Tensor) -> torch.Tensor:
        parts = split(latents)
        return module(
            split(torch.zeros_like(latents)),
            QUALITY.expand(len(latents)),
            lambda mean, phase: mean + parts[phase],
        )

    alone = torch.cat([predict(image[None]) for image in latents])
    torch.testing.assert_close(predict(latents), alone)


@pytest.mark.parametrize("size", [(2, 2), (2, 6), (8, 4)])
def test_the_receiver_resolves_what_the_sender_had(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    dequantiser = Dequantiser().eval().requires_grad_(False)
    dequantiser.prediction = prediction(128)
    scaled = 4 * torch.randn(1, 128, *size)
    hyper = torch.round(torch.randn(1, 24, -(-size[0] // 4), -(-size[1] // 4)))
    sent = torch.rand_like(scaled) < 0.7
    quantised = dequantiser.quantise(scaled, hyper, QUALITY, sent)
    assert not quantised.symbols[~sent].any()
    received = dequantiser(quantised.symbols, hyper, QUALITY)
    assert torch.equal(received, dequantiser.rescale(quantised.scaled, QUALITY))
    error = (quantised.scaled - scaled).abs()
    assert error[sent].max() <= 0.5 + 1e-5  # prediction moves the mean, never adds error


def test_prediction_makes_smooth_latents_cheaper() -> None:
    """Where neighbours agree, what is left to send is smaller than the latents."""
    model = Small()
    smooth = torch.nn.functional.interpolate(8 * torch.randn(1, 128, 3, 3), scale_factor=4.0)
    model.dequantiser.prediction.direct.strength.data.fill_(1.0)
    model.dequantiser.prediction.diagonal.strength.data.fill_(1.0)
    with torch.no_grad():
        quantised = model.dequantiser.quantise(
            smooth, torch.zeros(1, 24, 3, 3), QUALITY, torch.ones_like(smooth, dtype=torch.bool)
        )
    a, c, d, b = split(quantised.residual.abs())
    assert a.mean() > 2 * b.mean()
    assert a.mean() > 2 * torch.cat([c, d]).mean()


def test_the_hyper_analysis_sees_logarithms_without_and_with_their_sign() -> None:
    """Of 0, e - 1 and 1 - e²: log(1 + |y|) is 0, 1 and 2."""
    analysis = HyperAnalysis(channels=3, hyper_channels=1)
    analysis.layers = torch.nn.Sequential()  # shows what the layers are given
    y = torch.tensor([0, math.e - 1, 1 - math.e**2]).view(1, 3, 1, 1)
    torch.testing.assert_close(analysis(y).flatten(), torch.tensor([0.0, 1, 2, 0, 1, -2]))
