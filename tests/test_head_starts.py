"""Where trainings start: components, regressions, gains by bytes, and scales, each by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.models.dicm.backbones import TINY, TinyFront, TinyTail  # noqa: E402
from cdvision.models.dicm.codec import DicmRe  # noqa: E402
from cdvision.models.dicm.training import redundancy_start  # noqa: E402
from cdvision.models.dicm.training.stage4_heads import StandardisedLinear  # noqa: E402
from cdvision.models.faces.inversion_encoder import FaceScore  # noqa: E402
from cdvision.models.faces.training import fit_score, hsc_start, stage_rows, style_start  # noqa: E402
from cdvision.models.small.training.descriptor import (  # noqa: E402
    WINDOW,
    _set_rates,
    embed,
    fisher_information,
    set_descriptor,
)
from cdvision.networks.context import PHASES  # noqa: E402
from cdvision.networks.latent_model import LatentEncoder, LatentModel  # noqa: E402
from cdvision.networks.scales import INDEX_STEP, LOWEST_SCALE, scale_of  # noqa: E402
from cdvision.training import hyper_start, latent_start  # noqa: E402
from cdvision.training.rate_control import REFERENCE_PIXELS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def entropy(deviation: float) -> float:
    """Return the bits of a rounded Gaussian."""
    edges = [(n + 0.5) / deviation / math.sqrt(2) for n in range(-300, 301)]
    masses = np.diff([0.5 * (1 + math.erf(edge)) for edge in edges])
    masses = masses[masses > 0]
    return float(-(masses * np.log2(masses)).sum())


# --- gains


@pytest.mark.parametrize("bits", [2.0, 7.5])
def test_a_gain_gives_the_bits_that_were_asked_for(bits: float) -> None:
    deviations = torch.tensor([1.0, 3.0])
    gain = latent_start.gain_for(deviations, bits)
    found = sum(entropy(gain * deviation) for deviation in (1.0, 3.0))
    assert found == pytest.approx(bits, rel=0.01)


def test_gains_of_a_map_are_by_bytes_of_a_reference_photo() -> None:
    model: Any = SimpleNamespace(
        encoder=SimpleNamespace(log_gain=torch.zeros(2, 3)),
        dequantiser=SimpleNamespace(log_rescale=torch.zeros(2, 3)),
    )
    cells = REFERENCE_PIXELS / 16**2
    latent_start.start_gains(model, torch.tensor([1.0, 4.0, 9.0]), [cells / 4, cells])
    for row, bits in zip(model.encoder.log_gain, (2.0, 8.0), strict=True):  # of a cell
        found = sum(entropy(float(gain) * d) for gain, d in zip(row.exp(), (1, 2, 3), strict=True))
        assert found == pytest.approx(bits, rel=0.01)
    assert torch.equal(model.dequantiser.log_rescale, -model.encoder.log_gain)


def test_gains_of_faces_are_by_the_deviation_of_each_latent() -> None:
    gain, rescale = torch.zeros(1, 2), torch.zeros(1, 2)
    y = torch.tensor([[[1.0, 3.0]], [[-1.0, -3.0]]])
    hsc_start._set_gains(gain, rescale, y, [1.0])
    found = sum(entropy(float(g) * d) for g, d in zip(gain[0].exp(), (1, 3), strict=True))
    assert found == pytest.approx(8.0, rel=0.01)
    assert torch.equal(rescale, -gain)


# --- components and regressions


def test_components_come_strongest_first() -> None:
    variance, basis = latent_start.principal_components(torch.diag(torch.tensor([1.0, 9, 4])), 2)
    assert variance.tolist() == pytest.approx([9, 4])
    torch.testing.assert_close(basis.abs(), torch.tensor([[0.0, 0], [1, 0], [0, 1]]))


def test_components_of_redundancy_have_unit_variance() -> None:
    samples = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    weight, deviations = redundancy_start._components(samples, 2)
    assert deviations.tolist() == pytest.approx([4.5**0.5, 0.5**0.5])
    assert (samples @ weight.T).square().mean(0).tolist() == pytest.approx([1, 1])


def test_regressions_by_hand() -> None:
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    weight, bias = redundancy_start._regression(x, y)
    assert float(weight) == pytest.approx(2 / 1.001)  # a ridge of a thousandth
    assert float(bias) == pytest.approx(3 - 2 / 1.001)
    known = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = style_start.ridge_regression(known, known @ torch.tensor([[1.0], [3.0]]))
    ridge = 1e-3 * (1 + 4) / 2
    wanted = [1 / (1 + ridge), 12 / (4 + ridge)]
    assert found.flatten().tolist() == pytest.approx(wanted, rel=1e-5)


def test_prediction_starts_as_the_regression_on_rounded_neighbours() -> None:
    torch.manual_seed(0)
    model, features = LatentModel(LatentEncoder(4, 8), 8), [3 * torch.randn(2, 4, 6, 7)]
    features.append(2 * torch.randn(1, 4, 6, 7))
    latent_start.start_prediction(model, features)
    quality, channel = 7, 3
    product, energy = np.zeros(2), np.zeros(2)
    for batch in features:
        level = torch.full((len(batch),), quality)
        scaled = model.encoder.scaled_analysis(batch, level)[:, channel].detach().numpy()
        rounded = np.round(scaled)
        for n in range(len(batch)):
            for i in range(1, 5):
                for j in range(1, 6):
                    near = rounded[n, i - 1 : i + 2, j - 1 : j + 2]
                    diagonal = near[::2, ::2].mean()
                    direct = (near[0, 1] + near[2, 1] + near[1, 0] + near[1, 2]) / 4
                    means = np.array([direct, diagonal])
                    product += scaled[n, i, j] * means
                    energy += means**2
    prediction = model.dequantiser.prediction
    found = [
        float(m.strength[quality, channel].detach())
        for m in (prediction.direct, prediction.diagonal)
    ]
    assert found == pytest.approx((product / (energy + 1)).tolist(), rel=1e-4)


def test_the_hyper_latent_starts_with_scales_that_fit() -> None:
    """Channels ten times as loud get tables that much wider, and photos that are louder, too."""
    torch.manual_seed(0)
    model = LatentModel(LatentEncoder(12, 12), 12)
    with torch.no_grad():
        model.encoder.analysis.linear.weight.copy_(torch.eye(12)[:, :, None, None])
        model.encoder.log_gain.fill_(0.0)
        model.dequantiser.log_rescale.fill_(0.0)
    loud = torch.logspace(0, 1, 12).view(1, 12, 1, 1)
    features = [loud * strength * torch.randn(4, 12, 16, 16) for strength in (1.0, 4.0)]
    hyper_start.start_hyper(model, features)
    quality, scales = torch.full((4,), 4), []
    with torch.no_grad():
        for batch in features:
            scaled = model.encoder.scaled_analysis(batch, quality)
            z = torch.round(model.encoder.hyper_latents(scaled))
            scales.append(scale_of(model.scale_index(z, quality, scaled)).mean((0, 2, 3)))
            assert float(z.abs().mean()) > 1  # the hyper-latent tells something
    quiet, wide = (scale / loud.flatten() for scale in scales)
    assert (wide / 4).log().abs().max() < math.log(1.25)
    assert float((quiet / wide).max()) < 0.8
    assert float(quiet.max() / quiet.min()) < 1.25  # channels keep their proportions


def test_tables_of_hsc_are_as_wide_as_their_symbols() -> None:
    seen: dict[str, Tensor] = {}
    y, detail = torch.randn(64, 3, 2, 2), torch.randn(64, 4, 2, 2)
    prior = SimpleNamespace(location=torch.zeros(8, 3, 5), log_scale=torch.zeros(8, 3, 5))
    codec: Any = SimpleNamespace(
        semantic=SimpleNamespace(analyse=lambda rows: y),
        feature=SimpleNamespace(analyse=lambda feature: detail),
        base_log_gain=torch.full((8, 3), math.log(4.0)),
        detail_log_gain=torch.full((8, 4), math.log(3.0)),
        prior=prior,
        scales=SimpleNamespace(start_indices=lambda index: seen.update(index=index)),
    )
    hsc_start._start_tables(codec, SimpleNamespace(rows=None, feature=None))  # type: ignore[arg-type]
    deviation = 3 * detail.square().mean((0, 2, 3)).sqrt()
    wanted = torch.log(deviation / LOWEST_SCALE) / INDEX_STEP
    torch.testing.assert_close(seen["index"], wanted.expand(8, 4))
    # Rounding adds a twelfth to the variance; five logistics lie one deviation either way.
    spread = (16 * y.square().mean((0, 2, 3)) + 1 / 12).sqrt()
    torch.testing.assert_close(prior.location[:, :, 4], spread.expand(8, 3))
    torch.testing.assert_close(prior.location[:, :, 1], -0.5 * spread.expand(8, 3))
    torch.testing.assert_close(prior.log_scale[0, :, 2], torch.log(0.55 * spread))


def test_the_last_norm_of_redundancy_gives_variances_back() -> None:
    torch.manual_seed(0)
    model = DicmRe(TinyFront(), TinyTail(), TINY)
    coarse = 255 * torch.rand(24, 3, 8, 8)
    images = nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    redundancy_start.start_redundancy(model, images)
    weight = model.encoder.layers[-1].weight.detach()
    assert float(weight.mean()) == pytest.approx(1, rel=1e-4)
    assert (weight.diff() <= 0).all()  # components, the strongest first
    assert float(weight[0]) > 1.5 * float(weight[-1])


def test_steps_and_indices_of_redundancy_spread_over_the_qualities() -> None:
    bottleneck: Any = SimpleNamespace(
        log_gain=torch.zeros(8, 2), log_rescale=torch.zeros(8, 2),
        hyper_decoder=SimpleNamespace(quality_bias=torch.zeros(8, 2 * PHASES)),
    )  # fmt: skip
    redundancy_start._start_bottleneck(bottleneck, torch.tensor([1.0, 10.0]))
    gains = bottleneck.log_gain.exp()
    assert gains[[0, 7], 0].tolist() == pytest.approx([0.2, 2.0])
    assert torch.equal(bottleneck.log_rescale, -bottleneck.log_gain)
    bias = bottleneck.hyper_decoder.quality_bias
    assert scale_of(bias[7, [0, PHASES]]).tolist() == pytest.approx([2.0, 20.0], rel=1e-4)
    assert torch.equal(bias[:, 0], bias[:, PHASES - 1])


# --- heads


def test_a_classifier_is_standardised_with_a_floor() -> None:
    head = StandardisedLinear(nn.Linear(2, 1))
    head.measure(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    spread = torch.tensor([2**0.5, 0.0])
    torch.testing.assert_close(head.mean, torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(head.spread, spread + 0.5 * spread.mean())
    sample = torch.tensor([[3.0, 5.0]])
    torch.testing.assert_close(head.folded()(sample), head(sample))


def test_a_face_score_weighs_faces_and_the_rest_alike() -> None:
    networks: Any = SimpleNamespace(score=FaceScore(3))
    sample = torch.randn(1, 3).expand(10, -1)
    fit_score._fit(networks, sample.repeat(9, 1), sample)  # nine times as many faces
    assert abs(float(networks.score(sample)[0].detach())) < 0.05


def test_the_metric_of_classes_is_fishers() -> None:
    last, embeddings = nn.Linear(4, 3), torch.randn(5, 4)
    found = fisher_information(last, embeddings)
    wanted = torch.zeros(4, 4, dtype=torch.float64)
    for p in torch.softmax(last(embeddings) / 2, 1).double().detach():
        centred = torch.diag(p) - p[:, None] * p
        weight = last.weight.double().detach()
        wanted += weight.T @ centred @ weight / 5
    torch.testing.assert_close(found.detach(), wanted, atol=1e-6, rtol=1e-5)


def test_the_linear_paths_of_a_descriptor_undo_each_other() -> None:
    torch.manual_seed(0)
    embeddings = 5 + torch.randn(60, 3) @ torch.randn(3, 8)  # of three directions, off zero
    prior = SimpleNamespace(log_scale=torch.zeros(1, 3, 3), location=torch.zeros(1, 3, 3))
    project, expand = nn.Linear(8, 3), nn.Linear(3, 8)
    model: Any = SimpleNamespace(
        classifier_tail=nn.Linear(8, 4),
        descriptor=SimpleNamespace(project=project, log_gain=torch.zeros(1), prior=prior),
        classifier_tap=SimpleNamespace(expand=expand, log_rescale=torch.zeros(1)),
    )
    set_descriptor(model, embeddings, [1.0])
    with torch.no_grad():
        y = project(embeddings)
        torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(expand(y), embeddings, atol=1e-3, rtol=1e-3)
    covariance = y.T @ y / len(y)
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-3, rtol=1e-3)
    assert (covariance.diagonal().diff() < 0).all()  # the strongest first


def test_descriptors_take_their_bytes_and_their_priors_fit() -> None:
    prior = SimpleNamespace(log_scale=torch.zeros(2, 2, 3), location=torch.zeros(2, 2, 3))
    model: Any = SimpleNamespace(
        descriptor=SimpleNamespace(log_gain=torch.zeros(2), prior=prior),
        classifier_tap=SimpleNamespace(log_rescale=torch.zeros(2)),
    )
    _set_rates(model, torch.tensor([1.0, 3.0]), [0.5, 1.0])
    for quality, bits in enumerate((4.0, 8.0)):
        gain = math.exp(float(model.descriptor.log_gain[quality]))
        assert entropy(gain) + entropy(3 * gain) == pytest.approx(bits, rel=0.01)
        scale = gain * torch.tensor([1.0, 3.0])[:, None] / 1.9
        torch.testing.assert_close(prior.log_scale[quality].exp(), scale.expand(2, 3))
        places = torch.tensor([-0.5, 0.0, 0.5]) * scale
        torch.testing.assert_close(prior.location[quality], places)
    assert torch.equal(model.classifier_tap.log_rescale, -model.descriptor.log_gain)


# --- rows


def test_directions_of_rows_are_as_long_as_to_change_pictures_alike() -> None:
    gradients = torch.diag(torch.tensor([3.0, 4.0]))  # of two faces: strengths over root two
    found = stage_rows._directions(gradients, 3)
    lengths = [(8 + 4.5) ** -0.5, (4.5 + 4.5) ** -0.5, 0]  # squared strengths, and the weakest's
    assert found.norm(dim=0).tolist() == pytest.approx(lengths, rel=1e-5)
    assert float(found[1, 0].abs()) == pytest.approx(lengths[0], rel=1e-5)


def test_a_step_of_rows_brings_the_picture_closer() -> None:
    directions = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    refiner: Any = SimpleNamespace(directions=SimpleNamespace(weight=directions))
    base = torch.zeros(1, 1, 2)
    solve = stage_rows._solution(refiner, lambda rows: rows.flatten(1), base)
    # Changes (1, 0) and (0, 2): strengths 1 and 4, a ridge of twice their mean.
    wanted = torch.tensor([[1 / 6, 0], [0, 2 / 9]])
    torch.testing.assert_close(solve, wanted)


def test_a_convolution_takes_all_places_of_the_channel_that_varied_most() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    with torch.no_grad():
        x = torch.randn(8, 2, 32, 32)
        deviations = redundancy_start._reduce(conv, x, torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(deviations, torch.full((4,), 10.0), rtol=0.1, atol=0)
    weight = conv.weight.detach().abs()
    assert weight[:, 0].max() < 0.1 * weight[:, 1].max()


def test_the_descriptor_is_computed_from_photos_of_a_crops_size_where_there_are_some() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None]

    def grey(side: int, level: int) -> Tensor:
        return torch.full((3, side, side), level, dtype=torch.uint8)

    small, large = grey(WINDOW - 1, 10), [grey(WINDOW, 20), grey(WINDOW + 1, 30)]
    bank: Any = SimpleNamespace(photos=[small, *large])
    found = embed(Mean(), [bank], torch.device("cpu"))
    assert sorted(found[:, 0].tolist()) == [20.0, 30.0]
    bank.photos = [small]
    assert embed(Mean(), [bank], torch.device("cpu"))[:, 0].tolist() == [10.0]
