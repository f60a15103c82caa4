"""MSRA's ResNet-50 against an execution of its own, with BatchNorms apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import PHOTOS, SHARED
from PIL import Image

from cdvision.errors import ModelError

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from cdvision.networks.resnet50_msra import BLOCKS, WEIGHTS_FILE, load_resnet50_msra  # noqa: E402

PUBLISHED = SHARED / "weights" / WEIGHTS_FILE
BGR_MEAN = (103.53, 116.28, 123.675)  # as Detectron2's configs have it


def random_tensors() -> dict[str, Tensor]:
    """Return tensors of every name and shape of the published file."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def convolution(name: str, norm: str, out: int, channels: int, side: int) -> None:
        spread = (2 / (channels * side**2)) ** 0.5
        tensors[f"{name}.weight"] = spread * torch.randn(
            out, channels, side, side, generator=generator
        )
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5)):
            tensors[f"{norm}.{part}"] = low + torch.rand(out, generator=generator)
        tensors[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=generator)

    convolution("conv1", "bn1", 64, 3, 7)
    channels = 64
    for stage, (blocks, out) in enumerate(zip(BLOCKS, (256, 512, 1024), strict=True), start=1):
        for block in range(blocks):
            at, hidden = f"layer{stage}.{block}", out // 4
            convolution(f"{at}.conv1", f"{at}.bn1", hidden, channels, 1)
            convolution(f"{at}.conv2", f"{at}.bn2", hidden, hidden, 3)
            convolution(f"{at}.conv3", f"{at}.bn3", out, hidden, 1)
            if block == 0:
                convolution(f"{at}.downsample.0", f"{at}.downsample.1", out, channels, 1)
            channels = out
    return tensors


def executed(tensors: dict[str, Tensor], rgb: Tensor) -> list[Tensor]:
    """Run the published network in its own order: BGR, strides in the first 1x1, norms apart."""

    def convolved(x: Tensor, name: str, norm: str, stride: int = 1, padding: int = 0) -> Tensor:
        x = F.conv2d(x, tensors[f"{name}.weight"].float(), None, stride, padding)
        kept = (tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var"))
        return F.batch_norm(x, *kept, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], eps=1e-5)

    x = rgb[:, [2, 1, 0]] - torch.tensor(BGR_MEAN).view(1, 3, 1, 1)
    x = F.relu(convolved(x, "conv1", "bn1", 2, 3))
    x, found = F.max_pool2d(x, 3, 2, 1), []
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            kept = x
            if block == 0:
                kept = convolved(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = F.relu(convolved(x, f"{at}.conv1", f"{at}.bn1", stride))
            x = F.relu(convolved(x, f"{at}.conv2", f"{at}.bn2", padding=1))
            x = F.relu(convolved(x, f"{at}.conv3", f"{at}.bn3") + kept)
        found.append(x)
    return found


def compare(path: Path, tensors: dict[str, Tensor], rgb: Tensor) -> None:
    front, tail = load_resnet50_msra(path)
    with torch.inference_mode():
        wanted, features = executed(tensors, rgb), front(rgb)
        for found, stage in zip([features, *tail.stages(features)], wanted, strict=True):
            assert found.shape == stage.shape
            assert (found - stage).abs().max() <= 1e-4 * stage.abs().max()


def test_the_folded_network_is_the_published_one(tmp_path: Path) -> None:
    tensors = random_tensors()
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    image = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    compare(tmp_path, tensors, image)
    compare(tmp_path / WEIGHTS_FILE, tensors, image[:, :, :60, :90])


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published weights")
@pytest.mark.parametrize("path", PHOTOS[:2], ids=lambda path: path.stem)
def test_real_photos_give_the_published_features(path: Path) -> None:
    with Image.open(path) as file:
        pixels = np.array(file.convert("RGB").resize((320, 256)))
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    compare(PUBLISHED, load_file(PUBLISHED), rgb)


def test_another_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="initial weights not found"):
        load_resnet50_msra(tmp_path)
    tensors = random_tensors()
    del tensors["layer2.0.bn1.weight"]
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ModelError, match=r"stages 1 to 3 .*layer2\.0\.bn1\.weight"):
        load_resnet50_msra(tmp_path)
