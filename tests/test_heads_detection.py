"""Dense outputs to boxes: decoding, suppression, and scaling to the source."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvision.heads.dense_detection import detect_from_dense
from cdvision.heads.distribution_boxes import cell_grid, decode_boxes
from cdvision.heads.suppression import suppress_overlaps, top_candidates
from cdvision.results import ResultError

NAMES = tuple(f"class {number}" for number in range(80))


def sharp(sides: list[float]) -> np.ndarray:
    """Return logits whose mean bins are these four numbers."""
    logits = np.full((4, 8), -40.0, dtype=np.float32)
    for side, bin_number in enumerate(sides):
        low = int(bin_number)
        part = bin_number - low
        logits[side, low] = np.log(1 - part)
        if part:
            logits[side, low + 1] = np.log(part)
    return logits.reshape(32)


def dense(objects: dict[int, tuple[int, float, list[float]]], size: tuple[int, int]):
    """Return dense outputs with an object (class, score, sides in strides) at some cells."""
    count = len(cell_grid(size[1], size[0]))
    scores, distances = np.zeros((count, 80), np.float32), np.zeros((count, 32), np.float32)
    for cell, (class_id, score, sides) in objects.items():
        scores[cell, class_id] = score
        distances[cell] = sharp(sides)
    return scores, distances


def test_the_grid_counts_partial_cells_and_goes_row_by_row():
    grid = cell_grid(320, 416)
    assert len(grid) == 40 * 52 + 20 * 26 + 10 * 13 + 5 * 7
    np.testing.assert_array_equal(grid[53], [8, 8, 8])
    np.testing.assert_array_equal(grid[-1], [384, 256, 64])
    assert cell_grid(320, 416) is grid
    with pytest.raises(ValueError, match="read-only"):
        grid[0] = 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 200))
def test_decoding_equals_the_definition_in_float64(seed, spread):
    rng = np.random.default_rng(seed)
    cells = cell_grid(64, 96)
    logits = rng.normal(0, spread, (len(cells), 32)).astype(np.float32)
    stable = logits.reshape(-1, 4, 8).astype(np.float64)
    weights = np.exp(stable - stable.max(axis=-1, keepdims=True))
    sides = (weights / weights.sum(axis=-1, keepdims=True)) @ np.arange(8) * cells[:, 2:]
    corner = cells[:, :2].astype(np.float64)
    expected = np.hstack([corner - sides[:, :2], corner + sides[:, 2:]])
    np.testing.assert_allclose(decode_boxes(logits, cells), expected, atol=2e-4)


def random_boxes(seed: int, count: int, classes: int, integers: bool):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(0, 90, (count, 2))])
    boxes = (np.floor(boxes) if integers else boxes).astype(np.float32)
    # Few distinct scores, so that ties are met; above 1000 boxes torchvision orders ties at random.
    ranks = rng.integers(0, 200, count) if integers else rng.permutation(count)
    scores = (ranks / (ranks.max(initial=0) + 1)).astype(np.float32)
    return boxes, scores, rng.integers(0, classes, count)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 400),
    classes=st.integers(1, 80),
    iou=st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.9]),
    limit=st.sampled_from([1, 10, 100, 1000]),
)
def test_suppression_equals_torchvision(seed, count, classes, iou, limit):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    # Whole coordinates, because torchvision moves classes apart in float32 and so rounds others.
    boxes, scores, class_ids = random_boxes(seed, count, classes, integers=True)
    theirs = ops.batched_nms(*map(torch.from_numpy, (boxes, scores, class_ids)), iou)
    ours = suppress_overlaps(boxes, scores, class_ids, iou=iou, max_detections=limit)
    np.testing.assert_array_equal(ours, theirs[:limit].numpy())


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_suppression_of_many_equals_torchvision(classes):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores, class_ids = random_boxes(5, 1500, classes, integers=False)
    theirs = ops.batched_nms(*map(torch.from_numpy, (boxes, scores, class_ids)), 0.6)
    ours = suppress_overlaps(boxes, scores, class_ids, max_detections=1500)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("iou", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_an_overlap_at_the_threshold_rounds_as_in_torchvision(iou):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, round(10 * iou)]], dtype=np.float32)
    scores, same = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    theirs = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou).tolist()
    assert suppress_overlaps(boxes, scores, same, iou=iou).tolist() == theirs
    assert len(suppress_overlaps(boxes, scores, same, iou=iou - 0.01)) == 1
    assert len(suppress_overlaps(boxes, scores, same, iou=iou + 0.01)) == 2


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_candidates_are_the_best_pairs(seed, limit):
    scores = np.random.default_rng(seed).permutation(60).reshape(12, 5).astype(np.float32) / 60
    cell, class_id = top_candidates(scores, confidence=0.3, limit=limit)
    expected = np.sort(scores[scores > np.float32(0.3)])[::-1][:limit]
    np.testing.assert_array_equal(scores[cell, class_id], expected)


def detect_by_arrays(scores, distances, *, input_size, content_size, source_size, confidence, iou,
                     most):  # fmt: skip
    """Return what `detect_from_dense` is to find, from numpy's array operations."""
    cells = cell_grid(*input_size[::-1])
    cell, class_id = top_candidates(scores, confidence=confidence, limit=1000)
    with np.errstate(all="ignore"):  # distances that are no numbers
        limits = np.tile(np.array(content_size, np.float32), 2)
        boxes = np.clip(decode_boxes(distances[cell], cells[cell]), 0, limits)
    seen = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    boxes, class_id, found = boxes[seen], class_id[seen], scores[cell[seen], class_id[seen]]
    kept = suppress_overlaps(boxes, found, class_id, iou=iou, max_detections=most)
    scale = np.tile(np.array(source_size) / content_size, 2).astype(np.float32)
    return boxes[kept] * scale, found[kept], class_id[kept]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    classes=st.sampled_from([1, 3, 80]),
    levels=st.sampled_from([1, 4, 1000]),
    spread=st.sampled_from([0.0, 2.0, 60.0, 1e30]),
    damage=st.sampled_from([0.0, 0.0, 0.05]),
    confidence=st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
    iou=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    most=st.sampled_from([1, 10, 1000]),
)
def test_detecting_equals_array_operations_to_the_last_bit(
    seed, classes, levels, spread, damage, confidence, iou, most
):
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in 32 * rng.integers(1, 6, 2))
    count = len(cell_grid(height, width))
    # Few levels: many scores are the same. High powers: few are above the confidence.
    scores = np.ceil(rng.random((count, classes)) ** rng.choice([1, 30]) * levels) / levels
    scores = scores.astype(np.float32) * np.float32(rng.choice([0, 1, 1]))
    distances = rng.normal(0, spread, (count, 32)).astype(np.float32)
    distances[rng.random(distances.shape) < damage] = rng.choice([np.nan, np.inf, -np.inf])
    options = {
        "input_size": (width, height),
        "content_size": (int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))),
        "source_size": (int(rng.integers(1, 4000)), int(rng.integers(1, 4000))),
        "confidence": confidence,
        "iou": iou,
    }
    with np.errstate(all="ignore"):
        ours = detect_from_dense(
            scores, distances, class_names=NAMES[:classes], max_detections=most, **options
        )
    xyxy, found, class_id = detect_by_arrays(scores, distances, most=most, **options)
    assert ours.xyxy.tobytes() == xyxy.tobytes()
    assert ours.confidence.tobytes() == found.tobytes()
    assert ours.class_id.tolist() == class_id.tolist()


def test_boxes_land_on_the_source_picture():
    # cell 53 starts at (8, 8) with stride 8; the picture fills 416 x 312 of the input
    scores, distances = dense({53: (16, 0.75, [0.5, 1, 2, 3.5])}, (416, 320))
    found = detect_from_dense(
        scores,
        distances,
        input_size=(416, 320),
        content_size=(416, 312),
        source_size=(832, 936),
        class_names=NAMES,
    )
    np.testing.assert_allclose(found.xyxy, [[4 * 2, 0, 24 * 2, 36 * 3]], rtol=1e-5)
    assert found.image_size == (832, 936)
    assert [(box.class_id, box.class_name, box.confidence) for box in found] == [
        (16, "class 16", 0.75)
    ]


def test_boxes_are_cut_at_the_content_and_vanish_in_the_padding():
    size = (128, 128)
    grid = cell_grid(128, 128)
    at = {tuple(row): number for number, row in enumerate(grid.tolist())}
    edge, padding = at[(32, 48, 16)], at[(104, 104, 8)]
    scores, distances = dense({edge: (1, 0.9, [1, 1, 4, 4]), padding: (1, 0.8, [1, 1, 1, 1])}, size)
    found = detect_from_dense(
        scores,
        distances,
        input_size=size,
        content_size=(80, 64),
        source_size=(80, 64),
        class_names=NAMES,
    )
    np.testing.assert_allclose(found.xyxy, [[16, 32, 80, 64]], rtol=1e-5)


def test_a_cell_may_hold_several_classes_and_neighbours_of_one_class_merge():
    sides = [1.0, 1.0, 3.0, 3.0]
    scores, distances = dense({60: (3, 0.9, sides), 61: (3, 0.8, sides)}, (128, 128))
    scores[60, 7] = 0.5
    options = {"input_size": (128, 128), "content_size": (128, 128), "source_size": (128, 128)}
    found = detect_from_dense(scores, distances, class_names=NAMES, iou=0.4, **options)
    assert found.class_id.tolist() == [3, 7]
    best = detect_from_dense(scores, distances, class_names=NAMES, max_detections=1, **options)
    assert best == found[0]
    sure = detect_from_dense(scores, distances, class_names=NAMES, confidence=0.6, **options)
    assert (sure.confidence > 0.6).all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_found_is_an_empty_result(value):
    scores, distances = dense({}, (64, 64))
    sizes = {"input_size": (64, 64), "content_size": (64, 64), "source_size": (640, 480)}
    found = detect_from_dense(scores + np.float32(value), distances, class_names=NAMES, **sizes)
    assert len(found) == 0
    assert found.image_size == (640, 480)


def test_boxes_that_are_not_numbers_are_dropped():
    scores, distances = dense({3: (1, 0.9, [1, 1, 1, 1])}, (64, 64))
    distances[3] = np.nan
    sizes = {"input_size": (64, 64), "content_size": (64, 64), "source_size": (64, 64)}
    assert len(detect_from_dense(scores, distances, class_names=NAMES, **sizes)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (72, 64)}, "scores must be"),
        ({"class_names": NAMES[:79]}, r"shape \(85, 79\).*\(85, 80\)"),
        ({"content_size": (0, 64)}, "two positive integers"),
        ({"source_size": (64, -1)}, "two positive integers"),
        ({"max_detections": 0}, "max_detections"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, message):
    scores, distances = dense({}, (64, 64))
    sizes = {"input_size": (64, 64), "content_size": (64, 64), "source_size": (64, 64)}
    with pytest.raises(ResultError, match=message):
        detect_from_dense(scores, distances, **{"class_names": NAMES, **sizes, **change})
