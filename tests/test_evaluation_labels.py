"""Readers of labelled photos: what they take, what they leave out, and what they say about it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdvision.errors import CdvisionError
from cdvision.evaluation import class_index
from cdvision.evaluation.answer_formats import AttributeVerdict
from cdvision.evaluation.attribute_scoring import AttributeScoring
from cdvision.evaluation.class_index import ClassIndex
from cdvision.evaluation.coco_labels import read_coco_labels
from cdvision.evaluation.labelled import (
    attribute_photos,
    classified_photos,
    coco_photos,
    folder_photos,
)
from cdvision.evaluation.ranking import AttributeRanking

NAMES = ("tench, Tinca tinca", "crane", "coffee mug", "crane", "sunglass", "sunglasses, shades")
COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 8, "height": 8},
        {"id": 9, "file_name": "deep/b.jpg", "width": 8, "height": 8},
    ],
    "annotations": [
        {
            "image_id": 7,
            "category_id": 17,
            "bbox": [1, 2, 3, 4],
            "segmentation": [[1, 2, 4, 2, 4, 6, 1, 6]],
        },
        {"image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "unicorn"}],
}


def place(folder: Path, *names: str) -> Path:
    """Write files whose content is their own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def packed(folder: Path, *, prefix: str = "") -> Path:
    path = folder.parent / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, prefix + file.relative_to(folder).as_posix())
    return path


def as_folder(folder: Path) -> Path:
    return folder


def as_tar(folder: Path) -> Path:
    return packed(folder)


def as_tar_of_dot(folder: Path) -> Path:
    return packed(folder, prefix="./")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cdvision: ")
    return line


# --- COCO json


@pytest.mark.parametrize("kind", [as_folder, as_tar, as_tar_of_dot])
def test_photos_of_a_coco_json_are_read_one_by_one(
    tmp_path: Path, kind: Callable[[Path], Path]
) -> None:
    images = kind(place(tmp_path / "images", "a.jpg", "deep/b.jpg", "not-labelled.jpg"))
    photos = coco_photos(written(tmp_path / "x.json", json.dumps(COCO)), images)
    assert len(photos) == 2
    assert [(p.name, p.data, p.label) for p in photos] == [
        ("a.jpg", b"a.jpg", 7),
        ("deep/b.jpg", b"deep/b.jpg", 9),
    ]


@pytest.mark.parametrize("kind", [as_folder, as_tar])
def test_a_missing_photo_is_named(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    images = kind(place(tmp_path / "images", "a.jpg"))
    photos = coco_photos(written(tmp_path / "x.json", json.dumps(COCO)), images)
    with pytest.raises(CdvisionError, match=r"deep/b\.jpg"):
        list(photos)


def test_images_that_are_neither_folder_nor_tar_are_refused(tmp_path: Path) -> None:
    labels = written(tmp_path / "x.json", json.dumps(COCO))
    with pytest.raises(CdvisionError, match="expected a folder or a tar"):
        coco_photos(labels, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a json that can be read"),
        ("[]", "expected the lists images, annotations, categories, found list"),
        ('{"images": []}', "expected the lists images, annotations, categories"),
        (json.dumps({**COCO, "images": [{"id": 1}]}), r"expected 'file_name' in images\[0\]"),
        (json.dumps({**COCO, "annotations": [5]}), r"expected 'image_id' in annotations\[0\]"),
        (json.dumps({**COCO, "images": COCO["images"] * 2}), "found one twice"),
    ],
)
def test_another_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(CdvisionError, match=message):
        read_coco_labels(written(tmp_path / "x.json", content))


def test_categories_that_the_model_lacks_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = read_coco_labels(written(tmp_path / "x.json", json.dumps(COCO)))
    known = labels.known_to(["dog", "cat"])
    assert said(capsys).endswith("the model has no such class: unicorn")
    assert known.categories == {"cat": 17}
    assert [entry["category_id"] for entry in known.annotations] == [17]
    assert labels.known_to(["cat", "unicorn"]) is labels
    with pytest.raises(CdvisionError, match="no class of these names: cat, unicorn"):
        labels.known_to(["dog"])


def test_images_without_all_masks_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = read_coco_labels(written(tmp_path / "x.json", json.dumps(COCO)))
    assert [image["id"] for image in labels.with_masks().images] == [7]
    assert said(capsys).endswith("left out for want of masks: 1 of 2 images")
    bare = {**COCO, "annotations": COCO["annotations"][1:]}
    with pytest.raises(CdvisionError, match="found boxes only"):
        read_coco_labels(written(tmp_path / "y.json", json.dumps(bare))).with_masks()


def test_the_ignore_flag_follows_crowds_where_there_is_none(tmp_path: Path) -> None:
    box = {"image_id": 7, "category_id": 17, "bbox": [0, 0, 2, 3]}
    entries = [box, {**box, "iscrowd": 1}, {**box, "ignore": 1}, {**box, "ignore": 0, "iscrowd": 1}]
    content = json.dumps({**COCO, "annotations": entries})
    read = read_coco_labels(written(tmp_path / "x.json", content)).annotations
    assert [entry["ignore"] for entry in read] == [0, 1, 1, 0]
    assert [entry["id"] for entry in read] == [1, 2, 3, 4]
    assert read[0]["area"] == 6


# --- names of classes


def test_classes_are_found_by_index_name_and_synonym() -> None:
    index = ClassIndex(NAMES)
    labels = ("0", "005", "6", "Tench", "tinca_tinca", "COFFEE-MUG", "sunglass", "shades", "dog")
    assert [index.find(label) for label in labels] == [0, 5, None, 0, 0, 2, 4, 5, None]
    assert index.find("crane") is None, "two classes have this name"
    assert index.find("n01440764") is None, "these are not ImageNet's thousand classes"


def test_wordnet_ids_are_imagenets(model: Any) -> None:
    index = ClassIndex(model.package.classes["imagenet"])
    assert [index.find(wnid) for wnid in ("n01440764", "n02123045", "n15075141", "n99999999")] == [
        0,
        281,
        999,
        None,
    ]
    assert index.find("tabby") == 281


def test_wordnet_ids_agree_with_the_published_table(model: Any, shared: Path) -> None:
    index = ClassIndex(model.package.classes["imagenet"])
    lines = (shared / "photos" / "imagenet_classes.csv").read_text().splitlines()[1:]
    for line in lines:
        number, wnid, _ = line.split(",", 2)
        assert index.find(wnid) == int(number)


def test_the_table_of_wordnet_ids_is_installed() -> None:
    root = Path(class_index.__file__).parents[2]
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["cdvision"]
    file = Path(class_index.__file__).with_name("imagenet_wnids.txt").relative_to(root / "cdvision")
    assert any(file.match(pattern) for pattern in patterns)


# --- ImageFolder


@pytest.mark.parametrize("kind", [as_folder, as_tar])
def test_the_folder_of_a_photo_is_its_class(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    files = ("val/tench/1.JPG", "val/2/x.png", "val/coffee_mug/2.webp", "val/notes.txt")
    photos = folder_photos(kind(place(tmp_path / "images", *files)), NAMES)
    assert {photo.name: photo.label for photo in photos} == {
        "val/tench/1.JPG": 0,
        "val/2/x.png": 2,
        "val/coffee_mug/2.webp": 2,
    }


def test_unknown_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("tench/1.jpg", "zebra/2.jpg", "zebra/3.jpg", "crane/4.jpg", "99/5.jpg")
    photos = folder_photos(place(tmp_path, *files), NAMES)
    assert [photo.name for photo in photos] == ["tench/1.jpg"]
    assert said(capsys).endswith(
        "4 photos left out; these name no single class of the model: 99, crane, zebra"
    )


def test_only_unknown_folders_are_refused(tmp_path: Path) -> None:
    place(tmp_path, "zebra/2.jpg", "yak/3.jpg")
    with pytest.raises(CdvisionError, match=r"indices below 6, names .* found only yak, zebra"):
        folder_photos(tmp_path, NAMES)


def test_photos_without_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="expected one folder of photos a class"):
        folder_photos(place(tmp_path, "1.jpg"), NAMES)


# --- csv of classes


def test_rows_of_a_csv_are_chosen_and_translated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = place(tmp_path, *(f"{n}.jpg" for n in range(5)))
    rows = "0.jpg,val,0\n1.jpg,val,coffee mug\n2.jpg,train,0\n3.jpg,val,\n4.jpg,val,zebra\n"
    table = written(tmp_path / "x.csv", "file,split,class\n" + rows)
    photos = classified_photos(table, images, where={"split": "val"}, class_names=NAMES)
    assert [(photo.name, photo.label) for photo in photos] == [("0.jpg", 0), ("1.jpg", 2)]
    lines = capsys.readouterr().err.splitlines()
    assert "1 photos left out: no class" in lines[0]
    assert lines[1].endswith("no single class of the model: zebra")


@pytest.mark.parametrize(
    ("header", "wanted", "found"),
    [
        ("file,imagenet_class,split", None, "1"),
        ("file,split,label", None, "3"),
        ("file,whatever", None, "1"),
        ("file,one,other", "other", "3"),
    ],
)
def test_the_label_column_is_found(
    tmp_path: Path, header: str, wanted: str | None, found: str
) -> None:
    row = "a.jpg,1,3" if header.count(",") == 2 else "a.jpg,1"
    table = written(tmp_path / "x.csv", f"{header}\n{row}\n")
    (photo,) = classified_photos(table, place(tmp_path, "a.jpg"), where={}, label=wanted)
    assert photo.label == int(found)


@pytest.mark.parametrize(
    ("text", "where", "label", "message"),
    [
        ("name,class\na.jpg,1\n", {}, None, "expected a column 'file', found name, class"),
        ("file,class\na.jpg,1\n", {"split": "val"}, None, "expected a column 'split'"),
        ("file,class\na.jpg,1\n", {"class": "2"}, None, "no row with class=2"),
        ("file,class\na.jpg\n", {}, None, "row 1: expected 2 cells"),
        ("file,class\na.jpg,1\n", {}, "kind", "expected a column 'kind', found class"),
        ("file,a,b\na.jpg,1,1\n", {}, None, "expected a column one of imagenet_class"),
        ("file,class\na.jpg,zebra\n", {}, None, "expected class indices, found only zebra"),
    ],
)
def test_another_csv_is_refused(
    tmp_path: Path, text: str, where: dict[str, str], label: str | None, message: str
) -> None:
    table = written(tmp_path / "x.csv", text)
    with pytest.raises(CdvisionError, match=message):
        classified_photos(table, place(tmp_path, "a.jpg"), where=where, label=label)


def test_a_limit_spreads_over_the_set(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,{n}\n" for n in range(10))
    table = written(tmp_path / "x.csv", f"file,class\n{rows}")
    photos = classified_photos(table, place(tmp_path, *(f"{n}.jpg" for n in range(10))), where={})
    assert [photo.label for photo in photos.limited(4)] == [0, 2, 5, 7]
    assert photos.limited(99).digest() == photos.digest() != photos.limited(4).digest()


# --- csv of attributes


def test_attributes_are_compared_with_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Smiling: 3 of 4 right; 1/2 of the smiles, 2/2 of the others. Bald: never there.

    The smiles rank first and third (precision 1 and 2/3); the model's threshold lies at 0.55.
    """
    rows = "0.jpg,val,1,0,1\n1.jpg,val,1,0,0\n2.jpg,val,0,0,1\n3.jpg,val,0,0,0\n4.jpg,train,1,1,1\n"
    table = written(tmp_path / "x.csv", "file,split,Smiling,Bald,Unheard\n" + rows)
    images = place(tmp_path, *(f"{n}.jpg" for n in range(5)))
    photos, attributes = attribute_photos(table, images, where={"split": "val"})
    assert attributes.names == ("Smiling", "Bald", "Unheard")
    said_of = [(0.9, 0.1), (0.4, 0.6), (0.52, 0.2), (0.1, 0.0)]
    answers = [
        {name: AttributeVerdict(value, value > 0.55)
         for name, value in zip(("Smiling", "Bald"), values, strict=True)}
        for values in said_of
    ]  # fmt: skip
    scoring = AttributeScoring(attributes)
    scorer = scoring.scorer([photo.label for photo in photos], answers)
    assert said(capsys).endswith("the model does not answer Unheard")
    figures = {name: float(value[0]) for name, value in scorer(np.ones((1, 4))).items()}
    assert figures["accuracy.Smiling"] == figures["balanced_accuracy.Smiling"] == 0.75
    assert figures["accuracy.Bald"] == 0.75
    assert np.isnan(figures["balanced_accuracy.Bald"])
    assert figures["accuracy"] == 0.75
    assert figures["balanced_accuracy"] == 0.75
    assert figures["average_precision.Smiling"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["average_precision"] == figures["average_precision.Smiling"]
    assert np.isnan(figures["average_precision.Bald"])
    assert (figures["majority_accuracy.Smiling"], figures["majority_accuracy.Bald"]) == (0.5, 1)
    assert figures["majority_accuracy"] == 0.75
    weighted = scorer(np.array([[0.0, 2, 1, 1]]))
    assert weighted["accuracy.Smiling"][0] == 0.5
    assert weighted["balanced_accuracy.Smiling"][0] == 0.5
    assert weighted["average_precision.Smiling"][0] == pytest.approx(2 / 3)
    assert weighted["majority_accuracy.Smiling"][0] == 0.5


def test_average_precision_of_ties_and_of_ignorance() -> None:
    """Equal probabilities share a place, in whatever order the photos come; as scikit-learn's."""
    present = np.array([True, False, True, False])
    one = np.ones((1, 4))
    tied = AttributeRanking.of(np.array([0.5, 0.5, 0.5, 0.5]), present)
    assert tied.figure(one)[0] == 0.5
    half_tied = AttributeRanking.of(np.array([0.2, 0.9, 0.9, 0.1]), present)
    assert half_tied.figure(one)[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(half_tied.figure(np.array([[0.0, 1, 0, 1]]))[0])
    random = np.random.default_rng(0)
    scores, present = random.integers(0, 9, 30).astype(float), random.random(30) < 0.4
    ranking, weights = AttributeRanking.of(scores, present), random.integers(0, 3, (5, 30))
    for row, found in zip(weights, ranking.figure(weights.astype(float)), strict=True):
        again = AttributeRanking.of(np.repeat(scores, row), np.repeat(present, row))
        assert found == pytest.approx(again.figure(np.ones((1, row.sum())))[0])


def test_a_model_that_answers_none_of_the_attributes_is_told(tmp_path: Path) -> None:
    table = written(tmp_path / "x.csv", "file,Smiling\na.jpg,1\n")
    _, attributes = attribute_photos(table, place(tmp_path, "a.jpg"), where={})
    with pytest.raises(CdvisionError, match="answers none of Smiling"):
        AttributeScoring(attributes).scorer([0], [{"Bald": AttributeVerdict(0.5, True)}])


def test_a_csv_without_attributes_is_refused(tmp_path: Path) -> None:
    table = written(tmp_path / "x.csv", "file,split\na.jpg,val\n")
    with pytest.raises(CdvisionError, match="expected columns of 0 and 1"):
        attribute_photos(table, place(tmp_path, "a.jpg"), where={})
