"""Networks that a tap is fitted to: cutting them in two, where they come from, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fit_networks import FACTORY, TinyNetwork, onnx_file, tiny_network  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cdvision.fitting.cut import cut_network  # noqa: E402
from cdvision.fitting.fitting import fit_tap  # noqa: E402
from cdvision.fitting.network import NamedOutputs, PixelFormat, PixelNormaliser  # noqa: E402
from cdvision.fitting.options import FitOptions  # noqa: E402
from cdvision.fitting.sources import NetworkRequest, find_network, split_torch  # noqa: E402
from cdvision.package.card import FeatureSpec  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["layer1", "layer2", "layer3", "layer2.0"])
def test_the_two_parts_are_the_network(name: str) -> None:
    network, image = tiny_network(), torch.rand(2, 3, 64, 96)
    front, tail = cut_network(network, name)
    assert torch.allclose(tail(front(image)), network(image), atol=1e-6)


def test_a_split_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(CdvisionError, match=r"no module 'layer9'.*layer1, layer2, layer3"):
        cut_network(tiny_network(), "layer9")


def test_a_connection_around_the_split_is_refused() -> None:
    with pytest.raises(CdvisionError, match="skip connection"):
        cut_network(tiny_network(skip=True), "layer2")
    front, tail = cut_network(tiny_network(skip=True), "layer1")  # nothing passes by here
    assert tail(front(torch.rand(1, 3, 32, 32))).shape == (1, 5)


def test_code_that_depends_on_values_asks_for_two_parts() -> None:
    class Branching(TinyNetwork):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image if image.mean() > 0 else -image)

    with pytest.raises(CdvisionError, match=r"\(front, tail\)"):
        cut_network(Branching(), "layer2")


def test_outputs_have_names() -> None:
    one, named = torch.zeros(1), NamedOutputs(nn.Identity())
    assert list(named(one)) == ["output"]
    assert list(named((one, one))) == ["output0", "output1"]
    assert list(named({"out": one})) == ["out"]
    with pytest.raises(CdvisionError, match="output is a str"):
        named("text")


def test_strides_that_do_not_divide_the_input_are_refused() -> None:
    valid = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 1))
    network = split_torch(valid, "0", {"source": "valid"}, PixelFormat(), CPU)
    with pytest.raises(CdvisionError, match="expected a stride that divides 32"):
        network.feature_spec(32)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 4, 1))
    network = split_torch(pooled, "0", {"source": "fixed"}, PixelFormat(), CPU)
    with pytest.raises(CdvisionError, match="expected a stride that divides 32"):
        network.feature_spec(32)


def test_a_module_that_is_handed_over_stays_as_it_was() -> None:
    network = tiny_network().train()
    find_network(NetworkRequest(network, "layer2"), CPU)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_network_of_fixed_size_is_refused() -> None:
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 64 * 64, 2))
    network = split_torch(fixed, "0", {"source": "fixed"}, PixelFormat(), CPU)
    with pytest.raises(CdvisionError, match="fixed cannot run on an input of 128 x 192"):
        network.feature_spec(32)


def test_pixels_enter_as_the_network_was_trained() -> None:
    image = torch.tensor([255.0, 0.0, 127.5]).view(1, 3, 1, 1)
    plain = PixelNormaliser(PixelFormat((0.5, 0.5, 0.5), (0.5, 0.5, 0.25)))
    assert torch.allclose(plain(image).flatten(), torch.tensor([1.0, -1.0, 0.0]))
    turned = PixelFormat((0, 0, 0), (1, 1, 1), range=255, order="bgr")
    assert PixelNormaliser(turned)(image).flatten().tolist() == [127.5, 0.0, 255.0]
    with pytest.raises(CdvisionError, match="above 0"):
        PixelFormat(std=(0, 1, 1))


def test_factories_and_their_weights(tmp_path: Path) -> None:
    path, weights = tmp_path / "mine.py", tmp_path / "w.pth"
    path.write_text(FACTORY)
    whole = find_network(NetworkRequest(f"{path}:whole", "0"), CPU)
    assert whole.feature_spec(32) == FeatureSpec(4, 2)
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


def test_an_onnx_file_is_cut_at_a_tensor(tmp_path: Path) -> None:
    import onnxruntime as ort

    path = onnx_file(tmp_path / "net.onnx")
    pixels = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "range": 255.0}
    network = find_network(NetworkRequest(path, "cut", **pixels), CPU)
    assert network.feature_spec(32) == FeatureSpec(4, 2)
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
