"""Streams out of folders, tars and tables; results into files that appear whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.analysis import AnalysisResult
from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError
from cdvision.pipelines.sinks import Sink, Written, supervision_detections, write_results
from cdvision.pipelines.sources import read_source, read_sources
from cdvision.results import Classification, Detections
from cdvision.tasks import TASKS, Column, Task, register_task

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def bits(model: cdvision.Model) -> bytes:
    rows, columns = np.mgrid[0:64, 0:96]
    return model.encode(np.stack([rows, columns, rows + columns], -1).astype(np.uint8), 2, size=96)


def found(count: int) -> Detections:
    return Detections(
        xyxy=np.array([[1, 2, 30.5, 40]] * count, np.float32).reshape(-1, 4),
        confidence=np.full(count, 0.5, np.float32),
        class_id=np.full(count, 16, np.int64),
        class_name=np.array(["dog"] * count, np.str_),
        image_size=(64, 48),
    )


TOP = Classification(np.array([285]), np.array(["Egyptian cat"]), np.array([0.75], np.float32))


@pytest.fixture
def results() -> list[AnalysisResult]:
    """Two boxes and a class; nothing found; an error."""
    return [
        AnalysisResult(
            0,
            {"detections": found(2), "classification": TOP},
            key="a/000000000139.cdv",
            image_size=(64, 48),
            size=9,
        ),
        AnalysisResult(1, {"detections": found(0)}, key="b/photo.cdv", image_size=(64, 48), size=8),
        AnalysisResult(2, error=CdvisionError("cut off"), key="c.cdv", size=7),
    ]


def test_a_folder_is_read_to_the_bottom_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.cdv", "a/x.cdv", "a/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "gone.cdv").symlink_to(tmp_path / "nowhere")
    *read, (key, error) = read_source(tmp_path)
    assert read == [("a/x.cdv", b"a/x.cdv"), ("b.cdv", b"b.cdv")]
    assert (key, "gone.cdv cannot be read: No such file" in str(error)) == ("gone.cdv", True)
    globbed = list(read_source(f"{tmp_path}/*/*.cdv"))
    assert globbed == [(f"{tmp_path}/a/x.cdv", b"a/x.cdv")]
    assert list(read_source(tmp_path / "b.cdv")) == [("b.cdv", b"b.cdv")]


def test_a_tar_is_read_member_by_member(tmp_path: Path) -> None:
    for name, mode in (("shard.tar", "w"), ("shard.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            for member in ("0001.cdv", "0001.json", "0002.cdv"):
                info = tarfile.TarInfo(member)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member.encode()))
        expected = [("0001.cdv", b"0001.cdv"), ("0002.cdv", b"0002.cdv")]
        assert list(read_source(tmp_path / name)) == expected
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "shard.tar.gz").read_bytes()[:60])
    with pytest.raises(CdvisionError, match=r"cut.tar.gz: expected a tar file"):
        list(read_source(tmp_path / "cut.tar.gz"))


def test_parquet_needs_a_binary_column(tmp_path: Path) -> None:
    path = tmp_path / "streams.parquet"
    pq.write_table(pa.table({"key": ["x", "y", None], "stream": [b"1", None, b"3"]}), path)
    first, second, third = read_source(path)
    assert first == ("x", b"1")
    assert third == ("2", b"3")
    assert second[0] == "y"
    assert str(second[1]) == "row 1: stream: expected the bytes of a file, found no value"
    with pytest.raises(CdvisionError, match="expected a column 'bits', found: key, stream"):
        list(read_source(path, column="bits"))
    path.write_bytes(b"no table")
    with pytest.raises(CdvisionError, match="expected a Parquet file"):
        list(read_source(path))


def test_places_without_streams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match=r"expected \.cdv streams, found none"):
        list(read_sources([tmp_path]))
    with pytest.raises(CdvisionError, match="no such file or folder"):
        list(read_sources([tmp_path / "none.cdv"]))


def test_json_lines_hold_what_was_asked_for(tmp_path: Path, results: list[AnalysisResult]) -> None:
    path = tmp_path / "new" / "out.jsonl"
    assert write_results(results, path) == Written(path, 3, 1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["detections"][0]["xyxy"] == [1, 2, 30.5, 40]
    assert lines[0]["classes"][0]["class_name"] == "Egyptian cat"
    assert lines[1]["detections"] == []
    assert "classes" not in lines[1]
    assert lines[2] == {"key": "c.cdv", "index": 2, "bytes": 7, "error": "cut off"}
    assert list(path.parent.iterdir()) == [path]


def test_csv_has_a_line_a_box_and_at_least_one_a_stream(
    tmp_path: Path, results: list[AnalysisResult]
) -> None:
    write_results(results, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["box", "box", "class", "nothing", "error"]
    assert [rows[0][side] for side in ("left", "right", "confidence")] == ["1.0", "30.5", "0.5"]
    assert rows[2]["confidence"] == "0.75"
    assert rows[4]["error"] == "cut off"


def test_parquet_has_one_schema_whatever_was_found(
    tmp_path: Path, results: list[AnalysisResult]
) -> None:
    some = {"all": results, "none": [], "error": results[2:], "classes": results[:1]}
    for name, chosen in some.items():
        write_results(chosen, tmp_path / f"{name}.parquet")
    tables = {name: pq.read_table(tmp_path / f"{name}.parquet") for name in some}
    assert len({str(table.schema) for table in tables.values()}) == 1
    assert tables["none"].num_rows == 0
    rows = tables["all"].to_pylist()
    assert [len(row["boxes"]) if row["boxes"] is not None else None for row in rows] == [2, 0, None]
    assert rows[0]["boxes"][0]["class_name"] == "dog"
    assert rows[0]["boxes"][0]["right"] == 30.5
    assert rows[0]["classes"][0]["probability"] == 0.75
    assert [row["error"] for row in rows] == [None, None, "cut off"]


def test_coco_json_is_what_pycocotools_loads(tmp_path: Path, results: list[AnalysisResult]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    write_results(results, tmp_path / "out.json")
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(139, 18)] * 2
    errors = (tmp_path / "out.json.errors.jsonl").read_text().splitlines()
    assert json.loads(errors[0])["error"] == "cut off"
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 139}], "annotations": [], "categories": [], "info": {}}
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "out.json")).anns) == 2


def test_a_number_that_came_before_costs_one_record_and_no_finished_run(
    tmp_path: Path, results: list[AnalysisResult]
) -> None:
    written = write_results([results[0], results[0], results[1]], tmp_path / "twice.json")
    assert (written.results, written.errors) == (3, 1)
    assert len(json.loads((tmp_path / "twice.json").read_text())) == 2
    (line,) = (tmp_path / "twice.json.errors.jsonl").read_text().splitlines()
    assert "image 139 came before" in json.loads(line)["error"]
    assert len(json.loads(line)["detections"]) == 2  # what was found is not lost


def test_supervision_gets_boxes_and_errors(results: list[AnalysisResult]) -> None:
    pytest.importorskip("supervision")
    converted = dict(supervision_detections(results))
    assert [len(boxes) for boxes in converted.values()] == [2, 0, 0]
    assert converted["c.cdv"].metadata["error"] == "cut off"
    with pytest.raises(CdvisionError, match="ask for 'segment' or 'detect'"):
        list(supervision_detections([AnalysisResult(0, {"classification": TOP})]))


class Words:
    """An answer that the product does not know: words, of which some are not there."""

    def to_dict(self) -> dict[str, Any]:
        return {"words": ["no", "exit"]}

    def to_rows(self) -> list[dict[str, Any]]:
        return [
            {"name": "no", "probability": 0.1, "present": False, "turned": 0},
            {"name": "exit", "probability": 0.123456, "present": True, "turned": 90},
        ]


@pytest.fixture
def words_task() -> Iterator[None]:
    """Two tasks with answers of their own, which share a column."""
    fields = {"name": "string", "probability": "float", "present": "boolean", "turned": "int"}
    for name in ("read", "spell"):
        column = Column("words", "word", fields)
        register_task(Task(name, "Read it.", "numpy:ndarray", f"{name}_words", (), column))
    yield
    del TASKS["read"], TASKS["spell"]


@pytest.mark.usefixtures("words_task")
def test_an_answer_of_a_registered_task_has_a_column(tmp_path: Path) -> None:
    answers = {"detections": found(1), "read_words": Words()}
    results = [AnalysisResult(0, answers), AnalysisResult(1, {**answers, "spell_words": Words()})]
    for suffix in (".csv", ".parquet", ".jsonl"):
        write_results(results, tmp_path / f"out{suffix}")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines == [
        "key,index,kind,class_id,class_name,confidence,left,top,right,bottom,turned,error",
        "0,0,box,16,dog,0.5,1.0,2.0,30.5,40.0,,",
        "0,0,word,,exit,0.1235,,,,,90,",
        "1,1,box,16,dog,0.5,1.0,2.0,30.5,40.0,,",
        "1,1,word,,exit,0.1235,,,,,90,",
        "1,1,word,,exit,0.1235,,,,,90,",
    ]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names[5:] == ["boxes", "classes", "attributes", "words", "error"]
    assert [len(row["words"]) for row in table.to_pylist()] == [2, 4]
    assert table.to_pylist()[0]["words"][1]["turned"] == 90
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["words"] == [
        "no",
        "exit",
    ]
    with pytest.raises(CdvisionError, match="ask for 'segment' or 'detect'"):
        write_results([AnalysisResult(0, {"read_words": Words()})], tmp_path / "out.json")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json"])
def test_a_file_appears_whole_or_not_at_all_and_no_result_is_lost(
    tmp_path: Path,
    results: list[AnalysisResult],
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("before")

    def breaks() -> Iterator[AnalysisResult]:
        yield from results
        raise RuntimeError("power cut")

    with pytest.raises(CdvisionError, match="exists; force"):
        write_results(results, path)
    with pytest.raises(RuntimeError, match="power cut"):
        write_results(breaks(), path, force=True)
    assert path.read_text() == "before"
    partial = tmp_path / f"out.partial{suffix}"
    assert f"3 results are in {partial}" in caplog.text
    assert not [name for name in tmp_path.iterdir() if ".part-" in name.name]
    assert write_results(results, path, force=True).errors == 1
    assert path.read_bytes() != b"before"
    if suffix != ".parquet":
        assert partial.read_bytes() == path.read_bytes()
    else:
        assert pq.read_table(partial) == pq.read_table(path)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match=r"expected a file for results, \.jsonl"):
        Sink(tmp_path / "out.xlsx")


def test_the_command_reads_a_folder_and_writes_a_table(tmp_path: Path, bits: bytes) -> None:
    for name, content in (("a.cdv", bits), ("b.cdv", b"no stream"), ("c.cdv", bits)):
        (tmp_path / name).write_bytes(content)
    target = tmp_path / "out" / "classes.parquet"
    arguments = ["analyze", str(tmp_path), "--to", str(target), "--task", "classify", "--top", "2"]
    done = CliRunner().invoke(command_line, arguments)
    assert done.exit_code == 2, done.output
    assert f"3 results, 1 errors: {target}" in done.stderr
    rows: list[dict[str, Any]] = pq.read_table(target).to_pylist()
    assert [row["key"] for row in rows] == ["a.cdv", "b.cdv", "c.cdv"]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert len(rows[0]["classes"]) == 2
    printed = CliRunner().invoke(command_line, ["analyze", str(tmp_path / "a.cdv")])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["key"] == "a.cdv"
