"""Small things that break the program of who uses an answer: types of columns and of numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.analysis import AnalysisResult
from cdvision.pipelines.text_sinks import json_line
from cdvision.results import Attributes, Classification, Detections


def detections(count: int) -> Detections:
    return Detections(
        xyxy=np.array([[0, 0, 9, 9]] * count, np.float32).reshape(-1, 4),
        confidence=np.full(count, 0.5, np.float32),
        class_id=np.full(count, 3, np.int64),
        class_name=np.array(["car"] * count, np.str_),
        image_size=(np.int64(9), np.int64(9)),  # type: ignore[arg-type]
    )


def texts(count: int) -> np.ndarray:
    return np.array(["car"] * count, np.str_)


ANSWERS: dict[str, Any] = {
    "detections": detections,
    "classification": lambda n: Classification(np.arange(n), texts(n), np.full(n, 0.5, np.float32)),
    "attributes": lambda n: Attributes(texts(n), np.full(n, 0.5, np.float32), np.ones(n, bool)),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_empty_frame_has_the_columns_of_a_full_one(kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    empty, full = ANSWERS[kind](0).to_pandas(), ANSWERS[kind](1).to_pandas()
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    joined = pandas.concat([full, empty])
    assert joined.dtypes.to_dict() == full.dtypes.to_dict()
    text = "name" if kind == "attributes" else "class_name"
    assert empty[text].str.upper().tolist() == []
    assert len(empty[empty[text] == "car"]) == 0


@pytest.mark.parametrize("number", [np.int64(7), np.int32(7), np.uint8(7), 7])
def test_numbers_of_numpy_become_json(number: Any) -> None:
    (entry,) = detections(1).to_coco(number, np.arange(5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(entry))["image_id"] == 7
    assert json.loads(detections(1).to_json())["image_size"] == [9, 9]
    (named,) = detections(1).to_coco(np.str_("a7"))  # type: ignore[arg-type]
    assert json.loads(json.dumps(named))["image_id"] == "a7"


@pytest.mark.parametrize("key", [np.int64(7), 7, "7", np.str_("7")])
def test_keys_of_numpy_become_json(model: cdvision.Model, key: Any) -> None:
    bits = model.encode(np.zeros((64, 64, 3), np.uint8), 1)
    (result,) = model.analyze([(key, bits)])
    assert json.loads(json_line(result))["key"] == "7"
    assert result.key == "7"
    assert json.loads(json_line(AnalysisResult(0, {"detections": detections(1)})))["index"] == 0
