"""Detections: checked shapes, indexing, and round trips."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvision.errors import CdvisionError
from cdvision.results import Detections, ResultError
from cdvision.results.masks import encode_mask

NAMES = np.array(["person", "bicycle", "café", "x" * 30])
SIZE = (64, 48)


def make(count: int, *, masks: bool = False, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 24, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 20, (count, 2))]).astype(np.float32)
    class_id = rng.integers(0, len(NAMES), count)
    dense = rng.random((count, SIZE[1], SIZE[0])) < 0.3
    return Detections(
        xyxy=boxes,
        confidence=rng.uniform(0, 1, count).astype(np.float32),
        class_id=class_id,
        class_name=NAMES[class_id],
        image_size=SIZE,
        mask=tuple(encode_mask(mask) for mask in dense) if masks else None,
    )


def fields(detections: Detections) -> dict:
    names = ("xyxy", "confidence", "class_id", "class_name", "image_size", "mask")
    return {name: getattr(detections, name) for name in names}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("xyxy", np.zeros((3, 5), np.float32), r"shape \(n, 4\).*shape \(3, 5\)"),
        ("xyxy", np.zeros((3, 4)), "float32.*float64"),
        ("xyxy", [[0, 0, 1, 1]] * 3, "np.ndarray.*a list"),
        ("confidence", np.zeros(2, np.float32), "confidence must have as many.*3.*got 2"),
        ("confidence", np.zeros((3, 1), np.float32), "1D np.ndarray"),
        ("class_id", np.zeros(3, np.int32), "int64.*int32"),
        ("class_name", np.array([1, 2, 3]), "class_name.*str_"),
        ("class_name", np.array(["a", "b"]), "class_name must have as many"),
        ("image_size", (0, 5), "image_size.*positive"),
        ("image_size", (64.0, 48), "image_size"),
        ("mask", [], "tuple of RLEs.*list"),
        ("mask", ({"size": [48, 64], "counts": b"0"},), "mask must have as many.*3.*got 1"),
        ("mask", ({"size": [64, 48], "counts": b"0"},) * 3, r"mask 0.*\[48, 64\]"),
        ("mask", ({"size": [48, 64], "counts": "0"},) * 3, "counts in bytes.*str"),
        ("mask", (None,) * 3, "mask 0 must be a dict"),
    ],
)
def test_a_field_that_does_not_fit_is_named(field, value, message):
    with pytest.raises(ResultError, match=message) as caught:
        Detections(**{**fields(make(3)), field: value})
    assert isinstance(caught.value, CdvisionError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("masks", [False, True])
@settings(deadline=None)
@given(count=st.integers(0, 6), data=st.data())
def test_indexing_selects_the_same_rows_of_every_field(masks, count, data):
    detections = make(count, masks=masks)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=bool)
    expected = [box for box, kept in zip(detections, keep, strict=True) if kept]
    assert list(detections[keep]) == expected
    assert list(detections[np.flatnonzero(keep)]) == expected
    assert list(detections[np.flatnonzero(keep).tolist()]) == expected
    assert list(detections[::-1]) == list(detections)[::-1]


def test_an_int_gives_detections_of_one_box():
    detections = make(4, masks=True)
    assert len(detections[-1]) == 1
    assert next(iter(detections[-1])) == list(detections)[3]
    with pytest.raises(IndexError, match="4 detections"):
        detections[4]


def test_above_keeps_the_boundary():
    detections = make(20)
    threshold = float(detections.confidence[7])
    assert detections.above(threshold).confidence.min() == np.float32(threshold)
    assert len(detections.above(1.1)) == 0


def test_frozen_and_compared_by_value():
    detections = make(2)
    with pytest.raises(AttributeError):
        detections.xyxy = detections.xyxy
    assert detections == make(2)
    assert detections != make(2, seed=1)
    assert detections != make(2, masks=True)
    assert detections != 3


@settings(deadline=None)
@given(count=st.integers(0, 5), masks=st.booleans(), seed=st.integers(0, 99))
def test_json_round_trip(count, masks, seed):
    detections = make(count, masks=masks, seed=seed)
    text = detections.to_json()
    back = Detections.from_json(text)
    assert "\n" not in text
    assert json.loads(text) == detections.to_dict()
    assert back.to_json() == text
    np.testing.assert_allclose(back.xyxy, detections.xyxy, atol=0.0051)
    np.testing.assert_allclose(back.confidence, detections.confidence, atol=0.000051)
    assert back.class_name.tolist() == detections.class_name.tolist()
    assert (back.mask or ()) == (detections.mask or ())


def test_empty_detections_do_everything_that_full_ones_do():
    empty = Detections.empty(SIZE)
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.above(0.5) == empty[:] == empty[[]] == Detections.from_json(empty.to_json())
    assert empty.to_coco(1) == []
    assert str(empty).startswith("class")
    assert repr(empty) == "Detections(0 in 64x48: nothing)"


def test_the_table_is_aligned_and_short():
    lines = str(make(50)).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "... and 30 more"
    assert len({len(line) for line in lines[:-1]}) == 1
