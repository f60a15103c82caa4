"""Training: the real recipe for a few steps, exact resumption, losses, rates, and the package."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cdvision
from cdvision.cli import command_line
from cdvision.errors import CdvisionError, ModelError

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from cdvision.models.small import nanodet_weights  # noqa: E402
from cdvision.models.small.nanodet import WIDE, WIDTHS, NanoDetFront, NanoDetTail  # noqa: E402
from cdvision.models.small.nanodet_weights import load_nanodet  # noqa: E402
from cdvision.models.small.network import Small, pack, unpack  # noqa: E402
from cdvision.models.small.training.descriptor import compute_descriptor  # noqa: E402
from cdvision.models.small.training.distillation import (  # noqa: E402
    WEIGHTS,
    DetectionTarget,
    Teacher,
    detection_loss,
    weighted_sum,
)
from cdvision.models.small.training.map_stage import FROZEN, MapStage  # noqa: E402
from cdvision.models.small.training.options import ReceiverOptions  # noqa: E402
from cdvision.models.small.training.receiver import ReceiverStage  # noqa: E402
from cdvision.networks import initial_weights  # noqa: E402
from cdvision.networks.initial_weights import load_mobilenet, load_mobilenet_embedding  # noqa: E402
from cdvision.networks.mobilenet_v2 import MobileNetFront, MobileNetTail  # noqa: E402
from cdvision.networks.quantisation import gaussian_bits  # noqa: E402
from cdvision.networks.scales import scale_of  # noqa: E402
from cdvision.training.finished import open_finished  # noqa: E402
from cdvision.training.photo_bank import CropPlan, PhotoBank, plan_for, read_photos  # noqa: E402
from cdvision.training.plan import Plan, Progress  # noqa: E402
from cdvision.training.run_folder import read_progress, save_checkpoint  # noqa: E402
from cdvision.training.stage import Stage  # noqa: E402
from cdvision.training.stage_run import run_stage  # noqa: E402
from cdvision.training.tensor_files import read_tensors  # noqa: E402
from cdvision.training.transmission import transmit  # noqa: E402

REPOSITORY = Path(__file__).parent.parent
CPU = torch.device("cpu")
PLAN = Plan(minutes=60.0, steps=3, batch=2, device=CPU, warmup_steps=1)
NO_STEP = Plan(minutes=0.0, batch=2, device=CPU)


pytestmark = pytest.mark.usefixtures("one_thread")


def random_network(module: nn.Module, seed: int) -> Any:
    """Fill a network so that activations neither die nor explode."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=0.5)
            nn.init.normal_(part.bias, std=0.05)
    return module.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write initial weights as the published files have them, but random."""
    folder = tmp_path_factory.mktemp("weights")
    for detector in WIDTHS:
        write_published(detector, folder)
    parts = random_network(MobileNetFront(), 3), random_network(MobileNetTail(), 4)
    merged = {k: v.half() for part in parts for k, v in part.state_dict().items()}
    save_file(merged, folder / initial_weights.MOBILENET_FILE)
    return folder


def write_published(detector: str, folder: Path) -> None:
    """Write a random NanoDet under the names of the published file."""
    width = WIDTHS[detector]
    front, tail = random_network(NanoDetFront(width), 1), random_network(NanoDetTail(width), 2)
    names = nanodet_weights._front_layers() | nanodet_weights._tail_layers()
    tensors = {}
    for key, value in {**front.state_dict(), **tail.state_dict()}.items():
        ours, part = key.rsplit(".", 1)
        tensors[f"{names[ours]}.{part}"] = value.half()
    tensors["convrelu_0.weight"] = tensors["convrelu_0.weight"].flip(1)  # the file reads BGR
    save_file(tensors, folder / nanodet_weights.FILES[detector])


@pytest.fixture(scope="module")
def teacher(weights: Path) -> Teacher:
    return Teacher(*load_nanodet(weights))


@pytest.fixture(scope="module")
def bank(photos: list[Path]) -> PhotoBank:
    """Return a bank of small crops of the example photos."""
    tensors = []
    for path in photos[:3]:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB").resize((120, 90)))
        tensors.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return PhotoBank(tensors, CropPlan(sides=(64,), least=0.7, share=1.0))


# --- a whole run


@pytest.fixture(scope="module")
def run(weights: Path, bank: PhotoBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Take three steps of the real stage."""
    out = tmp_path_factory.mktemp("run")
    run_stage(MapStage(weights, [bank], PLAN), out, PLAN)
    return out


def stop_once(stage: Stage) -> Stage:
    """Have somebody press Ctrl-C while the stage takes its first step."""
    loss = stage.loss

    def stopping(rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, Any]]:
        signal.raise_signal(signal.SIGINT)  # heeded after the step
        return loss(rng, done)

    stage.loss = stopping  # type: ignore[method-assign]
    return stage


def differing(first: Path, second: Path, file: str = "checkpoint.safetensors") -> list[str]:
    """Return the tensors of two runs that are not equal to the bit."""
    ours, theirs = read_tensors(first / file), read_tensors(second / file)
    assert set(ours) == set(theirs)
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_a_run_says_what_it_did(run: Path) -> None:
    record = json.loads((run / "training.json").read_text())
    expected = {"stage": "small", "steps": 3, "batch": 2, "photos": 3, "device": "cpu"}
    assert record | expected == record
    assert record["learning_rate"] == 5e-4
    multipliers = read_tensors(run / "checkpoint.safetensors")["rate/log_multiplier"]
    assert record["log_multipliers"] == pytest.approx(multipliers.tolist(), abs=1e-4)
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert {*WEIGHTS, "rate", "bits", "norm", "loss", "step", "seconds", "bytes"} == set(line)
    assert len(line["bytes"]) == 8


def test_a_stopped_run_ends_in_the_same_bits(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stage(stop_once(MapStage(weights, [bank], PLAN)), tmp_path, PLAN)
    assert not (tmp_path / "weights.safetensors").exists()
    assert read_progress(tmp_path / "checkpoint.safetensors").step == 1
    run_stage(MapStage(weights, [bank], PLAN), tmp_path, PLAN)
    assert differing(run, tmp_path) == []
    assert differing(run, tmp_path, "weights.safetensors") == []


def test_a_run_whose_time_is_spent_trains_no_further(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    again = shutil.copytree(run, tmp_path / "again")
    run_stage(MapStage(weights, [bank], PLAN), again, PLAN)
    assert differing(run, again) == []


def test_a_run_goes_on_from_a_finished_one_with_its_multipliers(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    stage = MapStage(weights, [bank], NO_STEP, start=open_finished(run))
    run_stage(stage, tmp_path, NO_STEP)
    finished, begun = (
        read_tensors(run / "weights.safetensors"),
        read_tensors(tmp_path / "weights.safetensors"),
    )
    assert all(torch.equal(begun[name], value) for name, value in finished.items())
    record = json.loads((tmp_path / "training.json").read_text())
    assert (record["steps"], record["start"]["steps"]) == (0, 3)
    before, after = (read_tensors(folder / "checkpoint.safetensors") for folder in (run, tmp_path))
    assert torch.equal(before["rate/log_multiplier"], after["rate/log_multiplier"])
    assert torch.equal(before["sensitivity/root"], after["sensitivity/root"])


def test_a_tuned_run_hands_its_multipliers_on(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    tuned(weights, run, [bank], tmp_path / "tuned")
    stage = MapStage(weights, [bank], NO_STEP, start=open_finished(tmp_path / "tuned"))
    run_stage(stage, tmp_path / "on", NO_STEP)
    before = read_tensors(run / "checkpoint.safetensors")
    after = read_tensors(tmp_path / "on" / "checkpoint.safetensors")
    for name in ("rate/log_multiplier", "sensitivity/root"):
        assert torch.equal(before[name], after[name])


@pytest.fixture(scope="module")
def bare(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package of the run, without graphs: each takes seconds."""
    pytest.importorskip("onnxscript")
    from cdvision.building import package_builder as builder
    from cdvision.models.small import package_builder as small_builder

    folder = tmp_path_factory.mktemp("packages") / "bare"
    names = cdvision.load("small").package.classes
    facts = builder.PackageFacts(names, json.loads((run / "training.json").read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "graph_modules", lambda network, model: {})
        patch.setattr(builder, "count_multiply_adds", lambda path, inputs: 1)
        small_builder.build_small(run / "weights.safetensors", folder, facts)
    return folder


def test_a_run_goes_on_from_a_package(
    run: Path, bare: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    stage = MapStage(weights, [bank], NO_STEP, start=open_finished(bare))
    run_stage(stage, tmp_path, NO_STEP)
    assert differing(bare, tmp_path, "weights.safetensors") == []
    before, after = (read_tensors(folder / "checkpoint.safetensors") for folder in (run, tmp_path))
    # The card tells the prices of bytes; the metric is measured anew.
    torch.testing.assert_close(before["rate/log_multiplier"], after["rate/log_multiplier"])
    assert not torch.equal(after["sensitivity/root"], torch.eye(len(after["sensitivity/root"])))
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["start"]["package"] == "small"


def test_prices_that_a_card_does_not_tell_are_measured(
    bare: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    untold = shutil.copytree(bare, tmp_path / "untold")
    card = json.loads((untold / "model.json").read_text())
    del card["training"]["log_multipliers"]
    (untold / "model.json").write_text(json.dumps(card))
    stage = MapStage(weights, [bank], NO_STEP, start=open_finished(untold))
    before = stage.rate.log_multiplier.clone()
    stage.begin(np.random.default_rng(0))
    assert torch.isfinite(stage.rate.log_multiplier).all()
    assert not torch.isclose(stage.rate.log_multiplier, before).any()


def test_a_receiver_is_tuned_from_a_package(
    bare: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    tuned(weights, bare, [bank], tmp_path)
    changed = differing(bare, tmp_path, "weights.safetensors")
    assert changed
    assert all(key.startswith(TUNED) for key in changed)


def test_nothing_goes_on_from_what_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="expected a finished run with"):
        open_finished(tmp_path)
    with pytest.raises(CdvisionError, match="a finished run or a package: no model 'smal'"):
        open_finished("smal")


def test_runs_are_averaged(run: Path, tmp_path: Path) -> None:
    later, out = tmp_path / "later", tmp_path / "mean"
    later.mkdir()
    weights = read_tensors(run / "weights.safetensors")
    moved = {name: value + 1 for name, value in weights.items()}
    save_file({**moved, "masks.own": torch.ones(2)}, later / "weights.safetensors")
    (later / "training.json").write_text('{"steps": 7}')
    command = ["train", "average", str(later), str(run), "--share", "0.25", "-o", str(out)]
    assert CliRunner().invoke(command_line, command).exit_code == 0
    mean = read_tensors(out / "weights.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(mean[name], value + 0.25, rtol=1e-3, atol=1e-3)
        assert mean[name].dtype == value.dtype
    assert torch.equal(mean["masks.own"], torch.ones(2))
    record = json.loads((out / "training.json").read_text())
    assert record["steps"] == 7
    assert record["averaged"]["with"]["steps"] == 3
    save_file({"encoder.log_gain": torch.ones(1)}, later / "weights.safetensors")
    refused = CliRunner().invoke(command_line, command)
    assert refused.exit_code
    assert "expected the networks of" in refused.output


TUNED = ("taps.nanodet_plus_m.", "tails.nanodet_plus_m.")
TUNING = Plan(minutes=1.0, batch=2, device=CPU, steps=2, warmup_steps=1)


def tuned(weights: Path, run: Path, banks: list[PhotoBank], out: Path) -> None:
    """Tune the receiver of a run for two steps."""
    run_stage(ReceiverStage(weights, open_finished(run), banks, TUNING), out, TUNING)


def test_a_receiver_is_tuned_beside_its_masks(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    model = Small()
    model.add_masks()
    with_masks = tmp_path / "with-masks"
    shutil.copytree(run, with_masks)
    masks = {k: v.half() for k, v in model.state_dict().items() if k.startswith("masks.")}
    assert masks
    before = read_tensors(run / "weights.safetensors") | masks
    save_file(before, with_masks / "weights.safetensors")
    # `cdvision train masks` keeps its branch in the checkpoint, and nothing of `train small`'s.
    branch = model.masks
    assert branch is not None
    trained = torch.optim.AdamW(branch.parameters())
    checkpoint = with_masks / "checkpoint.safetensors"
    save_checkpoint(checkpoint, {"branch": branch, "average": branch}, trained, Progress())
    out = tmp_path / "tuned"
    tuned(weights, with_masks, [bank], out)
    after = read_tensors(out / "weights.safetensors")
    assert set(after) == set(before)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} == {"taps", "tails"}


def test_a_run_writes_safetensors_only(run: Path) -> None:
    # The checkpoint, with its moments, is large: it lies in parts.
    names = {p.name.partition(".safetensors.")[0] for p in run.iterdir()}
    assert names == {"checkpoint", "weights.safetensors", "training.json", "log.jsonl"}
    stored = read_tensors(run / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert set(stored) == set(Small().state_dict())
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())


def test_the_sources_load_no_pickle() -> None:
    forbidden = ("torch.load(", "torch.save(", "pickle.load", "allow_pickle=True", "joblib")
    for top in ("cdvision", "heads", "export"):
        for path in (REPOSITORY / top).rglob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            # A user's own .pth file is read by PyTorch's restricted reader, which runs no code.
            text = "\n".join(line for line in lines if "weights_only=True" not in line)
            assert not [word for word in forbidden if word in text], path


def test_initial_weights_come_back_by_name(weights: Path) -> None:
    front, tail = load_nanodet(weights)
    expected = random_network(NanoDetFront(), 1).state_dict()
    expected |= random_network(NanoDetTail(), 2).state_dict()
    found = front.state_dict() | tail.state_dict()
    assert all(torch.equal(found[key], value.half().float()) for key, value in expected.items())
    classifier = load_mobilenet(weights)
    found = classifier[0].state_dict() | classifier[1].state_dict()
    expected = random_network(MobileNetTail(), 4).state_dict()
    assert all(torch.equal(found[key], value.half().float()) for key, value in expected.items())
    network, last = load_mobilenet_embedding(weights)
    image = 255 * torch.rand(2, 3, 64, 96)
    whole = classifier[1](classifier[0](image))
    torch.testing.assert_close(last(network(image)), whole, rtol=1e-4, atol=1e-4)


def test_missing_initial_weights_are_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"initial weights not found: .*nanodet_plus_m_416"):
        load_nanodet(tmp_path)


def test_tuning_the_receiver_changes_no_stream(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    tuned(weights, run, [bank], tmp_path)
    before, after = (read_tensors(p / "weights.safetensors") for p in (run, tmp_path))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith(TUNED) for key in changed)
    record = json.loads((tmp_path / "training.json").read_text())
    assert (record["stage"], record["steps"]) == ("receiver", 2)
    assert record["tuned"] == json.loads((run / "training.json").read_text())


def test_a_stopped_tuning_ends_in_the_same_bits(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    tuned(weights, run, [bank], tmp_path / "once")
    first = stop_once(ReceiverStage(weights, open_finished(run), [bank], TUNING))
    with pytest.raises(KeyboardInterrupt):
        run_stage(first, tmp_path / "twice", TUNING)
    assert not (tmp_path / "twice" / "weights.safetensors").exists()
    tuned(weights, run, [bank], tmp_path / "twice")
    assert differing(tmp_path / "once", tmp_path / "twice") == []


def test_a_wider_receiver_starts_as_published_and_lets_its_tail_wait(
    run: Path, weights: Path, bank: PhotoBank, tmp_path: Path
) -> None:
    """Its tail joins for the second of two steps; stopped after the first, nothing differs."""

    def widened(tail_from: float) -> ReceiverStage:
        options = ReceiverOptions(detector=WIDE, tail_from=tail_from)
        return ReceiverStage(weights, open_finished(run), [bank], TUNING, options)

    run_stage(widened(0.6), tmp_path / "waiting", TUNING)
    run_stage(widened(0.5), tmp_path / "once", TUNING)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stop_once(widened(0.5)), tmp_path / "twice", TUNING)
    run_stage(widened(0.5), tmp_path / "twice", TUNING)
    assert differing(tmp_path / "once", tmp_path / "twice") == []
    waiting, learned = (
        read_tensors(tmp_path / name / "weights.safetensors") for name in ("waiting", "once")
    )
    published = random_network(NanoDetTail(WIDTHS[WIDE]), 2).state_dict()
    tail = "tails.nanodet_plus_m_1_5x."
    assert all(torch.equal(waiting[f"{tail}{k}"], v.half()) for k, v in published.items())
    moved = {name for name in waiting if not torch.equal(waiting[name], learned[name])}
    assert all(f"{tail}{name}" in moved for name in published if name.endswith("weight"))
    assert "wide_front.stem.0.0.weight" in learned
    kept = {k: v for k, v in read_tensors(run / "weights.safetensors").items()
            if not k.startswith(TUNED)}  # fmt: skip
    assert all(torch.equal(learned[name], value) for name, value in kept.items())
    record = json.loads((tmp_path / "once" / "training.json").read_text())
    assert (record["detector"], record["tail_from"]) == (WIDE, 0.5)
    # It goes on as what it is, without being told.
    again = ReceiverStage(weights, open_finished(tmp_path / "once"), [bank], TUNING)
    assert again.model.detector == WIDE
    torch.testing.assert_close(
        again.model.detector_tap.mix.weight.half(), learned["taps.nanodet_plus_m_1_5x.mix.weight"]
    )


# --- the descriptor


@pytest.fixture(scope="module")
def described(run: Path, bank: PhotoBank) -> Small:
    """Compute the descriptor beside a run's map."""
    state = {k: v.float() for k, v in read_tensors(run / "weights.safetensors").items()}
    model = Small.from_state(state).eval().requires_grad_(False)
    assert compute_descriptor(model, [bank], CPU) == 3
    return model


def test_the_descriptor_leaves_the_map_and_the_classifier_as_they_are(
    run: Path, described: Small
) -> None:
    before = read_tensors(run / "weights.safetensors")
    after = {name: value.half() for name, value in described.state_dict().items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {
        "descriptor.log_gain",
        "descriptor.project.weight",
        "descriptor.project.bias",
        "descriptor.prior.location",
        "descriptor.prior.log_scale",
        "taps.mobilenet_v2.log_rescale",
        "taps.mobilenet_v2.expand.weight",
        "taps.mobilenet_v2.expand.bias",
    }


def test_the_descriptor_tells_the_classes(described: Small, bank: PhotoBank) -> None:
    crops = bank.crops([0, 1, 2], 224, np.random.default_rng(0))
    level, last = torch.full((3,), 7), described.classifier_tail
    with torch.no_grad():
        wanted = last(described.descriptor.network(crops)).argmax(1)
        symbols = described.descriptor(crops, level)
        assert symbols.abs().max() >= 1
        assert torch.equal(symbols, symbols.round())
        found = last(described.classifier_tap(symbols, level))
    assert torch.equal(found.argmax(1), wanted)


def test_the_command_writes_a_run(run: Path, photos: list[Path], tmp_path: Path) -> None:

    from cdvision.cli.train import train

    arguments = ["descriptor", str(run), str(photos[0].parent), "-o", str(tmp_path), "--device"]
    done = CliRunner().invoke(train, [*arguments, "cpu"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "training.json").read_text())
    assert record.pop("descriptor")["photos"] == len(photos)  # the face is smaller than a window
    assert record == json.loads((run / "training.json").read_text())
    assert set(read_tensors(tmp_path / "weights.safetensors")) == set(Small().state_dict())


def test_packed_features_come_apart_and_are_read_alike(bank: PhotoBank) -> None:
    model = random_network(Small(), 5)
    image = bank.batch(2, np.random.default_rng(3))
    with torch.no_grad():
        features = model.encoder.front(image)
        for ours, theirs in zip(unpack(pack(features)), features, strict=True):
            assert torch.equal(ours, theirs)
        analysis = model.encoder.analysis
        apart, packed = analysis.of_scales(features), analysis(pack(features))
    torch.testing.assert_close(apart, packed, rtol=1e-3, atol=1e-3 * float(packed.abs().max()))


# --- steps


@pytest.fixture
def stage(weights: Path, bank: PhotoBank) -> MapStage:
    """Return the map's stage with random networks, before its start is computed."""
    return MapStage(weights, [bank], PLAN)


def test_a_step_moves_every_part(stage: MapStage, tmp_path: Path) -> None:
    stage.begin = lambda rng: None  # type: ignore[method-assign]  # random parts learn everywhere
    random_network(stage.model.tails, 9)
    random_network(stage.model.taps, 10)
    before = {k: v.clone() for k, v in stage.model.named_parameters()}
    run_stage(stage, tmp_path, PLAN)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert all(math.isfinite(line[name]) for name in WEIGHTS)
    assert line["bits"] > 0
    still = {k for k, v in stage.model.named_parameters() if torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith(FROZEN)}
    assert frozen <= still
    assert not any(k.startswith("encoder.front.stage3") for k in still)
    # No gradient reaches a weight behind an exact zero.
    assert len(still - frozen) < 0.05 * len(before), still - frozen
    assert not any(parameter.requires_grad for parameter in stage.teacher.parameters())


def test_the_map_starts_as_a_linear_code_of_the_features(stage: MapStage) -> None:
    images = stage.draw_start(np.random.default_rng(0))
    stage.begin(np.random.default_rng(0))
    model = stage.model
    with torch.no_grad():
        features = torch.cat([model.encoder.features(image) for image in images])
        y = model.encoder.analysis.linear(features)
        found = torch.cat([model.detector_tap.fine(y), model.detector_tap.coarse(y)], 1)
        mean = features.mean((0, 2, 3), keepdim=True)
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(128), atol=1e-3, rtol=0)
        # 128 of 696 components, in the metric in which a code that sends nothing loses 1
        assert float(stage.sensitivity.error(mean.expand_as(features), features)) > 0.9
        assert float(stage.sensitivity.error(found, features)) < 0.1


def test_the_loss_of_the_map_is_the_weighted_terms_and_the_rate(stage: MapStage) -> None:
    losses = []
    for rng in (np.random.default_rng(0), np.random.default_rng(0)):
        torch.manual_seed(0)
        loss, terms = stage.loss(rng, 0.0)
        losses.append((loss.detach(), {name: value.detach() for name, value in terms.items()}))
    (loss, terms), (again, _) = losses
    parts = [1.0 * terms[f"detect/{name}"] for name in ("features", "pyramid", "scores")]
    wanted = torch.stack([*parts, 0.25 * terms["detect/boxes"], terms["rate"]]).sum()
    torch.testing.assert_close(loss, wanted)
    assert float(terms["rate"]) > 0
    assert stage.average.memory == 0.999
    # Steering took a step in between; nothing else differs.
    torch.testing.assert_close(loss, again, rtol=0.05, atol=0)


def test_a_receiver_learns_from_its_terms_alone(run: Path, weights: Path, bank: PhotoBank) -> None:
    stage = ReceiverStage(weights, open_finished(run), [bank], TUNING)
    loss, terms = stage.loss(np.random.default_rng(0), 0.0)
    wanted = weighted_sum(terms).detach()
    torch.testing.assert_close(loss.detach(), wanted)
    assert set(terms) == set(WEIGHTS)
    rates = {
        group["lr"]: {n for n, p in stage.model.named_parameters()
                      if any(p is one for one in group["params"])}
        for group in stage.optimizer.param_groups
    }  # fmt: skip
    assert {rate: {n.split(".")[0] for n in names} for rate, names in rates.items()} == {
        3e-4: {"taps"}, 8e-5: {"tails"},
    }  # fmt: skip


def test_an_interrupted_save_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Linear(2, 2)
    optimizer, path = torch.optim.Adam(layer.parameters()), tmp_path / "c.safetensors"
    save_checkpoint(path, {"layer": layer}, optimizer, Progress())
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, {"layer": layer}, optimizer, Progress(1))
    assert path.read_bytes() == before


def test_the_rate_of_a_batch_is_that_of_the_integer_tables(
    stage: MapStage, bank: PhotoBank
) -> None:
    """What training counts is what the coder writes: the noise evens out over a batch."""
    from cdvision.building.map_tables import build_coder

    stage.model.eval()
    torch.manual_seed(5)
    with torch.no_grad():  # latents of some size, and scales that suit them
        stage.model.encoder.analysis.linear.weight.mul_(60.0)
        stage.model.hyper_decoder.quality_bias.fill_(24.0)
        stage.model.hyper_decoder.conv3.weight.zero_()
        images = torch.cat([bank.batch(8, np.random.default_rng(i)) for i in range(4)])
        quality = torch.full((len(images),), 7)
        features = stage.model.encoder.features(images)
        sent = transmit(stage.model, features, quality)
        counted, rounded = float(sent.noisy_bits.mean()), float(sent.bits.mean())
        symbols, hyper = (part.int().numpy() for part in stage.model.encode(images, quality))
    coder = build_coder(stage.model)
    latents = [{"symbols": s, "hyper": z} for s, z in zip(symbols, hyper, strict=True)]
    written = [coder.estimate_bits(one, 7)[0] for one in latents]
    assert counted > 1000
    assert np.mean(written) == pytest.approx(counted, rel=0.03)
    assert np.mean(written) == pytest.approx(rounded, rel=0.01)  # what steers the rate


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_skipped_symbols_arrive_as_zero_in_training_too(
    stage: MapStage, bank: PhotoBank, level: float
) -> None:
    model, quality = stage.model, torch.tensor([7, 7])
    with torch.no_grad():
        model.encoder.analysis.linear.weight.mul_(60.0)
        model.hyper_decoder.quality_bias.fill_(level)
        model.hyper_decoder.conv3.weight.zero_()
        image = bank.batch(2, np.random.default_rng(0))
        symbols, hyper = model.encode(image, quality)
        assert symbols.abs().max() >= 2 if level > 0 else not symbols.any()
        wanted = model.dequantiser(symbols, hyper, quality)
        features = model.encoder.features(image)
        sent = transmit(model, features, quality)
        assert torch.equal(sent.y, wanted)
        hyper_bits = model.hyper_prior.bits(hyper, quality).flatten(1).sum(1)
        if level == 0:  # what is skipped costs nothing
            torch.testing.assert_close(sent.bits, hyper_bits)
        else:
            assert (sent.bits > hyper_bits + 1).all()


def test_rates_with_gradients_are_of_noisy_latents(stage: MapStage, bank: PhotoBank) -> None:
    model, quality = stage.model.eval(), torch.tensor([3, 7])
    with torch.no_grad():
        model.encoder.analysis.linear.weight.mul_(60.0)
        features = model.encoder.features(bank.batch(2, np.random.default_rng(0)))
        torch.manual_seed(1)
        found = transmit(model, features, quality).noisy_bits
        torch.manual_seed(1)  # the hyper-latent gets its noise first
        scaled = model.encoder.scaled_analysis(features, quality)
        z = model.encoder.hyper_latents(scaled)
        noisy = z + torch.rand_like(z) - 0.5
        index = model.scale_index(torch.round(z), quality, scaled)
        quantised = model.dequantiser.quantise(scaled, torch.round(z), quality, index > 0)
        residual = quantised.residual + torch.rand_like(quantised.residual) - 0.5
        bits = gaussian_bits(residual, scale_of(index)).flatten(1).sum(1)
        bits += model.hyper_prior.bits(noisy, quality).flatten(1).sum(1)
    torch.testing.assert_close(found, bits)


# --- photos


def test_batches_are_crops_of_the_planned_size(bank: PhotoBank) -> None:
    batch = bank.batch(5, np.random.default_rng(0))
    assert batch.shape == (5, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert batch.min() >= -1  # antialiasing may ring a little
    assert 100 < batch.max() <= 256
    again = bank.batch(5, np.random.default_rng(0))
    assert torch.equal(batch, again)


def test_photos_of_other_splits_are_left_out(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for index, path in enumerate(photos):
        (tmp_path / "below" / f"{index}.jpg").write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("no photo")
    read = read_photos(tmp_path, device=CPU, splits={"0.jpg": "val", "1.jpg": "train"})
    assert len(read) == len(photos) - 1
    assert all(photo.dtype == torch.uint8 and photo.shape[0] == 3 for photo in read)
    assert all(side % 32 == 0 for side in plan_for(read).sides)
    with pytest.raises(CdvisionError, match="no training photo"):
        PhotoBank([], CropPlan((64,), 0.7, 1.0))


def test_photos_are_hardly_enlarged() -> None:
    """A crop of a small photo is nearly the whole photo; of a large one, a part of any size."""
    for short, side in ((160, 192), (160, 160), (400, 224)):
        ramp = torch.arange(short, dtype=torch.uint8).expand(3, short, short).clone()
        bank = PhotoBank([ramp], CropPlan(sides=(side,), least=0.3, share=1.0))
        rng = np.random.default_rng(0)
        slopes = [float(bank.batch(1, rng).diff(dim=3).abs().median()) for _ in range(20)]
        assert min(slopes) > 1 / 1.25  # grey levels a pixel; 1 in the photo


# --- losses


def target(teacher: Teacher, image: Any) -> DetectionTarget:
    with torch.no_grad():
        return teacher.detect(teacher.front(image))


def test_perfect_students_lose_nothing(teacher: Teacher, bank: PhotoBank) -> None:
    seen = target(teacher, bank.batch(2, np.random.default_rng(1)))
    losses = detection_loss(seen.pyramid, seen.dense, seen)
    assert all(abs(float(loss)) < 1e-6 for loss in losses.values()), losses


def test_every_loss_grows_with_the_error(teacher: Teacher, bank: PhotoBank) -> None:
    seen = target(teacher, bank.batch(2, np.random.default_rng(1)))

    def losses(amount: float) -> dict[str, float]:
        torch.manual_seed(0)

        def noisy(value: Any) -> Any:
            return value + amount * value.std() * torch.randn_like(value)

        dense = type(seen.dense)(*map(noisy, seen.dense))
        found = detection_loss(tuple(map(noisy, seen.pyramid)), dense, seen)
        return {key: float(value) for key, value in found.items()}

    little, much = losses(0.1), losses(1.0)
    assert all(0 < little[key] < much[key] for key in little)


# --- the package


@pytest.fixture(scope="module")
def package(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package of a run, without graphs that nothing here runs: each takes 20 s."""
    pytest.importorskip("onnxscript")
    from cdvision.building import package_builder as builder
    from cdvision.models.small import package_builder as small_builder

    folder = tmp_path_factory.mktemp("packages") / "mine"
    names = cdvision.load("small").package.classes
    facts = builder.PackageFacts(names, json.loads((run / "training.json").read_text()))
    everything = builder.graph_modules

    def needed(network: str, model: nn.Module) -> Any:
        graphs = everything(network, model)
        return {n: g for n, g in graphs.items() if not n.startswith(("reference.", "tap.nanodet"))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "graph_modules", needed)
        small_builder.build_small(run / "weights.safetensors", folder, facts)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_the_package_of_a_run_answers_on_both_engines(package: Path, photos: list[Path]) -> None:
    onnx, ours = (cdvision.load(package, engine=engine) for engine in ("onnx", "torch"))
    assert onnx.card.training["steps"] == 3
    bits = onnx.encode(photos[1], 8, size=160)
    with pytest.raises(cdvision.BitstreamError, match="model fingerprint"):
        cdvision.open(bits)
    streams = onnx.open(bits), ours.open(bits)
    assert len(streams[0].classify()) == 5
    streams[0].detect(confidence=0.01)
    for tail in onnx.card.tails:
        first, second = (stream.dense(tail) for stream in streams)
        for name in first:
            largest = max(1.0, float(np.abs(second[name]).max()))
            np.testing.assert_allclose(first[name], second[name], atol=1e-3 * largest, rtol=0)


@pytest.mark.parametrize("spoil", [1.01, math.nan])
def test_a_graph_that_is_not_its_module_is_found(package: Path, spoil: float) -> None:
    from cdvision.export.parity import check_parity
    from cdvision.networks.graphs import graph_modules, load_network

    model = load_network("small", package / "weights.safetensors")
    path, name = package / "tap.mobilenet_v2.onnx", "tap.mobilenet_v2"
    (parity,) = check_parity(graph_modules("small", model)[name], path)
    assert parity.relative < 2e-4
    model.get_parameter("taps.mobilenet_v2.expand.weight").mul_(spoil)
    with pytest.raises(ModelError, match="output 'features' lies"):
        check_parity(graph_modules("small", model)[name], path)


def test_graphs_hold_no_weights_of_their_own(package: Path) -> None:
    import onnx

    stored = read_tensors(package / "weights.safetensors")
    for path in package.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        external = onnx.TensorProto.EXTERNAL
        inside = [t for t in model.graph.initializer if t.data_location != external]
        assert sum(onnx.numpy_helper.to_array(t).nbytes for t in inside) < 4096, path.name
        assert "/" not in str(model.doc_string)
        assert b"site-packages" not in path.read_bytes()
    total = sum(tensor.numel() * 2 for tensor in stored.values())
    assert (package / "weights.safetensors").stat().st_size < 1.02 * total


def test_the_tables_of_a_package_follow_its_weights(package: Path, run: Path) -> None:
    from cdvision.models.small.package_builder import build_described_coder
    from cdvision.networks.graphs import load_network
    from cdvision.package.loader import load_package

    built = build_described_coder(load_network("small", run / "weights.safetensors"))
    assert built.fingerprint == load_package(package).coder.fingerprint
    assert built.fingerprint != cdvision.load("small").package.coder.fingerprint


def test_no_package_without_the_proof(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from cdvision.building.map_tables import build_coder

    model = Small()
    with torch.no_grad():
        model.hyper_decoder.conv3.bias.fill_(2.0**24 / 2**model.hyper_decoder.conv3.shift)
    with pytest.raises(ModelError, match="integer layer 2: sums may reach"):
        build_coder(model)
