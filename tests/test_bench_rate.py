"""`cdvision bench rate`: the envelope, the log, the report, and one small run of the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cdvision
from cdvision.bench.rate import chosen_rivals
from cdvision.bench.rate_report import compare, envelope, write_report
from cdvision.bench.record_log import RecordLog
from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError
from cdvision.evaluation.rival_curve import RivalPath
from cdvision.evaluation.rivals import PillowRival
from cdvision.models.small.uncompressed import PublishedNetworks, write_graphs
from cdvision.tasks import WEAK_BOXES

OURS = "cdvision test"


def record(codec: str, size: float, ap: float, **more: Any) -> dict[str, Any]:
    return {
        "codec": codec, "quality": 1, "task": "detect", "photos": 9, "mean_bytes": size,
        "ap": ap, "ap_low": ap - 0.01, "ap_high": ap + 0.01, "ap50": ap + 0.1,
        **({"mean_payload_bytes": size / 2} if codec in ("hevc", "jpeg") else {}), **more,
    }  # fmt: skip


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """Return made-up records: we need half the bytes of hevc, and never meet jpeg's accuracy."""
    points = [(400.0, 0.1), (800.0, 0.2), (1600.0, 0.28), (3200.0, 0.31)]
    return [
        record("none", 90_000, 0.4),
        *(record(OURS, size, ap) for size, ap in points),
        *(record("hevc", 2 * size, ap, scale=1.0) for size, ap in points),
        *(record("hevc", 2 * size + 9, ap - 0.01, scale=0.5) for size, ap in points),
        *(record("jpeg", 10 * size, ap - 0.3, scale=1.0) for size, ap in points),
    ]


@pytest.fixture
def facts(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ours": OURS, "fingerprint": "0123456789", "data": "made-up.json",
        "machine": "a machine", "versions": {"python": "3"},
        "codecs": {"hevc": "x265 9.9", "jpeg": "libjpeg 8"},
        "left_out": {"vvc": "no binary"}, "records": records,
    }  # fmt: skip


def test_envelope_takes_the_best_of_all_scales() -> None:
    found = [
        record("hevc", 100, 0.1, scale=0.5),
        record("hevc", 120, 0.1, scale=1.0),  # same accuracy for more bytes
        record("hevc", 300, 0.3, scale=0.5),
        record("hevc", 310, 0.2, scale=1.0),
        record("hevc", 900, 0.4, scale=1.0),
    ]
    assert [one["mean_bytes"] for one in envelope(found[::-1])] == [100, 300, 900]


def test_compare_gives_figures_or_reasons(records: list[dict[str, Any]]) -> None:
    hevc, jpeg = compare(records, OURS)
    assert (hevc.rival, jpeg.rival) == ("hevc", "jpeg")
    assert hevc.bd_rate == pytest.approx(-50)
    assert hevc.bd_rate_payload == pytest.approx(0, abs=1e-6)
    assert hevc.bd_accuracy is not None
    assert 0.02 < hevc.bd_accuracy < 0.1
    assert (jpeg.bd_rate, jpeg.bd_accuracy, jpeg.bd_rate_payload) == (None, None, None)
    assert "share 0%" in jpeg.reasons["bd_rate"]


def test_report_says_it_all(facts: dict[str, Any], tmp_path: Path) -> None:
    text = write_report(facts, tmp_path)
    assert (tmp_path / "rate.md").read_text() == text + "\n"
    assert "| HEVC intra | -50.0 % | +0." in text
    assert "| JPEG | — | — | — |" in text
    assert "— (test: cdvision test, anchor: the rival): JPEG: the curves share 0%" in text
    assert "cdvision test, fingerprint 01234567." in text
    assert "Uncompressed networks: AP 0.400" in text
    assert "VVC intra: left out, no binary" in text
    assert "| 1 | 0.5 | 809 | 0.090 (0.080-0.100) | 0.190 |  |" in text  # beaten by 1.0 at 800
    assert "| 1 | 1 | 800 | 0.100 (0.090-0.110) | 0.200 | * |" in text
    content = json.loads((tmp_path / "rate.json").read_text(), parse_constant=pytest.fail)
    assert [one["bd_rate"] for one in content["comparisons"]] == [pytest.approx(-50), None]
    assert content["records"] == facts["records"]
    svg = (tmp_path / "rate.svg").read_text()
    assert svg.startswith("<?xml")
    assert "made-up.json, 9 photos" in svg


def test_undefined_figures_become_null(facts: dict[str, Any], tmp_path: Path) -> None:
    facts["records"][1]["ap50"] = float("nan")
    write_report(facts, tmp_path)
    content = json.loads((tmp_path / "rate.json").read_text(), parse_constant=pytest.fail)
    assert content["records"][1]["ap50"] is None


def test_log_keeps_records_by_their_whole_key(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "records.jsonl")
    key = {"codec": "hevc", "quality": 3, "scale": 0.5}
    log.append(key, {"ap": 0.1 + 0.2})
    assert log.find(dict(reversed(key.items()))) == {"ap": 0.1 + 0.2}
    assert log.find({**key, "scale": 1.0}) is None
    assert RecordLog(log.path).find(key) == {"ap": 0.1 + 0.2}


def test_log_survives_a_cut_line(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "records.jsonl")
    log.append({"quality": 1}, {"ap": 0.1})
    log.append({"quality": 2}, {"ap": 0.2})
    log.path.write_bytes(log.path.read_bytes()[:-9])
    again = RecordLog(log.path)
    assert again.find({"quality": 1}) == {"ap": 0.1}
    assert again.find({"quality": 2}) is None
    again.append({"quality": 2}, {"ap": 0.3})
    assert RecordLog(log.path).find({"quality": 2}) == {"ap": 0.3}
    assert len(RecordLog(log.path)) == 2


def test_log_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CdvisionError, match="cannot keep records there"):
        RecordLog(tmp_path / "file" / "records.jsonl")


def test_rivals_are_chosen_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [one.name for one in chosen_rivals(["webp", "jpeg", "webp"])[0]] == ["webp", "jpeg"]
    everything, left_out = chosen_rivals([])
    assert "jpeg" in [one.name for one in everything]
    assert "vvencapp" in left_out["vvc"]
    assert "VVC intra is left out: vvc needs vvencapp" in capsys.readouterr().err
    with pytest.raises(CdvisionError, match="vvc needs vvencapp"):
        chosen_rivals(["vvc"])
    with pytest.raises(CdvisionError, match=r"expected one of jpeg, .* found bpg"):
        chosen_rivals(["bpg"])


def test_missing_weights_are_explained_in_one_line(tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text("{}")
    command = ["bench", "rate", "--coco", str(labels), "--images", str(tmp_path), "-o", "out"]
    result = CliRunner().invoke(command_line, command)
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if "--initial-weights" in line]
    assert "nanodet_plus_m_416.safetensors (github.com/RangiLyu/nanodet)" in line


@pytest.fixture
def labelled(tmp_path: Path, model: cdvision.Model, photos: list[Path]) -> tuple[Path, Path]:
    """Return a COCO json and a folder: three photos, and what our best streams show in them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = model.package.classes["coco"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(("astronaut.jpg", "cat.jpg", "coffee.jpg")):
        (path,) = (photo for photo in photos if photo.name == name)
        with Image.open(path) as file:
            photo = file.convert("RGB")
        photo.save(folder / f"{number}.png")
        images.append({"id": number + 5, "file_name": f"{number}.png"})
        found = model.detect(model.encode(photo, 8), confidence=0.4)
        assert len(found)
        annotations += [
            {"image_id": number + 5, "category_id": int(kind) + 1,
             "bbox": [float(x) for x in (*box[:2], *(box[2:] - box[:2]))]}
            for box, kind in zip(found.xyxy, found.class_id, strict=True)
        ]  # fmt: skip
    labels = tmp_path / "labels.json"
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    labels.write_text(json.dumps(content))
    return labels, folder


@pytest.fixture(scope="module")
def graphs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the uncompressed networks as graphs: their export takes its time."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("graphs")
    write_graphs(shared / "weights", folder)
    return folder


@pytest.mark.timeout(900)
def test_a_lossless_rival_at_full_size_is_the_pixel_path(
    graphs: Path, model: cdvision.Model, photos: list[Path]
) -> None:
    """The boxes of what was shrunk, coded, decoded and scaled back lie where they lay."""
    lossless = PillowRival("png", "PNG", "PNG", (0,), lambda: "")
    reference = PublishedNetworks(model.package, graphs)
    image = next(path for path in photos if path.name == "cat.jpg").read_bytes()
    wanted = reference.detect(image, **WEAK_BOXES)
    assert len(wanted)
    path = RivalPath(lossless, 0, 1.0, reference)
    found = path.detect(path.send(image), image)
    assert found.image_size == wanted.image_size
    np.testing.assert_array_equal(found.class_id, wanted.class_id)
    np.testing.assert_array_equal(found.confidence, wanted.confidence)
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.01)
    half = RivalPath(lossless, 0, 0.5, reference)
    assert max(half.rival.decode(half.send(image)).size) == 208
    best = half.detect(half.send(image), image).xyxy[0]
    np.testing.assert_allclose(best, wanted.xyxy[0], atol=25)


@pytest.mark.timeout(900)
def test_the_command_from_photos_to_report(
    labelled: tuple[Path, Path],
    tmp_path: Path,
    shared: Path,
    graphs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs into one folder; the second measures only the rival that the first left out."""
    monkeypatch.setattr(
        "cdvision.models.small.uncompressed.write_graphs",
        lambda _, folder, detector: shutil.copytree(graphs, folder, dirs_exist_ok=True),
    )
    out = tmp_path / "out"
    command = [
        "bench", "rate", "--coco", str(labelled[0]), "--images", str(labelled[1]), "-o", str(out),
        "--initial-weights", str(shared / "weights"), "-q", "2,4,8", "--resamples", "20",
        "--jobs", "2", "--rival", "webp",
    ]  # fmt: skip
    first = CliRunner().invoke(command_line, command, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    before = (out / "records.jsonl").read_bytes()
    content = json.loads((out / "rate.json").read_text())
    by_codec: dict[str, list[dict[str, Any]]] = {}
    for one in content["records"]:
        by_codec.setdefault(one["codec"], []).append(one)
    assert {name: len(found) for name, found in by_codec.items()} == {
        "none": 1, "cdvision small": 3, "webp": 21
    }  # fmt: skip
    assert {one["scale"] for one in by_codec["webp"]} == {1.0, 0.75, 0.5}
    best = max(one["ap"] for one in by_codec["webp"])
    assert 0.3 < best <= by_codec["none"][0]["ap"] + 0.2
    assert best > min(one["ap"] for one in by_codec["webp"]) + 0.1
    assert np.all(np.diff([one["mean_bytes"] for one in by_codec["cdvision small"]]) > 0)
    assert "## WebP" in first.output
    assert (out / "rate.svg").is_file()

    second = CliRunner().invoke(command_line, [*command, "--rival", "jpeg"], catch_exceptions=False)
    assert second.exit_code == 0, second.output
    after = (out / "records.jsonl").read_bytes()
    assert after.startswith(before)
    new = [json.loads(line)["key"]["codec"] for line in after[len(before) :].splitlines()]
    assert new == ["jpeg"] * 21
