"""Boxes, masks and regions of the native core: any numbers, wrong sizes, every path."""

from __future__ import annotations

from ctypes import byref, c_size_t
from typing import Any

import numpy as np
import pytest
from core_calls import ARGUMENT, baseline_loops, refusal
from numpy.typing import NDArray

from cdvision.core import boxes
from cdvision.core.library import LIBRARY, CoreError, Frame, address

Floats = NDArray[np.float32]

NAN, INF = float("nan"), float("inf")


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_scores_that_are_no_numbers_are_no_candidates() -> None:
    scores = floats(NAN, 0.5, INF, -INF, 0.1, NAN).reshape(3, 2)
    distances = np.full((3, 32), NAN, np.float32)
    found = boxes.best_candidates(scores, distances, 0.05, 10)
    assert found.score.tolist() == pytest.approx([INF, 0.5, 0.1])
    assert (found.cell.tolist(), found.class_id.tolist()) == ([1, 0, 2], [0, 1, 0])
    assert not len(boxes.best_candidates(scores, distances, NAN, 10).cell)
    assert len(boxes.best_candidates(scores, distances, -INF, 2).cell) == 2


def test_sizes_that_no_array_has_are_refused() -> None:
    found = c_size_t(5)
    sizes = 2**40, 2**40, 0.5, 10
    assert LIBRARY.cdv_best_candidates(None, None, *sizes, *[None] * 4, byref(found)) == ARGUMENT
    assert found.value == 0


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 0.0])
def test_boxes_of_any_sums(bad: float) -> None:
    sums = np.ones((8, 2), np.float32)
    sums[0] = bad, 1
    cells = floats(8, 8, 8).reshape(1, 3)
    where, classes = np.zeros(2, np.int64), np.arange(2)
    kept, found, scaled = boxes.distinct_boxes(
        sums, cells, where, classes, (64, 64, 2, 2), np.float32(0.5), 10
    )
    assert np.isfinite(found).all()
    assert 1 in kept
    assert (scaled == 2 * found).all()


def test_a_cell_that_does_not_exist_is_refused() -> None:
    sums, cells = np.ones((4, 2), np.float32), floats(8, 8, 8).reshape(1, 3)
    for cell in (1, -1, 2**62, -(2**63)):
        where, kept = np.array([cell], np.int64), np.zeros(1, np.int64)
        out, found = np.zeros(4, np.float32), c_size_t(5)
        status = LIBRARY.cdv_distinct_boxes(
            address(sums), address(cells), 1, address(where), address(kept), 1,
            byref(Frame(64, 64, 1, 1)), 0.5, 1, address(kept), address(out), address(out),
            byref(found),
        )  # fmt: skip
        assert (status, found.value) == (ARGUMENT, 0)


def lines_of(**changes: Any) -> NDArray[np.float32]:
    arguments: dict[str, Any] = {
        "maps": np.ones((2, 6, 6), np.float32),
        "network": np.ones(3 * (2 + 4) + 1, np.float32),
        "corner": (1, 2),
        "across": np.zeros(4, np.float32),
        "down": np.zeros(5, np.float32),
        "cells": np.arange(4),
        "shares": np.zeros(4, np.float32),
    }
    return boxes.mask_lines(**(arguments | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"corner": (2, 2)},
        {"corner": (1, 3)},
        {"corner": (2**63, 0)},
        {"corner": (0, 2**64 - 4)},
        {"down": np.zeros(0, np.float32)},
        {"across": np.zeros(0, np.float32)},
        {"network": np.ones(0, np.float32)},
        {"network": np.ones(18, np.float32)},
        {"cells": np.array([0, 1, 2, 4])},
        {"cells": np.array([0, 1, 2, -1])},
        {"cells": np.array([0, 1, 2, 2**62])},
    ],
)
def test_windows_beyond_the_maps(changes: dict[str, Any]) -> None:
    assert lines_of().shape == (4, 5)
    assert refusal(lambda: lines_of(**changes)) == ARGUMENT


def test_more_maps_than_there_can_be() -> None:
    one = np.ones(1, np.float32)
    for maps in (2**64 - 4, 2**64 - 3, 2**63, 2**17):
        sizes = address(one), maps, 1, 1, address(one), 1, 0, 0
        window = address(one), 1, address(one), 1, None, None, 0, None
        assert LIBRARY.cdv_mask_lines(*sizes, *window) == ARGUMENT


def test_masks_of_no_numbers_are_runs_all_the_same() -> None:
    rng = np.random.default_rng(6)
    centres = np.array([0.5, 4.5, 8.5, 12.5])
    for _ in range(200):
        lines = rng.choice([NAN, INF, -INF, 1.0, -1.0, 3e38], (5, 4)).astype(np.float32)
        positions = boxes.mask_positions(lines, centres, 2, (1, 12), 14)
        assert (np.diff(positions) > 0).all()
        assert not len(positions) or (0 <= positions[0] and positions[-1] <= 14 * 7)
        assert boxes.mask_text(positions, 14 * 9)


@pytest.mark.parametrize(
    ("first", "rows", "height"),
    [
        (-1, (0, 4), 8),
        (0, (-1, 4), 8),
        (0, (5, 4), 8),
        (0, (0, 9), 8),
        (2**63 - 1, (0, 4), 8),
        (2**62, (0, 4), 8),
        (0, (0, 4), 2**62),
        (0, (-(2**63), 4), 2**62),
    ],
)
def test_places_that_no_picture_has(first: int, rows: tuple[int, int], height: int) -> None:
    lines, centres = np.ones((3, 2), np.float32), np.array([0.5, 1.5])
    positions = refusal(lambda: boxes.mask_positions(lines, centres, first, rows, height))
    assert positions == ARGUMENT


def test_positions_that_do_not_ascend_have_no_text() -> None:
    for positions, pixels in (
        ([5, 4], 9),
        ([-1], 9),
        ([10], 9),
        ([2**63 - 1, -(2**63)], 9),
        ([], -1),
    ):
        array = np.array(positions, np.int64)
        assert refusal(lambda a=array, p=pixels: boxes.mask_text(a, p)) == ARGUMENT
    assert boxes.mask_text(np.array([2**62], np.int64), 2**63 - 1)


def test_regions_of_no_numbers_are_zeros() -> None:
    level = np.ones((4, 5, 17), np.float32)
    wrong = [[NAN, 0, 2, 2], [0, INF, 2, 2], [-INF, 0, INF, 2], [3e38, 3e38, -3e38, -3e38]]
    sound = [[0.5, 0.5, 3, 3], [-0.5, -0.5, 4.5, 3.5]]
    pooled = pooled_regions(level, np.array([*wrong, *sound], np.float32), 3)
    assert not pooled[:4].any()
    assert pooled[4:] == pytest.approx(1)


def pooled_regions(level: Floats, regions: Floats, cells: int) -> Floats:
    """Pool into rows in reverse, and turn the rows round again."""
    pooled = np.full((len(regions), level.shape[2], cells, cells), NAN, np.float32)
    rows = np.arange(len(regions))[::-1].copy()
    boxes.pool_regions(level, regions, rows, 2, pooled)
    return pooled[::-1].copy()


def test_every_path_pools_the_same_floats() -> None:
    rng = np.random.default_rng(4)
    for channels in (1, 7, 8, 16, 33, 256):
        level = rng.standard_normal((9, 11, channels)).astype(np.float32)
        regions = rng.uniform(-3, 13, (20, 4)).astype(np.float32)
        pooled = pooled_regions(level, regions, 7)
        with baseline_loops():
            assert pooled_regions(level, regions, 7).tobytes() == pooled.tobytes()


@pytest.mark.parametrize(
    "sizes", [(0, 5, 3, 1, 1), (4, 0, 3, 1, 1), (4, 5, 0, 1, 1), (4, 5, 3, 0, 1), (4, 5, 3, 1, 0),
              (2**25, 5, 3, 1, 1), (4, 2**25, 3, 1, 1), (4, 5, 3, 1, 1025)],
)  # fmt: skip
def test_maps_that_cannot_be_pooled(sizes: tuple[int, ...]) -> None:
    height, width, channels, cells, samples = sizes
    maps = None, height, width, channels
    assert LIBRARY.cdv_pool_regions(*maps, None, None, 1, cells, samples, None, 1) == ARGUMENT


@pytest.mark.parametrize("rows", [[-1], [2], [0, 1, 2]])
def test_a_row_beyond_what_is_pooled_is_refused(rows: list[int]) -> None:
    level, pooled = np.ones((4, 4, 2), np.float32), np.zeros((2, 2, 1, 1), np.float32)
    regions = np.ones((len(rows), 4), np.float32)
    with pytest.raises(CoreError) as found:
        boxes.pool_regions(level, regions, np.array(rows, np.int64), 1, pooled)
    assert found.value.status == ARGUMENT
    assert not pooled.any()
