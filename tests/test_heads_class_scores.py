"""Logits to the most probable classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvision.heads.class_scores import classification_from_logits
from cdvision.results import ResultError

NAMES = tuple(f"class {number}" for number in range(1000))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 1000), st.integers(1, 1200))
def test_probabilities_equal_the_definition(seed, spread, top):
    logits = np.random.default_rng(seed).normal(0, spread, 1000).astype(np.float32)
    found = classification_from_logits(logits, NAMES, top=top)
    exact = np.exp(logits.astype(np.longdouble) - logits.max())
    exact = np.sort(exact / exact.sum())[::-1]
    assert len(found) == min(top, 1000)
    np.testing.assert_allclose(found.probability, exact[:top].astype(float), rtol=1e-6, atol=1e-38)
    assert found.best.class_id == logits.argmax()
    assert found.class_name.tolist() == [NAMES[number] for number in found.class_id]


def test_huge_logits_do_not_overflow():
    logits = np.full(1000, -3e38, dtype=np.float32)
    logits[7] = 3e38
    assert classification_from_logits(logits, NAMES).best == (7, "class 7", 1.0)


@pytest.mark.parametrize(
    ("logits", "top", "message"),
    [
        (np.zeros(999, np.float32), 5, r"shape \(1000,\).*\(999,\)"),
        (np.zeros((1, 1000), np.float32), 5, "1D"),
        (np.zeros(1000), 5, "float32.*float64"),
        (np.zeros(1000, np.float32), 0, "top must be at least 1"),
        (np.full(1000, np.nan, np.float32), 5, "finite"),
    ],
)
def test_inputs_that_do_not_fit_are_named(logits, top, message):
    with pytest.raises(ResultError, match=message):
        classification_from_logits(logits, NAMES, top=top)
