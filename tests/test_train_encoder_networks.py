"""Networks that an encoder may serve: names, refusals, any stride, what their outputs need."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fit_networks import write_served  # noqa: E402
from torch import nn  # noqa: E402

from cdvision.fitting.network import PixelFormat  # noqa: E402
from cdvision.fitting.photos import MOST_SHORT, find_photos, photo_bank  # noqa: E402
from cdvision.fitting.sources import split_torch  # noqa: E402
from cdvision.models.any_network.commands.encoder import with_settings  # noqa: E402
from cdvision.models.any_network.network import AnyNetworkShape, Gather  # noqa: E402
from cdvision.models.any_network.training.run import train_encoder  # noqa: E402
from cdvision.models.any_network.training.start import NetworkMetric  # noqa: E402
from cdvision.models.any_network.user_networks import parse_networks  # noqa: E402
from cdvision.package.card import FeatureSpec  # noqa: E402
from cdvision.training.rate_control import targets_between  # noqa: E402
from cdvision.training.stage_run import Plan  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with factories of networks."""
    return write_served(tmp_path_factory.mktemp("code") / "mine.py")


def plan_of(steps: int) -> Plan:
    return Plan(60.0, 2, CPU, steps=steps, warmup_steps=1)


def test_what_is_served_has_names() -> None:
    served = parse_networks(
        ["torchvision:resnet50@layer2", "det/yolo.x.onnx@/neck/out", "a=net.py:make", "m.py:make@l"]
    )
    assert {k: (str(v.source), v.split) for k, v in served.items()} == {
        "resnet50": ("torchvision:resnet50", "layer2"),
        "yolo-x": ("det/yolo.x.onnx", "/neck/out"),
        "a": ("net.py:make", None),
        "make": ("m.py:make", "l"),
    }
    changed = with_settings(served, "range", ["a=255"])
    assert (changed["a"].range, changed["make"].range) == (255.0, None)


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ([], "expected NAME=NETWORK@SPLIT.*found no network to serve"),
        (["a=x.py:f", "a=y.py:f"], "two networks are called 'a'"),
        (["x.py:f@layer1", "y.py:f@layer1"], "two networks are called 'f'"),
        (["keys=x.py:f"], "'keys' cannot be a network's name"),
        (["a=@layer"], "expected NAME=NETWORK@SPLIT"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(serve: list[str], message: str) -> None:
    with pytest.raises(CdvisionError, match=message) as caught:
        parse_networks(serve)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ("odd={0}:odd", "--serve odd: .*expected a stride that divides 32"),
        ("net={0}:branching@layer1", r"--serve net: .*give --serve a factory.*\(front, tail\)"),
        ("net={0}:fine@layer9", "--serve net: the network has no module 'layer9'"),
        ("net={0}:fine", "--serve net: expected the name of a module"),
        ("net={0}:none@layer1", "--serve net: .*mine.py:none cannot be had"),
        ("net=resnet50@layer2", "--serve net: expected torchvision:NAME"),
    ],
)
def test_networks_that_cannot_be_served_are_named(
    code: Path, folder: Path, tmp_path: Path, serve: str, message: str
) -> None:
    requests = parse_networks([serve.format(code)])
    with pytest.raises(CdvisionError, match=message):
        train_encoder(requests, [folder], tmp_path, plan_of(1))


def test_settings_of_networks_that_are_not_there() -> None:
    served = parse_networks(["a=x.py:f", "b=y.py:f"])
    with pytest.raises(CdvisionError, match="--weights: no network is called 'c': a, b"):
        with_settings(served, "weights", ["c=w.pth"])
    with pytest.raises(CdvisionError, match="say which network is meant"):
        with_settings(served, "mean", ["0,0,0"])
    with pytest.raises(CdvisionError, match="expected 0 < LOW < HIGH"):
        targets_between(800, 100)


def test_photos_are_kept_small_and_bad_ones_left_out(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (900, 700)).save(tmp_path / "large.png")
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    bank, left_out = photo_bank(find_photos([folder, tmp_path]), CPU)
    assert len(bank.photos) == 17
    assert list(left_out) == ["bad.jpg"]
    assert max(min(photo.shape[1:]) for photo in bank.photos) == MOST_SHORT


# --- the model


@pytest.mark.parametrize(
    ("channels", "stride", "gathered"), [(5, 1, 1024), (256, 4, 1024), (512, 8, 1024), (40, 32, 40)]
)
def test_features_of_any_stride_meet_at_the_latents(
    channels: int, stride: int, gathered: int
) -> None:
    gather = Gather(FeatureSpec(channels, stride))
    found = gather(torch.randn(2, channels, 64 // stride, 96 // stride))
    assert found.shape == (2, gathered, 4, 6)


def test_a_shape_survives_json() -> None:
    shape = AnyNetworkShape(128, {"a": FeatureSpec(8, 4)}, ("a",))
    again = AnyNetworkShape.from_dict(json.loads(json.dumps(asdict(shape))))
    assert again == shape
    assert again.tap("a").positive


def test_a_metric_weighs_what_outputs_depend_on() -> None:
    tail = nn.Conv2d(4, 2, 1, bias=False)
    with torch.no_grad():
        tail.weight.zero_()
        tail.weight[:, 1] = 1.0
    network = split_torch((nn.Conv2d(3, 4, 8, 8), tail), None, {"source": "t"}, PixelFormat(), CPU)
    metric = NetworkMetric(FeatureSpec(4, 8))
    metric.measure(network, [255 * torch.rand(8, 3, 32, 32)])
    target = torch.zeros(1, 4, 2, 2)
    errors = [float(metric.error(target + one.view(1, 4, 1, 1), target)) for one in torch.eye(4)]
    assert errors[1] > 5 * max(errors[0], errors[2], errors[3])
