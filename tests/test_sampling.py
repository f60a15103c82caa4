"""What is drawn, how often and from where: crops, groups, qualities, and augmentation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from cdvision.models.dicm.training import augmentation, views  # noqa: E402
from cdvision.models.dicm.training.rate_stage import draw_qualities  # noqa: E402
from cdvision.models.faces.training import face_bank  # noqa: E402
from cdvision.models.faces.training.fit_score import _square  # noqa: E402
from cdvision.models.small.training.descriptor import _crop  # noqa: E402
from cdvision.models.small.training.receiver import QUALITY_SHARES, draw_quality  # noqa: E402
from cdvision.training.labelled_boxes import LabelledPhoto, _place, _visible  # noqa: E402
from cdvision.training.labelled_classes import ClassBank  # noqa: E402
from cdvision.training.photo_bank import CropPlan, PhotoBank, draw_batch, plan_for  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def plain(value: int) -> Tensor:
    return torch.full((3, 64, 64), value, dtype=torch.uint8)


def ramp(height: int, width: int) -> Tensor:
    """Return a photo whose red tells the column and whose green the row."""
    column, row = torch.arange(width).expand(height, -1), torch.arange(height)[:, None]
    return torch.stack([column, row.expand(-1, width), column]).to(torch.uint8)


def test_crops_reach_every_place_and_half_are_mirrored() -> None:
    bank = PhotoBank([ramp(72, 96)], CropPlan(sides=(72,), least=1.0, share=1.0))
    rng, lefts, mirrored = np.random.default_rng(0), set(), 0
    for _ in range(400):
        row = bank.batch(1, rng)[0, 0, 0]
        mirrored += bool(row[0] > row[-1])
        lefts.add(round(float(row.min())))
    assert lefts == set(range(25))
    assert 160 < mirrored < 240


def test_crops_are_as_large_as_planned() -> None:
    bank = PhotoBank([ramp(200, 100)], CropPlan(sides=(32,), least=0.5, share=1.0))
    rng, cuts = np.random.default_rng(0), []
    for _ in range(300):
        row = bank.batch(1, rng)[0, 0, 16]
        cuts.append(float((row[-2] - row[1]).abs()) * 32 / 29)  # columns across the crop
    assert min(cuts) == pytest.approx(50, abs=2)
    assert max(cuts) == pytest.approx(100, abs=2)
    assert np.mean(cuts) == pytest.approx(75, abs=2.5)


def test_groups_are_drawn_by_their_shares() -> None:
    banks = [
        PhotoBank([plain(value)], CropPlan((32,), 1.0, share))
        for value, share in ((10, 3), (20, 1))
    ]
    rng = np.random.default_rng(0)
    drawn = [float(draw_batch(banks, 2, rng).mean()) for _ in range(600)]
    assert np.isclose(drawn, 10, atol=0.1).mean() == pytest.approx(0.75, abs=0.06)


def test_plans_follow_the_photos_sizes() -> None:
    small, large = [plain(0)] * 32, [torch.zeros(3, 300, 400, dtype=torch.uint8)]
    assert plan_for(small) == CropPlan((160, 192), 0.7, 32**0.6)
    assert plan_for(large) == CropPlan((192, 224, 256), 0.7, 1.0)


def test_qualities_are_drawn_by_their_shares() -> None:
    drawn = draw_quality(40_000, np.random.default_rng(0))
    found = torch.bincount(drawn, minlength=8) / len(drawn)
    wanted = torch.tensor(QUALITY_SHARES) / sum(QUALITY_SHARES)
    assert float((found - wanted).abs().max()) < 0.01
    even = torch.bincount(draw_qualities(40_000, np.random.default_rng(0), CPU)) / 40_000
    assert even.tolist() == pytest.approx([0.125] * 8, abs=0.01)


def test_every_class_is_drawn_equally_often() -> None:
    bank = ClassBank([plain(i) for i in range(10)], [0] * 9 + [1], 64)
    images, labels = bank.batch(400, np.random.default_rng(0))
    assert float(labels.float().mean()) == pytest.approx(0.5, abs=0.07)
    means = images.mean((1, 2, 3)).round()
    assert torch.equal(means == 9, labels == 1)  # a photo keeps its class


# --- labelled photos


def test_objects_that_a_crop_leaves_a_quarter_of_are_targets() -> None:
    boxes = np.array(
        [[-30, 0, 10, 10], [-31, 0, 10, 10], [5, 5, 30, 25], [0, 0, 1.9, 9], [0, 0, 2, 9]],
        np.float32,
    )
    clipped, kept = _visible(boxes, (20, 24))
    assert kept.tolist() == [True, False, True, False, True]
    assert clipped[[0, 2]].tolist() == [[0, 0, 10, 10], [5, 5, 24, 20]]


def test_photos_are_scaled_around_the_canvas_and_boxes_follow() -> None:
    whole = np.array([[0, 0, 200, 100]], np.float32)
    photo = LabelledPhoto(torch.zeros(3, 100, 200, dtype=torch.uint8), whole, np.array([1]), [None])
    rng, heights = np.random.default_rng(0), []
    for _ in range(200):
        _, (height, width), target = _place(photo, (64, 128), rng, False)
        heights.append(height)
        if len(target["boxes"]):
            assert target["boxes"][0].tolist() == [0, 0, width, height]
    # A factor of 0.8 to 1.25 of what just covers 64 pixels; what exceeds them is cut off.
    assert min(heights) == 51
    assert max(heights) == 64
    assert np.mean(np.array(heights) < 64) == pytest.approx(0.2 / 0.45, abs=0.1)


def test_boxes_are_cut_and_mirrored_as_pixels_are() -> None:
    pixels = torch.zeros(3, 100, 200, dtype=torch.uint8)
    pixels[:, 20:60, 30:90] = 200
    box = np.array([[30, 20, 90, 60]], np.float32)
    photo = LabelledPhoto(pixels, box, np.array([1]), [None])
    rng, seen = np.random.default_rng(0), 0
    for _ in range(40):
        image, (height, width), target = _place(photo, (64, 128), rng, False)
        for left, top, right, bottom in target["boxes"].tolist():
            content = image[0, 0, :height, :width] > 100
            rows, columns = content.any(1).nonzero(), content.any(0).nonzero()
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert [float(v) for v in found] == pytest.approx([left, top, right, bottom], abs=0.76)
            seen += 1
    assert seen > 30


# --- cuts


def test_windows_and_squares_reach_every_place() -> None:
    photo, rng = ramp(226, 225), np.random.default_rng(0)
    corners = {tuple(_crop(photo, rng)[0, :2, 0, 0].tolist()) for _ in range(100)}
    assert corners == {(x, y) for x in (0.0, 1.0) for y in (0.0, 1.0, 2.0)}
    sides = set()
    for _ in range(300):
        square = _square(ramp(60, 80), 60, rng)[0, 0].float()
        sides.add(round(float(square[0, -1] - square[0, 0]) + 1))
    assert min(sides) in (30, 31)
    assert max(sides) in (59, 60)


# --- augmentation


@pytest.mark.parametrize(
    ("name", "share"), [("JITTER", 0.8), ("GREY", 0.2), ("BLUR", 0.5), ("FLIP", 0.5)]
)
def test_each_change_is_made_as_often_as_moco_does(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("JITTER", "GREY", "BLUR", "FLIP"):
        if other != name:
            monkeypatch.setattr(augmentation, other, 0.0)
    images = torch.rand(600, 3, 16, 16) * 100 + 50
    changed = augmentation.augment(images, np.random.default_rng(0))
    found = float((changed != images).flatten(1).any(1).float().mean())
    assert found == pytest.approx(share, abs=0.06)


def test_both_views_are_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "augment", lambda images, rng: -images)
    bank = views.ViewBank([plain(value) for value in (10, 20, 30)], 32)
    first, second = bank.views(3, np.random.default_rng(0))
    means = first.mean((1, 2, 3)).round()
    assert sorted(means.tolist()) == [-30, -20, -10]  # each photo once
    assert torch.equal(means, second.mean((1, 2, 3)).round())  # in the same rows


def amount(value: float) -> Tensor:
    return torch.full((2, 1, 1, 1), value)


Change = Callable[[Tensor, Tensor], Tensor]


def test_colours_change_by_hand() -> None:
    images = torch.rand(2, 3, 4, 4) * 255
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(augmentation._brightness(images, amount(0.5)), 1.5 * images)
    flat = luma.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(augmentation._contrast(images, amount(-1.0)), flat)
    doubled = augmentation._contrast(images, amount(1.0))
    torch.testing.assert_close(doubled, 2 * images - flat)
    torch.testing.assert_close(
        augmentation._saturation(images, amount(-1.0)), luma.expand_as(images)
    )
    whole = augmentation._hue(images, amount(1.0))  # a full circle
    torch.testing.assert_close(whole, images, atol=0.05, rtol=0)
    turned = augmentation._hue(images, amount(0.1))
    torch.testing.assert_close(augmentation._grey(turned), luma, atol=0.6, rtol=0)
    back = augmentation._hue(turned, amount(-0.1))
    torch.testing.assert_close(back, images, atol=0.05, rtol=0)
    assert float((turned - images).abs().mean()) > 5


def test_blur_is_a_gaussian_of_its_sigma() -> None:
    impulse = torch.zeros(1, 1, 17, 17)
    impulse[0, 0, 8, 8] = 1
    found = augmentation.blur(impulse, np.array([1.5]))[0, 0]
    line = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)
    line /= line.sum()
    np.testing.assert_allclose(found[8, 2:15].numpy(), line[6] * line, atol=1e-6)
    np.testing.assert_allclose(found[2:15, 8].numpy(), line[6] * line, atol=1e-6)


def test_faces_vary_within_their_limits() -> None:
    images = torch.zeros(300, 3, 32, 32)
    images[:, :, 12:20, 12:20] = 100.0
    varied = face_bank._vary(images, np.random.default_rng(0))
    lit = varied[:, 0] - varied[:, 0].amin((1, 2), keepdim=True)
    mass = lit.sum((1, 2))
    x, y = ((lit * (torch.arange(32) + 0.5).view(shape)).sum((1, 2)) / mass - 16
            for shape in ((1, 1, 32), (1, 32, 1)))  # fmt: skip
    for shift in (x, y):  # a twentieth of the side either way, a little more with the zoom
        assert 1.4 < float(shift.abs().max()) < 0.05 * 32 * 1.09
        assert abs(float(shift.mean())) < 0.25
    area = lit.sum((1, 2)) / lit.amax((1, 2))
    side = area.sqrt()
    assert 7.0 < float(side.min()) < 7.7
    assert 8.3 < float(side.max()) < 8.9
    contrast = varied.amax((1, 2, 3)) - varied.amin((1, 2, 3))
    clipped = varied.amin((1, 2, 3)) == 0
    assert float(contrast[~clipped].max()) < 115.5
    assert float(contrast[~clipped].min()) > 84.5
