"""Losses against cases computed by hand: each factor, axis and sign of them counts."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.fitting.stage import FeatureScale, output_error  # noqa: E402
from cdvision.heads.distribution_head import BINS  # noqa: E402
from cdvision.models.dicm.training import distortions, moco  # noqa: E402
from cdvision.models.faces.training import face_stage  # noqa: E402
from cdvision.models.faces.training.adversarial import (  # noqa: E402
    PathLength,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from cdvision.models.faces.training.codec_stage import attribute_divergence  # noqa: E402
from cdvision.models.faces.training.perceptual import PerceptualLoss  # noqa: E402
from cdvision.models.faces.training.style_metric import StyleMetric, gradients_of  # noqa: E402
from cdvision.models.small.nanodet import DenseDetections  # noqa: E402
from cdvision.models.small.training import masks  # noqa: E402
from cdvision.models.small.training.distillation import (  # noqa: E402
    DetectionTarget,
    detection_loss,
    weighted_sum,
)
from cdvision.models.small.training.mask_examples import (  # noqa: E402
    SAMPLES,
    _matches,
    _overlaps,
    sample_in_boxes,
)
from cdvision.models.small.training.masks import mask_losses  # noqa: E402
from cdvision.training.feature_metric import (  # noqa: E402
    block_moments,
    metric_root,
    unexplained_variance,
    weighted_error,
)

pytestmark = pytest.mark.usefixtures("one_thread")
LN2, LN3 = math.log(2), math.log(3)


# --- features


def test_unexplained_variance_is_in_units_of_each_channels_variance() -> None:
    target = torch.tensor([[1.0, 3.0], [5.0, 5.0]]).view(1, 2, 1, 2)  # variances 1 and 0
    found = target + torch.tensor([[1.0, 0.0], [0.1, 0.1]]).view(1, 2, 1, 2)
    # A tenth of the mean variance, 0.5, is the floor of both.
    wanted = (0.5 / 1.05 + 0.01 / 0.05) / 2
    assert float(unexplained_variance(found, target)) == pytest.approx(wanted, rel=1e-5)


def test_a_metric_weighs_directions_and_not_their_transposes() -> None:
    root = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    found = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    error = weighted_error(root, found, torch.zeros_like(found), 1)
    assert float(error) == pytest.approx((7**2 + 3**2) / 2)


def test_moments_are_of_all_batches_together() -> None:
    pairs = [
        (torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [0.0]])),
        (torch.tensor([[5.0]]), torch.tensor([[4.0]])),
    ]
    covariance, moment = block_moments(pairs)
    assert float(covariance) == pytest.approx(35 / 3 - 9)
    assert float(moment) == pytest.approx(20 / 3)


def test_the_root_of_a_metric_has_a_floor_and_unit_energy() -> None:
    root = metric_root(
        torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([3.0, 1])), 0.5
    )
    # moments over their mean, 1.5 and 0.5, and the floor: 2 and 1; energy (2 * 4 + 1 * 1) / 2
    wanted = torch.diag(torch.tensor([2.0, 1.0]).sqrt() / 4.5**0.5)
    torch.testing.assert_close(root, wanted)


def test_a_taps_error_is_in_units_of_variance_and_inside_the_photo() -> None:
    scale = FeatureScale(2)
    scale.variance.copy_(torch.tensor([4.0, 0.25]))
    target = torch.zeros(1, 2, 1, 3)
    found = torch.tensor([[2.0, 4.0, 99.0], [0.5, 1.0, 99.0]]).view(1, 2, 1, 3)
    counts = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    assert float(scale.error(found, target, counts)) == pytest.approx((1 + 4 + 1 + 4) / 4)
    assert float(scale.error(found, target, 0 * counts)) == 0


def test_a_taps_unit_is_the_variance_of_features_inside_the_photo() -> None:
    features = torch.tensor([[1.0, 3.0, 77.0], [2.0, 2.0, 77.0]]).view(1, 2, 1, 3)
    counts = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    window: Any = SimpleNamespace(
        batch=lambda size, rng: SimpleNamespace(features=features, counts=counts)
    )
    scale = FeatureScale(2)
    scale.measure(window, np.random.default_rng(0))
    assert scale.variance.tolist() == pytest.approx([2.0, 1e-3])  # what never moves: the least


def test_outputs_count_in_units_of_their_own_variance() -> None:
    targets = {"a": torch.tensor([0.0, 2.0, 4.0]), "b": torch.tensor([0.0, 10.0])}
    found = {"a": targets["a"] + 1, "b": targets["b"] - 5}
    assert float(output_error(found, targets)) == pytest.approx((1 / 4 + 25 / 50) / 2)


def test_distortions_of_dicm_by_hand() -> None:
    class Tail(nn.Module):
        def stages(self, features: Tensor) -> list[Tensor]:
            return [2 * features, 3 * features, 5 * features]

    found, wanted = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert float(distortions.mean_absolute_error(found, wanted)) == 0.5
    terms = distortions.codec_distortion(Tail(), found, wanted)
    values = {name: float(value) for name, value in terms.items()}
    factors = {"features": 2048, "stage2": 384 * 4, "stage3": 256 * 9, "stage4": 192 * 25}
    assert values == pytest.approx({name: 0.25 * factor for name, factor in factors.items()})
    errors = distortions.feature_errors(Tail(), found, wanted)
    assert all(float(v) == pytest.approx(0.25 / (0.25 * 1.1)) for v in errors.values())


# --- small's detector


def detections(scores: list[float], distances: Tensor) -> DenseDetections:
    return DenseDetections(torch.tensor(scores).view(1, -1, 1), distances)


def bins(*ones: tuple[int, int]) -> Tensor:
    """Return distances (1, 2, 32), even but for sides (cell, side) that lean on bin 0 by two."""
    logits = torch.zeros(1, 2, 4, BINS)
    for cell, side in ones:
        logits[0, cell, side, 0] = LN2
    return logits.flatten(2)


def losses(found: DenseDetections, wanted: DenseDetections) -> dict[str, float]:
    level = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    target = DetectionTarget((level, level), wanted)
    terms = detection_loss((level, level + 0.5), found, target)
    return {name: float(value) for name, value in terms.items()}


LEANING = math.log(9 / 8) - LN2 / 8  # divergence from even bins of bins with one twice as likely


def test_boxes_count_by_the_confidence_of_their_cells() -> None:
    wanted = detections([0.0, LN3], bins())  # confidences 1/2 and 3/4
    found = detections([0.0, LN3], bins((0, 1), (1, 0), (1, 3)))
    terms = losses(found, wanted)
    assert terms["boxes"] == pytest.approx((0.5 * LEANING + 0.75 * 2 * LEANING) / 1.25, rel=1e-4)
    # One of two levels is off, by 0.25 over a variance of 0.25 and its tenth.
    assert terms["pyramid"] == pytest.approx((0 + 1 / 1.1) / 2, rel=1e-5)
    faint = detections([-LN3, -LN3], bins())  # evidence of 1/2 in all counts as 1
    terms = losses(detections([0.0, 0.0], bins((0, 0))), faint)
    assert terms["boxes"] == pytest.approx(0.25 * LEANING, rel=1e-4)


def test_the_surest_class_is_a_cells_confidence() -> None:
    scores = torch.tensor([[[LN3, -9.0], [0.0, -LN3]]])  # two classes a cell: 3/4 and 1/2
    wanted = DenseDetections(scores, bins())
    level = torch.zeros(1, 1, 1, 1)
    target = DetectionTarget((level,), wanted)
    found = DenseDetections(scores, bins((0, 0), (1, 2)))
    terms = detection_loss((level,), found, target)
    assert float(terms["boxes"]) == pytest.approx(LEANING, rel=1e-4)
    assert float(terms["scores"]) == pytest.approx(0, abs=1e-6)


def test_scores_count_by_how_wrong_they_are() -> None:
    logits = torch.zeros(1, 2, 1, requires_grad=True)
    wanted = detections([0.0, LN3], bins())
    level = torch.zeros(1, 1, 1, 1)
    target = DetectionTarget((level,), wanted)
    terms = detection_loss((level,), DenseDetections(logits, bins()), target)
    assert float(terms["scores"].detach()) == pytest.approx(0.25 * LN2 / 1.25, rel=1e-5)
    terms["scores"].backward()
    assert logits.grad is not None  # the weight itself passes no gradient
    assert logits.grad.flatten().tolist() == pytest.approx([0.0, 0.25 * -0.25 / 1.25])


def test_the_terms_of_the_map_have_their_weights() -> None:
    values = {"features": 1.0, "pyramid": 10.0, "scores": 100.0, "boxes": 1000.0}
    terms = {f"detect/{name}": torch.tensor(value) for name, value in values.items()}
    assert float(weighted_sum(terms)) == pytest.approx(1 + 10 + 100 + 250)


# --- small's masks


def test_every_object_weighs_the_same_in_both_mask_losses() -> None:
    logits = torch.stack([torch.zeros(2, 2), torch.full((2, 2), LN3)])
    masks = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])
    terms = mask_losses(logits, masks)
    assert float(terms["entropy"]) == pytest.approx((LN2 + math.log(4)) / 2)
    dice = 1 - 2 * (4 * 0.5) / (4 * 0.25 + 4 + 1e-3)  # squares below, as V-Net has it
    assert float(terms["dice"]) == pytest.approx((dice + 1) / 2)


def test_masks_are_looked_at_in_the_middle_of_each_part_of_a_box() -> None:
    stride, side = 4, 16
    middles = (torch.arange(side) + 0.5) * stride
    maps = torch.stack([middles.expand(side, side), middles[:, None].expand(side, side)])
    maps = torch.stack([maps, 100 + maps])
    image, boxes = torch.tensor([1, 0]), torch.tensor([[8.0, 12, 40, 28], [4, 4, 60, 36]])
    found = sample_in_boxes(maps, image, boxes, stride=stride)
    parts = (torch.arange(SAMPLES) + 0.5) / SAMPLES
    for one, number, (left, top, right, bottom) in zip(found, image, boxes, strict=True):
        x, y = left + parts * (right - left), top + parts * (bottom - top)
        torch.testing.assert_close(one[0], (x + 100 * number).expand(SAMPLES, -1))
        torch.testing.assert_close(one[1], (y + 100 * number)[:, None].expand(-1, SAMPLES))


def test_overlaps_are_intersections_over_unions() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2], [10, 10, 11, 11]])
    others = torch.tensor([[2.0, 0, 6, 2], [0, 0, 4, 4]])
    assert _overlaps(boxes, others).tolist() == [
        pytest.approx([4 / 12, 8 / 16]), [0, 0],
    ]  # fmt: skip


def test_an_object_learns_from_its_three_surest_cells() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    boxes = torch.tensor([box, [0, 0, 10, 8], box, [0, 0, 10, 4.9], box, [50, 50, 60, 60]])
    confidence = torch.tensor([0.5, 0.6, 0.9, 1.0, 0.1, 1.0])
    target = {
        "boxes": torch.tensor([[50.0, 50, 60, 60], box]), "masked": torch.tensor([False, True]),
    }  # fmt: skip
    found = _matches(7, boxes, confidence, target)
    # 0.6 of confidence at 0.8 of overlap is less than 0.5 at all of it; the last has no mask.
    assert found.cell.tolist() == [2, 0, 1]
    assert found.image.tolist() == [7, 7, 7]
    assert found.number.tolist() == [1, 1, 1]


def test_rounds_of_masks_are_drawn_once_and_seen_four_times() -> None:
    stage = masks.MaskStage.__new__(masks.MaskStage)
    drawn: list[int] = []

    def draw(number: int) -> Any:
        drawn.append(number)
        return [(number, place) for place in range(masks.ROUND_BATCHES)]

    stage.plan, stage._drawn = SimpleNamespace(seed=3), draw  # type: ignore[assignment]
    stage._pool, stage._rounds = ThreadPoolExecutor(1), {}
    count = masks.ROUND_BATCHES * masks.ROUND_PASSES
    seen: list[Any] = [stage._example(step) for step in range(2 * count)]
    stage._pool.shutdown()
    assert drawn == [0, 1, 2]
    for number in (0, 1):
        passes = np.array(seen[number * count :][:count]).reshape(masks.ROUND_PASSES, -1, 2)
        assert (passes[..., 0] == number).all()
        assert all(sorted(one) == list(range(masks.ROUND_BATCHES)) for one in passes[..., 1])
        assert len({tuple(one) for one in passes[..., 1].tolist()}) == masks.ROUND_PASSES
    asked: list[int] = []
    stage._example = lambda step: asked.append(step) or 1 / 0  # type: ignore[assignment,func-returns-value]
    stage.__dict__["average"] = SimpleNamespace(taken=5)
    with pytest.raises(ZeroDivisionError):
        stage.loss(np.random.default_rng(0), 0.0)
    assert asked == [5]  # steps are counted by the average, which a checkpoint holds


# --- contrast


def test_keys_pass_no_gradient_and_queries_do() -> None:
    encoder = nn.Conv2d(3, 4, 1)
    contrast = moco.MomentumContrast(encoder, 4, queue=4)
    view = torch.rand(4, 3, 2, 2)
    key = contrast.key(view, lambda network, part, at: network(part).mean((2, 3)))
    assert not key.requires_grad
    query = contrast.query(encoder(view).mean((2, 3)))
    assert torch.allclose(query.norm(dim=1), torch.ones(4), atol=1e-5)
    contrast.loss(query, key).backward()
    assert encoder.weight.grad is not None
    assert contrast.key_encoder.weight.grad is None
    slow = contrast.key_head[0].weight.clone()
    with torch.no_grad():
        contrast.head[0].weight.add_(1.0)
    contrast.advance(encoder)  # the head of the slow copy is pulled along, too
    assert torch.allclose(contrast.key_head[0].weight, slow + 0.001, atol=1e-6)
    assert torch.equal(contrast.queue.keys, key)


# --- faces


def test_players_of_the_game_by_hand() -> None:
    real, drawn = torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0])
    plus, minus = math.log1p(math.e), math.log1p(1 / math.e)
    assert float(generator_loss(drawn)) == pytest.approx((minus + plus) / 2)
    wanted = (minus + LN2) / 2 + (plus + minus) / 2
    assert float(discriminator_loss(real, drawn)) == pytest.approx(wanted)


def test_r1_by_hand_and_its_gradient() -> None:
    images = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).view(2, 1, 1, 2).requires_grad_()
    weight = torch.tensor(0.5, requires_grad=True)
    penalty = r1_penalty(weight * images.square().sum((1, 2, 3)), images)
    # slopes 2 * weight * x: squares 4 * weight^2 * (5 and 9), their mean 28 * weight^2, halved
    assert float(penalty.detach()) == pytest.approx(14 * 0.25)
    penalty.backward()
    assert float(weight.grad) == pytest.approx(28 * 0.5)


def test_path_lengths_by_hand() -> None:
    path, side = PathLength(), 4
    rows = torch.ones(2, 3, 2, requires_grad=True)
    slope = torch.tensor([[1.0, 2.0], [0.0, 1.0], [2.0, 2.0]])  # of a picture by each value
    images = (rows * slope).sum((1, 2))[:, None, None, None] * torch.ones(2, 1, side, side)
    torch.manual_seed(0)
    noise = torch.randn(2, 1, side, side) / side
    torch.manual_seed(0)
    penalty = float(path(images, rows).detach())
    # Per face: the root of the mean over rows of squares summed over a row's values.
    lengths = noise.sum((1, 2, 3)).abs() * math.sqrt((5 + 1 + 8) / 3)
    mean = 0.01 * lengths.mean()
    assert float(path.mean) == pytest.approx(float(mean), rel=1e-5)
    assert not path.mean.requires_grad
    assert penalty == pytest.approx(float((lengths - mean).square().mean()), rel=1e-5)


def test_perceptual_distance_sums_channels_and_stages() -> None:
    loss = PerceptualLoss(None)
    with torch.no_grad():
        features = loss._features(torch.rand(1, 3, 32, 32))
    for stage in features:
        torch.testing.assert_close(
            stage.norm(dim=1), torch.ones_like(stage[:, 0]), atol=0.02, rtol=0
        )
    stages = {0.0: [torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 1, 1)],
              1.0: [torch.ones(1, 2, 1, 2), torch.full((1, 1, 1, 1), 2.0)]}  # fmt: skip
    loss._features = lambda image: stages[float(image.max())]  # type: ignore[method-assign]
    distance = loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    assert float(distance) == pytest.approx(2 + 4)


def test_divergence_of_answers_is_zero_for_the_same_and_in_nats() -> None:
    wanted, found = torch.tensor([[LN3, 0.0]]), torch.tensor([[0.0, 0.0]])
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(attribute_divergence(found, wanted)) == pytest.approx(by_hand / 2, rel=1e-5)
    assert float(attribute_divergence(wanted, wanted)) == pytest.approx(0, abs=1e-7)


def test_the_metric_of_rows_weighs_directions_and_the_rest() -> None:
    metric = StyleMetric(2, directions=1)
    metric.root.copy_(torch.tensor([[3.0, 4.0]]))
    metric.floor.fill_(0.5)
    error = metric(torch.tensor([[[2.0, 2.0]]]), torch.tensor([[[1.0, 0.0]]]))
    assert error.tolist() == pytest.approx([(3 + 8) ** 2 + 0.5 * 5])


def test_gradients_are_those_of_each_face() -> None:
    rows = torch.randn(5, 2, 3)
    torch.manual_seed(0)
    found = gradients_of(lambda x: (x * torch.arange(6.0).view(2, 3)).sum((1, 2)), rows, batch=2)
    torch.manual_seed(0)
    probes = torch.cat([torch.randn(len(part)) for part in torch.split(rows, 2)])
    torch.testing.assert_close(found, probes[:, None] * torch.arange(6.0))


def test_attributes_are_asked_of_the_basic_rows_and_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_stage, "ROW_NOISE", 0.0)
    networks: Any = SimpleNamespace(
        head=lambda rows, feature=None: rows.sum((1, 2))[:, None],
        encoder=SimpleNamespace(mean=torch.zeros(1)),
        widths=SimpleNamespace(basic_rows=1),
    )
    rows = torch.tensor([[[LN3], [-2 * LN3]]])  # logits: ln 3 of the first row, -ln 3 of both
    terms = face_stage.attribute_losses(networks, rows, torch.ones(1, 1))
    assert float(terms["basic"]) == pytest.approx(-math.log(0.75))
    assert float(terms["all"]) == pytest.approx(-math.log(0.25))


def test_psnr_is_over_255_and_by_face() -> None:
    def redraw(images: Tensor) -> dict[str, Tensor]:
        off = torch.tensor([5.1, 51.0]).view(2, 1, 1, 1)
        return {"basic": images + off, "rows": images + off / 10, "feature": images - off}

    bank: Any = SimpleNamespace(
        batches=lambda size: [SimpleNamespace(images=torch.full((2, 3, 4, 4), 100.0))]
    )
    plan: Any = SimpleNamespace(batch=2, device=torch.device("cpu"))
    found = face_stage.psnr_report(redraw, bank, plan)
    # 255 over 5.1 and 51: 33.98 and 13.98 dB, meaned in decibels
    wanted = (20 * math.log10(50) + 20 * math.log10(5)) / 2
    assert found == pytest.approx(
        {"basic": wanted, "rows": wanted + 20, "feature": wanted}, abs=1e-3
    )
