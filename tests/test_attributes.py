"""Attributes of faces: results, calibration, the fit of both, and what users call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_coders import same_latents

import cdvision
from cdvision.errors import CdvisionError, ImageError, ModelError, UnsupportedTask
from cdvision.heads.attribute_answers import AttributeCalibration, attributes_from_logits
from cdvision.results import Attributes, ResultError
from cdvision.stream import truncate_stream

PACKAGES = Path(__file__).parent / "packages"
NAMES = ("Eyeglasses", "Smiling", "Attractive")


def calibration(**changes: object) -> AttributeCalibration:
    values: dict[str, object] = {
        "scale": np.array([[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]),
        "bias": np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]),
        "threshold": np.array([[0.5, 0.9, 0.5], [0.5, 0.5, 0.5]]),
        "report": NAMES[:2],
    }
    return AttributeCalibration(**(values | changes))  # type: ignore[arg-type]


def face() -> Attributes:
    return Attributes(
        name=np.array(NAMES),
        probability=np.array([0.03, 0.75, 0.5], np.float32),
        present=np.array([False, True, True]),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_every_number_of_layers_has_its_own_calibration() -> None:
    logits = np.array([-1.0, 1.0, 1.0], np.float32)
    first, second, third = (
        attributes_from_logits(
            logits, NAMES, calibration=calibration(), layers=layers, all_attributes=True
        )
        for layers in (1, 2, 3)
    )
    expected = [sigmoid(-1), sigmoid(2), sigmoid(0)]
    np.testing.assert_allclose(first.probability, expected, rtol=1e-5)
    assert first.present.tolist() == [False, False, True]
    np.testing.assert_allclose(second.probability, [sigmoid(-1), sigmoid(1), sigmoid(1)], rtol=1e-5)
    assert second.present.tolist() == [False, True, True]
    assert third == second  # the last row holds for all that come later


def test_the_report_leaves_out_what_judges_a_person() -> None:
    logits = np.zeros(3, np.float32)
    found = attributes_from_logits(logits, NAMES, calibration=calibration(), layers=1)
    assert found.name.tolist() == ["Eyeglasses", "Smiling"]


def test_strange_logits_are_a_result_error() -> None:
    for logits in (np.zeros(2, np.float32), np.zeros(3), np.full(3, np.nan, np.float32)):
        with pytest.raises(ResultError, match="logits"):
            attributes_from_logits(logits, NAMES, calibration=calibration(), layers=1)


def test_settings_bring_a_calibration_back() -> None:
    settings = json.loads(json.dumps(calibration().to_settings()))
    again = AttributeCalibration.from_settings(settings)
    assert again.report == NAMES[:2]
    np.testing.assert_array_equal(again.threshold, calibration().threshold)
    for broken in ({}, settings | {"scale": "x"}, settings | {"bias": [[1.0]]}):
        with pytest.raises(ModelError, match="attribute calibration"):
            AttributeCalibration.from_settings(broken)
    with pytest.raises(ModelError, match="finite"):
        calibration(scale=np.full((2, 3), np.inf))


def test_a_result_reads_as_a_table_and_as_json() -> None:
    assert face().present_names == ("Smiling", "Attractive")
    assert face()["Smiling"].present
    with pytest.raises(ResultError, match="'Bald'"):
        face()["Bald"]
    rows = json.loads(face().to_json())["attributes"]
    assert rows[1] == {"name": "Smiling", "probability": 0.75, "present": True}
    assert "Smiling           75.0%  yes" in str(face())
    assert face() == face()
    assert face() != calibration()
    with pytest.raises(ResultError, match="present"):
        Attributes(np.array(NAMES), np.zeros(3, np.float32), np.zeros(2, bool))


def test_calibration_finds_the_sigmoid_that_made_the_answers() -> None:
    pytest.importorskip("torch")
    from cdvision.models.faces.training.calibrate import fit_sigmoid

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 2)) * 3
    wanted = 1 / (1 + np.exp(-(np.array([0.5, 2.0]) * logits + np.array([1.0, -0.5]))))
    truth = (rng.random(logits.shape) < wanted).astype(np.float64)
    scale, bias = fit_sigmoid(logits, truth)
    np.testing.assert_allclose(scale, [0.5, 2.0], rtol=0.07)
    np.testing.assert_allclose(bias, [1.0, -0.5], atol=0.07)


def test_calibration_of_rare_and_of_separated_answers_is_finite_and_keeps_the_order() -> None:
    pytest.importorskip("torch")
    from cdvision.models.faces.training.calibrate import fit_sigmoid

    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2_000, 4)) * 8 - 12
    truth = np.zeros(logits.shape)
    truth[:, 1] = logits[:, 1] > -5  # separated
    truth[:4, 2] = 1  # four faces of 2,000, whatever the logits say
    truth[:, 3] = 1
    scale, bias = fit_sigmoid(logits, truth)
    assert np.isfinite([scale, bias]).all()
    assert (scale[[0, 1, 3]] > 0).all()
    p = 1 / (1 + np.exp(-(scale * logits + bias)))
    assert p[:, 0].mean() < 0.02
    assert p[:, 2].mean() == pytest.approx(0.002, abs=0.006)
    assert p[:, 3].min() > 0.9


@pytest.mark.parametrize("name", ["test-hsc", "test-sfic-style"])
def test_what_users_call(name: str) -> None:
    model = cdvision.load(PACKAGES / name)
    photo = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    bits = cdvision.encode(photo, 8, model=model)
    info = cdvision.inspect(bits)
    assert (info.width, info.height) == (120, 90)
    base = truncate_stream(bits, 1)
    assert len(base) < len(bits)
    assert len(cdvision.attributes(base, model=model)) == 5
    assert len(cdvision.attributes(bits, model=model, all_attributes=True)) == 40
    picture = cdvision.reconstruct(bits, model=model)
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert model.open(bits).features("attributes").shape[1:] == (1, 1)
    with pytest.raises(UnsupportedTask, match="cannot detect"):
        cdvision.detect(bits, model=model)
    with pytest.raises(UnsupportedTask, match="reconstruct"):
        list(model.analyze([bits], ["reconstruct"]))
    names = list(model.package.coder.latent_layers)
    assert list(model.open(base).latents()) == names[:1]
    assert list(model.open(bits).latents()) == names


@pytest.mark.parametrize("name", ["test-hsc", "test-sfic-style"])
def test_the_base_layer_alone_is_answered_by_the_smaller_graph(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runs = cdvision.load(PACKAGES / name, threads=1), list[str]()
    bits = model.encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), 8)
    run = model.engine.run

    def noted(graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        runs.append(graph)
        return run(graph, inputs)

    monkeypatch.setattr(model.engine, "run", noted)
    base = truncate_stream(bits, 1)
    for sent in (base, bits):
        model.attributes(sent)
    assert runs == ["base.attributes", "answer.attributes"]
    runs.clear()
    list(model.analyze([base, base], ["attributes"], batch_size=2))
    assert set(runs) == {"base.attributes"}


def test_a_wide_photo_gives_its_central_square() -> None:
    model = cdvision.load(PACKAGES / "test-hsc")
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    found, expected = (model.open(model.encode(p, 8)) for p in (wide, wide[:, 32:96]))
    assert same_latents(found.latents(), expected.latents())


def test_what_is_no_face_is_one_clear_line(tmp_path: Path) -> None:
    from dataclasses import replace

    model = cdvision.load(PACKAGES / "test-hsc")
    strict = replace(model.card, input=replace(model.card.input, least_score=1e6))
    model.card = strict
    with pytest.raises(ImageError, match="does not look like one") as error:
        model.encode(np.zeros((64, 64, 3), np.uint8))
    assert "\n" not in str(error.value)


def test_the_small_model_says_that_it_reads_no_faces(model: cdvision.Model) -> None:
    bits = model.encode(np.zeros((64, 64, 3), np.uint8), 1)
    for ask in (cdvision.attributes, cdvision.reconstruct):
        with pytest.raises(UnsupportedTask, match="it can detect"):
            ask(bits)


def test_the_commands(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from cdvision.cli.command_line import command_line

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(command_line, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    model = ("--model", str(PACKAGES / "test-sfic-style"))
    run("encode", str(tmp_path / "face.png"), *model, "--quality", "8")
    stream = str(tmp_path / "face.cdv")
    answer = json.loads(run("attributes", stream, *model, "--json", "--all"))
    assert len(answer["attributes"]) == 40
    assert "Attribute_1" in run("attributes", stream, *model)
    told = json.loads(run("analyze", stream, *model, "--task", "attributes", "--all-attributes"))
    assert told["attributes"] == answer["attributes"]
    record = json.loads(
        run("reconstruct", stream, *model, "--layers", "1", "-o", str(tmp_path / "out"), "--json")
    )
    assert record["bytes"] < Path(stream).stat().st_size
    with Image.open(record["output"]) as picture:
        assert picture.size == (64, 64)


def test_the_face_model_reads_a_face_from_its_first_bytes() -> None:
    """Eileen Collins smiles; no model here was trained on her."""
    face = PACKAGES.parent.parent / "examples" / "photos" / "astronaut-face.png"
    bits = cdvision.encode(str(face), 4, model="hsc")
    base = truncate_stream(bits, 1)
    assert len(base) <= 60
    assert len(bits) <= 400
    found = cdvision.attributes(base)  # the stream's fingerprint names its model
    assert found["Smiling"].present
    assert not found["Eyeglasses"].present
    assert not found["Mustache"].present
    assert cdvision.reconstruct(bits).shape == (128, 128, 3)
    with pytest.raises(ImageError, match="does not look like one"):
        cdvision.encode(str(face.with_name("rocket.jpg")), model="hsc")


def test_crops_are_part_of_the_facade() -> None:
    assert cdvision.crop_face(np.zeros((50, 80, 3), np.uint8), size=32).shape == (32, 32, 3)
    with pytest.raises(CdvisionError, match="landmarks"):
        cdvision.crop_face(np.zeros((50, 80, 3), np.uint8), [[0, 0]])
