"""Options out of range are refused at once, in Python, on the command line and in pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError
from cdvision.numbers import check_number
from cdvision.training.checked_options import Range

NAN, INF = float("nan"), float("inf")
WRONG = [
    ("confidence", 30), ("confidence", -0.1), ("confidence", NAN), ("confidence", INF),
    ("confidence", "0.3"), ("confidence", True), ("confidence", None),
    ("confidence", np.float32("nan")), ("iou", 1.5), ("iou", NAN), ("max_detections", 0),
    ("max_detections", 2.5), ("max_detections", INF), ("class_agnostic", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def bits(model: cdvision.Model) -> bytes:
    return model.encode(np.zeros((64, 96, 3), np.uint8), 1)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_questions_refuse_options_out_of_range(
    model: cdvision.Model, bits: bytes, name: str, value: Any
) -> None:
    for ask in (cdvision.detect, cdvision.segment, model.detect):
        with pytest.raises(CdvisionError, match=f"{name}: expected"):
            ask(bits, **{name: value})
    # In the call, before a stream is read: not each stream's fault.
    with pytest.raises(CdvisionError, match=f"{name}: expected"):
        model.analyze([], **{name: value})


@pytest.mark.parametrize("top", [0, -1, 2.5, NAN, INF, "5", True])
def test_top_is_a_whole_number(model: cdvision.Model, bits: bytes, top: Any) -> None:
    with pytest.raises(CdvisionError, match="top: expected"):
        cdvision.classify(bits, top=top)
    with pytest.raises(CdvisionError, match="top: expected"):
        model.analyze([bits], tasks="classify", top=top)
    assert len(cdvision.classify(bits, top=np.int64(2))) == 2


@pytest.mark.parametrize("quality", [0, 9, NAN, INF, 4.0, True, "4"])
def test_qualities_out_of_range(model: cdvision.Model, quality: Any) -> None:
    with pytest.raises(CdvisionError, match="quality: expected 1 to 8, found"):
        model.encode("/no/such/photo", quality)  # refused before the photo is looked for


@pytest.mark.parametrize("size", [0, -32, 33, 1e9, NAN, INF, 416.0, True, "416"])
def test_sizes_out_of_range(model: cdvision.Model, size: Any) -> None:
    with pytest.raises(CdvisionError, match="size: expected a multiple of 32 up to"):
        model.encode("/no/such/photo", size=size)


@pytest.mark.parametrize("name", ["batch_size", "workers"])
@pytest.mark.parametrize("value", [0, 1.5, NAN, INF, True])
def test_numbers_of_an_analysis(model: cdvision.Model, name: str, value: Any) -> None:
    with pytest.raises(CdvisionError, match=f"{name}: expected"):
        model.analyze([], **{name: value})


@pytest.mark.parametrize("threads", [0, -1, 1.5, NAN, True])
def test_threads_of_a_model(threads: Any) -> None:
    with pytest.raises(CdvisionError, match="threads: expected"):
        cdvision.load("small", threads=threads)


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "--confidence", "nan"),
        ("detect", "--confidence", "inf"),
        ("detect", "--confidence", "30"),
        ("classify", "--top", "0"),
        ("analyze", "--confidence", "nan"),
        ("bench", "analyze", "--photos", ".", "--quality", "9"),
    ],
)
def test_the_command_line_refuses_before_it_reads(arguments: tuple[str, ...]) -> None:
    command = [*arguments, *(["nothing.cdv"] if arguments[0] != "bench" else [])]
    done = CliRunner().invoke(command_line, command)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert arguments[-2] in line
    assert "nothing.cdv" not in line


def test_one_task_may_be_a_string(model: cdvision.Model, bits: bytes) -> None:
    assert cdvision.encode(np.zeros((64, 96, 3), np.uint8), 1, tasks="detect") == model.encode(
        np.zeros((64, 96, 3), np.uint8), 1, tasks=["detect"]
    )
    (result,) = model.analyze([bits], tasks="classify")
    assert list(result.answers) == ["classification"]
    with pytest.raises(CdvisionError, match="cannot fly"):
        model.analyze([bits], tasks="fly")
    with pytest.raises(CdvisionError, match="expected at least one"):
        model.encode(np.zeros((64, 96, 3), np.uint8), tasks="")


def test_messages_say_the_kind_where_the_limits_do_not() -> None:
    for value, told in ((0, "top: expected at least 1, found 0"),
                        (2.5, "top: expected a whole number, at least 1, found 2.5")):  # fmt: skip
        with pytest.raises(CdvisionError) as caught:
            check_number("top", value, 1, None, whole=True)
        assert str(caught.value) == told
    check_number("share", np.float32(0.5), 0, 1)
    assert INF not in Range(0)
    assert NAN not in Range(0)


def test_a_threshold_of_results_is_checked_too(model: cdvision.Model, bits: bytes) -> None:
    with pytest.raises(CdvisionError, match="confidence: expected a number, found nan"):
        model.detect(bits).above(NAN)


def three_classes_on_one_van() -> dict[str, Any]:
    """Dense outputs of one cell in which three classes are sure of the same box."""
    from cdvision.heads.distribution_boxes import cell_grid

    cells = len(cell_grid(64, 64))
    scores = np.zeros((cells, 3), np.float32)
    scores[3] = 0.9, 0.8, 0.7
    return {
        "scores": scores,
        "distances": np.zeros((cells, 32), np.float32),
        "input_size": (64, 64),
        "content_size": (64, 64),
        "source_size": (64, 64),
        "class_names": ["car", "truck", "bus"],
    }


def test_boxes_of_all_classes_compete_where_that_is_asked() -> None:
    from cdvision.heads.dense_detection import detect_from_dense

    dense = three_classes_on_one_van()
    assert detect_from_dense(**dense).class_name.tolist() == ["car", "truck", "bus"]
    alone = detect_from_dense(**dense, class_agnostic=True)
    assert alone.class_name.tolist() == ["car"]
    assert alone.confidence.tolist() == [np.float32(0.9)]


def test_regions_of_all_classes_compete_where_that_is_asked() -> None:
    from cdvision.heads.two_stage.box_selection import BoxLimits, select_boxes
    from cdvision.heads.two_stage.config import TwoStageConfig

    class Config:
        box_weights = TwoStageConfig.__dataclass_fields__["box_weights"].default

    if not isinstance(Config.box_weights, tuple):
        Config.box_weights = (10.0, 10.0, 5.0, 5.0)
    regions = np.array([[8, 8, 40, 40]], np.float32)
    logits = np.array([[0, 3, 2.9, 2.8]], np.float32)
    deltas = np.zeros((1, 16), np.float32)
    for agnostic, expected in ((False, [0, 1, 2]), (True, [0])):
        limits = BoxLimits(0.05, 0.5, 10, agnostic)
        found = select_boxes(logits, deltas, regions, Config, (64, 64), limits)  # type: ignore[arg-type]
        assert found.class_ids.tolist() == expected


@pytest.mark.parametrize(
    "options",
    [("--size", "100"), ("--model", "hsc", "--task", "detect")],
)
def test_options_of_encode_are_refused_once_and_not_for_each_image(
    options: tuple[str, ...], photos: list[Path]
) -> None:
    done = CliRunner().invoke(command_line, ["encode", *map(str, photos), *options, "-o", "-/"])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
