"""Fitting a tap: cutting networks, odd photos, exact resumption, full disks, honest figures."""

from __future__ import annotations

import json
import os
import resource
import signal
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cdvision
from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cdvision.cli.fit import fit as fit_command  # noqa: E402
from cdvision.networks.fitted_tap import FittedTap, TapShape  # noqa: E402
from cdvision.package.card import FeatureSpec  # noqa: E402
from cdvision.package.loader import load_package  # noqa: E402
from cdvision.package.registry import model_folder  # noqa: E402
from cdvision.training.fit.cut import cut_network, named_outputs  # noqa: E402
from cdvision.training.fit.examples import (  # noqa: E402
    Example,
    ExampleMaker,
    ExampleSource,
    Window,
    photos_that_fit,
)
from cdvision.training.fit.fitting import fit_tap, tap_shape  # noqa: E402
from cdvision.training.fit.measure import Measurement, measure_tap  # noqa: E402
from cdvision.training.fit.network import TorchNetwork, split_torch  # noqa: E402
from cdvision.training.fit.options import FitOptions  # noqa: E402
from cdvision.training.fit.photos import find_photos, hold_out  # noqa: E402
from cdvision.training.fit.pixels import PixelFormat, PixelNormaliser  # noqa: E402
from cdvision.training.fit.regression import start_from_regression  # noqa: E402
from cdvision.training.fit.resuming import run_progress  # noqa: E402
from cdvision.training.fit.sources import NetworkRequest, find_network  # noqa: E402
from cdvision.training.fit.stage import TapStage  # noqa: E402
from cdvision.training.fit.streams import StreamReader  # noqa: E402
from cdvision.training.stage_run import CHECKPOINT, Plan, run_stage  # noqa: E402

CPU = torch.device("cpu")
FEATURES = 12


pytestmark = pytest.mark.usefixtures("one_thread")


class TinyNetwork(nn.Module):
    """Features at 1/8 after ``layer2``, five classes."""

    def __init__(self, *, skip: bool = False) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(8, FEATURES, 3, 2, 1), nn.BatchNorm2d(FEATURES))
        self.layer3 = nn.Conv2d(FEATURES, 8, 3, 2, 1)
        self.fc = nn.Linear(8 + 8 * skip, 5)
        self._skip = skip

    def forward(self, image: Tensor) -> Tensor:
        first = self.layer1(image)
        pooled = torch.relu(self.layer3(self.layer2(first))).mean((2, 3))
        if self._skip:
            pooled = torch.cat([pooled, first.mean((2, 3))], dim=1)
        return self.fc(pooled)  # type: ignore[no-any-return]


def tiny_network(**options: bool) -> TinyNetwork:
    torch.manual_seed(0)
    return TinyNetwork(**options).eval()


@pytest.fixture(scope="module")
def split() -> TorchNetwork:
    return split_torch(tiny_network(), "layer2", {"source": "tiny"}, PixelFormat(), CPU)


@pytest.fixture(scope="module")
def reader() -> StreamReader:
    return StreamReader(load_package(model_folder("small")), CPU, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen smooth pictures of several shapes, in two folders."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(16):
        size = [(64, 64), (64, 48), (48, 64)][number % 3]
        noise = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        place = root / ("a" if number % 2 else "b")
        place.mkdir(exist_ok=True)
        noise.resize(size, Image.Resampling.BICUBIC).save(place / f"{number:02}.png")
    return root


def stage_of(
    reader: StreamReader, split: TorchNetwork, folder: Path, plan: Plan, **options: Any
) -> TapStage:
    files = find_photos([folder])
    source = ExampleSource(ExampleMaker(reader, split), files, plan.batch, memory=options.get("m"))
    shape = TapShape(reader.source.channels, FEATURES, up=2, width=16, depth=1)
    return TapStage(shape, source, split, plan, tune_tail=options.get("tune_tail", False))


def plan_of(steps: int) -> Plan:
    return Plan(60.0, 4, CPU, steps=steps, warmup_steps=1)


# --- networks


@pytest.mark.parametrize("name", ["layer1", "layer2", "layer3", "layer2.0"])
def test_the_two_parts_are_the_network(name: str) -> None:
    network, image = tiny_network(), torch.rand(2, 3, 64, 96)
    front, tail = cut_network(network, name)
    assert torch.allclose(tail(front(image))["output"], network(image), atol=1e-6)


def test_a_split_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(CdvisionError, match=r"no module 'layer9'.*layer1, layer2, layer3"):
        cut_network(tiny_network(), "layer9")


def test_a_connection_around_the_split_is_refused() -> None:
    with pytest.raises(CdvisionError, match="skip connection"):
        cut_network(tiny_network(skip=True), "layer2")
    front, tail = cut_network(tiny_network(skip=True), "layer1")  # nothing passes by here
    assert tail(front(torch.rand(1, 3, 32, 32)))["output"].shape == (1, 5)


def test_code_that_depends_on_values_asks_for_two_parts() -> None:
    class Branching(TinyNetwork):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image if image.mean() > 0 else -image)

    with pytest.raises(CdvisionError, match=r"\(front, tail\)"):
        cut_network(Branching(), "layer2")


def test_outputs_have_names() -> None:
    one = torch.zeros(1)
    assert list(named_outputs(one)) == ["output"]
    assert list(named_outputs((one, one))) == ["output0", "output1"]
    assert list(named_outputs({"out": one})) == ["out"]
    with pytest.raises(CdvisionError, match="output is a str"):
        named_outputs("text")


def test_strides_that_do_not_divide_the_input_are_refused() -> None:
    valid = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 1))
    network = split_torch(valid, "0", {"source": "valid"}, PixelFormat(), CPU)
    with pytest.raises(CdvisionError, match="expected a stride that divides 32"):
        network.feature_spec(32, CPU)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 4, 1))
    network = split_torch(pooled, "0", {"source": "fixed"}, PixelFormat(), CPU)
    with pytest.raises(CdvisionError, match="expected a stride that divides 32"):
        network.feature_spec(32, CPU)


def test_a_module_that_is_handed_over_stays_as_it_was() -> None:
    network = tiny_network().train()
    find_network(NetworkRequest(network, "layer2"), CPU)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_network_of_fixed_size_is_refused() -> None:
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 64 * 64, 2))
    network = split_torch(fixed, "0", {"source": "fixed"}, PixelFormat(), CPU)
    with pytest.raises(CdvisionError, match="fixed cannot run on an input of 128 x 192"):
        network.feature_spec(32, CPU)


def test_pixels_enter_as_the_network_was_trained() -> None:
    image = torch.tensor([255.0, 0.0, 127.5]).view(1, 3, 1, 1)
    plain = PixelNormaliser(PixelFormat((0.5, 0.5, 0.5), (0.5, 0.5, 0.25)))
    assert torch.allclose(plain(image).flatten(), torch.tensor([1.0, -1.0, 0.0]))
    turned = PixelFormat((0, 0, 0), (1, 1, 1), range=255, order="bgr")
    assert PixelNormaliser(turned)(image).flatten().tolist() == [127.5, 0.0, 255.0]
    with pytest.raises(CdvisionError, match="above 0"):
        PixelFormat(std=(0, 1, 1))


FACTORY = """
import torch
from torch import nn
def whole():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 1))
def parts():
    return nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 1)
def filled(weights):
    network = whole()
    network.load_state_dict(torch.load(weights))
    return network
def broken():
    raise KeyError("nothing")
number = 3
"""


def test_factories_and_their_weights(tmp_path: Path) -> None:
    path, weights = tmp_path / "mine.py", tmp_path / "w.pth"
    path.write_text(FACTORY)
    whole = find_network(NetworkRequest(f"{path}:whole", "0"), CPU)
    assert whole.feature_spec(32, CPU) == FeatureSpec(4, 2)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 1))
    torch.save({"state_dict": other.state_dict()}, weights)
    read = find_network(NetworkRequest(f"{path}:whole", "0", weights=weights), CPU)
    image = torch.full((1, 3, 8, 8), 99.0)
    expected = other[0](PixelNormaliser(PixelFormat())(image))
    assert torch.allclose(read.features(image), expected, atol=1e-6)
    torch.save(other.state_dict(), weights)
    passed = find_network(NetworkRequest(f"{path}:filled", "0", weights=weights), CPU)
    assert torch.allclose(passed.features(image), expected, atol=1e-6)
    assert find_network(NetworkRequest(f"{path}:parts"), CPU).facts["split"] == "front | tail"


@pytest.mark.parametrize(
    ("source", "split", "weights", "message"),
    [
        ("{0}:broken", "0", None, "failed with KeyError"),
        ("{0}:number", "0", None, "mine.py:number"),
        ("{0}:whole", None, None, "--split: expected the name of a module"),
        ("{0}:whole", "0", "{0}", "does not fill the network"),
        ("{0}:whole", "0", "none.pth", "no file none.pth"),
        ("none.py:whole", "0", None, "no file none.py"),
        ("torchvision:resnet51", "layer2", None, "torchvision has no model 'resnet51'"),
        ("torchvision:resnet18", "layer2", "IMAGENET9", "IMAGENET1K_V1"),
        ("timm:resnet18", "layer2", None, "needs timm|cannot be had"),
        ("resnet18", "layer2", None, "expected torchvision:NAME"),
        ("none.onnx", "x", None, "no file none.onnx"),
    ],
)
def test_networks_that_cannot_be_had(
    tmp_path: Path, source: str, split: str | None, weights: str | None, message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    weights = weights and weights.format(path)
    with pytest.raises(CdvisionError, match=message):
        find_network(NetworkRequest(source.format(path), split, weights=weights), CPU)


def onnx_file(path: Path, *, skip: bool = False) -> Path:
    """Convolution, ReLU, convolution, global average: traced at one fixed size."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 2, 2), "w2": (5, 4, 1, 1)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["first"], strides=[2, 2]),
        helper.make_node("Relu", ["first"], ["cut"]),
        helper.make_node("Add" if skip else "Relu", ["cut", "first"][: 1 + skip], ["last"]),
        helper.make_node("Conv", ["last", "w2"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["answer"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, 32, 32]), ("answer", [1, 5, 1, 1]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=weights)
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def test_an_onnx_file_is_cut_at_a_tensor(tmp_path: Path) -> None:
    import onnxruntime as ort

    path = onnx_file(tmp_path / "net.onnx")
    pixels = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "range": 255.0}
    network = find_network(NetworkRequest(path, "cut", **pixels), CPU)
    assert network.feature_spec(32, CPU) == FeatureSpec(4, 2)
    image = torch.rand(1, 3, 32, 32) * 255
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": image.numpy()})
    found = network.outputs(network.features(image))
    assert np.allclose(found["answer"], expected, rtol=1e-4)


def test_onnx_files_that_cannot_be_cut(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx")
    with pytest.raises(CdvisionError, match="no tensor 'x': expected one of first, cut"):
        find_network(NetworkRequest(path, "x"), CPU)
    with pytest.raises(CdvisionError, match="skip connection"):
        find_network(NetworkRequest(onnx_file(tmp_path / "s.onnx", skip=True), "cut"), CPU)
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(CdvisionError, match="no ONNX file"):
        find_network(NetworkRequest(tmp_path / "bad.onnx", "cut"), CPU)


def test_the_tail_of_an_onnx_network_is_not_tuned(tmp_path: Path, folder: Path) -> None:
    request = NetworkRequest(onnx_file(tmp_path / "net.onnx"), "cut")
    options = FitOptions(tune_tail=True, device="cpu")
    with pytest.raises(CdvisionError, match="--tune-tail: an ONNX network cannot be trained"):
        fit_tap(request, [folder], tmp_path / "tap", options=options)


# --- photos


def test_the_same_photos_are_held_out_whatever_comes_beside_them(
    folder: Path, tmp_path: Path
) -> None:
    tar = tmp_path / "photos.tar"
    with tarfile.open(tar, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.add(path, path.relative_to(folder).as_posix())
    inside = find_photos([tar])
    assert [f.name for f in inside] == [f.name for f in find_photos([folder])]
    assert all(f.read() == (folder / f.name).read_bytes() for f in inside)
    ranked = [f for f in find_photos([folder, tar], {"03.png": "val"}) if f.source == tar]
    assert "a/03.png" not in {f.name for f in ranked}
    train, held = hold_out(inside)
    assert len(held) == 4
    assert {f.name for f in train}.isdisjoint(f.name for f in held)


def test_too_few_photos_and_no_photos(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match=r"at least 12 photos.*found 0"):
        find_photos([tmp_path])
    (tmp_path / "x.tar").write_bytes(b"not a tar")
    with pytest.raises(CdvisionError, match="uncompressed tar"):
        find_photos([tmp_path / "x.tar"])


def test_odd_photos_are_used_or_left_out_with_a_reason(
    folder: Path, tmp_path: Path, reader: StreamReader, split: TorchNetwork
) -> None:
    Image.new("L", (70, 60), 90).save(tmp_path / "grey.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "tiny.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    Image.new("P", (2400, 40)).save(tmp_path / "long.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((folder / "a" / "01.png").read_bytes()[:300])
    for number in range(6):
        Image.new("RGB", (64, 64), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    maker = ExampleMaker(reader, split)
    made = {f.name: maker.make(f) for f in find_photos([tmp_path])}
    assert {name for name, example in made.items() if example is None} == set(maker.left_out)
    assert set(maker.left_out) == {"tiny.png", "huge.png", "broken.jpg", "empty.jpg", "cut.png"}
    assert "expected at least 32" in maker.left_out["tiny.png"]
    assert "67108864 pixels, found 9000 x 9000" in maker.left_out["huge.png"]
    grey = made["grey.png"]
    assert grey is not None
    assert grey.features.shape[1:] == (2 * grey.latents.shape[2], 2 * grey.latents.shape[3])


def test_photos_without_any_that_can_be_read(
    tmp_path: Path, reader: StreamReader, split: TorchNetwork
) -> None:
    for number in range(14):
        (tmp_path / f"{number}.jpg").write_bytes(b"no photo")
    source = ExampleSource(ExampleMaker(reader, split), find_photos([tmp_path]), 4)
    with pytest.raises(CdvisionError, match="none of 14 photos can be used"):
        source.window(0)


def test_what_does_not_fit_into_memory_comes_in_windows(
    folder: Path, reader: StreamReader, split: TorchNetwork
) -> None:
    files, maker = find_photos([folder]), ExampleMaker(reader, split)
    example = maker.make(files[0])
    assert example is not None
    assert photos_that_fit([example], 16, 16 * example.nbytes) == 16
    source = ExampleSource(maker, files, 4, memory=10 * example.nbytes)
    assert not source.all_fit
    first, later = source.window(0), source.window(10_000)
    assert len(first.examples) < 16
    again = ExampleSource(maker, files, 4, memory=10 * example.nbytes).window(10_000)
    assert all(
        torch.equal(a.latents, b.latents)
        for a, b in zip(later.examples, again.examples, strict=True)
    )


def test_crops_of_latents_and_features_show_the_same_place() -> None:
    for up, down in ((2, 1), (1, 2)):
        y = torch.arange(6 * 8).view(1, 1, 6, 8).repeat_interleave(down, 2)
        y = y.repeat_interleave(down, 3).half()
        features = y[0, :, ::down, ::down].repeat_interleave(up, 1).repeat_interleave(up, 2)
        window = Window([Example(y, features, [5])])
        latents, qualities, targets, counts = window.batch(8, np.random.default_rng(0))
        assert qualities.tolist() == [4] * 8
        small = latents[:, :, ::down, ::down]
        assert torch.equal(small.repeat_interleave(up, 2).repeat_interleave(up, 3), targets)
        assert counts.shape[1:] == (1, *targets.shape[2:])


# --- the tap


@pytest.mark.parametrize(("stride", "size"), [(4, 16), (8, 8), (16, 4), (32, 2)])
def test_taps_meet_strides_finer_and_coarser_than_the_latents(stride: int, size: int) -> None:
    options = FitOptions(width=16, depth=1)
    shape = tap_shape(FeatureSpec(6, 16), FeatureSpec(5, stride), options)
    tap = FittedTap(replace(shape, positive=True))
    found = tap(torch.randn(2, 6, 4, 4), torch.tensor([0, 7]))
    assert found.shape == (2, 5, size, size)
    assert found.min() >= 0
    with pytest.raises(CdvisionError, match="a stride that divides 16"):
        tap_shape(FeatureSpec(6, 16), FeatureSpec(5, 12), options)


@pytest.mark.parametrize(("up", "down"), [(2, 1), (1, 2)])
def test_regression_finds_what_is_linear(up: int, down: int) -> None:
    torch.manual_seed(0)
    shape = TapShape(4, 3, up=up, down=down, width=16, depth=1)
    truth, tap = FittedTap(shape), FittedTap(shape)
    y = torch.randn(6, 1, 4, 12, 12).half()
    with torch.no_grad():
        level = torch.zeros(1, dtype=torch.int64)
        examples = [Example(one, truth(one.float(), level)[0].half(), [1]) for one in y]
    spread = torch.tensor([1.0, 0.5, 2.0])  # no weight changes what is exact
    start_from_regression(tap, Window(examples), spread, np.random.default_rng(0))
    with torch.no_grad():
        wanted = truth(y[0].float(), level)
        error = (tap(y[0].float(), level) - wanted).square().mean()
        assert error < 1e-4 * wanted.var()


# --- runs


def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, reader: StreamReader, split: TorchNetwork
) -> None:
    whole = run_stage(stage_of(reader, split, folder, plan_of(6)), tmp_path / "whole", plan_of(6))

    class Interrupted(TapStage):
        def after_step(self) -> None:
            super().after_step()
            if int(self.steps.taken) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    stage = stage_of(reader, split, folder, plan_of(6))
    stage.__class__ = Interrupted
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, tmp_path / "run", plan_of(6))
    assert signal.getsignal(signal.SIGINT) is handler
    progress = run_progress(tmp_path / "run")
    assert progress is not None
    assert progress.step == 3
    resumed = run_stage(stage_of(reader, split, folder, plan_of(6)), tmp_path / "run", plan_of(6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_improves_on_regression_and_a_tail_is_tuned(
    folder: Path, tmp_path: Path, reader: StreamReader, split: TorchNetwork
) -> None:
    stage = stage_of(reader, split, folder, plan_of(12), tune_tail=True)
    before = {k: v.clone() for k, v in split.named_tail.state_dict().items()}
    trained = run_stage(stage, tmp_path, plan_of(12))
    assert {name.split(".")[0] for name in trained.state_dict()} == {"tap", "tail"}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["outputs"] > 0
    after = split.named_tail.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())  # the network itself is kept
    assert stage.tail is not None
    tuned = stage.tail.state_dict()
    assert any(not torch.equal(v, tuned[k]) for k, v in before.items())


def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(
    folder: Path, tmp_path: Path, reader: StreamReader, split: TorchNetwork
) -> None:
    run_stage(stage_of(reader, split, folder, plan_of(2)), tmp_path, plan_of(2))
    kept = (tmp_path / CHECKPOINT).read_bytes()
    stage = stage_of(reader, split, folder, plan_of(4))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a real write fails
    try:
        with pytest.raises(CdvisionError, match=r"cannot be written.*start the same command again"):
            run_stage(stage, tmp_path, plan_of(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept
    assert not list(tmp_path.glob("*.partial"))
    run_stage(stage_of(reader, split, folder, plan_of(4)), tmp_path, plan_of(4))
    progress = run_progress(tmp_path)
    assert progress is not None
    assert progress.step == 4


def test_other_options_do_not_resume_a_run(folder: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    factory = tmp_path / "mine.py"
    factory.write_text(FACTORY)
    out = tmp_path / "tap"

    def begin(*options: str) -> Any:
        command = ["--network", f"{factory}:whole", "--split", "0", "--images", str(folder)]
        return CliRunner().invoke(fit_command, [*command, "-o", str(out), *options])

    (out / "run").mkdir(parents=True)
    tiny = ("--steps", "1", "--width", "8", "--device", "cpu", "--size", "64")
    options = {"model": "another", "network": {}, "seed": 0}
    (out / "run" / CHECKPOINT).write_bytes(b"")
    (out / "run" / "options.json").write_text(json.dumps(options))
    result = begin(*tiny)
    assert isinstance(result.exception, CdvisionError)
    assert "was started with another batch, model" in str(result.exception)


def test_names_and_finished_taps_are_refused_before_any_work(tmp_path: Path, folder: Path) -> None:
    request = NetworkRequest(tiny_network(), "layer2")
    with pytest.raises(CdvisionError, match="a tap's name"):
        fit_tap(request, [folder], tmp_path / "my tap")
    with pytest.raises(CdvisionError, match="has a tail 'mobilenet_v2' already"):
        fit_tap(request, [folder], tmp_path / "mobilenet_v2")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "tap.json").write_text("{}")
    with pytest.raises(CdvisionError, match="holds a finished tap"):
        fit_tap(request, [folder], tmp_path / "done")
    with pytest.raises(CdvisionError, match="--device: 'moon'"):
        fit_tap(request, [folder], tmp_path / "new", options=FitOptions(device="moon"))


# --- figures


class Oracle(nn.Module):
    """Gives the features of the photo that is measured, with an error of known size."""

    def __init__(self, network: TorchNetwork, reader: StreamReader, error: float) -> None:
        super().__init__()
        self._network, self._error, self._image = network, error, None
        image = reader.image

        def remember(pixels: np.ndarray) -> Tensor:
            self._image = image(pixels)
            return self._image

        self._remember, self._pixels = remember, reader.pixels

    def see(self, photo: bytes) -> np.ndarray:
        pixels = self._pixels(photo)
        self._remember(pixels)
        return pixels

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        exact = self._network.features(self._image).expand(len(y), -1, -1, -1)
        return exact + self._error * exact.std() * torch.randn_like(exact)


def test_figures_are_those_of_a_known_error(folder: Path, split: TorchNetwork) -> None:
    torch.manual_seed(0)
    files = find_photos([folder])
    for error in (0.0, 0.5):
        reader = StreamReader(load_package(model_folder("small")), CPU, 64)
        oracle = Oracle(split, reader, error)
        reader.pixels = oracle.see  # type: ignore[method-assign]
        figures = measure_tap(oracle, None, reader, split, files).figures()
        assert [one.quality for one in figures] == list(range(1, 9))
        assert [one.bytes for one in figures] == sorted(one.bytes for one in figures)
        if not error:
            perfect = (figures[0].explained_variance, figures[0].cosine, figures[0].top1)
            assert np.allclose(perfect, 1.0)
            assert figures[0].neighbours == 1.0
        else:
            # Pooled over channels, the variance is that of the mean channel and not of all values.
            assert all(0.5 < one.explained_variance < 0.9 for one in figures)
            assert all(one.neighbours < 1.0 for one in figures)


def test_explained_variance_by_hand() -> None:
    sums = Measurement(2, 2)
    target = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    mean = torch.tensor([2.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    sums.add_features(torch.cat([mean, target]), target, [10, 20])
    vectors = {"output": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    sums.add_outputs(vectors, {"output": torch.tensor([[0.0, 2.0]])})
    low, high = sums.figures()
    assert (low.explained_variance, high.explained_variance) == (0.0, 1.0)
    assert (low.cosine, high.cosine) == (0.0, 1.0)
    assert (low.top1, high.top1) == (0.0, 1.0)
    assert (low.bytes, high.bytes) == (10.0, 20.0)


# --- all of it (the exporter takes tens of seconds)


@pytest.mark.skipif("CDVISION_SLOW" not in os.environ, reason="needs CDVISION_SLOW")
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_fitted_tap_answers_like_its_network(folder: Path, tmp_path: Path, kind: str) -> None:
    source: Any = tiny_network() if kind == "torch" else str(onnx_file(tmp_path / "net.onnx"))
    cut, output = ("layer2", "output") if kind == "torch" else ("cut", "answer")
    out = tmp_path / "mine"
    options = {"steps": 4, "width": 16, "depth": 1, "size": 64, "device": "cpu"}
    report = cdvision.fit(source, cut, images=folder, out=out, **options)
    assert len(report.qualities) == 8
    assert report.answers == ""
    assert "quality  bytes" in str(report)
    assert {"tap.json", "report.json", "weights.safetensors"} <= {p.name for p in out.iterdir()}
    assert not (out / "run").exists()
    model = cdvision.load(out)
    bits = model.encode(next(folder.rglob("*.png")), 8)
    features = model.open(bits).features("mine")
    answer = model.open(bits).dense("mine")
    assert np.allclose(answer["features"], features, atol=1e-4)
    network = find_network(NetworkRequest(source, cut), CPU)
    expected = network.outputs(torch.from_numpy(features)[None])[output][0]
    assert np.allclose(answer[output], expected, atol=2e-2, rtol=2e-2)
