"""Drawing: pixels change where the boxes are and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdvision.errors import ImageError
from cdvision.results import Detections
from cdvision.results.labels import class_colour, contrast, place_label, text_colour
from cdvision.results.masks import encode_mask


def detections(boxes, size, *, name="person", mask=None) -> Detections:
    count = len(boxes)
    return Detections(
        xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        confidence=np.linspace(0.9, 0.5, count).astype(np.float32),
        class_id=np.arange(count),
        class_name=np.array([name] * count, dtype=np.str_),
        image_size=size,
        mask=mask,
    )


def photo(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 110, (height, width, 3)).astype(np.uint8)


def test_pixels_change_at_the_box_and_nowhere_far_from_it():
    image = photo(400, 300)
    before = image.copy()
    drawn = np.asarray(detections([[100, 120, 220, 200]], (400, 300)).draw(image))
    changed = (drawn != image).any(axis=2)
    assert changed[120, 100:220].all()
    assert changed[199, 100:220].all()
    assert changed[120:200, 100].all()
    assert changed[120:200, 219].all()
    far = np.ones_like(changed)
    far[95:205, 95:225] = False
    assert not changed[far].any()
    assert not changed[150:170, 130:190].any()
    np.testing.assert_array_equal(image, before)


def test_the_mask_tints_exactly_its_pixels():
    image = photo(200, 150)
    mask = np.zeros((150, 200), dtype=bool)
    mask[60:90, 70:120] = True
    found = detections([[20, 20, 190, 140]], (200, 150), mask=(encode_mask(mask),))
    changed = np.asarray(found.draw(image)) != np.asarray(
        detections([[20, 20, 190, 140]], (200, 150)).draw(image)
    )
    np.testing.assert_array_equal(changed.any(axis=2), mask)


@pytest.mark.parametrize("size", [(1, 1), (7, 900), (30, 20), (640, 480), (3000, 2000)])
def test_any_image_size(size):
    width, height = size
    boxes = [[0, 0, width, height], [width / 2, 0, width, height / 3], [0, height - 1, 1, height]]
    found = detections(boxes, size, name="a rather long class name")
    assert found.draw(photo(width, height)).size == size
    captioned = found.draw(photo(width, height), caption="2,143 bytes · quality 4")
    assert captioned.width == width
    assert captioned.height > height


def test_nothing_to_draw_changes_nothing():
    image = photo(50, 40)
    np.testing.assert_array_equal(np.asarray(Detections.empty((50, 40)).draw(image)), image)


def test_a_caption_leaves_the_picture_alone():
    image = photo(320, 200)
    found = detections([[10, 50, 100, 100]], (320, 200))
    captioned = np.asarray(found.draw(image, caption="2,143 bytes"))
    np.testing.assert_array_equal(captioned[:200], np.asarray(found.draw(image)))
    assert len(np.unique(captioned[200:].reshape(-1, 3), axis=0)) > 2  # letters on a background


def test_a_scaled_copy_gets_scaled_boxes():
    found = detections([[100, 100, 300, 300]], (400, 400), name="")
    drawn = np.asarray(found.draw(photo(200, 200)))
    np.testing.assert_array_equal(drawn[100, 50], class_colour(0))
    with pytest.raises(ImageError, match=r"400x400.*200x100"):
        found.draw(photo(200, 100))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "RGB"])
def test_any_pil_mode(mode):
    image = Image.fromarray(photo(60, 40)).convert(mode)
    before = image.tobytes()
    assert detections([[5, 5, 40, 30]], (60, 40)).draw(image).mode == "RGB"
    assert image.tobytes() == before


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4), np.uint8)])
def test_not_an_image(image):
    with pytest.raises(ImageError, match="uint8 array, found"):
        Detections.empty((4, 4)).draw(image)


def test_a_path_is_read(tmp_path):
    picture = Image.fromarray(photo(60, 40))
    picture.save(tmp_path / "photo.png")
    boxes = detections([[5, 5, 40, 30]], (60, 40))
    assert boxes.draw(str(tmp_path / "photo.png")).tobytes() == boxes.draw(picture).tobytes()
    with pytest.raises(FileNotFoundError):
        boxes.draw(tmp_path / "missing.png")


def test_an_exif_turned_photo_is_drawn_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert Detections.empty((40, 60)).draw(image).size == (40, 60)


def test_colours_are_stable_distinct_and_readable():
    colours = [class_colour(number) for number in range(80)]
    assert len(set(colours)) == 80
    assert min(contrast(text_colour(colour), colour) for colour in colours) >= 4.5
    steps = [np.abs(np.subtract(colours[i], colours[i + 1])).sum() for i in range(79)]
    assert min(steps) > 100


SIDE = st.integers(0, 100)


@settings(deadline=None)
@given(st.tuples(SIDE, SIDE, SIDE, SIDE), st.tuples(st.integers(1, 100), st.integers(1, 100)))
def test_labels_stay_inside_the_picture(box, label):
    left, top, right, bottom = place_label(label, box, (100, 100), [(0, 0, 50, 50)])
    assert 0 <= left < right <= 100
    assert 0 <= top < bottom <= 100
    assert (right - left, bottom - top) == label


def test_labels_of_the_same_box_do_not_cover_each_other():
    taken: list = []
    for _ in range(4):
        taken.append(place_label((30, 10), (20, 20, 80, 80), (100, 100), taken))
    assert len({place[:2] for place in taken}) == 4
