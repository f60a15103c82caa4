"""COCO files as labelling tools write them: the right figure, or one clear line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError
from cdvision.evaluation.coco_ap import CocoScoring
from cdvision.evaluation.coco_labels import CocoLabels, read_coco_labels
from cdvision.evaluation.labelled import coco_photos
from cdvision.results import Detections

PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg"
SQUARE = [[0, 0, 9, 0, 9, 9, 0, 9]]
BASE: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}


def read(folder: Path, content: dict[str, Any], encoding: str = "utf-8") -> CocoLabels:
    (folder / "x.json").write_text(json.dumps(content), encoding=encoding)
    return read_coco_labels(folder / "x.json")


def changed(part: str, **fields: Any) -> dict[str, Any]:
    """Return the base with fields of its first entry of a part changed, or taken out where ... ."""
    content = copy.deepcopy(BASE)
    entry = content[part][0]
    entry.update(fields)
    content[part][0] = {name: value for name, value in entry.items() if value is not ...}
    return content


def ap(labels: CocoLabels) -> float:
    pytest.importorskip("pycocotools")
    found = Detections(
        xyxy=np.array([[0, 0, 9, 9]], np.float32),
        confidence=np.array([0.9], np.float32),
        class_id=np.array([15]),
        class_name=np.array(["cat"]),
        image_size=(9, 9),
    )
    ids = [image["id"] for image in labels.images]
    score = CocoScoring(labels).scorer(ids, [found] * len(ids))
    return float(score(np.ones((1, len(ids))))["ap"][0])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("used", [17, 0])
def test_two_categories_of_one_name_are_one_class(
    tmp_path: Path, order: tuple[int, int], used: int
) -> None:
    content = changed("annotations", category_id=used)
    both = [{"id": 17, "name": "cat"}, {"id": 0, "name": "cat", "supercategory": "none"}]
    content["categories"] = [both[place] for place in order]
    labels = read(tmp_path, content)
    assert labels.categories == {"cat": both[order[0]]["id"]}
    assert [entry["category_id"] for entry in labels.annotations] == [both[order[0]]["id"]]
    assert ap(labels) == 1


@pytest.mark.parametrize(
    "content",
    [
        changed("annotations", iscrowd=None),
        changed("annotations", iscrowd=False),
        changed("annotations", area=None),
        changed("annotations", ignore=None),
        changed("annotations", bbox=["0", "0", "9", "9"]),
        changed("annotations", bbox=None, segmentation=SQUARE),
        changed("annotations", bbox=[], segmentation=SQUARE),
        changed("annotations", bbox=..., segmentation=SQUARE),
        changed("annotations", segmentation=None),
        changed("annotations", segmentation=[]),
        changed("annotations", image_id="1"),
        changed("annotations", category_id="1"),
        changed("annotations", image_id=1.0),
        changed("images", width=None, height=...),
    ],
)
def test_what_tools_leave_out_is_completed(tmp_path: Path, content: dict[str, Any]) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        assert ap(read(tmp_path, content, encoding)) == 1


@pytest.mark.parametrize("name", ["1", "a1", "b7f3-uuid", 2.0])
def test_ids_of_any_kind_are_told_apart(tmp_path: Path, name: Any) -> None:
    content = copy.deepcopy(BASE)
    content["images"].append({"id": "other", "file_name": "b.jpg"})
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = name
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = f"c{name}"
    labels = read(tmp_path, content)
    assert [image["id"] for image in labels.images] == [1, 2]
    assert labels.annotations[0]["image_id"] == 1
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.jpg").write_bytes(b"a")
    (tmp_path / "img" / "b.jpg").write_bytes(b"b")
    assert [photo.label for photo in coco_photos(labels, tmp_path / "img")] == [1, 2]
    assert ap(labels) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed("annotations", bbox=[]), r"annotations\[0\]\.bbox: expected left, top, width"),
        (changed("annotations", bbox=None), r"annotations\[0\]\.bbox: expected left.*found None"),
        (changed("annotations", bbox=[0, 0, 9, 9, 1]), r"annotations\[0\]\.bbox"),
        (changed("annotations", bbox={"x": 1}), r"annotations\[0\]\.bbox"),
        (changed("annotations", bbox=[0, 0, float("nan"), 9]), r"annotations\[0\]\.bbox"),
        (changed("annotations", bbox=[0, 0, -9, 9]), "expected a width and a height"),
        (changed("annotations", bbox=[0, 0, None, 9]), r"annotations\[0\]\.bbox.*found None"),
        (changed("annotations", area="large"), r"annotations\[0\]\.area: expected a number"),
        (changed("annotations", iscrowd="yes"), r"annotations\[0\]\.iscrowd"),
        (changed("annotations", image_id=None), r"annotations\[0\]: expected 'image_id'"),
        (changed("annotations", category_id=...), r"expected 'category_id' in annotations\[0\]"),
        (changed("images", id=None), r"images\[0\]: expected 'id'"),
        (changed("images", file_name=None), r"images\[0\]: expected 'file_name'"),
        (changed("categories", name=None), r"categories\[0\]: expected 'name'"),
        (changed("categories", id=None), r"categories\[0\]: expected 'id'"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_entry(
    tmp_path: Path, content: dict[str, Any], told: str
) -> None:
    with pytest.raises(CdvisionError, match=told):
        read(tmp_path, content)


@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_objects_of_nothing_in_the_file_are_told(
    tmp_path: Path, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = copy.deepcopy(BASE)
    content["annotations"].append({**content["annotations"][0], field: 99})
    assert len(read(tmp_path, content).annotations) == 1
    assert "1 objects left out" in capsys.readouterr().err


@pytest.mark.parametrize("empty", [None, [], [[]], [[1, 2]], {}, {"counts": ""}, ["x"]])
def test_an_empty_outline_is_no_mask(
    tmp_path: Path, empty: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    content = changed("annotations", segmentation=SQUARE)
    content["images"].append({**content["images"][0], "id": 2, "file_name": "b.jpg"})
    content["annotations"].append({**BASE["annotations"][0], "image_id": 2, "segmentation": empty})
    labels = read(tmp_path, content).with_masks()
    assert [image["id"] for image in labels.images] == [1]
    assert "left out for want of masks: 1 of 2 images" in capsys.readouterr().err
    with pytest.raises(CdvisionError, match="found boxes only"):
        read(tmp_path, changed("annotations", segmentation=empty)).with_masks()


def test_masks_without_the_size_of_their_image_are_one_line(tmp_path: Path) -> None:
    content = changed("annotations", segmentation=SQUARE)
    for missing in ({"width": None}, {"height": 0}):
        content["images"][0].update(missing)
        with pytest.raises(CdvisionError, match=r"masks need width and height of a\.jpg"):
            read(tmp_path, content).with_masks()


def test_the_command_measures_such_a_file_and_shows_no_traceback(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.jpg").write_bytes(PHOTO.read_bytes())
    content = changed("annotations", area=None, bbox=[4, 0, 406, 300], iscrowd=None)
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "a1"
    (tmp_path / "x.json").write_text(json.dumps(content))
    command = ["eval", "small", "--coco", str(tmp_path / "x.json"), "--images",
               str(tmp_path / "img"), "-q", "4", "--no-cache", "--resamples", "0"]  # fmt: skip
    if "--model" in CliRunner().invoke(command_line, ["eval", "--help"]).output:
        command.remove("small")
    done = CliRunner().invoke(command_line, command)
    assert done.exit_code == 0, done.output
    assert "1.000" in done.output
    segmented = CliRunner().invoke(command_line, [*command, "--iou-type", "segm"])
    assert segmented.exit_code == 2
    assert "expected masks (segmentation), found boxes only" in segmented.stderr
