"""Average precision: equal to pycocotools and to hand-made figures, for any draw of the photos."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdvision.errors import CdvisionError
from cdvision.evaluation.bootstrap import bootstrap
from cdvision.evaluation.coco_ap import CocoScoring
from cdvision.evaluation.coco_labels import CocoLabels, read_coco_labels
from cdvision.evaluation.voc_ap import COCO_TO_VOC, VocScoring, voc_class
from cdvision.results import Detections
from cdvision.results.masks import encode_mask

coco_module = pytest.importorskip("pycocotools.coco")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

SIZE = 200
NAMES = ("cat", "dog", "cow")
Box = Sequence[float]


def detections(
    boxes: Sequence[Box], confidence: Sequence[float], names: Sequence[str], *, masks: bool = False
) -> Detections:
    """Return detections with boxes (left, top, right, bottom); class ids are beside the point."""
    return Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.array(confidence, np.float32),
        class_id=np.zeros(len(boxes), np.int64),
        class_name=np.array(names, np.str_),
        image_size=(SIZE, SIZE),
        mask=tuple(encode_mask(ellipse(box)) for box in boxes) if masks else None,
    )


def ellipse(box: Box) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    left, top, right, bottom = box
    x = (columns - (left + right) / 2) / max(right - left, 2)
    y = (rows - (top + bottom) / 2) / max(bottom - top, 2)
    return x**2 + y**2 < 0.25


def random_box(random: np.random.Generator) -> np.ndarray:
    start = random.uniform(0, SIZE - 70, 2)
    return np.concatenate([start, start + random.uniform(15, 70, 2)])


def random_set(
    seed: int, photos: int, *, found: int = 12, masks: bool = False, crowds: bool = True
) -> tuple[dict[str, Any], list[Detections]]:
    """Draw labelled objects, and detections that are these shifted, made up, or of another class.

    Confidences have two digits: ties are common between photos, and there are none inside one,
    whose order would depend on how often the photo is drawn.
    """
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    answers = []
    for photo in range(photos):
        objects = [(random_box(random), int(random.integers(3))) for _ in range(random.integers(7))]
        for box, kind in objects:
            left, top, right, bottom = box.tolist()
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": 10 + photo,
                "category_id": kind + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(crowds and random.random() < 0.15),
            }
            if masks:
                mask = encode_mask(ellipse(box))
                entry["segmentation"] = {**mask, "counts": mask["counts"].decode()}
            annotations.append(entry)
        boxes, kinds = [], []
        for _ in range(found):
            if objects and random.random() < 0.7:
                box, kind = objects[random.integers(len(objects))]
                box = box + random.normal(0, 5, 4)
                kind = kind if random.random() < 0.8 else int(random.integers(3))
            else:
                box, kind = random_box(random), int(random.integers(3))
            box[2:] = np.maximum(box[2:], box[:2] + 3)
            boxes.append(box)
            kinds.append(NAMES[kind])
        confidence = random.choice(np.arange(5, 100), found, replace=False) / 100
        answers.append(detections(boxes, confidence.tolist(), kinds, masks=masks))
    return coco_json(photos, annotations), answers


def coco_json(photos: int, annotations: list[dict[str, Any]], names: Sequence[str] = NAMES) -> Any:
    return {
        "images": [
            {"id": 10 + n, "file_name": f"{n}.jpg", "width": SIZE, "height": SIZE}
            for n in range(photos)
        ],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(names)],
    }


def labels_of(content: dict[str, Any], folder: Path) -> CocoLabels:
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return read_coco_labels(path)


def by_pycocotools(
    content: dict[str, Any], answers: Sequence[Detections], iou_type: str = "bbox"
) -> tuple[float, float]:
    """Return AP and AP50 exactly as pycocotools' own tools summarise them."""
    numbers = [NAMES.index(str(name)) + 1 for found in answers for name in found.class_name]
    results = [entry for photo, found in enumerate(answers) for entry in found.to_coco(photo + 10)]
    results = [{**e, "category_id": n} for e, n in zip(results, numbers, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def image_ids(photos: int) -> list[int]:
    return [10 + n for n in range(photos)]


# --- COCO


@pytest.mark.parametrize("seed", range(6))
def test_coco_figures_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    content, answers = random_set(seed, 15)
    scorer = CocoScoring(labels_of(content, tmp_path)).scorer(image_ids(15), answers)
    figures = scorer(np.ones((1, 15)))
    ap, ap50 = by_pycocotools(content, answers)
    assert 0.05 < ap < ap50 < 0.95
    assert figures["ap"][0] == pytest.approx(ap, abs=1e-9)
    assert figures["ap50"][0] == pytest.approx(ap50, abs=1e-9)


def test_the_order_of_the_photos_does_not_matter(tmp_path: Path) -> None:
    content, answers = random_set(3, 15)
    order = np.random.default_rng(0).permutation(15)
    ids = [10 + int(n) for n in order]
    scoring = CocoScoring(labels_of(content, tmp_path))
    shuffled = scoring.scorer(ids, [answers[n] for n in order])(np.ones((1, 15)))
    assert shuffled["ap"][0] == pytest.approx(by_pycocotools(content, answers)[0], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_photo_of_weight_three_counts_like_three_photos(seed: int, tmp_path: Path) -> None:
    content, answers = random_set(seed, 8)
    weights = np.array([3, 0, 1, 2, 0, 0, 1, 1])
    drawn = np.repeat(np.arange(8), weights)
    entries = [
        {**entry, "image_id": 10 + place}
        for place, photo in enumerate(drawn)
        for entry in content["annotations"]
        if entry["image_id"] == 10 + photo
    ]
    repeated = coco_json(len(drawn), [{**e, "id": n + 1} for n, e in enumerate(entries)])
    wanted = by_pycocotools(repeated, [answers[photo] for photo in drawn])
    scorer = CocoScoring(labels_of(content, tmp_path)).scorer(image_ids(8), answers)
    found = scorer(weights[None].astype(float))
    assert (found["ap"][0], found["ap50"][0]) == pytest.approx(wanted, abs=1e-9)


def test_masks_are_scored_by_their_own_overlap(tmp_path: Path) -> None:
    content, answers = random_set(1, 6, masks=True)
    labels = labels_of(content, tmp_path)
    scoring = CocoScoring(labels, "segm")
    assert scoring.task == "segment"
    found = scoring.scorer(image_ids(6), answers)(np.ones((1, 6)))
    assert found["ap"][0] == pytest.approx(by_pycocotools(content, answers, "segm")[0], abs=1e-9)
    boxes = CocoScoring(labels).scorer(image_ids(6), answers)(np.ones((1, 6)))
    assert found["ap"][0] != pytest.approx(boxes["ap"][0], abs=1e-3)


def test_boxes_where_masks_are_needed_are_refused(tmp_path: Path) -> None:
    content, _ = random_set(1, 6, masks=True)
    _, boxes = random_set(1, 6)
    with pytest.raises(CdvisionError, match="image 10: expected detections with masks"):
        CocoScoring(labels_of(content, tmp_path), "segm").scorer(image_ids(6), boxes)


def test_finding_nothing_is_an_average_precision_of_zero(tmp_path: Path) -> None:
    content, _ = random_set(0, 5)
    nothing = [Detections.empty((SIZE, SIZE))] * 5
    found = CocoScoring(labels_of(content, tmp_path)).scorer(image_ids(5), nothing)(np.ones((1, 5)))
    assert (found["ap"][0], found["ap50"][0]) == (0.0, 0.0)


def test_labels_without_an_object_are_refused(tmp_path: Path) -> None:
    labels = labels_of(coco_json(2, []), tmp_path)
    with pytest.raises(CdvisionError, match="no object is labelled in these 2 images"):
        CocoScoring(labels).scorer(image_ids(2), [Detections.empty((SIZE, SIZE))] * 2)


def test_classes_outside_the_labels_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    content, answers = random_set(2, 10)
    labels = labels_of(content, tmp_path)
    renamed = [replace(a, class_name=np.append(a.class_name[:-4], ["zebra"] * 4)) for a in answers]
    without = [answer[:-4] for answer in answers]
    ones = np.ones((1, 10))
    first, second = (
        CocoScoring(labels).scorer(image_ids(10), found)(ones) for found in (renamed, without)
    )
    assert first["ap"] == second["ap"]


def test_annotations_may_count_from_zero(tmp_path: Path) -> None:
    """For pycocotools, a match with object 0 is no match."""
    content, answers = random_set(4, 10)
    shifted = {
        **content, "annotations": [{**e, "id": e["id"] - 1} for e in content["annotations"]]
    }  # fmt: skip
    scorer = CocoScoring(labels_of(shifted, tmp_path)).scorer(image_ids(10), answers)
    wanted = by_pycocotools(content, answers)[0]
    assert scorer(np.ones((1, 10)))["ap"][0] == pytest.approx(wanted, abs=1e-9)


def test_a_thousand_draws_of_128_photos_take_seconds(tmp_path: Path) -> None:
    content, answers = random_set(0, 128, found=60)
    scorer = CocoScoring(labels_of(content, tmp_path)).scorer(image_ids(128), answers)
    start = time.process_time()
    record = bootstrap(scorer, 128, resamples=1000)
    assert time.process_time() - start < 20
    assert record["ap_low"] < record["ap"] < record["ap_high"]
    assert 0.02 < record["ap_high"] - record["ap_low"] < 0.2


def coco_figures(
    tmp_path: Path, objects: list[dict[str, Any]], boxes: Any, confidence: Any
) -> dict[str, float]:
    entries = [{"image_id": 10, "category_id": 1, **entry} for entry in objects]
    found = detections(boxes, confidence, ["cat"] * len(boxes))
    scorer = CocoScoring(labels_of(coco_json(1, entries), tmp_path)).scorer([10], [found])
    return {name: float(value[0]) for name, value in scorer(np.ones((1, 1))).items()}


@pytest.mark.parametrize(("width", "passed"), [(100, 10), (81, 7), (76, 6), (51, 1), (49, 0)])
def test_ap_is_the_mean_over_ten_overlaps(tmp_path: Path, width: int, passed: int) -> None:
    """A box of so many of the object's 100 columns overlaps it by so many hundredths.

    Overlaps count from 0.50 in steps of 0.05 to 0.95.
    """
    found = coco_figures(tmp_path, [{"bbox": [0, 0, 100, 100]}], [(0, 0, width, 100)], [0.9])
    assert found["ap"] == pytest.approx(passed / 10)
    assert found["ap50"] == float(passed > 0)


def test_every_size_of_object_counts(tmp_path: Path) -> None:
    """One small, one medium, one large object; the small one is missed: recall 2/3, 67 of 101."""
    objects = [{"bbox": [0, 0, 9, 9]}, {"bbox": [20, 20, 50, 50]}, {"bbox": [80, 80, 110, 110]}]
    boxes = [(20, 20, 70, 70), (80, 80, 190, 190)]
    found = coco_figures(tmp_path, objects, boxes, [0.9, 0.8])
    assert found["ap"] == pytest.approx(67 / 101)


def test_a_crowd_is_no_object_and_what_lies_in_it_no_mistake(tmp_path: Path) -> None:
    objects = [{"bbox": [0, 0, 40, 40]}, {"bbox": [100, 100, 90, 90], "iscrowd": 1}]
    boxes = [(110, 110, 130, 130), (140, 140, 160, 160), (0, 0, 40, 40)]
    assert coco_figures(tmp_path, objects, boxes, [0.9, 0.8, 0.7])["ap"] == pytest.approx(1)
    plain = [objects[0], {**objects[1], "iscrowd": 0}]
    # Two mistakes before the one of two objects that is found: precision 1/3 up to recall .5.
    found = coco_figures(tmp_path, plain, boxes, [0.9, 0.8, 0.7])
    assert found["ap"] == pytest.approx(51 / 101 / 3)


def test_a_photos_detections_behind_the_hundredth_do_not_count(tmp_path: Path) -> None:
    wrong = [(100.0 + n % 50, 100, 180, 180) for n in range(100)]
    for count, wanted in ((99, 1 / 100), (100, 0.0)):
        boxes = [*wrong[:count], (0, 0, 40, 40)]
        confidence = np.linspace(0.99, 0.1, len(boxes))
        found = coco_figures(tmp_path, [{"bbox": [0, 0, 40, 40]}], boxes, confidence)
        assert found["ap50"] == pytest.approx(wanted)


# --- VOC


def voc_labels(folder: Path, *objects: tuple[int, Box, int]) -> CocoLabels:
    """Return labels of dogs: (photo, (left, top, width, height), ignore)."""
    annotations = [
        {"image_id": 10 + photo, "category_id": 1, "bbox": list(box), "ignore": flag}
        for photo, box, flag in objects
    ]
    return labels_of(coco_json(3, annotations, ["dog"]), folder)


def voc_ap50(labels: CocoLabels, answers: Sequence[Detections]) -> float:
    scorer = VocScoring(labels).scorer(image_ids(len(answers)), answers)
    return float(scorer(np.ones((1, len(answers))))["ap50"][0])


def test_voc_precision_equals_one_worked_out_by_hand(tmp_path: Path) -> None:
    """Ranked: right, wrong, right, wrong (taken twice), right, of four objects.

    Recall 1/4, 2/4, 3/4 at precision 1, 2/3, 3/5: area 1/4 + 2/3/4 + 3/5/4 = 17/30.
    """
    labels = voc_labels(
        tmp_path,
        (0, (0, 0, 40, 40), 0),
        (0, (100, 100, 40, 40), 0),
        (1, (0, 0, 40, 40), 0),
        (2, (0, 0, 40, 40), 0),
    )
    answers = [
        detections([(0, 0, 40, 40), (2, 0, 40, 40), (100, 100, 140, 140)], [0.9, 0.6, 0.5],
                   ["dog"] * 3),
        detections([(100, 100, 140, 140)], [0.8], ["dog"]),
        detections([(0, 0, 30, 40)], [0.7], ["dog"]),
    ]  # fmt: skip
    assert voc_ap50(labels, answers) == pytest.approx(17 / 30, abs=1e-12)


def test_voc_interpolates_precision(tmp_path: Path) -> None:
    """Wrong first, then two right: precision 1/2 and 2/3, interpolated to 2/3 at both recalls."""
    labels = voc_labels(tmp_path, (0, (0, 0, 40, 40), 0), (1, (0, 0, 40, 40), 0))
    right = detections([(0, 0, 40, 40)], [0.5], ["dog"])
    wrong_too = detections([(100, 0, 140, 40), (0, 0, 40, 40)], [0.9, 0.6], ["dog"] * 2)
    nothing = Detections.empty((SIZE, SIZE))
    assert voc_ap50(labels, [wrong_too, right, nothing]) == pytest.approx(2 / 3, abs=1e-12)


def test_detections_of_difficult_objects_count_neither_way(tmp_path: Path) -> None:
    easy, difficult = (0, (0, 0, 40, 40), 0), (0, (100, 100, 40, 40), 1)
    labels = voc_labels(tmp_path, easy, difficult)
    on_difficult = [(100, 100, 140, 140), (101, 100, 140, 140)]
    nothing = [Detections.empty((SIZE, SIZE))] * 2
    found = detections([*on_difficult, (0, 0, 40, 40)], [0.9, 0.8, 0.7], ["dog"] * 3)
    assert voc_ap50(labels, [found, *nothing]) == 1.0
    missed = detections([(0, 0, 40, 40)], [0.7], ["dog"])
    assert voc_ap50(labels, [missed, *nothing]) == 1.0
    as_easy = voc_labels(tmp_path, easy, (*difficult[:2], 0))
    assert voc_ap50(as_easy, [found, *nothing]) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_an_overlap_of_one_half_is_enough_and_less_is_not(tmp_path: Path) -> None:
    labels = voc_labels(tmp_path, (0, (0, 0, 40, 40), 0))
    nothing = [Detections.empty((SIZE, SIZE))] * 2
    for width, wanted in ((20, 1.0), (19, 0.0)):
        found = detections([(0, 0, width, 40)], [0.9], ["dog"])
        assert voc_ap50(labels, [found, *nothing]) == wanted


def test_voc_answers_in_coco_names_are_translated(tmp_path: Path) -> None:
    annotation = {"image_id": 10, "category_id": 1, "bbox": [0, 0, 40, 40]}
    labels = labels_of(coco_json(1, [annotation], ["sofa"]), tmp_path)
    boxes = [(0, 0, 40, 40), (100, 100, 140, 140)]
    assert voc_ap50(labels, [detections(boxes, [0.5, 0.9], ["couch", "truck"])]) == 1.0


def test_the_map_of_classes_is_complete() -> None:
    assert len(COCO_TO_VOC) == len(set(COCO_TO_VOC.values())) == 20
    renamed = {coco: voc for coco, voc in COCO_TO_VOC.items() if coco != voc}
    assert renamed == {
        "airplane": "aeroplane",
        "dining table": "diningtable",
        "motorcycle": "motorbike",
        "potted plant": "pottedplant",
        "couch": "sofa",
        "tv": "tvmonitor",
    }
    assert [voc_class(name) for name in renamed.values()] == list(renamed.values())
    assert voc_class("truck") is None


def test_the_map_joins_the_model_to_the_published_labels(model: Any, shared: Path) -> None:
    labels = read_coco_labels(shared / "detection" / "voc-dev.json")
    assert set(COCO_TO_VOC.values()) == set(labels.categories)
    assert set(COCO_TO_VOC) <= set(model.package.classes["coco"])
    assert any(entry["ignore"] for entry in labels.annotations)


@pytest.mark.parametrize("seed", range(4))
def test_voc_is_close_to_coco_at_the_same_overlap(seed: int, tmp_path: Path) -> None:
    """COCO reads the curve at 101 recalls, and a detection may take its second-best object."""
    content, answers = random_set(seed, 40, crowds=False)
    labels = labels_of(content, tmp_path)
    voc_names = {"cat": "cat", "dog": "dog", "cow": "cow"}
    assert set(voc_names) <= set(COCO_TO_VOC)
    found = VocScoring(labels).scorer(image_ids(40), answers)(np.ones((1, 40)))["ap50"][0]
    assert found == pytest.approx(by_pycocotools(content, answers)[1], abs=0.03)


def test_voc_draws_of_photos_are_weighted(tmp_path: Path) -> None:
    """Two photos, one found and one missed: drawing one of them twice gives 1 or 0."""
    labels = voc_labels(tmp_path, (0, (0, 0, 40, 40), 0), (1, (0, 0, 40, 40), 0))
    found = detections([(0, 0, 40, 40)], [0.5], ["dog"])
    scorer = VocScoring(labels).scorer([10, 11], [found, Detections.empty((SIZE, SIZE))])
    weights = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    assert scorer(weights)["ap50"].tolist() == [1.0, 0.5, 0.0]


def test_a_draw_without_any_object_of_a_class_leaves_the_class_out(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 10, "category_id": 1, "bbox": [0, 0, 40, 40]},
        {"image_id": 11, "category_id": 2, "bbox": [0, 0, 40, 40]},
    ]
    labels = labels_of(coco_json(3, annotations, ["cat", "dog"]), tmp_path)
    answers = [
        detections([(0, 0, 40, 40)], [0.5], ["cat"]),
        *[Detections.empty((SIZE, SIZE))] * 2,
    ]
    weights = np.array([[1.0, 1, 1], [3, 0, 0], [0, 3, 0], [0, 0, 3]])
    for scoring in (VocScoring(labels), CocoScoring(labels)):
        figures = scoring.scorer(image_ids(3), answers)(weights)["ap50"]
        np.testing.assert_allclose(figures, [0.5, 1.0, 0.0, np.nan])
