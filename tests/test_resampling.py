"""Resampling matrices: partitions of unity that keep what need not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvision.resampling import resampling_matrix

CELLS, OUTPUTS = st.integers(1, 90), st.integers(1, 60)
EDGE = st.floats(-100.0, 150.0)
WIDTH = st.floats(0.01, 200.0)


@given(cells=CELLS, start=EDGE, width=WIDTH, outputs=OUTPUTS)
def test_every_row_is_an_average(cells: int, start: float, width: float, outputs: int) -> None:
    matrix = resampling_matrix(cells, start, start + width, outputs)
    assert matrix.shape == (outputs, cells)
    assert matrix.dtype == np.float32
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=1e-6)
    constant = matrix @ np.full(cells, 3.25, np.float32)
    np.testing.assert_allclose(constant, 3.25, rtol=1e-6)


@given(cells=CELLS)
def test_a_window_of_its_own_cells_is_the_identity(cells: int) -> None:
    assert (resampling_matrix(cells, 0, cells, cells) == np.eye(cells)).all()


@given(cells=st.integers(4, 40), first=st.integers(0, 3))
def test_a_window_of_whole_cells_crops(cells: int, first: int) -> None:
    matrix = resampling_matrix(cells, first, cells, cells - first)
    assert (matrix == np.eye(cells)[first:]).all()


@given(cells=CELLS, start=EDGE, width=WIDTH, outputs=OUTPUTS)
def test_a_mirrored_window_mirrors(cells: int, start: float, width: float, outputs: int) -> None:
    matrix = resampling_matrix(cells, start, start + width, outputs)
    mirrored = resampling_matrix(cells, cells - start - width, cells - start, outputs)
    np.testing.assert_allclose(mirrored[::-1, ::-1], matrix, atol=1e-4)


@pytest.mark.parametrize("outputs", [7, 14, 28, 52])
def test_a_ramp_stays_a_ramp_away_from_the_ends(outputs: int) -> None:
    found = resampling_matrix(52, 0, 52, outputs) @ np.arange(52, dtype=np.float32)
    step = 52 / outputs
    wanted = (np.arange(outputs) + 0.5) * step - 0.5
    np.testing.assert_allclose(found[1:-1], wanted[1:-1], atol=0.15 * step)


def test_shrinking_is_anti_aliased() -> None:
    """The finest stripes average out, and no cell is skipped, however few outputs there are."""
    stripes = np.tile([0.0, 1.0], 52).astype(np.float32)
    for outputs in (4, 13, 26, 52):
        matrix = resampling_matrix(104, 0, 104, outputs)
        np.testing.assert_allclose((matrix @ stripes)[1:-1], 0.5, atol=0.08)
        assert (matrix.sum(0) > 0.2 * outputs / 104).all()


def test_enlarging_is_linear_between_cells() -> None:
    found = resampling_matrix(2, 0, 2, 8) @ np.array([0.0, 8.0], np.float32)
    np.testing.assert_allclose(found, [0, 0, 1, 3, 5, 7, 8, 8], atol=1e-5)


@pytest.mark.parametrize(("start", "stop", "cell"), [(-4, -1, 0), (10, 13, 9), (1e6, 1e6 + 2, 9)])
def test_a_window_outside_of_the_row_sees_its_end(start: float, stop: float, cell: int) -> None:
    assert (resampling_matrix(10, start, stop, 3)[:, cell] == 1).all()


def test_a_wide_window_outside_of_the_row_sees_its_end_most() -> None:
    assert (resampling_matrix(10, -1e6, -1e5, 3).argmax(1) == 0).all()


def test_a_window_across_the_end_repeats_the_end() -> None:
    matrix = resampling_matrix(4, -2, 6, 8)
    assert (matrix.argmax(1) == [0, 0, 0, 1, 2, 3, 3, 3]).all()
    assert (matrix.max(1) == 1).all()
