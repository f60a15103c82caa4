"""What tables of delta packets are counted on and made of, and the sender's rule by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cdvision.building.delta_tables import counted_tables, new_counts
from cdvision.building.moving_photos import moving_frames
from cdvision.entropy.delta_coder import DeltaCoder
from cdvision.video.sources import _sampled


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([1.0, 0.0], [0, 0]),  # 0.5 over the half: below 0.6
        ([1.11, 0.0], [1, 0]),  # 0.61
        ([-1.2, 0.54], [-1, 0]),  # 0.74; 0.54 stays
        ([-1.2, 0.56], [-1, 1]),
        ([0.85, 0.85], [1, 1]),  # 0.35 and 0.35
        ([2.6, -3.4], [3, -3]),
    ],
)
def test_a_cell_is_skipped_or_rounded(left: list[float], expected: list[int]) -> None:
    torch = pytest.importorskip("torch")
    from cdvision.models.small.sequence_graph import change

    found = change(torch.tensor(left).reshape(1, 2, 1, 1))
    assert found.flatten().tolist() == expected


def test_tables_of_nothing_and_of_much_are_tables() -> None:
    counts = new_counts()
    assert len(DeltaCoder(counted_tables(counts)).tables) == 253
    counts[40, 128], counts[40, 129] = 3000, 1000
    tables = counted_tables(counts)
    bits = [tables.estimate_bits([symbol], [40]) for symbol in (0, 1, -1)]
    assert bits[0] == pytest.approx(-np.log2(0.75), abs=0.03)
    assert bits[1] == pytest.approx(2, abs=0.05)
    assert bits[2] > 6


def test_a_context_without_counts_borrows_from_the_others() -> None:
    counts = new_counts()
    counts[0, 128:131] = 900, 90, 10
    tables = counted_tables(counts)
    assert tables.estimate_bits([0], [5]) < 0.3


def test_sequences_of_photos_are_frames_of_one_size_and_the_seeds_own() -> None:
    photos = [np.random.default_rng(k).integers(0, 256, (90, 120, 3), np.uint8) for k in range(3)]
    first, again, other = (moving_frames(photos, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert [frame.shape for frame in first] == [(360, 640, 3)] * 3
    assert first[0].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_frames_are_taken_by_their_times() -> None:
    def frame(time: float) -> SimpleNamespace:
        return SimpleNamespace(time=time, to_ndarray=lambda format: np.zeros((1, 1, 3), np.uint8))

    shown = [7.0 + k / 30 for k in range(31)]
    taken = [time for time, _ in _sampled(map(frame, shown), 5)]
    assert taken == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    gap = [time for time, _ in _sampled(map(frame, [0.0, 0.1, 0.9, 1.0]), 5)]
    assert gap == pytest.approx([0, 0.9, 1.0])
