"""The `sfic-style` networks: twins equal to the runtime, layers that may be missing, the stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_coders import same_latents
from torch import Tensor

from cdvision.entropy.coder import Latents
from cdvision.errors import CdvisionError
from cdvision.models.faces.commands.stages import style_layers
from cdvision.models.faces.inversion_encoder import InversionCodes
from cdvision.models.faces.receiver.style_layers import LAYERS
from cdvision.models.faces.scale_transformer import (
    INDEX_UNIT,
    IntegerScaleTransformer,
    build_scale_transformer,
)
from cdvision.models.faces.style_layers import StyleLayers, StyleLayout, style_layout
from cdvision.models.faces.training.codec_stage import target_bytes
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import StyleLayersOptions
from cdvision.models.faces.training.style_layers_stage import StyleLayersStage
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.models.faces.training.style_start import start_style_layers
from cdvision.models.faces.widths import FACE, FACE_TINY
from cdvision.networks.scales import QUALITIES
from cdvision.package.families import SFIC_STYLE, coder_class
from cdvision.training.stage_run import Plan, run_stage

LAYOUT = StyleLayout((2, 3, 2), (6, 5, 4), style=12, width=16, heads=4, blocks=2)
SCALES = (0, 16)
TARGETS = target_bytes((2, 6), (5, 18))


def faces_rows(count: int, seed: int = 0) -> Tensor:
    """Rows that depend on each other, as those of an encoder do: a few factors, and noise."""
    torch.manual_seed(1)
    factors = torch.randn(12, sum(LAYOUT.rows) * LAYOUT.style) * torch.logspace(0, -1, 12)[:, None]
    torch.manual_seed(seed)
    rows = torch.randn(count, 12) @ factors + 0.05 * torch.randn(count, factors.shape[1])
    return rows.view(count, sum(LAYOUT.rows), LAYOUT.style) + 0.5


@cache
def metric() -> StyleMetric:
    torch.manual_seed(2)
    seen = torch.randn(sum(LAYOUT.rows) * LAYOUT.style, 20)
    found = StyleMetric(len(seen), directions=24)
    found.measure(faces_rows(60), [lambda rows: rows.flatten(1) @ seen])
    return found


@cache
def started(scale_width: int) -> StyleLayers:
    """Return a codec after its head start."""
    torch.manual_seed(3)
    network = StyleLayers(replace(LAYOUT, scale_width=scale_width)).eval()
    start_style_layers(network, metric(), faces_rows(400), TARGETS)
    return network


@cache
def codec(scale_width: int) -> StyleLayers:
    """Return such a codec whose transformers have something to say."""
    network = deepcopy(started(scale_width))
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("transformer", "scales")) and "awaited" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("loud", [False, True])
def test_the_twin_gives_the_same_indices(loud: bool) -> None:
    torch.manual_seed(4)
    shapes = ((3, 5), (2, 7), (4, 3))
    twin = IntegerScaleTransformer(shapes, width=8, heads=2, blocks=2)
    twin.start([torch.rand(QUALITIES, *shape) * 60 for shape in shapes[1:]])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(4 if loud else 1).add_(0.1 * torch.randn_like(parameter))
    runtime = build_scale_transformer(twin)
    spread, seen = (40 if loud else 4), set()
    for quality in range(QUALITIES):
        symbols = [torch.randint(-spread, spread + 1, (5, *shape)) for shape in shapes[:2]]
        for layers in (1, 2):
            asked = torch.full((5,), quality)
            found = twin([part.float() for part in symbols[:layers]], asked).detach().numpy()
            for item in range(5):
                earlier = [part[item].numpy().astype(np.int32) for part in symbols[:layers]]
                assert np.array_equal(found[item], runtime(earlier, quality))
            seen |= set(found.ravel().tolist())
    assert len(seen) > 20


def test_the_start_gives_the_indices_that_were_asked_for() -> None:
    twin = IntegerScaleTransformer(((2, 4), (2, 3)), width=8, heads=2, blocks=1)
    wanted = torch.randint(0, 64, (QUALITIES, 2, 3)).float()
    twin.start([wanted])
    quality = torch.arange(QUALITIES)
    assert torch.equal(twin([torch.randn(QUALITIES, 2, 4).round()], quality), wanted)


def named(symbols: Sequence[Tensor]) -> Latents:
    """Return a face's symbols as the coder takes them."""
    return {n: s.numpy().astype(np.int32) for n, s in zip(LAYERS, symbols, strict=True)}


@pytest.mark.parametrize("scale_width", SCALES)
def test_the_coder_writes_what_the_network_quantised(scale_width: int) -> None:
    network, rows = codec(scale_width), faces_rows(4, seed=9)
    coder = network.build_coder()
    assert coder_class(SFIC_STYLE).from_arrays(coder.to_arrays()).fingerprint == coder.fingerprint
    for number in (0, 4, QUALITIES - 1):
        quality = torch.full((4,), number)
        with torch.no_grad():
            sent = network(rows, quality)
            encoded = network.encode(InversionCodes(rows, rows, rows), quality)
        assert list(encoded) == list(LAYERS)
        assert all(torch.equal(a, b) for a, b in zip(sent.symbols, encoded.values(), strict=True))
        for item in range(4):
            latents = named([part[item] for part in encoded.values()])
            bodies = coder.encode(latents, number)
            assert same_latents(coder.decode(bodies, number, coder.shapes), latents)


@pytest.mark.parametrize("scale_width", SCALES)
def test_the_rate_in_training_is_what_is_written(scale_width: int) -> None:
    network, rows = started(scale_width), faces_rows(40, seed=9)
    coder = network.build_coder()
    for number in range(QUALITIES):
        with torch.no_grad():
            sent = network(rows, torch.full((40,), number))
        faces = [coder.encode(named(f), number) for f in zip(*sent.symbols, strict=True)]
        written = np.mean([[len(body) for body in bodies.values()] for bodies in faces], 0)
        for layer, size in enumerate(written):
            assert float(sent.bits[:, layer].mean()) / 8 == pytest.approx(size, rel=0.02, abs=0.7)


@cache
def corrected_codec() -> StyleLayers:
    """Return a codec whose later layers correct earlier ones."""
    network = StyleLayers(replace(LAYOUT, corrected=True)).eval()
    network.load_state_dict(codec(0).state_dict(), strict=False)
    torch.manual_seed(5)
    for linear in network.correction:
        torch.nn.init.normal_(linear.weight, std=0.2)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize("make", [*(partial(codec, width) for width in SCALES), corrected_codec])
def test_any_number_of_layers_a_face(make: Callable[[], StyleLayers]) -> None:
    network, rows = make(), faces_rows(6, seed=5)
    quality, layers = torch.tensor([0, 7, 3, 3, 7, 1]), torch.tensor([1, 2, 3, 1, 3, 2])
    with torch.no_grad():
        sent = network(rows, quality)
        damaged = [
            torch.where((layers > position)[:, None, None], part, torch.full_like(part, 7.0))
            for position, part in enumerate(sent.symbols)
        ]  # what stands where a layer is missing must not matter
        latents = dict(zip(LAYERS, damaged, strict=True))
        found = network.decode(latents, layers, quality).rows
        base = network.decode_base(damaged[0], quality).rows
    assert torch.allclose(base, sent.rows[0], atol=1e-5)
    for item, count in enumerate(layers.tolist()):
        assert torch.allclose(found[item], sent.rows[count - 1][item], atol=1e-5)
    assert found.shape == rows.shape


def test_more_layers_and_higher_qualities_come_closer() -> None:
    network, rows = started(0), faces_rows(200, seed=6)
    errors = []
    for number in range(0, QUALITIES, 3):
        with torch.no_grad():
            sent = network(rows, torch.full((200,), number))
        errors.append([float(metric()(part, rows).mean()) for part in sent.rows])
    found = np.array(errors)
    assert (np.diff(found, axis=0) < 0).all(), "a higher quality is worse"
    assert (found[:, 2] < found[:, 0]).all(), "three layers are worse than one"
    assert found[0, 0] < 1, "worse than sending nothing"
    assert found[-1, -1] < 0.1


def test_the_start_meets_the_targets() -> None:
    network, rows = started(0), faces_rows(400, seed=7)
    for number in range(QUALITIES):
        with torch.no_grad():
            bits = network(rows, torch.full((400,), number)).bits.mean(0)
        for layer, target in enumerate(TARGETS):
            assert float(bits[layer]) / 8 == pytest.approx(target[number], rel=0.25, abs=1)


@pytest.mark.parametrize("scale_width", SCALES)
def test_gradients_reach_everything_that_is_used(scale_width: int) -> None:
    network = StyleLayers(replace(LAYOUT, scale_width=scale_width))
    start_style_layers(network, metric(), faces_rows(400), TARGETS)
    with torch.no_grad():
        for tell in network.transformer.tell:
            tell.weight.normal_(std=0.1)
    sent = network(faces_rows(16), torch.arange(16) % QUALITIES)
    (sent.noisy_bits.mean() + sum(metric()(r, faces_rows(16)).mean() for r in sent.rows)).backward()
    unused = {f"fixed.{i}" for i in (1, 2)} if scale_width else set()
    for name, parameter in network.named_parameters():
        used = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        zero_start = name.startswith(("scales.blocks", "scales.embed", "scales.awaited"))
        assert used == (name not in unused) or zero_start, name


def test_symbols_are_bounded_where_the_network_looks() -> None:
    twin = IntegerScaleTransformer(((2, 4), (2, 3)), width=8, heads=2, blocks=1)
    with torch.no_grad():
        twin.tell[0].weight.normal_()
        twin.tell_bias[0].fill_(30 / INDEX_UNIT)
    quality = torch.zeros(1, dtype=torch.int64)
    far, farther = torch.full((1, 2, 4), 15.0), torch.full((1, 2, 4), 4000.0)
    assert torch.equal(twin([far], quality), twin([farther], quality))


def test_the_metric_calls_sending_nothing_1() -> None:
    rows = faces_rows(60)
    mean = rows.mean(0, keepdim=True).expand_as(rows)
    assert float(metric()(mean, rows).mean()) == pytest.approx(1, rel=1e-3)
    assert float(metric()(rows, rows).mean()) == 0


def test_the_metric_sees_what_answers_depend_on() -> None:
    found = StyleMetric(24, directions=8)
    rows = torch.randn(80, 4, 6)
    found.measure(rows, [lambda r: r[:, 0].cumsum(1), lambda r: 100 * r[:, 1].cumsum(1)])
    step = torch.zeros(4, 4, 6)
    for row in range(4):
        step[row, row] = 1
    energy = found.energy(step)
    assert energy[:2].min() > 10 * energy[2:].max()
    assert float(energy[0] / energy[1]) == pytest.approx(1, rel=0.5)  # each answer counts as much


def test_the_metric_tells_how_much_is_left_where_directions_are_many() -> None:
    """What hundreds of probes keep looks complete to these probes, and is not."""
    torch.manual_seed(5)
    seen = torch.randn(96, 96) * torch.logspace(0, -1, 96)
    rows = torch.randn(80, 4, 24)
    found = StyleMetric(96, directions=24)
    found.measure(rows, [lambda r: r.flatten(1) @ seen])
    _, _, directions = torch.linalg.svd(found.root, full_matrices=False)
    flat = rows.flatten(1) - rows.flatten(1).mean(0)
    left = flat - (flat @ directions.T) @ directions  # what the strongest directions leave
    share = float((left @ seen).square().sum() / (flat @ seen).square().sum())
    told = float(found(left.view_as(rows), torch.zeros_like(rows)).mean())
    assert told == pytest.approx(share, rel=0.4)


def test_later_layers_correct_earlier_ones() -> None:
    """All rows move with the same few factors: later symbols refine what the first rounded off."""
    torch.manual_seed(6)
    rows = (torch.randn(800, 4) @ torch.randn(4, sum(LAYOUT.rows) * LAYOUT.style)).view(
        800, -1, LAYOUT.style
    )
    plain = StyleMetric(rows[0].numel(), directions=24)
    plain.measure(rows, [lambda r: r])
    first = slice(0, LAYOUT.rows[0])
    found = {}
    for corrected in (False, True):
        network = StyleLayers(replace(LAYOUT, corrected=corrected)).eval()
        start_style_layers(network, plain, rows, TARGETS)
        quality = torch.zeros(800, dtype=torch.int64)
        with torch.no_grad():
            sent = network(rows, quality)
            latents = dict(zip(LAYERS, sent.symbols, strict=True))
            three = network.decode(latents, torch.full((800,), 3), quality).rows
        assert torch.allclose(three, sent.rows[2], atol=1e-4)
        found[corrected] = [float((r - rows)[:, first].square().mean()) for r in sent.rows]
    assert found[False][0] == pytest.approx(found[False][2], rel=1e-3)  # first rows never change
    assert found[True][2] < 0.7 * found[True][0]


def smoke_stage() -> StyleLayersStage:
    torch.manual_seed(0)
    factors = torch.randn(8, 10 * FACE_TINY.style) * torch.logspace(0, -1, 8)[:, None]
    rows = (torch.randn(500, 8) @ factors).view(500, 10, FACE_TINY.style) + 3
    layout = replace(style_layout(FACE_TINY), width=16, heads=2, blocks=1)
    plan = Plan(minutes=1.0, steps=60, batch=32, device=torch.device("cpu"), warmup_steps=5)
    options = StyleLayersOptions(basic_bytes=(3, 9), all_bytes=(9, 30))
    return StyleLayersStage(FaceNetworks(FACE_TINY), StyleLayers(layout), rows, plan, options)


def held_out_loss(stage: StyleLayersStage, prices: tuple[Tensor, Tensor]) -> float:
    """Rate and errors of the stage's rows at all qualities, as coded, at fixed prices of a byte."""
    rows = stage.rows[:160]
    quality = torch.arange(len(rows)) % QUALITIES
    with torch.no_grad():
        sent = stage.codec.eval()(rows, quality)
        errors = [
            (stage.metric(found, rows) / stage.start.get_buffer("errors")[quality, layer]).mean()
            for layer, found in enumerate(sent.rows)
        ]
    sizes = sent.bits[:, 0] / 8, sent.bits[:, 1:].sum(1) / 8
    paid = [(price[quality] * size).mean() for price, size in zip(prices, sizes, strict=True)]
    stage.codec.train()
    return float(torch.stack([*errors, *paid]).sum())


@pytest.mark.usefixtures("one_thread")
def test_training_improves_on_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StyleLayersStage, "probed", 60)
    stage = smoke_stage()
    stage.begin(np.random.default_rng(0))
    monkeypatch.setattr(stage, "begin", lambda rng: None)
    prices = tuple(
        torch.exp(control.log_multiplier).clone()
        for control in (stage.basic_rate, stage.later_rate)
    )
    before = held_out_loss(stage, prices)
    analysis = [part.weight.clone() for part in stage.codec.analysis]
    run_stage(stage, tmp_path, stage.plan)
    assert held_out_loss(stage, prices) < 0.97 * before
    for part, start in zip(stage.codec.analysis, analysis, strict=True):
        assert torch.equal(part.weight, start)


def test_layouts_of_real_sizes() -> None:
    assert style_layout(FACE).shapes == ((4, 64), (4, 64), (4, 32))
    assert style_layout(FACE_TINY).shapes == ((4, 8), (4, 8), (2, 8))


@pytest.mark.parametrize("targets", [((0, 5), (9, 20)), ((6, 5), (9, 20)), ((5, 9), (4, 20))])
def test_targets_that_are_none(targets: tuple[tuple[float, float], tuple[float, float]]) -> None:
    with pytest.raises(CdvisionError, match="bytes: expected 0 < LOW < HIGH"):
        target_bytes(*targets)


@pytest.mark.parametrize("scales", ["tables", "transformer"])
def test_the_command_trains_resumes_and_reports(scales: str, tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "faces"
    folder.mkdir()
    names = [f"attribute{i}" for i in range(FACE_TINY.attributes)]
    lines = [",".join(["file", *names])]
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{i:02}.png")
        lines.append(",".join([f"{i:02}.png", *map(str, rng.integers(0, 2, len(names)))]))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    options = ["--smoke", "--scales", scales, "--device", "cpu"]
    named = ["--labels", str(tmp_path / "labels.csv"), "-o", str(tmp_path / "run")]
    arguments = [str(folder), *named, *options]
    for _ in range(2):  # the second finds it finished
        done = CliRunner().invoke(style_layers, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["steps"] == 2
    report = json.loads((tmp_path / "run" / "layers.json").read_text())
    qualities = report["qualities"]
    assert [entry["quality"] for entry in qualities] == list(range(1, QUALITIES + 1))
    assert all(len(entry["bytes"]) == len(entry["error"]) == 3 for entry in qualities)
    assert len(qualities[0]["mean_accuracy"]) == 4
