"""Pre-activation ResNet-50 (v2), split after stage 1 into a front and a tail that ends at 1/16.

::

    RGB ─ scale, shift ─ 7x7/2 ─ max 3/2 ─ stage 1: 256@1/4 ─┤front│tail├─ stage 2: 512@1/8
                                                                        └─ stage 3: 1024@1/16

A stage here ends with the BatchNorm + ReLU that the published network counts to the next one: the
function is the same, and a codec at the split spends nothing on values that a ReLU would remove.
Stage 4 has no published weights and is left out.

Source: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.networks.initial_weights import read_weights

WEIGHTS_FILE = "resnet50v2_stages123.safetensors"
STAGE_CHANNELS = (256, 512, 1024)
UNITS = (3, 4, 6)
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in 0..1
EPSILON = 1e-5  # of every BatchNorm


class Affine(nn.Module):
    """A scale and a shift per channel: a BatchNorm with its statistics folded in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Activation(nn.Sequential):
    """Scale and shift, then ReLU: what stands before every convolution of this network."""

    def __init__(self, channels: int) -> None:
        super().__init__(Affine(channels), nn.ReLU())


class PreActivationUnit(nn.Module):
    """Bottleneck unit, ``x + conv(act(conv(act(conv(act(x))))))``, with its stride on the 3x3.

    The first unit of a stage reads its input activated already, and replaces ``x`` by a 1x1
    convolution of it, as the shape changes.
    """

    def __init__(self, channels: int, out: int, *, stride: int, first: bool) -> None:
        super().__init__()
        hidden = out // 4
        self.activation = nn.Identity() if first else Activation(channels)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            Activation(hidden),
            nn.Conv2d(hidden, hidden, 3, stride, 1, bias=False),
            Activation(hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride)."""
        activated = self.activation(x)
        kept = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = kept + self.branch(activated)
        return out


class PreActivationStage(nn.Sequential):
    """Units of one resolution, and the activation that the next stage opens with."""

    def __init__(self, channels: int, out: int, units: int, *, stride: int) -> None:
        first = PreActivationUnit(channels, out, stride=stride, first=True)
        later = (PreActivationUnit(out, out, stride=1, first=False) for _ in range(units - 1))
        super().__init__(first, *later, Activation(out))


class ResNet50V2Front(nn.Module):
    """Pixels to stage-1 features: (N, 3, H, W) RGB 0..255 -> (N, 256, H/4, W/4), >= 0."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Affine(3)  # ImageNet's mean and spread, then the input's own BatchNorm
        self.conv = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.activation = Activation(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.opening = Activation(64)
        self.stage1 = PreActivationStage(64, STAGE_CHANNELS[0], UNITS[0], stride=1)

    def forward(self, image: Tensor) -> Tensor:
        """Run the part before the split point."""
        x = self.pool(self.activation(self.conv(self.normalise(image))))
        features: Tensor = self.stage1(self.opening(x))
        return features


class ResNet50V2Tail(nn.Module):
    """Stage-1 features to stages 2 and 3; the network's classifier has no published weights."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = STAGE_CHANNELS
        self.stage2 = PreActivationStage(first, second, UNITS[1], stride=2)
        self.stage3 = PreActivationStage(second, third, UNITS[2], stride=2)

    def stages(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 256, 4h, 4w) to (N, 512, 2h, 2w) and (N, 1024, h, w), both >= 0."""
        middle = self.stage2(features)
        return middle, self.stage3(middle)


def load_resnet50v2(path: Path | str) -> tuple[ResNet50V2Front, ResNet50V2Tail]:
    """Return front and tail with the published weights, in evaluation mode.

    Args:
        path: the safetensors file, or the folder that holds ``resnet50v2_stages123.safetensors``.

    Raises:
        ModelError: the file is missing, or is not this network.
    """
    file = Path(path) / WEIGHTS_FILE if Path(path).is_dir() else Path(path)
    tensors = read_weights(file)
    front, tail = ResNet50V2Front(), ResNet50V2Tail()
    try:
        _fill_input(front, tensors)
        for number, stage in enumerate((front.stage1, tail.stage2, tail.stage3), start=1):
            _fill_stage(stage, number, tensors)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"{file}: expected stages 1 to 3 of ResNet-50 v2 in GluonCV's names: {error}"
        ) from error
    return front.eval(), tail.eval()


def _fill_input(front: ResNet50V2Front, tensors: dict[str, Tensor]) -> None:
    # ImageNet's mean and spread and the input's BatchNorm, both affine, become one.
    scale, shift = _folded(tensors, "batchnorm0").values()
    mean, spread = (255 * torch.tensor(values) for values in (MEAN, SPREAD))
    folded = {"weight": scale / spread, "bias": shift - scale * mean / spread}
    front.normalise.load_state_dict(folded)
    front.conv.load_state_dict({"weight": tensors["conv0.weight"]})
    front.activation[0].load_state_dict(_folded(tensors, "batchnorm1"))
    front.opening[0].load_state_dict(_folded(tensors, "stage1_batchnorm0"))


def _fill_stage(stage: nn.Module, number: int, tensors: dict[str, Tensor]) -> None:
    # The file counts convolutions and BatchNorms in the order in which our units hold them: the
    # shortcut of the first unit behind its branch. BatchNorm 0 closes the stage before.
    convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    for place, convolution in enumerate(convolutions):
        convolution.load_state_dict({"weight": tensors[f"stage{number}_conv{place}.weight"]})
    norms = [module for module in stage.modules() if isinstance(module, Affine)]
    names = [f"stage{number}_batchnorm{place}" for place in range(1, len(norms))]
    for norm, name in zip(norms, [*names, f"stage{number + 1}_batchnorm0"], strict=True):
        norm.load_state_dict(_folded(tensors, name))


def _folded(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    # Scale and shift of a BatchNorm, in float64. They stand beside the convolutions, not inside,
    # so these keep their 16-bit values exactly.
    gamma, beta, mean, variance = (
        tensors[f"{name}.{part}"].double()
        for part in ("gamma", "beta", "running_mean", "running_var")
    )
    scale = gamma / torch.sqrt(variance + EPSILON)
    return {"weight": scale.float(), "bias": (beta - mean * scale).float()}
