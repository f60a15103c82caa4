"""Training of the face models: every stage for real on tiny networks, resumption to the bit."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cdvision.cli.train import train
from cdvision.errors import CdvisionError, ImageError
from cdvision.face_crop import crop_face

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from cdvision.models.faces.training import attribute_scores  # noqa: E402
from cdvision.models.faces.training.adversarial import (  # noqa: E402
    PathLength,
    augment,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from cdvision.models.faces.training.face_bank import FaceBank, read_face_banks  # noqa: E402
from cdvision.models.faces.training.fit_score import fit_score  # noqa: E402
from cdvision.models.faces.training.networks import (  # noqa: E402
    FaceNetworks,
    load_face_networks,
    start_networks,
)
from cdvision.models.faces.training.options import (  # noqa: E402
    GeneratorOptions,
    InversionOptions,
    TrunkOptions,
)
from cdvision.models.faces.training.perceptual import PerceptualLoss  # noqa: E402
from cdvision.models.faces.training.stage_generator import GeneratorStage  # noqa: E402
from cdvision.models.faces.training.stage_inversion import InversionStage, draw_layers  # noqa: E402
from cdvision.models.faces.training.stage_trunk import TrunkStage  # noqa: E402
from cdvision.models.faces.widths import FACE, FACE_TINY  # noqa: E402
from cdvision.training.stage_run import Plan, Stage, run_stage, write_result  # noqa: E402

CPU = torch.device("cpu")
WIDTHS = replace(FACE_TINY, resolution=32, trunk_side=32, attributes=3)
PLAN = Plan(minutes=60.0, steps=4, batch=4, device=CPU, warmup_steps=1)
NAMES = ("Red", "Bright", "Never")


pytestmark = pytest.mark.usefixtures("one_thread")


# --- data: discs on a plain ground, red or green, bright or dark


def picture(red: bool, bright: bool, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    pixels = np.full((40, 40, 3), 200 if bright else 60, np.uint8)
    y, x = np.mgrid[:40, :40]
    disc = (y - rng.uniform(18, 22)) ** 2 + (x - rng.uniform(18, 22)) ** 2 < 120
    pixels[disc] = (220, 30, 30) if red else (30, 220, 30)
    return pixels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    rows = []
    for number in range(32):
        red, bright = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        Image.fromarray(picture(red, bright, rng)).save(folder / f"{number:02d}.png")
        rows.append((f"{number:02d}.png", "val" if number == 31 else "train", red, bright, 0))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file", "split", *NAMES))
        table.writerows((name, split, *map(int, values)) for name, split, *values in rows)
    with tarfile.open(folder / "faces.tar", "w") as tar:
        for path in sorted(folder.glob("*.png")):
            tar.add(path, path.name)
    return folder / "faces.tar", folder / "labels.csv"


@pytest.fixture(scope="module")
def banks(data: tuple[Path, Path]) -> tuple[FaceBank, FaceBank]:
    return read_face_banks(*data, resolution=32, device=CPU)


def networks() -> FaceNetworks:
    torch.manual_seed(0)
    return FaceNetworks(WIDTHS)


# --- faces


def test_val_faces_are_left_out_and_the_last_tenth_held_out(
    banks: tuple[FaceBank, FaceBank], data: tuple[Path, Path]
) -> None:
    bank, held_out = banks
    assert (len(bank.images), len(held_out.images)) == (28, 3)
    assert bank.names == NAMES
    assert bank.images.shape[1:] == (3, 32, 32)
    red = bank.images[:, 0, 16, 16] > 128
    assert torch.equal(red, bank.attributes[:, 0] > 0)  # labels stay with their faces
    folder, _ = read_face_banks(data[0].parent, data[1], resolution=32, device=CPU)
    assert torch.equal(folder.images, bank.images)
    unlabelled, _ = read_face_banks(data[0], None, resolution=32, device=CPU)
    assert unlabelled.names == ()
    assert unlabelled.attributes.shape == (29, 0)


@pytest.mark.parametrize("vary", [False, True])
def test_batches_are_mirrored_and_repeatable(vary: bool, banks: tuple[FaceBank, FaceBank]) -> None:
    batches = [banks[0].batch(8, np.random.default_rng(5), vary=vary) for _ in range(2)]
    assert torch.equal(batches[0].images, batches[1].images)
    images, attributes = batches[0]
    assert images.shape == (8, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 255
    assert torch.equal(images[:, 0, 16, 16] > images[:, 1, 16, 16], attributes[:, 0] > 0)
    stored = {bytes(image.numpy()) for image in banks[0].images}
    as_stored = [bytes(image.to(torch.uint8).numpy()) in stored for image in images]
    assert (not any(as_stored)) if vary else (0 < sum(as_stored) < 8)


def test_wrong_labels_are_named(data: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "labels.csv"
    wrong.write_text("file,Red\n00.png,2\n")
    with pytest.raises(CdvisionError, match=r"00\.png: expected 0 or 1"):
        read_face_banks(data[0], wrong, resolution=32, device=CPU)
    wrong.write_text("name,Red\n00.png,1\n")
    with pytest.raises(CdvisionError, match="column `file`"):
        read_face_banks(data[0], wrong, resolution=32, device=CPU)
    wrong.write_text("file,Red\n77.png,1\n")
    with pytest.raises(CdvisionError, match="at least two training faces, found 0"):
        read_face_banks(data[0], wrong, resolution=32, device=CPU)


# --- stages


def generator_stage(banks: tuple[FaceBank, FaceBank], plan: Plan) -> Stage:
    return GeneratorStage(networks(), banks[0], plan, GeneratorOptions(path=2.0))


def trunk_stage(banks: tuple[FaceBank, FaceBank], plan: Plan) -> Stage:
    return TrunkStage(networks(), *banks, plan)


def inversion_stage(banks: tuple[FaceBank, FaceBank], plan: Plan) -> Stage:
    torch.manual_seed(1)
    loss = PerceptualLoss(None)
    options = InversionOptions(tune_generator=True, drawn=0.5)
    return InversionStage(networks(), *banks, plan, loss, options)


STAGES = [generator_stage, trunk_stage, inversion_stage]


@pytest.mark.parametrize("make", STAGES)
def test_a_stage_trains_and_resumes_to_the_bit(
    make: Callable[..., Stage], banks: tuple[FaceBank, FaceBank], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_stage(make(banks, PLAN), whole, PLAN)

    class Stopped(Exception):
        pass

    stage = make(banks, PLAN)
    after_step, count = stage.after_step, [0]

    def stop() -> None:
        after_step()
        count[0] += 1
        if count[0] == 3:
            raise Stopped

    stage.after_step = stop  # type: ignore[method-assign]
    every_step = replace(PLAN, save_minutes=0.0)
    with pytest.raises(Stopped):
        run_stage(stage, parts, every_step)
    run_stage(make(banks, PLAN), parts, every_step)
    first, second = (load_file(folder / "checkpoint.safetensors") for folder in (whole, parts))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    start = make(banks, PLAN).modules()["networks"].state_dict()
    moved = [n for n, v in start.items() if not torch.equal(v, first[f"networks/{n}"])]
    assert moved
    if make is generator_stage:
        assert any(name.startswith("opponent/") for name in first)
        assert any("discriminator/" in name for name in first)


def test_the_opponent_is_part_of_a_checkpoint(
    banks: tuple[FaceBank, FaceBank], tmp_path: Path
) -> None:
    """A discriminator that forgot its moments would take another second step."""
    plan = replace(PLAN, steps=2)
    run_stage(generator_stage(banks, plan), tmp_path, plan)
    stage = generator_stage(banks, plan)
    run_stage(stage, tmp_path, plan)
    stored = load_file(tmp_path / "checkpoint.safetensors")
    assert stage.opponent is not None
    states = stage.opponent.state_dict()["state"]
    assert torch.equal(states[0]["exp_avg_sq"], stored["opponent/0/exp_avg_sq"])


def test_a_generator_run_gives_the_average(
    banks: tuple[FaceBank, FaceBank], tmp_path: Path
) -> None:
    stage = generator_stage(banks, PLAN)
    assert isinstance(stage, GeneratorStage)
    result = run_stage(stage, tmp_path, PLAN)
    average = dict(stage.average.network.named_parameters())
    assert isinstance(result, FaceNetworks)
    for name, value in result.generator.named_parameters():
        assert torch.equal(value, average[name])
    assert float(result.generator.mapping.mean.abs().max()) > 0
    loaded = load_face_networks(tmp_path)
    rows = loaded.generator.broadcast(loaded.generator.mapping.mean[None])
    with torch.no_grad():
        drawn = loaded.generator.synthesise(rows)
        torch.testing.assert_close(drawn, result.generator.synthesise(rows), atol=0.02, rtol=0.02)


def test_attributes_are_learnt_by_the_basic_rows(
    banks: tuple[FaceBank, FaceBank], tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=80, batch=8)
    stage = TrunkStage(networks(), *banks, plan, TrunkOptions(5e-3, trunk_rate=2e-3))
    run_stage(stage, tmp_path, plan)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["held_out"]["basic"]["mean_accuracy"] == 1.0
    assert record["attributes"] == list(NAMES)


def test_an_inversion_draws_its_faces_again(
    banks: tuple[FaceBank, FaceBank], tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=60, batch=8)
    options = InversionOptions(tune_generator=True)
    stage = InversionStage(networks(), *banks, plan, None, options)
    faces = banks[1].images.float()
    stage.begin(np.random.default_rng(0))

    def errors() -> dict[str, float]:
        pictures = draw_layers(stage.networks.eval(), faces)
        stage.networks.train()
        return {name: float((p - faces).abs().mean()) for name, p in pictures.items()}

    before = errors()
    run_stage(stage, tmp_path, plan)
    after = errors()
    assert after["feature"] < 0.6 * before["feature"]
    assert after["rows"] < 0.75 * before["rows"]
    assert after["feature"] < after["rows"] < after["basic"]
    record = json.loads((tmp_path / "training.json").read_text())
    assert set(record["held_out"]["psnr"]) == {"basic", "rows", "feature"}


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        (
            InversionOptions(freeze_trunk=True),
            {"encoder.hidden", "encoder.styles", "encoder.feature", "head.basic"},
        ),
        (
            InversionOptions(freeze_encoder=True, tune_generator=True),
            {"generator.constant", "generator.blocks"},
        ),
    ],
)
def test_what_is_frozen_stays(
    options: InversionOptions, moves: set[str],
    banks: tuple[FaceBank, FaceBank], tmp_path: Path,
) -> None:  # fmt: skip
    stage = InversionStage(networks(), *banks, PLAN, None, options)
    stage.begin(np.random.default_rng(0))
    start = {name: value.clone() for name, value in stage.networks.state_dict().items()}
    run_stage(stage, tmp_path, PLAN)
    after = stage.networks.state_dict()
    moved = {".".join(n.split(".")[:2]) for n, v in start.items() if not torch.equal(v, after[n])}
    assert moves <= moved
    kept = ("encoder.trunk", "encoder" if options.tune_generator else "generator")
    assert not [name for name in moved if name.startswith(kept)]


def test_labels_that_the_head_cannot_answer(banks: tuple[FaceBank, FaceBank]) -> None:
    with pytest.raises(CdvisionError, match="expected 40 attributes"):
        TrunkStage(FaceNetworks(replace(WIDTHS, attributes=40)), *banks, PLAN)


def test_runs_of_other_stages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="expected a finished run"):
        load_face_networks(tmp_path)
    (tmp_path / "training.json").write_text('{"stage": "codec"}')
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CdvisionError, match="a run of codec"):
        load_face_networks(tmp_path)


def test_a_users_generator_decides_the_widths(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = networks().generator
    save_file({k: v.clone() for k, v in theirs.state_dict().items()}, tmp_path / "g.safetensors")
    found = start_networks(generator=tmp_path / "g.safetensors", widths=FACE_TINY)
    assert (found.widths.resolution, found.widths.attributes) == (32, 40)
    rows = torch.randn(1, WIDTHS.rows, WIDTHS.style)
    with torch.no_grad():
        assert torch.equal(found.generator.synthesise(rows), theirs.synthesise(rows))


def test_an_untrained_trunk_starts_from_published_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    widths = replace(WIDTHS, trunk="mobilenet_v2")
    torch.manual_seed(3)
    trunk, run = FaceNetworks(widths).encoder.trunk, tmp_path / "run"
    tail = {f"features.{name}": value for name, value in trunk.tail.state_dict().items()}
    head = {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}
    tensors = trunk.front.state_dict() | tail | head
    file = tmp_path / "mobilenet_v2.safetensors"
    save_file({name: value.clone() for name, value in tensors.items()}, file)
    after_generator = FaceNetworks(widths)
    run.mkdir()
    write_result(after_generator, run)
    (run / "training.json").write_text(json.dumps(after_generator.facts()))

    def first(networks: FaceNetworks) -> Tensor:
        return networks.encoder.trunk.front.features[0][0].weight

    wanted = trunk.front.features[0][0].weight
    found = start_networks(start=run, trunk_weights=tmp_path)
    assert torch.equal(first(found), wanted)
    found.encoder.standard.fit(torch.randn(4, found.encoder.pooled_size))  # as if it were trained
    with torch.no_grad():
        first(found).zero_()
    write_result(found, run)
    assert not bool(first(start_networks(start=run, trunk_weights=tmp_path)).any())


# --- losses


def test_players_pull_in_opposite_directions() -> None:
    low, high = torch.tensor([-3.0]), torch.tensor([3.0])
    assert generator_loss(high) < generator_loss(low)
    assert discriminator_loss(high, low) < discriminator_loss(low, high)


def test_r1_is_the_squared_gradient() -> None:
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    logits = 2 * images.sum((1, 2, 3))
    assert float(r1_penalty(logits, images)) == pytest.approx(4 * 48 / 2)


def test_even_paths_cost_nothing() -> None:
    path = PathLength()
    rows = torch.ones(4, 2, 3, requires_grad=True)
    plane = torch.ones(4, 3, 8, 8)
    torch.manual_seed(0)
    first = path(rows.sum((1, 2))[:, None, None, None] * plane, rows)
    assert float(path.mean) > 0
    assert first.requires_grad is False or float(first) >= 0
    path.mean.fill_(0.0)
    still = path(0 * rows.sum((1, 2))[:, None, None, None] * plane, rows)
    assert float(still.detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(first.detach()) > 1e-3


def test_augmentation_varies_each_face_and_passes_gradients() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    varied = augment(images)
    assert varied.shape == images.shape
    assert not torch.allclose(varied[0], augment(images)[0])
    varied.sum().backward()
    assert float(images.grad.abs().sum()) > 0


def test_perception_tells_a_shift_from_nothing() -> None:
    torch.manual_seed(0)
    loss = PerceptualLoss(None)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert float(loss(image, image)) == 0
    assert float(loss(image.roll(2, 3), image)) > 1e-3
    with pytest.raises(CdvisionError, match="perceptual network"):
        PerceptualLoss(None, "vgg16")


# --- scores


def test_scores_of_known_answers() -> None:
    truth = np.array([[1, 0], [1, 0], [0, 0], [0, 1]])
    logits = np.array([[2.0, -1], [-1, -1], [-3, -1], [-1, -1]])
    assert attribute_scores.mean_accuracy(logits, truth) == pytest.approx(6 / 8)
    assert attribute_scores.balanced_accuracy(logits, truth) == pytest.approx((0.75 + 0.5) / 2)


def test_thresholds_separate_what_can_be_separated() -> None:
    truth = np.array([[1], [1], [0], [0]])
    logits = np.array([[5.0], [4.0], [3.0], [2.0]])
    thresholds = attribute_scores.balanced_thresholds(logits, truth)
    assert 3 < thresholds[0] < 4
    assert attribute_scores.mean_accuracy(logits - thresholds, truth) == 1.0


@pytest.mark.parametrize(("weight", "answered"), [(0.0, 0), (0.5, 0), (0.6, 3)])
def test_thresholds_weigh_accuracy_and_balance(weight: float, answered: int) -> None:
    """Refusing all is right for 5 of 6; answering three for 4, with 0.3 more of balance."""
    truth = np.array([[0], [0], [1], [0], [0], [0.0]])
    logits = np.array([[6.0], [5], [4], [3], [2], [1]])
    (cut,) = attribute_scores.balanced_thresholds(logits, truth, weight)
    assert int((logits > cut).sum()) == answered


def test_a_face_score_tells_discs_from_noise(banks: tuple[FaceBank, FaceBank]) -> None:
    rng = np.random.default_rng(0)
    noise = [torch.from_numpy(rng.integers(0, 256, (3, 40, 50), np.uint8)) for _ in range(30)]
    found = networks()
    result = fit_score(found, *banks, noise, PLAN)
    assert result["photos_accepted"] == 0
    assert result["faces_refused"] <= 0.34
    assert result["held_out_photos"] == 3
    codes = found.encoder(banks[1].images.float())
    assert bool((found.score(codes.pooled) >= found.score.threshold).sum() >= 2)


# --- commands


def test_every_stage_runs_from_the_command_line(data: tuple[Path, Path], tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    with open(data[1], newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    extra = [f"a{i}" for i in range(37)]
    lines = [[*rows[0], *extra], *([*row, *("01"[i % 2] for i in range(37))] for row in rows[1:])]
    labels.write_text("\n".join(",".join(line) for line in lines))
    common = [str(data[0]), "--labels", str(labels), "--smoke", "--device", "cpu"]
    folders = [tmp_path / name for name in ("generator", "trunk", "inversion", "score", "rows")]
    calls = [
        ["generator", *common, "-o", folders[0]],
        ["trunk", *common, "--start", folders[0], "-o", folders[1]],
        ["inversion", *common, "--start", folders[1], "-o", folders[2], "--drawn", "0.5"],
        ["score", *common, str(data[0].parent), "--start", folders[2], "-o", folders[3]],
        ["rows", *common, "--start", folders[3], "-o", folders[4]],
    ]
    for call in calls:
        result = CliRunner().invoke(train, ["faces", *map(str, call)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    record = json.loads((folders[3] / "training.json").read_text())
    assert record["stage"] == "faces-inversion"
    assert "face_score" in record
    refined = load_face_networks(folders[4])
    assert refined.refiner is not None
    assert float(refined.refiner.directions.weight.detach().abs().sum()) > 0
    score = load_face_networks(folders[3]).score
    assert float(score.threshold) == pytest.approx(record["face_score"]["threshold"], abs=0.01)


def test_stages_run_at_their_own_sizes_too(data: tuple[Path, Path], tmp_path: Path) -> None:
    """What ``--smoke`` leaves out: widths, batch and steps as they are given."""
    first, second = tmp_path / "generator", tmp_path / "again"
    plan = ["--steps", "1", "--batch", "2", "--device", "cpu"]
    calls = [
        ["generator", data[0], *plan, "--resolution", "32", "--path", "2", "-o", first],
        ["generator", data[0], *plan, "--start", first, "-o", second],
    ]
    for call in calls:
        result = CliRunner().invoke(train, ["faces", *map(str, call)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    widths = load_face_networks(second).widths
    assert (widths.resolution, widths.style, widths.trunk) == (32, FACE.style, "mobilenet_v2")
    wrong = [*map(str, calls[0]), "--trunk", "resnet"]
    assert CliRunner().invoke(train, ["faces", *wrong]).exit_code == 2


# --- crops


def test_a_central_square_without_landmarks() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = (10, 200, 30)
    crop = crop_face(pixels, size=20)
    assert crop.shape == (20, 20, 3)
    assert crop.dtype == np.uint8
    assert (crop == (10, 200, 30)).all()


def marked_face(points: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.zeros((size[1], size[0], 3), np.float64)
    for index, point in enumerate(points[[0, 1, 3]]):  # eyes red and green, a corner blue
        pixels[..., index] = 255 * np.exp(
            -((x + 0.5 - point[0]) ** 2 + (y + 0.5 - point[1]) ** 2) / 18
        )
    return pixels.round().astype(np.uint8)


UPRIGHT = np.array([(-20.0, -20), (20, -20), (0, 0), (-15, 20), (15, 20)])


@pytest.mark.parametrize("angle", [0.0, 25.0, -140.0])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_landmarks_come_to_their_places(angle: float, scale: float) -> None:
    turn = np.deg2rad(angle)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = UPRIGHT @ matrix.T + np.array([210, 190])
    crop = crop_face(marked_face(points, (400, 380)), points, size=160).astype(float)
    # Side 4 x 40 = 160 around (0, -20 + 0.1 x 40): the eyes lie 4 above the centre.
    wanted = {0: (60.0, 76.0), 1: (100.0, 76.0), 2: (65.0, 116.0)}
    y, x = np.mgrid[:160, :160] + 0.5
    for channel, place in wanted.items():
        weight = crop[..., channel]
        found = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
        assert found == pytest.approx(place, abs=0.6)


def test_a_cut_beyond_the_edge_repeats_it() -> None:
    pixels = np.full((60, 60, 3), 90, np.uint8)
    crop = crop_face(pixels, UPRIGHT + 8, size=64)
    assert (crop == 90).all()


@pytest.mark.parametrize(
    "points", [UPRIGHT[:4], UPRIGHT * np.nan, np.zeros((5, 2)), np.ones((5, 3))]
)
def test_impossible_landmarks_are_named(points: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ImageError, match="landmarks of a face"):
        crop_face(np.zeros((50, 50, 3), np.uint8), points)


def test_grey_pictures_become_rgb() -> None:
    tensor: Tensor = torch.from_numpy(crop_face(Image.new("L", (30, 40), 7), size=8).copy())
    assert tensor.shape == (8, 8, 3)
    assert bool((tensor == 7).all())
