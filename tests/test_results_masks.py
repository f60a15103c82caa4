"""Run-length masks: the same bytes as pycocotools, and no trust in foreign ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cdvision.results import ResultError
from cdvision.results.masks import (
    compress_counts,
    decode_mask,
    encode_mask,
    expand_counts,
    mask_runs,
)

MASKS = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=40))


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """Return a mask with long and short runs, some of them of many digits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = (x - width / 2) ** 2 / width**2 + (y - height / 2) ** 2 / height**2 < 0.1
    return mask ^ (rng.random((height, width)) < 0.002)


@settings(deadline=None)
@given(MASKS)
def test_decoding_gives_the_mask_back(mask):
    rle = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(rle), mask)
    assert mask_runs(rle)[1::2].sum() == mask.sum()


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_bytes_equal_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask")
    assert encode_mask(mask) == coco.encode(np.asfortranarray(mask, dtype=np.uint8))


@pytest.mark.parametrize("shape", [(480, 640), (1, 3000), (3000, 1), (1200, 1600)])
def test_large_masks_equal_pycocotools(shape):
    coco = pytest.importorskip("pycocotools.mask")
    for mask in (blob(*shape, seed=3), np.zeros(shape, bool), np.ones(shape, bool)):
        rle = encode_mask(mask)
        assert rle == coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert mask_runs(rle)[1::2].sum() == coco.area(rle)
        np.testing.assert_array_equal(decode_mask(rle), coco.decode(rle).astype(bool))


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=60))
def test_counts_survive_the_string(counts):
    array = np.array(counts, dtype=np.int64)
    np.testing.assert_array_equal(expand_counts(compress_counts(array)), array)


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(1, 50), st.integers(1, 50))
def test_foreign_bytes_give_a_mask_or_a_result_error(counts, height, width):
    try:
        mask = decode_mask({"size": [height, width], "counts": counts})
    except ResultError:
        return
    assert mask.shape == (height, width)


@pytest.mark.parametrize("counts", [b"", b"0P", b"222", b"\xff22", b"o" * 9 + b"0"])
def test_bad_counts_are_named(counts):
    with pytest.raises(ResultError, match="mask"):
        decode_mask({"size": [4, 5], "counts": counts})


@pytest.mark.parametrize(
    "mask", [np.zeros((3, 4)), np.zeros((2, 3, 4), bool), np.zeros((0, 4), bool)]
)
def test_only_a_dense_bool_mask_is_encoded(mask):
    with pytest.raises(ResultError, match="mask must"):
        encode_mask(mask)
