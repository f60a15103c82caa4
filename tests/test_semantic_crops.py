"""Semantic-guided crops: heat maps, boxes, and where crops fall."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cdvision.models.dicm.training.semantic_crops import (  # noqa: E402
    WHOLE_PHOTO,
    Box,
    ObjectBoxes,
    draw_crop,
    heat_map,
    object_boxes,
)
from cdvision.models.dicm.training.views import ViewBank  # noqa: E402


def test_the_heat_map_sums_channels_and_spans_zero_to_one() -> None:
    features = torch.zeros(2, 3, 4, 4)
    features[0, :, 1, 2] = torch.tensor([1.0, 2.0, 3.0])
    features[0, 0, 3, 3] = 3.0
    features[1] = 7.0  # no contrast at all
    heat = heat_map(features, (4, 4))
    assert heat.shape == (2, 4, 4)
    assert float(heat[0, 1, 2]) == 1.0
    assert float(heat[0, 3, 3]) == pytest.approx(0.5)
    assert float(heat[1].abs().max()) == 0.0
    larger = heat_map(features, (8, 8))[0]
    assert larger.shape == (8, 8)
    row, column = divmod(int(larger.argmax()), 8)
    assert row // 2 == 1
    assert column // 2 == 2


def test_the_box_of_a_map_is_the_extent_of_its_heat() -> None:
    heat = torch.zeros(3, 10, 20)
    heat[0, 2:5, 8:16] = 0.5
    heat[0, 9, 0] = 0.1  # does not exceed the threshold
    heat[1, 0, 0] = heat[1, 9, 19] = 1.0
    boxes = object_boxes(heat)
    assert boxes[0].tolist() == pytest.approx([0.2, 0.4, 0.5, 0.8])
    assert boxes[1].tolist() == [0, 0, 1, 1]
    assert boxes[2].tolist() == list(WHOLE_PHOTO)  # no heat


@pytest.fixture(scope="module")
def centres() -> np.ndarray:
    """Draw many small crops of a large photo; return their centres relative to the box."""
    box, rng = Box(0.3, 0.5, 0.6, 0.8), np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        crop = draw_crop(1000, 2000, box, rng, least_area=0.01)
        if crop.height < 500 and crop.width < 600:  # those that fit around any centre
            row = (crop.top + crop.height / 2) / 1000
            column = (crop.left + crop.width / 2) / 2000
            drawn.append(((row - 0.3) / 0.3, (column - 0.5) / 0.3))
    return np.array(drawn)


def test_centres_lie_in_the_box(centres: np.ndarray) -> None:
    assert len(centres) > 300
    assert centres.min() > -0.01  # half a pixel of rounding
    assert centres.max() < 1.01


def test_centres_favour_the_edges_of_the_box_as_beta_does(centres: np.ndarray) -> None:
    """Beta(0.6, 0.6): mean 1/2, variance 1 / (4 * 2.2); 0.45 of it in the outer fifths."""
    for axis in range(2):
        assert centres[:, axis].mean() == pytest.approx(0.5, abs=0.05)
        assert centres[:, axis].var() == pytest.approx(1 / 8.8, abs=0.015)
        outer = (np.abs(centres[:, axis] - 0.5) > 0.3).mean()
        assert outer == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("box", [WHOLE_PHOTO, Box(0, 0, 0.05, 0.05), Box(0.9, 0.2, 1, 0.3)])
def test_crops_stay_in_the_photo_and_in_the_planned_sizes(box: Box) -> None:
    rng = np.random.default_rng(1)
    for height, width in ((160, 240), (33, 21), (400, 60)):
        for _ in range(100):
            crop = draw_crop(height, width, box, rng)
            assert 0 <= crop.top <= height - crop.height
            assert 0 <= crop.left <= width - crop.width
            area = crop.height * crop.width / (height * width)
            assert 0.1 < area <= 1
            assert crop.height * 0.7 < crop.width < crop.height * 1.43


def test_boxes_are_refreshed_on_schedule() -> None:
    boxes = ObjectBoxes(2, every=0.25)
    assert not boxes.due(0.0)
    assert not boxes.due(0.24)
    assert boxes.due(0.25)
    assert boxes.box(1) == WHOLE_PHOTO
    boxes.replace(torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.5]]), 0.3)
    assert boxes.box(0) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert not boxes.due(0.3)
    assert not boxes.due(0.49)
    assert boxes.due(0.5)
    resumed = ObjectBoxes(2, every=0.25)
    resumed.load_state_dict(boxes.state_dict())
    assert resumed.box(1) == (0.0, 0.0, 1.0, 0.5)
    assert not resumed.due(0.49)
    assert not ObjectBoxes(1, every=1.1).due(1.0)  # never


def test_views_of_a_bank_follow_the_heat() -> None:
    """A network that sees brightness finds the bright square, and views are cut around it."""
    photo = torch.zeros(3, 100, 140, dtype=torch.uint8)
    photo[:, 10:40, 90:130] = 250
    bank = ViewBank([photo], 32, heat_side=56)
    bank.refresh(lambda images: torch.nn.functional.avg_pool2d(images, 4), 0.1)
    top, left, bottom, right = bank.boxes.box(0)
    assert (top, bottom) == pytest.approx((0.1, 0.4), abs=0.05)
    assert (left, right) == pytest.approx((90 / 140, 130 / 140), abs=0.05)
    rng = np.random.default_rng(0)
    bright = np.mean([float(view.mean()) for _ in range(40) for view in bank.views(1, rng)])
    bank.boxes.replace(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 0.2)
    anywhere = np.mean([float(view.mean()) for _ in range(40) for view in bank.views(1, rng)])
    assert bright > 1.15 * anywhere
