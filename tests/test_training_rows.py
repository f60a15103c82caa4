"""Rows refined out of F: the head start, the stage, and the package that holds the refiner."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from cdvision.errors import CdvisionError  # noqa: E402
from cdvision.models.faces import inversion_encoder  # noqa: E402
from cdvision.models.faces.inversion_encoder import RowRefiner  # noqa: E402
from cdvision.models.faces.style_layers import StyleLayers, style_layout  # noqa: E402
from cdvision.models.faces.training import stage_rows  # noqa: E402
from cdvision.models.faces.training.face_bank import (  # noqa: E402
    FaceBank,
    FaceCodes,
    cached_codes,
    encode_faces,
)
from cdvision.models.faces.training.networks import (  # noqa: E402
    FaceNetworks,
    assemble_faces,
    load_face_networks,
)
from cdvision.models.faces.training.stage_rows import (  # noqa: E402
    RowsStage,
    layer_rows,
    start_refiner,
)
from cdvision.models.faces.widths import FACE_TINY, FaceWidths  # noqa: E402
from cdvision.training.stage_run import Plan, run_stage, write_result  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread", "small_refiner")
CPU = torch.device("cpu")
WIDTHS = replace(FACE_TINY, resolution=32, trunk_side=32, attributes=3)
PLAN = Plan(minutes=60.0, steps=3, batch=4, device=CPU, warmup_steps=1)
FACES = 64


@pytest.fixture
def small_refiner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHANNELS": 24, "HIDDEN": 48, "DIRECTIONS": 32}.items():
        monkeypatch.setattr(inversion_encoder, name, value)
    monkeypatch.setattr(stage_rows, "STEPS", 5)


def networks(widths: FaceWidths = WIDTHS, *, refined: bool = False) -> FaceNetworks:
    torch.manual_seed(0)
    return FaceNetworks(widths, refined=refined).eval()


def known_faces(drawer: FaceNetworks) -> tuple[FaceCodes, Tensor]:
    """Return codes, and pictures of other rows than theirs: what is missing stands in F."""
    torch.manual_seed(1)
    rows = torch.randn(FACES, WIDTHS.rows, WIDTHS.style)
    hidden = torch.randn(FACES, 4)
    places = torch.randn(4, WIDTHS.feature_channels, 8, 8)
    feature = torch.einsum("nk,kchw->nchw", hidden, places)
    missing = (hidden @ (0.2 * torch.randn(4, rows[0].numel()))).view_as(rows)
    with torch.no_grad():
        pictures = drawer.generator.synthesise(rows + missing)
    return FaceCodes(rows, feature.half(), torch.zeros(FACES, 0)), pictures


def test_the_start_brings_pictures_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_rows, "STEPS", 80)
    drawer = networks()
    codes, pictures = known_faces(drawer)
    refiner = RowRefiner(WIDTHS)
    assert torch.equal(refiner(codes.rows, codes.feature.float()), codes.rows)  # before anything
    plan, rng = replace(PLAN, bf16=True), np.random.default_rng(0)  # as on every machine
    start_refiner(refiner, drawer.generator, codes, lambda i: pictures[i], plan, rng)
    with torch.no_grad():
        own, better = (
            (drawer.generator.synthesise(rows) - pictures).square().mean()
            for rows in (codes.rows, refiner(codes.rows, codes.feature.float()))
        )
    assert float(better) < 0.9 * float(own)


def some_bank() -> FaceBank:
    torch.manual_seed(2)
    images = (255 * torch.rand(12, 3, 32, 32)).to(torch.uint8)
    return FaceBank(images, (torch.rand(12, 3) < 0.5).float(), ("A", "B", "C"))


def rows_stage() -> RowsStage:
    bank, start = some_bank(), networks()
    return RowsStage(start, bank, encode_faces(start, bank, mirror=True), bank, PLAN)


def test_the_stage_trains_the_refiner_alone_and_resumes_to_the_bit(tmp_path: Path) -> None:
    run_stage(rows_stage(), tmp_path / "whole", PLAN)
    stage, steps = rows_stage(), [0]

    def stop() -> None:
        steps[0] += 1
        if steps[0] == 2:
            raise InterruptedError

    stage.after_step = stop  # type: ignore[method-assign]
    every_step = replace(PLAN, save_minutes=0.0)
    with pytest.raises(InterruptedError):
        run_stage(stage, tmp_path / "parts", every_step)
    run_stage(rows_stage(), tmp_path / "parts", every_step)
    first, second = (
        load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts")
    )
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    start = networks().state_dict()
    assert [n for n, v in start.items() if not torch.equal(v, first[f"networks/{n}"])] == []
    record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["refined"] is True
    assert record["held_out"]["psnr"].keys() == {"own", "basic", "middle", "enhanced"}


def test_layers_take_refined_rows_up_to_theirs() -> None:
    own, refined = torch.zeros(1, 12, 2), torch.ones(1, 12, 2)
    counts = [
        int(layer_rows(refined, own, 4, layer)[0, :, 0].sum())
        for layer in ("basic", "middle", "enhanced")
    ]
    assert counts == [4, 8, 12]


def test_codes_of_refined_rows_are_not_taken_for_others(tmp_path: Path) -> None:
    bank, plain, refined = some_bank(), networks(), networks(refined=True)
    assert refined.refiner is not None
    torch.nn.init.normal_(refined.refiner.out.weight)
    first = cached_codes(tmp_path / "codes", plain, bank).rows
    second = cached_codes(tmp_path / "codes", refined, bank).rows
    assert not torch.equal(first, second)
    assert torch.equal(second, encode_faces(refined, bank).rows)


def write_run(folder: Path, module: torch.nn.Module, **facts: object) -> Path:
    folder.mkdir()
    write_result(module, folder)
    (folder / "training.json").write_text(json.dumps({"stage": "test", **facts}))
    return folder


def test_a_package_refines_rows_as_training_did(tmp_path: Path) -> None:
    widths = replace(FACE_TINY, attributes=3)  # large enough for three layers
    refined, plain = networks(widths, refined=True), networks(widths)
    assert refined.refiner is not None
    torch.nn.init.normal_(refined.refiner.out.weight, std=0.1)
    layout = replace(style_layout(widths), width=16, heads=2, blocks=1)
    codec = StyleLayers(layout)
    for part, value in ((codec.fixed, 3.0), (codec.log_gain, 2.0)):  # or all symbols are zero
        for parameter in part:
            parameter.data.fill_(value)
    runs = {
        name: write_run(tmp_path / name, each, **each.facts())
        for name, each in (("refined", refined), ("plain", plain))
    }
    codec_run = write_run(tmp_path / "codec", codec, layout=asdict(layout), **refined.facts())
    model, _ = assemble_faces(codec_run, runs["refined"])
    images, quality = 255 * torch.rand(2, 3, 64, 64), torch.tensor([7, 7])
    with torch.no_grad():
        found, _ = model.encode(images, quality)
        stored = load_face_networks(runs["refined"])
        wanted = model.codec.encode(stored.codes(images), quality)
        unrefined = model.codec.encode(stored.encoder(images), quality)
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert not all(torch.equal(found[name], unrefined[name]) for name in found)
    with pytest.raises(CdvisionError, match="trained on rows that a run of `rows` has refined"):
        assemble_faces(codec_run, runs["plain"])
