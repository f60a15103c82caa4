"""MSRA's original ResNet-50, split after res2: the front that Detectron2's R50 models share.

::

    RGB ─ BGR, mean ─ 7x7/2 ─ max 3/2 ─ res2: 256@1/4 ─┤front│tail├─ res3: 512@1/8
                                                                  └─ res4: 1024@1/16

Models of Detectron2's zoo are trained from these weights with stem and res2 frozen, so the front is
the same to the bit in all of them. The stride of a stage is on its first 1x1 convolution, pixels
are BGR in 0..255 minus a mean, and the max-pooling is padded by 1, as Detectron2 has it (Caffe:
by 0, rounded up). Stage 4 (res5) has no weights here and is left out.

BatchNorms are folded into the convolutions before them: frozen as they are, they are affine.
Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016;
KaimingHe/deep-residual-networks (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.networks.initial_weights import read_weights

WEIGHTS_FILE = "resnet50_msra_stages123.safetensors"
STAGE_CHANNELS = (256, 512, 1024)
BLOCKS = (3, 4, 6)
STEM = 64  # channels
MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255
EPSILON = 1e-5  # of every BatchNorm


class Bottleneck(nn.Module):
    """Bottleneck block with its stride on the first 1x1; ``first`` blocks project the shortcut."""

    def __init__(self, channels: int, out: int, *, stride: int, first: bool) -> None:
        super().__init__()
        hidden = out // 4
        self.conv1 = nn.Conv2d(channels, hidden, 1, stride)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, 1, 1)
        self.conv3 = nn.Conv2d(hidden, out, 1)
        self.downsample = nn.Conv2d(channels, out, 1, stride) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride), >= 0."""
        branch = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        kept = x if self.downsample is None else self.downsample(x)
        out: Tensor = (branch + kept).relu()
        return out


class MsraFront(nn.Module):
    """Pixels to res2: (N, 3, H, W) RGB 0..255 -> (N, 256, H/4, W/4), >= 0."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, STEM, 7, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(STEM, STAGE_CHANNELS[0], BLOCKS[0], stride=1)

    def forward(self, image: Tensor) -> Tensor:
        """Run the part before the split point."""
        # The published stem reads BGR; here its kernel is stored the other way round.
        x = self.pool(self.conv1(image - self.mean).relu())
        features: Tensor = self.layer1(x)
        return features


class MsraTail(nn.Module):
    """Res2 to res3 and res4."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = STAGE_CHANNELS
        self.layer2 = _stage(first, second, BLOCKS[1], stride=2)
        self.layer3 = _stage(second, third, BLOCKS[2], stride=2)

    def stages(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 256, 4h, 4w) to (N, 512, 2h, 2w) and (N, 1024, h, w), both >= 0."""
        middle = self.layer2(features)
        return middle, self.layer3(middle)


def _stage(channels: int, out: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = Bottleneck(channels, out, stride=stride, first=True)
    later = (Bottleneck(out, out, stride=1, first=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *later)


def load_resnet50_msra(path: Path | str) -> tuple[MsraFront, MsraTail]:
    """Return front and tail with the published weights, in evaluation mode.

    Args:
        path: the safetensors file, or the folder that holds it.

    Raises:
        ModelError: the file is missing, or is not this network.
    """
    file = Path(path) / WEIGHTS_FILE if Path(path).is_dir() else Path(path)
    tensors = read_weights(file)
    front, tail = MsraFront(), MsraTail()
    try:
        for module in (front, tail):
            module.load_state_dict(_folded(module, tensors))
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"{file}: expected stages 1 to 3 of ResNet-50 in torchvision's names: {error}"
        ) from error
    return front.eval(), tail.eval()


def _folded(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights and biases of every convolution, its BatchNorm folded in, in float64."""
    state: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        if not isinstance(part, nn.Conv2d):
            continue
        # torchvision's names: convN has bnN beside it, a shortcut is a list of both.
        shortcut = name.endswith("downsample")
        norm = f"{name}.1" if shortcut else name.replace("conv", "bn")
        weight = tensors[f"{name}.0.weight" if shortcut else f"{name}.weight"].double()
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{key}"].double()
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / torch.sqrt(variance + EPSILON)
        weight = weight * scale[:, None, None, None]
        state[f"{name}.weight"] = (weight.flip(1) if weight.shape[1] == 3 else weight).float()
        state[f"{name}.bias"] = (beta - mean * scale).float()
    return state
