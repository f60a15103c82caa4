"""A family that the product does not know works everywhere once it is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from toy_family import LightnessScoring, registered, write_toy

import cdvision
from cdvision.cli import command_line
from cdvision.errors import BitstreamError, CdvisionError, UnsupportedTask
from cdvision.stream import truncate_stream

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with registered():
        yield write_toy(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="module")
def model(toy: Path) -> cdvision.Model:
    return cdvision.load(toy)


@pytest.fixture(scope="module")
def photo_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{name}.png" for name in ("dark", "grey", "bright")]
    for path, level in zip(paths, (16, 104, 208), strict=True):
        Image.fromarray(picture(level)).save(path)
    return paths


def picture(level: int) -> NDArray[np.uint8]:
    """Draw 64 x 64 pixels, the upper half darker than ``level`` by 8, the lower lighter."""
    pixels = np.full((64, 64, 3), level, np.uint8)
    pixels[:32] -= 8
    pixels[32:] += 8
    return pixels


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command_line, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize("level", [16, 104, 208])
def test_round_trip(model: cdvision.Model, level: int) -> None:
    stream = model.open(model.encode(picture(level), 4))
    latents = stream.latents()
    assert list(latents) == ["mean", "grid"]
    assert (latents["mean"] == level // 8).all()
    assert (latents["grid"][:, :2] == -1).all()
    assert (latents["grid"][:, 2:] == 1).all()
    found = stream.ask("lightness")
    assert (found.level, found.sure) == (pytest.approx(level), True)
    assert stream.ask("lightness", gain=2.0).level == pytest.approx(2 * level)


def test_truncation(model: cdvision.Model) -> None:
    bits = model.encode(picture(104), 4)
    first = model.open(truncate_stream(bits, 1))
    assert list(first.latents()) == ["mean"]
    assert not first.complete
    assert not first.ask("lightness").sure
    for length in range(len(bits)):
        try:
            model.open(bits[:length]).ask("lightness")
        except BitstreamError:
            continue
        assert length >= len(truncate_stream(bits, 1))


def test_wrong_questions_are_refused(model: cdvision.Model) -> None:
    stream = model.open(model.encode(picture(104), 4))
    with pytest.raises(CdvisionError, match="gain: expected 0 to 10, found 11"):
        stream.ask("lightness", gain=11)
    with pytest.raises(UnsupportedTask, match="'toy' cannot detect: it can lightness"):
        stream.detect()
    with pytest.raises(UnsupportedTask, match="no task 'darkness'"):
        stream.ask("darkness")


def test_analyze(model: cdvision.Model) -> None:
    streams = [model.encode(picture(level), 4) for level in (16, 208)]
    found = list(model.analyze([*streams, b"?"], ["lightness"], gain=2.0))
    assert [round(one.answers["lightness"].level) for one in found[:2]] == [32, 416]
    assert isinstance(found[2].error, BitstreamError)


def test_the_command_line(toy: Path, photo_files: list[Path], tmp_path: Path) -> None:
    streams = tmp_path / "streams"
    names = [str(path) for path in photo_files]
    assert invoke("encode", *names, "-o", f"{streams}/", "--model", str(toy)).exit_code == 0
    lines = invoke("lightness", str(streams), "--model", str(toy), "--json").stdout.splitlines()
    levels = [json.loads(line)["lightness"][0]["level"] for line in lines]
    assert levels == [208, 16, 104]  # by name: bright, dark, grey
    said = invoke("lightness", str(streams / "dark.cdv"), "--model", str(toy), "--gain", "2")
    assert "lightness 32.0" in said.stdout
    assert invoke("lightness", str(streams), "--model", str(toy), "--gain", "99").exit_code == 2
    assert "lightness" in invoke("--help").stdout


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_tables(toy: Path, photo_files: list[Path], tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow")
    streams, out = tmp_path / "streams", tmp_path / f"out{suffix}"
    invoke("encode", *map(str, photo_files), "-o", f"{streams}/", "--model", str(toy))
    command = ["analyze", str(streams), "--task", "lightness", "--model", str(toy)]
    assert invoke(*command, "--to", str(out)).exit_code == 0
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
        assert [row["lightness"][0]["level"] for row in rows] == [208, 16, 104]
        assert [row["boxes"] for row in rows] == [None] * 3
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["lightness"][0]["level"] for row in rows] == [208, 16, 104]
    else:
        kinds = [line.split(",")[2] for line in out.read_text().splitlines()]
        assert kinds == ["kind", "lightness", "lightness", "lightness"]


def test_the_service(toy: Path, model: cdvision.Model) -> None:
    testing = pytest.importorskip("fastapi.testclient")
    from cdvision.serving.app import create_app
    from cdvision.serving.settings import ServiceSettings

    with testing.TestClient(create_app(ServiceSettings(models=(str(toy),)))) as client:
        bits = model.encode(picture(104), 4)
        for _ in range(200):
            if client.get("/health/ready").status_code == 200:
                break
        answer = client.post("/v1/lightness?gain=2", content=bits)
        assert answer.json()["lightness"][0]["level"] == 208
        assert client.post("/v1/lightness?gain=11", content=bits).status_code == 422
        (served,) = client.get("/v1/models").json()["models"]
        assert served["tasks"] == ["lightness"]
        assert "/v1/lightness" in client.get("/openapi.json").json()["paths"]


def test_eval(toy: Path, photo_files: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    lines = [
        f"{path.name},{level}" for path, level in zip(photo_files, (16, 100, 208), strict=True)
    ]
    table.write_text("\n".join(["file,lightness", *lines]) + "\n")
    out = tmp_path / "records.json"
    command = [
        "eval", "--table", str(table), "--task", "lightness", "--images",
        str(photo_files[0].parent), "--model", str(toy), "-q", "1,4", "--no-cache", "-o", str(out),
    ]  # fmt: skip
    said = invoke(*command)
    assert said.exit_code == 0, said.output
    records = json.loads(out.read_text())
    assert [record["task"] for record in records] == ["lightness"] * 2
    assert [record["error"] for record in records] == pytest.approx([4 / 3] * 2)
    assert LightnessScoring.task == "lightness"


def test_export(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    said = invoke("export", str(toy), "--to", "onnx", str(tmp_path / "out"))
    assert said.exit_code == 0, said.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {graph["graph"] for graph in report["graphs"]} == {
        "encoder", "tap.lightness", "answer.lightness",
    }  # fmt: skip


def test_no_product_file_knows_it() -> None:
    for top in ("cdvision", "heads", "export"):
        for path in (REPOSITORY / top).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "lightness" not in text, path
