"""Exports: the libraries themselves accept what we hand them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cdvision.errors import CdvisionError
from cdvision.results import COCO_CATEGORY_IDS, Attributes, Classification, Detections, ResultError
from cdvision.results.masks import decode_mask, encode_mask
from cdvision.tasks import tasks

SIZE = (64, 48)


def make(count: int, *, masks: bool = False) -> Detections:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 24, (count, 2))
    class_id = np.arange(count) % 4
    dense = rng.random((count, SIZE[1], SIZE[0])) < 0.3
    return Detections(
        xyxy=np.hstack([corners, corners + rng.uniform(5, 20, (count, 2))]).astype(np.float32),
        confidence=rng.uniform(0.1, 1, count).astype(np.float32),
        class_id=class_id,
        class_name=np.array(["person", "bicycle", "car", "dog"])[class_id],
        image_size=SIZE,
        mask=tuple(encode_mask(mask) for mask in dense) if masks else None,
    )


def test_official_categories_are_the_eighty_of_coco():
    assert len(COCO_CATEGORY_IDS) == 80
    # person, stop sign, bench, bird, hat-less backpack, wine glass, toilet, toothbrush
    positions = [0, 11, 13, 14, 24, 40, 61, 79]
    assert [COCO_CATEGORY_IDS[i] for i in positions] == [1, 13, 15, 16, 27, 46, 70, 90]


@pytest.mark.parametrize("masks", [False, True])
def test_pycocotools_loads_and_scores_the_export(masks):
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    found = make(4, masks=masks)
    results = found.to_coco(7, COCO_CATEGORY_IDS)
    truth = coco_module.COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 7, "width": SIZE[0], "height": SIZE[1]}],
        "categories": [{"id": i, "name": str(i)} for i in COCO_CATEGORY_IDS],
        "annotations": [
            {**entry, "id": i + 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
            for i, entry in enumerate(results)
        ],
    }
    truth.createIndex()
    scores = evaluation.COCOeval(truth, truth.loadRes(results), "segm" if masks else "bbox")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == pytest.approx(1.0)


def test_coco_boxes_are_corner_and_size():
    found = make(3)
    for box, entry in zip(found, found.to_coco(1), strict=True):
        left, top, width, height = entry["bbox"]
        assert box.xyxy == pytest.approx((left, top, left + width, top + height))
        assert (entry["category_id"], entry["score"]) == (box.class_id + 1, box.confidence)


def test_categories_come_from_a_sequence_or_a_mapping():
    found = make(6)
    mapped = found.to_coco(1, {0: 10, 1: 11, 2: 12, 3: 13})
    assert [entry["category_id"] for entry in mapped] == (found.class_id + 10).tolist()
    with pytest.raises(ResultError, match="map every class"):
        found.to_coco(1, {99: 1})


@pytest.mark.parametrize("masks", [False, True])
def test_supervision_gets_the_same_boxes(masks):
    pytest.importorskip("supervision")
    found = make(3, masks=masks)
    theirs = found.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, found.xyxy)
    np.testing.assert_array_equal(theirs.confidence, found.confidence)
    np.testing.assert_array_equal(theirs["class_name"], found.class_name)
    if masks:
        assert theirs.mask.dtype == bool
        np.testing.assert_array_equal(theirs.mask[2], decode_mask(found.mask[2]))
    assert len(theirs[theirs.confidence > 0.0]) == 3


def test_supervision_gets_empty_detections():
    pytest.importorskip("supervision")
    theirs = Detections.empty(SIZE).to_supervision()
    assert len(theirs) == 0
    assert len(theirs[theirs.confidence > 0.5]) == 0


def test_pandas_gets_a_row_for_each_box():
    pytest.importorskip("pandas")
    found = make(5)
    table = found.to_pandas()
    np.testing.assert_array_equal(table[["left", "top", "right", "bottom"]], found.xyxy)
    assert table.class_name.tolist() == found.class_name.tolist()
    assert list(Detections.empty(SIZE).to_pandas().columns) == list(table.columns)


def test_pandas_gets_a_row_for_each_class():
    pytest.importorskip("pandas")
    top = Classification(np.array([3, 1]), np.array(["a", "b"]), np.float32([0.75, 0.25]))
    assert top.to_pandas().to_dict("list") == {
        "class_id": [3, 1],
        "class_name": ["a", "b"],
        "probability": [0.75, 0.25],
    }


def test_rows_are_what_the_columns_of_the_tasks_say():
    answers = {
        "detections": make(2, masks=True),
        "classification": Classification(np.array([3]), np.array(["a"]), np.float32([0.75])),
        "attributes": Attributes(np.array(["Hat"]), np.float32([0.25]), np.array([False])),
    }
    kinds = {"float": float, "int": int, "string": str, "boolean": bool}
    for task in tasks().values():
        if task.column is not None:
            for row in answers[task.answer].to_rows():
                assert list(row) == list(task.column.fields)
                assert [type(v) for v in row.values()] == [
                    kinds[word] for word in task.column.fields.values()
                ]
    assert answers["attributes"].to_rows() == [
        {"name": "Hat", "probability": 0.25, "present": False}
    ]
    box = answers["detections"].to_rows()[1]
    np.testing.assert_array_equal(
        [box[side] for side in ("left", "top", "right", "bottom")], answers["detections"].xyxy[1]
    )
    assert box["mask"].encode() == answers["detections"].mask[1]["counts"]
    assert make(1).to_rows()[0]["mask"] is None


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_a_missing_library_is_named_with_its_remedy(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CdvisionError, match=r"pip install 'cdvision\[results\]'"):
        getattr(make(1), f"to_{package}")()


def test_results_and_heads_import_only_numpy():
    code = (
        "import sys, cdvision.results, cdvision.heads\n"
        "heavy = {'pandas', 'supervision', 'PIL', 'torch', 'onnxruntime', 'pycocotools'}\n"
        "print(*heavy & set(sys.modules))"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
