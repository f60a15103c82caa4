"""`cdvision bench faces` and `eval --layers` on the tiny face packages, beside real codecs."""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

import cdvision  # noqa: E402
from cdvision.cli.command_line import command_line  # noqa: E402
from cdvision.errors import CdvisionError, ModelError  # noqa: E402
from cdvision.evaluation.attribute_scoring import AttributeScoring  # noqa: E402
from cdvision.evaluation.curve import LabelledSet  # noqa: E402
from cdvision.evaluation.labelled import attribute_photos  # noqa: E402
from cdvision.evaluation.picture_distance import PictureJudge  # noqa: E402
from cdvision.evaluation.picture_distance.metric_weights import WEIGHTS_FILE  # noqa: E402
from cdvision.evaluation.picture_distance.picture_metrics import PictureMetrics  # noqa: E402
from cdvision.evaluation.rivals import RIVALS  # noqa: E402
from cdvision.models.faces.bench.figures import (  # noqa: E402
    ATTRIBUTES,
    Figure,
    best_of,
    count_wins,
    envelope,
)
from cdvision.models.faces.bench.measure import FaceBenchmark, attribute_times  # noqa: E402
from cdvision.models.faces.bench.paths import original, pixel_path, rival_paths, stream_paths  # noqa: E402
from cdvision.models.faces.bench.pixel_classifier import (  # noqa: E402
    PixelClassifier,
    held_out,
    present_in,
)
from cdvision.models.faces.bench.report import write_face_report  # noqa: E402
from cdvision.models.faces.network import load_face_weights  # noqa: E402
from cdvision.models.faces.training.networks import FaceNetworks  # noqa: E402
from cdvision.models.faces.widths import FACE_TINY  # noqa: E402
from cdvision.package.loader import file_sha256  # noqa: E402
from cdvision.stream import truncate_stream  # noqa: E402
from cdvision.training.stage_run import RECORD, write_result  # noqa: E402

REPOSITORY = Path(__file__).parent.parent
PACKAGES = Path(__file__).parent / "packages"
SIDE = FACE_TINY.resolution
TRAIN, VAL = 20, 6


@pytest.fixture(scope="module")
def face_model() -> cdvision.Model:
    return cdvision.load(PACKAGES / "test-hsc")


@pytest.fixture(scope="module")
def names(face_model: cdvision.Model) -> tuple[str, ...]:
    face = cdvision.encode(np.zeros((SIDE, SIDE, 3), np.uint8), model=face_model)
    return tuple(face_model.attributes(face, all_attributes=True).name.tolist())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, names: tuple[str, ...]) -> Path:
    """Write drawn faces, red or green, and a csv whose first attribute says which."""
    folder, random = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    rows = []
    for number in range(TRAIN + VAL):
        red = number % 2
        pixels = random.integers(0, 120, (8, 8, 3)).astype(np.uint8)
        pixels[2:6, 2:6, 1 - red] = 240
        face = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        face.save(folder / f"{number:02d}.png")
        others = random.integers(0, 2, len(names) - 1).tolist()
        split = "train" if number < TRAIN else "val"
        rows.append(",".join(map(str, [f"{number:02d}.png", split, red, *others])))
    header = ",".join(["file", "split", *names])
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, names: tuple[str, ...]) -> Path:
    """Write what a finished run of the trunk stage leaves, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    networks = FaceNetworks(FACE_TINY)
    write_result(networks, folder)
    record = {"stage": "faces-trunk", **networks.facts(), "attributes": list(names)}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def benchmark(
    data: Path, classifier: PixelClassifier, model: cdvision.Model, *rivals: str
) -> FaceBenchmark:
    table = data / "labels.csv"
    photos, attributes = attribute_photos(table, data, where={"split": "val"})
    scoring = AttributeScoring(attributes)
    labelled = LabelledSet(photos, given_scoring=scoring, name="drawn", resamples=20)
    paths = [pixel_path(SIDE), *stream_paths(model, [2], [1, 2])]
    paths += [p for name in rivals for p in rival_paths(RIVALS[name], SIDE, [1.0, 0.25])]
    return FaceBenchmark(labelled, table, paths, classifier, PictureJudge(), SIDE)


# --- paths


def test_streams_are_cut_and_answered_from_what_is_left(
    face_model: cdvision.Model, data: Path
) -> None:
    face = (data / "00.png").read_bytes()
    one, two = stream_paths(face_model, [8], [1, 2])
    assert [str(p) for p in (one, two)] == [
        "cdvision test-hsc, 1 layer quality 8 layers 1",
        "cdvision test-hsc, 2 layers quality 8 layers 2",
    ]
    bits = two.send(face)
    assert bits == face_model.encode(face, 8)
    assert len(one.send(face)) < len(bits)
    assert cdvision.open(one.send(face), model=face_model).complete is False
    for path in (one, two):
        assert path.attributes is not None
        wanted = face_model.open(path.send(face)).attributes(all_attributes=True)
        assert path.attributes(path.send(face)) == wanted
        assert path.picture(path.send(face)).shape == (SIDE, SIDE, 3)
    with pytest.raises(CdvisionError, match="cannot keep 3 layers"):
        stream_paths(face_model, [8], [3])[0].send(face)


def test_rivals_send_fewer_pixels_and_give_them_back(data: Path) -> None:
    face = (data / "00.png").read_bytes()
    paths = [p for p in rival_paths(RIVALS["webp"], SIDE) if p.setting["quality"] == 80]
    sizes = [len(path.send(face)) for path in paths]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 2
    wanted = original(face, SIDE).astype(float)
    errors = [np.abs(path.picture(path.send(face)) - wanted).mean() for path in paths]
    assert errors[0] < 6
    assert max(errors) < 25, "the colours are where they were"
    assert original(face, 2 * SIDE).shape == (2 * SIDE, 2 * SIDE, 3)


def test_a_face_of_more_pixels_is_averaged() -> None:
    """Two by two pixels become one: 10, 20, 30 and 40 are 25."""
    file = io.BytesIO()
    tile = np.array([[10, 20], [30, 40]], np.uint8)
    Image.fromarray(np.stack([np.tile(tile, (4, 4))] * 3, axis=-1)).save(file, "PNG")
    assert np.unique(original(file.getvalue(), 4)).tolist() == [25]


def test_times_are_of_streams_cut_to_their_layers(
    face_model: cdvision.Model, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdvision.models.faces.bench.measure.ROUNDS", 2)
    photos, _ = attribute_photos(data / "labels.csv", data, where={"split": "val"})
    one, two = attribute_times(face_model, photos.limited(2), [1, 2])
    whole = [face_model.encode(photo.data) for photo in photos.limited(2)]
    assert two["mean_bytes"] == np.mean([len(bits) for bits in whole])
    assert one["mean_bytes"] == np.mean([len(truncate_stream(bits, 1)) for bits in whole])
    assert one["mean_bytes"] < two["mean_bytes"]


# --- the classifier


def test_thresholds_are_fitted_on_the_last_tenth_of_training(run: Path, data: Path) -> None:
    photos, table = attribute_photos(data / "labels.csv", data, where={"split": "train"})
    last = held_out(photos)
    assert [name for name, _ in last.entries] == ["18.png", "19.png"]
    classifier = PixelClassifier(run)
    pictures = np.stack([original(photo.data, SIDE) for photo in last])
    present = present_in(table, classifier.names, [photo.label for photo in last])
    np.testing.assert_array_equal(present[:, 0], [False, True])
    classifier.fit_thresholds(pictures, present)
    logits = classifier.logits(pictures)
    rising = logits[1] > logits[0]
    told = present[1] & ~present[0] & rising
    assert told.any()
    said = [[verdict.present for verdict in answer.values()] for answer in
            classifier.answers(pictures)]  # fmt: skip
    np.testing.assert_array_equal(np.array(said)[:, told], present[:, told])
    first = classifier.answers(pictures)[1][classifier.names[0]]
    assert first.probability == pytest.approx(1 / (1 + np.exp(-float(logits[1, 0]))))


def test_a_run_without_attributes_is_no_classifier(run: Path, tmp_path: Path, data: Path) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "attributes": []}))
    with pytest.raises(ModelError, match="names of 40 attributes, found 0: was it trained with"):
        PixelClassifier(tmp_path)
    _, table = attribute_photos(data / "labels.csv", data, where={})
    with pytest.raises(ModelError, match="expected a column 'Wings'"):
        present_in(table, ("Wings",), [0])


# --- measuring


def test_every_path_is_measured_once(
    run: Path, data: Path, face_model: cdvision.Model, tmp_path: Path
) -> None:
    classifier = PixelClassifier(run)
    bench = benchmark(data, classifier, face_model)
    pixels, one, two = bench.run(tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    assert pixels["codec"] == "none"
    assert "psnr" not in pixels
    assert "picture_accuracy" not in pixels
    assert (one["layers"], two["layers"], two["photos"]) == (1, 2, VAL)
    streams = [face_model.encode(photo.data, 2) for photo in bench.data.photos]
    assert two["mean_bytes"] == two["mean_payload_bytes"] == np.mean([len(s) for s in streams])
    assert one["mean_bytes"] < two["mean_bytes"]
    wanted = np.array([[v.present for v in answer.values()] for answer in classifier.answers(
        np.stack([face_model.reconstruct(bits) for bits in streams])
    )])  # fmt: skip
    scoring = bench.data.scoring
    assert isinstance(scoring, AttributeScoring)
    rows = [photo.label for photo in bench.data.photos]
    assert two["picture_accuracy"] == pytest.approx((wanted == scoring.table.present[rows]).mean())
    said = np.array([face_model.attributes(s, all_attributes=True).present for s in streams])
    assert two["accuracy"] == pytest.approx((said == scoring.table.present[rows]).mean())
    assert two["psnr_low"] <= two["psnr"] <= two["psnr_high"]
    free = [replace(path, payload=lambda bits: len(bits) - 7) for path in bench.paths]
    unboxed = replace(bench, paths=free)._record(free[2], "")
    assert unboxed["mean_bytes"] == two["mean_bytes"]
    assert unboxed["mean_payload_bytes"] == pytest.approx(two["mean_bytes"] - 7)
    more = benchmark(data, classifier, face_model, "webp")
    assert [r["codec"] for r in more.run(tmp_path)] == ["none", one["codec"], two["codec"],
                                                         *["webp"] * 14]  # fmt: skip
    after = (tmp_path / "records.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3 + 14
    classifier.thresholds = classifier.thresholds + 1
    benchmark(data, classifier, face_model).run(tmp_path)
    assert len((tmp_path / "records.jsonl").read_bytes().splitlines()) == 3 + 14 + 3


# --- the report


def record(codec: str, size: float, accuracy: float, **more: Any) -> dict[str, Any]:
    found = {"codec": codec, "photos": 9, "resamples": 20, "mean_bytes": size,
             "mean_payload_bytes": size, "psnr": 20 * accuracy, "ms_ssim": accuracy,
             "lpips": 1 - accuracy, "dists": float("nan")}  # fmt: skip
    for name in ("accuracy", "balanced_accuracy", "average_precision", "majority_accuracy"):
        found |= {name: accuracy, f"{name}_low": accuracy - 0.01, f"{name}_high": accuracy + 0.01,
                  f"{name}.Wearing_Hat": accuracy, f"{name}.Wearing_Hat_low": 0.0}  # fmt: skip
    return {**found, **more}


@pytest.fixture
def facts() -> dict[str, Any]:
    """Return made-up facts: HEVC has no picture below 200 bytes, and beats us at 300."""
    layers = [("cdvision f, 1 layer", 1), ("cdvision f, 2 layers", 2)]
    ours = [
        record(codec, size + 100 * (n - 1), 0.7 + size / 1000, quality=q, layers=n,
               picture_accuracy=0.6, picture_balanced_accuracy=0.6)
        for codec, n in layers
        for q, size in ((2, 200.0), (1, 90.0))
    ]  # fmt: skip
    hevc = [
        record("hevc", 2 * size, accuracy, quality=q, scale=1.0, mean_payload_bytes=size)
        for q, size, accuracy in ((1, 200.0, 0.85), (9, 400.0, 0.95))
    ]
    return {
        "ours": "cdvision f", "fingerprint": "0123456789", "data": "made-up", "refused": 2,
        "side": 128, "machine": "a machine", "versions": {"python": "3"},
        "codecs": {"hevc": "x265 9.9"}, "left_out": {"avif": "no codec"},
        "classifier": "run (01234567)", "metrics": "89abcdef0123",
        "records": [record("none", 4000.0, 0.97), *ours, *hevc],
    }  # fmt: skip


def test_rivals_are_met_at_our_bytes(facts: dict[str, Any]) -> None:
    ours = [r for r in facts["records"] if r["codec"].startswith("cdvision")]
    best = envelope(facts["records"][5:], "accuracy", higher=True)
    assert best.at(199) is None
    assert best.at(200 * 2**0.5) == pytest.approx(0.9)
    assert count_wins(ours, best, ATTRIBUTES[0]) == (1, 1, 2)
    fewer = Figure("lpips", "", "lpips", higher=False)
    assert count_wins(ours, envelope(facts["records"][5:], "lpips", higher=False), fewer) == (
        1, 1, 2
    )  # fmt: skip
    above = [record("x", 300.0, 0.95), record("x", 400.0, 0.95), record("x", 500.0, 0.8)]
    assert count_wins(above, best, ATTRIBUTES[0]) == (1, 2, 0)  # of 0.91, 0.95 and 0.95
    far = [record("x", 300.0, 0.7), record("x", 400.0, 0.7), record("x", 500.0, 0.99)]
    distant = envelope(facts["records"][5:], "lpips", higher=False)
    assert count_wins(far, distant, fewer) == (1, 2, 0)
    best_everywhere = [record("x", 300.0, 0.97), record("x", 400.0, 0.98)]
    assert count_wins(best_everywhere, best, ATTRIBUTES[0]) == (2, 0, 0)
    assert count_wins(best_everywhere, distant, fewer) == (2, 0, 0)
    assert best_of(facts["records"][5:], fewer).value.tolist() == pytest.approx([0.15, 0.05])
    undefined = envelope(facts["records"], "dists", higher=False)
    assert undefined.at(400) is None
    assert count_wins(ours, undefined, Figure("dists", "", "dists", False)) == (0, 0, 0)


def test_report_says_it_all(facts: dict[str, Any], tmp_path: Path) -> None:
    text = write_face_report(facts, tmp_path)
    assert (tmp_path / "faces.md").read_text() == text + "\n"
    for line in (
        "# Faces at few bytes: made-up, 9 faces of 128 x 128",
        "Left out: 2 pictures that the model takes for no faces.",
        "Majority guess: 0.970.",
        "| HEVC intra | 200 B (400 B as a file) | 1 / 1 / 2 |",
        "## Attributes from the bitstream: balanced accuracy",
        "| 1 | 1 | 90 | 0.790 (0.780-0.800) | < 200 B |",
        "| 2 | 2 | 300 | 0.900 (0.890-0.910) | 0.908 |",
        "## The classifier on our reconstructions: mean accuracy on the picture",
        "## MS-SSIM (4 scales) (higher is better)",
        "DISTS, weights 89abcdef, on pictures at their own size",
        "## LPIPS (Alex) (lower is better)",
        "| 2 | 1 | 200 | — | — |",
        "| Wearing Hat | 0.790 | 0.790 / 0.790 / 0.790 | 0.900 /",
        "base layer, 90 B: accuracy / balanced / AP | all layers, 300 B",
        "* AVIF: left out, no codec",
    ):
        assert line in text
    content = json.loads((tmp_path / "faces.json").read_text(), parse_constant=pytest.fail)
    first = content["at our bytes"][0]
    assert (first["figure"], first["rival"], first["rival_figure"]) == ("accuracy", "hevc", None)
    assert content["records"][0]["dists"] is None
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert {"faces-accuracy.svg", "faces-psnr.svg", "faces-lpips.svg"} <= drawn
    assert "faces-dists.svg" not in drawn, "it is undefined everywhere"


def test_a_face_model_tells_attributes_of_pixels_itself(
    face_model: cdvision.Model, names: tuple[str, ...], data: Path
) -> None:
    classifier = PixelClassifier(PACKAGES / "test-hsc")
    assert classifier.names == names
    picture = original((data / f"{TRAIN}.png").read_bytes(), SIDE)
    logits = classifier.logits(picture[None])
    network = load_face_weights(face_model.package.weights_path).eval()
    with torch.inference_mode():
        codes = network.encoder(torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float())
        np.testing.assert_allclose(logits, network.head(codes.rows), atol=1e-5)
    with pytest.raises(ModelError, match="expected a model of faces"):
        PixelClassifier(PACKAGES / "test-dicm")


# --- commands


def test_the_command_from_faces_to_report(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no weights of LPIPS there
    command = [
        "bench", "faces", "--model", str(PACKAGES / "test-hsc"),
        "--attributes", str(data / "labels.csv"), "--images", str(data), "--where", "split=val",
        "-o", str(tmp_path), "-q", "3,8", "--layers", "1", "--limit", "3", "--resamples", "10",
        "--rival", "jpeg",
    ]  # fmt: skip
    result = CliRunner().invoke(command_line, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Classifier on pictures: test-hsc (" in result.output
    assert "thresholds from the last tenth of split=train" in result.output
    assert "## From bytes to attributes, one thread" in result.output
    content = json.loads((tmp_path / "faces.json").read_text())
    assert [r["codec"] for r in content["records"]][:3] == [
        "none", "cdvision test-hsc, 1 layer", "cdvision test-hsc, 1 layer",
    ]  # fmt: skip
    assert len(content["records"]) == 3 + 5 * len(RIVALS["jpeg"].qualities)
    assert (content["side"], content["metrics"], content["refused"]) == (SIDE, None, 0)
    (speed,) = content["speed"]
    assert (speed["layers"], speed["low"] <= speed["median"] <= speed["high"]) == (1, True)
    other = [*command, "--classifier", str(run), "--limit", "1", "-o", str(tmp_path / "other")]
    looked = CliRunner().invoke(command_line, other, catch_exceptions=False)
    assert f"Classifier on pictures: {run.name} (" in looked.output
    wrong = CliRunner().invoke(command_line, [*command, "--thresholds-from", "train"])
    assert "--thresholds-from: expected COLUMN=VALUE." in wrong.stderr
    save_file(PictureMetrics().state_dict(), tmp_path / WEIGHTS_FILE)
    scored = [*command, "--limit", "2", "--metrics", str(tmp_path), "-o", str(tmp_path / "scored")]
    assert CliRunner().invoke(command_line, scored, catch_exceptions=False).exit_code == 0
    content = json.loads((tmp_path / "scored" / "faces.json").read_text())
    assert content["metrics"] == file_sha256(tmp_path / WEIGHTS_FILE)
    assert all(r["lpips_low"] <= r["lpips"] and "dists" in r for r in content["records"][1:])
    small = CliRunner().invoke(command_line, [*command, "--model", "small"])
    assert small.exit_code == 2
    assert "model 'small' cannot reconstruct" in small.stderr


def test_attributes_are_evaluated_by_layers(data: Path, tmp_path: Path) -> None:
    command = [
        "eval", "--model", str(PACKAGES / "test-hsc"), "--attributes", str(data / "labels.csv"),
        "--images", str(data), "--where", "split=val", "-q", "1,8", "--layers", "1,2",
        "--resamples", "10", "--no-cache", "-o", str(tmp_path / "x.json"),
    ]  # fmt: skip
    result = CliRunner().invoke(command_line, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "x.json").read_text())
    assert [(r["quality"], r["layers"]) for r in records] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    assert records[2]["mean_bytes"] < records[3]["mean_bytes"]
    titles = [title.strip() for title in result.stdout.splitlines()[0].split("|")[4:-1]]
    assert titles == ["mean accuracy", "balanced accuracy", "mean AP", "majority guess", "photos"]
    assert "| cdvision test-hsc, 1 layer  | 8 " in result.stdout
    assert "Attributes of the last row:" in result.stdout
    assert "average_precision.Attribute_40_low" in records[0]


def test_faces_are_drawn_layer_by_layer(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    path = REPOSITORY / "examples" / "progressive_faces.py"
    spec = importlib.util.spec_from_file_location("progressive_faces", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    out = tmp_path / "new" / "faces.png"
    labels, model = str(data / "labels.csv"), str(PACKAGES / "test-hsc")
    command = [model, str(data), "--labels", labels, "--count", "2", "-q", "8", "-o", str(out)]
    result = CliRunner().invoke(example.main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    columns, rows = 5, 2
    assert pixels.shape == (28 + rows * (SIDE + 28), 8 + columns * (SIDE + 8), 3)
    first = original((data / f"{TRAIN}.png").read_bytes(), SIDE)
    np.testing.assert_array_equal(pixels[28 : 28 + SIDE, 8 : 8 + SIDE], first)
    loaded = cdvision.load(model)
    whole = loaded.reconstruct(loaded.encode(data / f"{TRAIN}.png", 8))
    left = 8 + 3 * (SIDE + 8)
    np.testing.assert_array_equal(pixels[28 : 28 + SIDE, left : left + SIDE], whole)
