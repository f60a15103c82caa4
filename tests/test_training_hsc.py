"""Training of hsc on tiny networks: codes once, a head start, resumption to the bit, real bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from cdvision.cli.train import train  # noqa: E402
from cdvision.errors import CdvisionError  # noqa: E402
from cdvision.models.faces.hsc import HscCodec  # noqa: E402
from cdvision.models.faces.training.codec_report import report_codec, transmit_faces  # noqa: E402
from cdvision.models.faces.training.codec_stage import target_bytes  # noqa: E402
from cdvision.models.faces.training.face_bank import (  # noqa: E402
    FaceBank,
    FaceCodes,
    cached_codes,
    encode_faces,
)
from cdvision.models.faces.training.hsc_stage import HscStage  # noqa: E402
from cdvision.models.faces.training.networks import FaceNetworks  # noqa: E402
from cdvision.models.faces.training.options import HscOptions  # noqa: E402
from cdvision.models.faces.training.perceptual import PerceptualLoss  # noqa: E402
from cdvision.models.faces.widths import FACE_TINY, tiny_widths  # noqa: E402
from cdvision.networks.scales import QUALITIES  # noqa: E402
from cdvision.training.stage_run import RECORD, Plan, run_stage, write_result  # noqa: E402

CPU = torch.device("cpu")
FACE = replace(FACE_TINY, resolution=32, trunk_side=32, attributes=3)
WIDTHS = tiny_widths(FACE, dense=True)
PLAN = Plan(minutes=60.0, steps=4, batch=8, device=CPU, warmup_steps=1)
BYTES = {"base_bytes": (3.0, 14.0), "all_bytes": (12.0, 110.0)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def networks() -> FaceNetworks:
    torch.manual_seed(0)
    return FaceNetworks(FACE).eval()


@pytest.fixture(scope="module")
def bank() -> FaceBank:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 256, (64, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    attributes = torch.randint(0, 2, (64, 3), generator=generator).float()
    return FaceBank(images, attributes, ("Red", "Bright", "Never"))


@pytest.fixture(scope="module")
def codes() -> FaceCodes:
    """Codes with as many degrees of freedom as those of a trained encoder."""
    generator = torch.Generator().manual_seed(2)
    strength = torch.logspace(0, -1, 40)[:, None]
    mixing = strength * torch.randn((40, FACE.rows * FACE.style), generator=generator)
    rows = (torch.randn((96, 40), generator=generator) @ mixing).view(96, FACE.rows, FACE.style)
    size = (96, FACE.feature_channels, 4, 4)
    coarse = torch.randn(size, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
    feature = coarse + 0.2 * torch.randn(coarse.shape, generator=generator)
    labels = torch.randint(0, 2, (96, 3), generator=generator).float()
    return FaceCodes(rows, feature.half(), labels)


def stage_of(networks: FaceNetworks, codes: FaceCodes, plan: Plan = PLAN) -> HscStage:
    torch.manual_seed(2)
    options = HscOptions(label_weight=0.5, picture_weight=0.5, **BYTES)
    loss = PerceptualLoss(None)
    return HscStage(networks, HscCodec(WIDTHS), codes, plan, options, perceptual=loss)


def test_codes_are_those_of_the_encoder(networks: FaceNetworks, bank: FaceBank) -> None:
    codes = encode_faces(networks, bank, mirror=True)
    assert len(codes) == 128
    with torch.no_grad():
        straight = networks.encoder(bank.images[:2].float())
        mirrored = networks.encoder(bank.images[:2].float().flip(3))
    for at, wanted in ((0, straight), (64, mirrored)):
        assert torch.allclose(codes.rows[at : at + 2], wanted.rows, atol=1e-5)
        assert torch.allclose(codes.feature[at : at + 2].float(), wanted.feature, atol=1e-2)
    assert torch.equal(codes.attributes[64:], bank.attributes)
    drawn = [codes.batch(5, np.random.default_rng(3)).rows for _ in range(2)]
    assert torch.equal(*drawn)


def test_codes_are_kept_for_the_same_encoder_and_faces_only(
    networks: FaceNetworks, bank: FaceBank, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "codes.safetensors"
    first = cached_codes(path, networks, bank)
    written = path.stat().st_mtime_ns
    again = cached_codes(path, networks, bank)
    assert path.stat().st_mtime_ns == written
    assert all(torch.equal(getattr(first, n), getattr(again, n)) for n in ("rows", "feature"))
    other = FaceBank(255 - bank.images, bank.attributes, bank.names)
    assert not torch.equal(cached_codes(path, networks, other).rows, first.rows)
    assert path.stat().st_mtime_ns > written


def test_the_start_is_a_code_near_its_targets(networks: FaceNetworks, codes: FaceCodes) -> None:
    stage = stage_of(networks, codes)
    stage.begin(np.random.default_rng(0))
    some = codes.at(torch.arange(48))
    report = report_codec(stage.codec, some, metric=stage.metric, head=networks.head)
    bytes_, errors = ([entry[k] for entry in report] for k in ("bytes", "rows_error"))
    assert [len(entry["mean_accuracy"]) for entry in report] == [3] * QUALITIES
    for entry in report:
        for written, ideal in zip(entry["bytes"], entry["ideal"], strict=True):
            assert ideal <= written <= ideal * 1.01 + 1.02
    base, detail = zip(*bytes_, strict=True)
    assert 0.4 < base[0] / 3.0 < 2.5
    assert 0.7 < base[-1] / 14.0 < 1.4
    assert 0.7 < detail[-1] / 96.0 < 1.4
    assert list(base) == sorted(base)
    assert errors[-1] < 0.4 * errors[0]
    assert errors[0] < 1
    assert report[-1]["feature_error"] < 0.5 * report[0]["feature_error"]


def test_faces_are_received_as_the_networks_alone_would_have_them(
    networks: FaceNetworks, codes: FaceCodes
) -> None:
    stage = stage_of(networks, codes)
    stage.begin(np.random.default_rng(0))
    got = transmit_faces(stage.codec.eval(), stage.codec.build_coder(), codes, 7)
    with torch.no_grad():
        wanted = stage.codec(codes.rows, codes.feature, torch.full((len(codes),), 7))
    base, both = got.after
    assert both.feature is not None
    assert torch.equal(base.rows, both.rows)
    assert torch.allclose(both.rows, wanted.rows, atol=1e-4)
    assert torch.allclose(both.feature[0], wanted.feature, atol=1e-3)
    estimates = (wanted.bits.mean(0) / 8).tolist()
    assert got.ideal.mean(0) == pytest.approx(estimates, rel=0.02)  # tables are as trained with


def test_the_stage_trains_and_resumes_to_the_bit(
    networks: FaceNetworks, codes: FaceCodes, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_stage(stage_of(networks, codes), whole, PLAN)
    first = stage_of(networks, codes)
    first.begin(np.random.default_rng(PLAN.seed))
    start = {name: value.clone() for name, value in first.codec.state_dict().items()}
    stage = stage_of(networks, codes)
    stop_after(stage, 2, parts)
    run_stage(stage_of(networks, codes), parts, replace(PLAN, save_minutes=0.0))
    a, b = (load_file(folder / "checkpoint.safetensors") for folder in (whole, parts))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    moved = [n for n, v in start.items() if not torch.equal(v, a[f"codec/{n}"])]
    assert len(moved) > 0.7 * len(start)  # what lies behind zeros moves a step later
    record = json.loads((whole / "training.json").read_text())
    assert (record["stage"], record["hsc_widths"]["slices"]) == ("faces-hsc", 4)


class Stopped(Exception):
    """Ends a run in the middle."""


def stop_after(stage: HscStage, steps: int, out: Path) -> None:
    count = [0]

    def stop() -> None:
        count[0] += 1
        if count[0] > steps:
            raise Stopped

    stage.after_step = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run_stage(stage, out, replace(PLAN, save_minutes=0.0))


def test_training_lowers_the_error(networks: FaceNetworks, codes: FaceCodes) -> None:
    torch.manual_seed(2)
    stage = HscStage(
        networks, HscCodec(WIDTHS), codes, PLAN, HscOptions(learning_rate=2e-3, **BYTES)
    )
    stage.begin(np.random.default_rng(0))
    with torch.no_grad():  # spoil the start, so that there is something to learn
        stage.codec.semantic.synthesis.weight.mul_(0.5)
    rng, errors = np.random.default_rng(1), []
    for _ in range(30):
        loss, terms = stage.loss(rng, 0.5)
        stage.optimizer.zero_grad()
        loss.backward()
        stage.optimizer.step()
        errors.append(float(terms["rows"].detach()))
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])


def test_prices_start_at_what_a_byte_saves_of_the_loss(
    networks: FaceNetworks, codes: FaceCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(networks, codes)

    def sent(rows: Tensor, feature: Tensor, quality: Tensor) -> SimpleNamespace:
        # 10 bytes more a quality of the base, 20 of the detail.
        return SimpleNamespace(bits=8 * (quality[:, None] + 1) * torch.tensor([10.0, 20.0]))

    def errors(sent: SimpleNamespace, codes: FaceCodes, quality: Tensor) -> dict[str, Tensor]:
        number = quality[0].float()
        return {"rows": 80 - 8 * number, "feature": 16 - number}

    monkeypatch.setattr(stage, "codec", sent)
    monkeypatch.setattr(stage, "_errors", errors)
    stage._start_rates()
    rows = [80 - 8 * number for number in range(QUALITIES)]
    assert stage.unit.get_buffer("rows_error").tolist() == rows
    base, detail = stage.controls["base"], stage.controls["detail"]
    # The loss divides the error of rows by that of the start, and takes that of F as it is.
    wanted = [8 / 10 / error for error in rows]
    assert base.log_multiplier.exp().tolist() == pytest.approx(wanted, rel=1e-3)
    assert detail.log_multiplier.exp().tolist() == pytest.approx([1 / 20] * 8, rel=1e-3)
    assert base.rates() == pytest.approx([10.0 * (n + 1) for n in range(QUALITIES)])


def test_targets() -> None:
    base, detail = target_bytes((10.0, 80.0), (100.0, 400.0), later=(1.0,))
    assert (base[0], round(detail[0]), round(base[-1]), round(detail[-1])) == (10.0, 90, 80, 320)
    for wrong in [((80.0, 10.0), (100.0, 400.0)), ((10.0, 80.0), (9.0, 400.0))]:
        with pytest.raises(CdvisionError, match="bytes: expected"):
            target_bytes(*wrong, later=(1.0,))


def write_faces(folder: Path) -> Path:
    """Write twelve pictures, and a csv of forty attributes beside them."""
    rng, faces = np.random.default_rng(0), folder / "faces"
    faces.mkdir()
    names = [f"a{number}" for number in range(40)]
    lines = [",".join(["file", "split", *names])]
    for number in range(12):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(faces / f"{number}.png")
        lines.append(",".join([f"{number}.png", "train", *("01"[i % 2] for i in range(40))]))
    (folder / "labels.csv").write_text("\n".join(lines))
    return faces


def test_the_command_runs(tmp_path: Path) -> None:
    faces = write_faces(tmp_path)
    out = tmp_path / "run"
    run = CliRunner().invoke(
        train, ["faces", "hsc", str(faces), "-o", str(out), "--smoke", "--device", "cpu"]
    )
    assert run.exit_code == 0, run.output
    report = json.loads((out / "layers.json").read_text())
    assert [entry["quality"] for entry in report] == list(range(1, 9))
    weights = load_file(out / "weights.safetensors")
    codec = HscCodec(tiny_widths(dense=True))
    codec.load_state_dict({name: value.float() for name, value in weights.items()})
    refused = CliRunner().invoke(train, ["faces", "hsc", str(faces), "-o", str(out)])
    assert refused.exit_code == 2
    assert "expected --start" in refused.output


def test_runs_become_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    from cdvision.building import package_builder as builder
    from cdvision.package.loader import load_package

    faces, labels = str(write_faces(tmp_path)), ("--labels", str(tmp_path / "labels.csv"))
    start, run, out = (tmp_path / name for name in ("start", "run", "package"))
    torch.manual_seed(0)
    networks = FaceNetworks(FACE_TINY)
    start.mkdir()
    write_result(networks, start)
    (start / RECORD).write_text(json.dumps({"stage": "faces-inversion", **networks.facts()}))
    graphs, some = builder.graph_modules, ("encoder", "base.attributes")  # each takes seconds
    monkeypatch.setattr(
        builder, "graph_modules", lambda *given: {name: graphs(*given)[name] for name in some}
    )
    calls = [
        ["hsc", faces, *labels, "--smoke", "--start", str(start), "-o", str(run)],
        ["package", str(run), faces, *labels, "--start", str(start), "-o", str(out),
         "--limits", "draws nobody", "--limits", "was never trained"],
    ]  # fmt: skip
    for call in calls:
        result = CliRunner().invoke(train, ["faces", *call], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    package = load_package(out)
    assert package.card.training["limits"] == ["draws nobody", "was never trained"]
    assert package.card.training["codec"]["start"] == str(start)
    assert package.card.tasks == ("attributes", "reconstruct")
    assert package.card.fingerprint == package.coder.fingerprint.hex()
    assert {f"{name}.onnx" for name in some} <= package.card.files.keys()
    assert package.card.senders["full"].multiply_adds > 0
