"""Classification: checked, sorted, and readable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdvision.results import Classification, ResultError


def make(probabilities: list[float]) -> Classification:
    count = len(probabilities)
    return Classification(
        class_id=np.arange(count),
        class_name=np.array([f"kind {i}" for i in range(count)], dtype=np.str_),
        probability=np.array(sorted(probabilities, reverse=True), dtype=np.float32),
    )


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), max_size=8))
def test_json_round_trip(probabilities):
    top = make(probabilities)
    back = Classification.from_json(top.to_json())
    assert back.to_json() == top.to_json()
    assert back.class_name.tolist() == top.class_name.tolist()
    np.testing.assert_allclose(back.probability, top.probability, atol=5.1e-6)


def test_best_and_table():
    top = make([0.25, 0.5])
    assert top.best == (0, "kind 0", 0.5)
    assert str(top).splitlines() == [
        "class   probability",
        "kind 0        50.0%",
        "kind 1        25.0%",
    ]
    assert top == make([0.5, 0.25])
    assert top != make([0.5])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"probability": np.float32([0.1, 0.9])}, "sorted"),
        ({"probability": np.array([0.9, 0.1])}, "float32.*float64"),
        ({"probability": np.float32([0.9])}, "probability must have as many"),
        ({"class_id": np.zeros((2, 1), int)}, "class_id must be a 1D"),
    ],
)
def test_a_field_that_does_not_fit_is_named(values, message):
    good = make([0.9, 0.1])
    fields = {name: getattr(good, name) for name in ("class_id", "class_name", "probability")}
    with pytest.raises(ResultError, match=message):
        Classification(**{**fields, **values})


def test_an_empty_classification_has_no_best():
    with pytest.raises(ResultError, match="at least one class"):
        _ = make([]).best
