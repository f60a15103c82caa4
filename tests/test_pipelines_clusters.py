"""Tables of streams in, tables of results out: alone, on a local Ray, on a local Spark."""

from __future__ import annotations

import importlib.metadata
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.errors import CdvisionError
from cdvision.pipelines.batches import PhotoEncoder, StreamPredictor
from cdvision.pipelines.schema import arrow_schema, spark_schema, table_columns
from cdvision.pipelines.spark import _predictor, spark_predictor

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")

REPOSITORY = Path(__file__).parent.parent


def installed(distribution: str) -> bool:
    """Tell whether all of it is there: a folder may be left of an install that was stopped."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def columns(model: cdvision.Model) -> dict[str, list[Any]]:
    """Three streams: good, damaged, none."""
    picture = np.random.default_rng(2).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    bits = model.encode(picture, 3, size=96)
    return {"key": ["good", "damaged", "none"], "stream": [bits, bits[:-3], None]}


@pytest.fixture(scope="module")
def predictor() -> StreamPredictor:
    return StreamPredictor(tasks=["detect", "classify"], top=2, confidence=0.0)


def test_rows_in_rows_out_in_one_schema_whatever_the_batch_is(
    predictor: StreamPredictor, columns: dict[str, list[Any]], model: cdvision.Model
) -> None:
    typed = {"key": pa.array(columns["key"]), "stream": pa.array(columns["stream"], pa.binary())}
    tables = [predictor(batch) for batch in (pa.table(typed), pd.DataFrame(columns), columns)]
    assert all(table.schema.equals(arrow_schema()) for table in tables)
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    rows = tables[0].to_pylist()
    assert [row["key"] for row in rows] == columns["key"]
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert rows[1]["boxes"] is None
    assert "expected the bytes of a file, found no value" in rows[2]["error"]
    expected = model.detect(columns["stream"][0], confidence=0.0)
    assert len(rows[0]["boxes"]) == len(expected) > 0
    assert [label["class_name"] for label in rows[0]["classes"]] == list(
        model.classify(columns["stream"][0], top=2).class_name
    )


def test_an_empty_batch_has_the_schema_too(predictor: StreamPredictor) -> None:
    empty = predictor(pa.table({"key": pa.array([], "string"), "stream": pa.array([], "binary")}))
    assert empty.num_rows == 0
    assert empty.schema.equals(arrow_schema())


def test_a_missing_column_is_named(predictor: StreamPredictor) -> None:
    with pytest.raises(CdvisionError, match="expected a column 'stream', found: key, bits"):
        predictor({"key": ["a"], "bits": [b""]})


def test_photos_become_streams_and_a_bad_one_an_error(photos: list[Path]) -> None:
    encoder = PhotoEncoder(quality=2, size=96)
    table = encoder({"path": ["a.jpg", "b.jpg"], "bytes": [photos[0].read_bytes(), b"no photo"]})
    good, bad = table.to_pylist()
    assert cdvision.inspect(good["stream"]).quality == 2
    assert good["photo_bytes"] == photos[0].stat().st_size
    assert good["error"] is None
    assert bad["stream"] is None
    assert bad["error"]
    assert encoder({"path": [], "bytes": []}).schema.equals(table.schema)


def test_spark_is_told_what_arrow_is_told() -> None:
    assert spark_schema() == (
        "key string, index bigint, bytes bigint, width int, height int, "
        "boxes array<struct<left: float, top: float, right: float, bottom: float, "
        "confidence: float, class_id: int, class_name: string, mask: string>>, "
        "classes array<struct<class_id: int, class_name: string, probability: float>>, "
        "attributes array<struct<name: string, probability: float, present: boolean>>, "
        "error string"
    )
    assert arrow_schema().names == list(table_columns())
    boxes, attributes = (arrow_schema().field(name).type for name in ("boxes", "attributes"))
    named = [("class_id", pa.int32()), ("class_name", pa.string()), ("mask", pa.string())]
    sides = [(side, pa.float32()) for side in ("left", "top", "right", "bottom", "confidence")]
    assert boxes == pa.list_(pa.struct([*sides, *named]))
    assert attributes.value_type.field("present").type == pa.bool_()


def test_the_spark_function_answers_frame_by_frame_with_one_model(
    columns: dict[str, list[Any]],
) -> None:
    predict = spark_predictor(tasks=["classify"], top=1)
    frame = pd.DataFrame(columns)
    answers = list(predict(iter([frame, frame.iloc[:1], frame.iloc[:0]])))
    assert [len(answer) for answer in answers] == [3, 1, 0]
    assert all(list(answer.columns) == list(table_columns()) for answer in answers)
    assert answers[0]["classes"][0][0]["class_name"] == answers[1]["classes"][0][0]["class_name"]
    assert answers[0]["width"][0] == 96
    assert _predictor.cache_info().currsize == 1
    list(spark_predictor(top=1, tasks=("classify",))(iter([frame])))
    assert _predictor.cache_info().currsize == 1
    _predictor.cache_clear()


def test_on_ray_every_row_is_once_in_the_result_though_a_worker_is_killed() -> None:
    if not installed("ray"):
        pytest.skip("needs ray")
    script = REPOSITORY / "examples" / "ray_folder.py"
    command = [sys.executable, script, "--rows", "40", "--size", "96"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "killed worker" in done.stdout
    assert "40 streams in, 40 rows out" in done.stdout
    assert "every row exactly once: True" in done.stdout


def test_on_spark_rows_are_those_of_the_predictor(
    columns: dict[str, list[Any]], predictor: StreamPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed("pyspark") or shutil.which("java") is None:
        pytest.skip("needs pyspark and Java")
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .getOrCreate()
    )
    try:
        rows = [
            (key, None if bits is None else bytearray(bits))
            for key, bits in zip(columns["key"], columns["stream"], strict=True)
        ]
        frame = session.createDataFrame(rows, "key string, stream binary")
        function = spark_predictor(tasks=("detect", "classify"), top=2, confidence=0.0)
        found = frame.mapInPandas(function, spark_schema()).collect()
    finally:
        session.stop()
    expected = predictor(columns).to_pylist()
    assert [row.asDict(recursive=True) for row in found] == expected


def test_the_function_for_spark_travels_without_a_model() -> None:
    if not installed("ray"):
        pytest.skip("needs the cloudpickle inside Ray")
    from ray import cloudpickle

    assert len(cloudpickle.dumps(spark_predictor(tasks=["detect"]))) < 5_000
    assert pickle.loads(cloudpickle.dumps(spark_predictor(top=3)))  # noqa: S301 - our own
