"""What a codec costs, drawn together with the same photos without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cdvision.evaluation.bootstrap import Draws, bootstrap
from cdvision.evaluation.records import format_records, with_losses

PHOTOS = 200


def measured(codec: str, right: np.ndarray) -> tuple[dict[str, Any], Draws]:
    drawn: Draws = {}
    figures = bootstrap(lambda weights: {"top1": weights @ right / PHOTOS}, PHOTOS, keep=drawn)
    facts = {"codec": codec, "quality": None, "mean_bytes": 9.0, "photos": PHOTOS}
    return {**facts, "resamples": 1000, **figures}, drawn


@pytest.fixture(scope="module")
def pair() -> tuple[list[dict[str, Any]], list[Draws]]:
    """Return a codec that misses three photos more, one of which pixels miss, and pixels."""
    pixels = (np.arange(PHOTOS) % 4 > 0).astype(float)
    stream = pixels.copy()
    stream[[1, 2, 3, 5]] = 0
    stream[0] = 1
    records, draws = zip(measured("cdvision x", stream), measured("none", pixels), strict=True)
    return list(records), list(draws)


def test_a_loss_is_known_better_than_what_it_is_the_difference_of(
    pair: tuple[list[dict[str, Any]], list[Draws]],
) -> None:
    found, pixels = with_losses(*pair)
    assert found["top1_loss"] == pytest.approx(3 / PHOTOS)
    width = found["top1_loss_high"] - found["top1_loss_low"]
    # Four photos lost and one won: the spread of their sum, over all photos.
    assert width == pytest.approx(2 * 1.96 * np.sqrt(5 - 9 / PHOTOS) / PHOTOS, rel=0.12)
    assert width < 0.45 * (found["top1_high"] - found["top1_low"])
    assert "top1_loss" not in pixels


def test_the_table_shows_it(pair: tuple[list[dict[str, Any]], list[Draws]]) -> None:
    lines = format_records(with_losses(*pair)).splitlines()
    assert "top-1 lost" in lines[0]
    assert "0.015 (-0.0" in lines[2]
    assert "drawn together" in lines[-1]
    assert "lost" not in format_records(pair[0])


def test_nothing_is_compared_with_nothing_or_with_other_photos(
    pair: tuple[list[dict[str, Any]], list[Draws]],
) -> None:
    (stream, pixels), draws = pair
    assert with_losses([stream], draws[:1]) == [stream]
    refused = {**pixels, "refused": 2}
    assert with_losses([stream, refused], draws) == [stream, refused]


def test_without_draws_there_is_a_loss_and_no_interval(
    pair: tuple[list[dict[str, Any]], list[Draws]],
) -> None:
    found, _ = with_losses(pair[0], [{}, {}])
    assert found["top1_loss"] == pytest.approx(3 / PHOTOS)
    assert "top1_loss_low" not in found
