"""`cdvision eval`, from photos to files, and any task through a made-up answerer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cdvision
from cdvision.cli import command_line
from cdvision.errors import CdvisionError
from cdvision.evaluation.accuracy import measure_accuracy
from cdvision.evaluation.attribute_scoring import AttributeScoring, AttributeTable
from cdvision.evaluation.coco_ap import CocoScoring
from cdvision.evaluation.coco_labels import read_coco_labels
from cdvision.evaluation.curve import LabelledSet
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.evaluation.layers import LayerSender
from cdvision.evaluation.records import format_attributes
from cdvision.results import Detections
from cdvision.results.masks import decode_mask, encode_mask
from cdvision.stream import Layer, read_stream, write_stream

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
NAMES = ("cat", "noise", "waves", "grey")
Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a cat and three drawn photos, with labels in every format."""
    folder = tmp_path_factory.mktemp("data")
    rows, columns = np.mgrid[:128, :192] / 16.0
    waves = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=-1)
    drawn = {
        "noise": np.random.default_rng(0).integers(0, 256, (128, 192, 3)),
        "waves": 127 * (1 + waves),
        "grey": np.full((128, 192, 3), 128),
    }
    with Image.open(PHOTOS / "cat.jpg") as photo:
        pictures = {"cat": photo.resize((240, 160))}
    pictures |= {name: Image.fromarray(array.astype(np.uint8)) for name, array in drawn.items()}
    for name, picture in pictures.items():
        for place in ("photos", "classes/tabby"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            picture.save(folder / place / f"{name}.png")
    images = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(NAMES)]
    box = {"image_id": 0, "category_id": 5, "bbox": [0, 0, 238, 160]}
    bird = {"image_id": 3, "category_id": 6, "bbox": [0, 0, 30, 30], "ignore": 1}
    labels = {
        "images": images,
        "annotations": [box, bird],
        "categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "bird"}],
    }
    (folder / "labels.json").write_text(json.dumps(labels))
    lines = ["cat.png,tiger cat,a,1", "noise.png,0,a,0", "waves.png,0,b,0", "grey.png,0,a,1"]
    table = "\n".join(["file,class,part,Furry", *lines])
    (folder / "classes.csv").write_text(table + "\n")
    return folder


@pytest.fixture
def invoke(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run `cdvision eval` on these photos in an empty folder, without the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*arguments: str | Path) -> Result:
        texts = [str(part).replace("DATA", str(folder)) for part in arguments]
        return CliRunner().invoke(command_line, ["eval", *texts])

    return call


def line_of(result: Result) -> str:
    """Return the one line of a command that was refused."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


COCO = ("--coco", "DATA/labels.json", "--images", "DATA/photos")


def test_detection_from_photos_to_files(invoke: Invoke) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("matplotlib")
    result = invoke(*COCO, "-q", "6,8", "--resamples", "30", "-o", "out/x.json", "--plot", "x.svg")
    assert result.exit_code == 0, result.output
    low, high = records = json.loads(Path("out/x.json").read_text())
    assert [(r["codec"], r["quality"], r["task"]) for r in records] == [
        ("cdvision small", 6, "detect"),
        ("cdvision small", 8, "detect"),
    ]
    for found in records:
        assert (found["data"], found["photos"], found["resamples"]) == ("labels.json", 4, 30)
        assert found["ap50"] == 0.5, "the cat is found; for COCO, the ignored bird is missed"
        assert 0.25 < found["ap"] <= 0.5
        assert found["ap_low"] <= found["ap"] <= found["ap_high"]
    assert low["mean_bytes"] < high["mean_bytes"]
    rows = list(csv.DictReader(io.StringIO(Path("out/x.csv").read_text())))
    assert [float(row["ap"]) for row in rows] == [low["ap"], high["ap"]]
    assert Path("x.svg").read_text().startswith("<?xml")
    assert "| cdvision small | 8 " in result.stdout


def test_bytes_are_those_of_the_streams(invoke: Invoke, folder: Path) -> None:
    pytest.importorskip("pycocotools")
    result = invoke(*COCO, "-q", "3", "--size", "160", "--resamples", "0", "-o", "x.json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(Path("x.json").read_text())
    photos = [folder / "photos" / f"{name}.png" for name in NAMES]
    wanted = [len(cdvision.encode(photo, quality=3, size=160)) for photo in photos]
    assert found["mean_bytes"] == np.mean(wanted)
    assert found["size"] == 160
    assert "ap_low" not in found


def test_voc_protocol_ignores_the_difficult_bird(invoke: Invoke) -> None:
    arguments = ("--images", "DATA/photos", "-q", "8", "--resamples", "0", "-o", "x.json")
    result = invoke("--voc", "DATA/labels.json", *arguments)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(Path("x.json").read_text())
    assert found["ap50"] == 1.0
    assert "ap" not in found


def test_classification_from_a_table_and_from_folders(invoke: Invoke) -> None:
    options = ("-q", "8", "--resamples", "0", "-o", "x.json")
    table = ("--classes", "DATA/classes.csv", "--images", "DATA/photos", "--where", "part=a")
    result = invoke(*table, *options)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(Path("x.json").read_text())
    assert (found["photos"], found["data"]) == (3, "classes.csv part=a")
    assert found["top5"] == pytest.approx(1 / 3), "a cat, and two photos that are no tench"
    result = invoke("--folder", "DATA/classes", "--limit", "1", *options)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(Path("x.json").read_text())
    assert (found["task"], found["photos"], found["top5"]) == ("classify", 1, 1.0)


def test_layers_are_cut_from_streams_that_are_encoded_once() -> None:
    encoded: list[bytes] = []

    def encode(image: bytes) -> bytes:
        encoded.append(image)
        layers = [Layer(0, image), Layer(1, b"1" * 20)]
        size = dict.fromkeys(("width", "height", "input_width", "input_height"), 128)
        return write_stream(
            codec=3, fingerprint=b"face", quality=1, layers=layers, compact=True, **size
        )

    sender = LayerSender(encode)
    sent = [[sender.send(face, layers=count) for count in (2, 1)] for face in (b"a", b"bb")]
    assert encoded == [b"a", b"bb"]
    assert {len(whole) - len(cut) for whole, cut in sent} == {len(sent[0][0]) - len(sent[0][1])}
    assert len(sent[0][0]) >= len(sent[0][1]) + 20
    assert [len(cut) for _, cut in sent] == [len(sent[0][1]), len(sent[0][1]) + 1]
    assert [layer.body for layer in read_stream(sent[1][1]).layers] == [b"bb"]
    assert sender.send(b"a") == sent[0][0]
    with pytest.raises(CdvisionError, match="cannot keep 3 layers: this stream holds 2"):
        sender.send(b"a", layers=3)


def test_layers_are_named_in_the_records(invoke: Invoke) -> None:
    table = ("--classes", "DATA/classes.csv", "--images", "DATA/photos", "--limit", "1")
    options = ("-q", "2", "--resamples", "0", "-o", "x.json", "--no-cache")
    whole, cut = (invoke(*table, *options, *more) for more in ((), ("--layers", "1")))
    assert "| cdvision small, 1 layer | 2 " in cut.stdout
    cells = [result.stdout.split("|") for result in (whole, cut)]
    assert int(cells[0][-5]) > 2 * int(cells[1][-5]), "bytes"
    assert cells[0][-4:] == cells[1][-4:], "classes are told by the first layer"
    assert json.loads(Path("x.json").read_text())[0]["layers"] == 1
    assert "cannot keep 3 layers" in line_of(invoke(*table, *options, "--layers", "3"))


def test_answers_are_kept_between_runs(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools")
    encoded: list[int] = []
    encode = cdvision.Model.encode

    def counted(self: Any, image: Any, quality: Any = None, **options: Any) -> bytes:
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(quality)
        return encode(self, image, quality, **options)

    monkeypatch.setattr(cdvision.Model, "encode", counted)
    arguments = (*COCO, "-q", "2", "--resamples", "0", "-o", "x.json")
    assert invoke(*arguments).exit_code == 130
    encoded[:] = [0, 0]
    assert invoke(*arguments).exit_code == 0
    assert encoded == [0, 0, 2], "one photo of four was left"
    first = Path("x.json").read_text()
    encoded[:] = [0, 0, 0]
    assert invoke(*arguments).exit_code == 0
    assert Path("x.json").read_text() == first
    assert invoke(*arguments, "--no-cache").exit_code == 130
    assert len(list((tmp_path / "cache").rglob("*.jsonl"))) == 1
    assert invoke(*arguments, "--cache", "elsewhere").exit_code == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected exactly one of --coco, --voc, --classes, --folder, --attributes, --table."),
        ([*COCO, "--folder", "DATA/classes"], "Expected exactly one of"),
        (["--coco", "DATA/labels.json"], "Expected --images"),
        (["--folder", "DATA/classes", "--images", "DATA/photos"], "Expected --images"),
        ([*COCO, "--where", "a=b"], "--where chooses rows"),
        ([*COCO, "--label", "class"], "--label names a column of --classes"),
        ([*COCO, "-q", "1,x"], "expected qualities such as 1-8 or 1,4,8, found '1,x'"),
        ([*COCO, "-q", "8-1"], "expected qualities such as 1-8"),
        ([*COCO, "--layers", "1,x"], "expected layers such as 1-8 or 1,4,8, found '1,x'"),
        ([*COCO, "-q", "9"], "--quality: this model has 1 to 8, found 9."),
        ([*COCO, "-o", "x.csv"], "-o: expected a name that ends with .json."),
        ([*COCO, "--plot", "x.png"], "--plot: expected a name that ends with .svg."),
        (
            ["--voc", "DATA/labels.json", "--images", "DATA/photos", "--iou-type", "segm"],
            "--iou-type segm needs --coco",
        ),
        (
            ["--classes", "DATA/classes.csv", "--images", "DATA/photos", "--where", "part"],
            "--where: expected COLUMN=VALUE.",
        ),
    ],
)
def test_options_that_do_not_go_together(
    invoke: Invoke, arguments: list[str], message: str
) -> None:
    assert message in line_of(invoke(*arguments))


def test_labels_are_never_overwritten(invoke: Invoke, folder: Path) -> None:
    before = (folder / "labels.json").read_text()
    assert "inputs are never overwritten" in line_of(invoke(*COCO, "-o", "DATA/labels.json"))
    table = ("--classes", "DATA/classes.csv", "--images", "DATA/photos")
    assert "inputs are never overwritten" in line_of(invoke(*table, "-o", "DATA/classes.json"))
    assert (folder / "labels.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (["--attributes", "DATA/classes.csv", "--images", "DATA/photos"], "attributes"),
    ],
)
def test_a_task_that_the_model_lacks_is_one_line(
    invoke: Invoke, arguments: list[str], task: str
) -> None:
    line = line_of(invoke(*arguments))
    assert line == f"cdvision: model 'small' cannot {task}: it can detect, segment, classify"


# --- tasks that no model answers yet: the way from answers to figures


def test_masks_are_measured_from_any_detections(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    mask = np.zeros((160, 240), bool)
    mask[20:140, 30:200] = True
    rle = encode_mask(mask)
    content = json.loads((folder / "labels.json").read_text())
    segmentation = {**rle, "counts": rle["counts"].decode()}
    content["annotations"] = [{**content["annotations"][0], "segmentation": segmentation}]
    content["images"] = [{**entry, "width": 240, "height": 160} for entry in content["images"]]
    (tmp_path / "masks.json").write_text(json.dumps(content))
    labels = read_coco_labels(tmp_path / "masks.json")
    photos = [LabelledPhoto(f"{n}.png", name.encode(), n) for n, name in enumerate(NAMES)]

    def segment(shift: int) -> Callable[[bytes, bytes], Detections]:
        def answer(sent: bytes, photo: bytes) -> Detections:
            if sent != b"cat":
                return Detections.empty((240, 160))
            return Detections(
                xyxy=np.array([[0, 0, 238, 160]], np.float32),
                confidence=np.array([0.9], np.float32),
                class_id=np.array([15]),
                class_name=np.array(["cat"]),
                image_size=(240, 160),
                mask=(encode_mask(np.roll(decode_mask(rle), shift, axis=1)),),
            )

        return answer

    data = LabelledSet(photos, given_scoring=CocoScoring(labels, "segm"), resamples=20)
    assert data.task == "segment"
    exact, shifted = (
        data.measure(lambda image: image, segment(shift), "masks") for shift in (0, 30)
    )
    assert exact["ap"] == pytest.approx(1.0)
    assert 0.3 < shifted["ap"] < 0.6, "the overlap is 140/200"
    assert shifted["ap50"] == pytest.approx(1.0)
    assert exact["task"] == "segment"


def test_attributes_are_measured_from_any_probabilities() -> None:
    present = np.array([[True], [False], [True], [False]])
    table = AttributeTable(Path("x.csv"), ("Smiling",), present)
    photos = [LabelledPhoto(str(n), bytes([n]), n) for n in range(4)]

    def answer(photo: bytes) -> tuple[Any, int]:
        smile = photo[0] < 1
        said = SimpleNamespace(name=["Smiling"], probability=[0.9 * smile], present=[smile])
        return said, 50

    found = measure_accuracy(photos, AttributeScoring(table), answer, resamples=40)
    assert (found["task"], found["mean_bytes"]) == ("attributes", 50.0)
    assert found["accuracy"] == found["balanced_accuracy"] == 0.75
    assert found["accuracy_low"] < 0.75 < found["accuracy_high"]
    assert found["accuracy.Smiling"] == 0.75
    assert found["majority_accuracy"] == 0.5
    assert "| Smiling | 0.750 (" in format_attributes(found)
    assert format_attributes(found).startswith("| attribute | accuracy | balanced accuracy | AP | ")
