"""MobileNetV2 1.0 with TensorFlow padding, split after block 6 into a front and a tail.

::

    RGB ─ normalise ─ features.0-6: 32@1/8 ─┤front│tail├─ features.7-18 ─ pool ─ classifier

BatchNorm is folded. Names are torchvision's (``features.N.conv.K``, ``classifier.1``).
Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.layers import Normalise

# expansion, output channels, repeats, stride of the first unit: table 2 of the paper.
BOTTLENECKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2),
    (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
SPLIT = 7  # the first block of the tail
EMBEDDING = 1280  # pooled features


class SameConv(nn.Conv2d):
    """Convolution that pads a stride-2 3x3 kernel right and bottom only (TensorFlow's "SAME")."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        # TensorFlow gives an odd rest of the padding to the end, PyTorch to both sides.
        if self.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return super().forward(x)


def _conv6(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = kernel // 2 if stride == 1 else 0
    conv = SameConv(channels, out, kernel, stride, padding, groups=groups)
    return nn.Sequential(conv, nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depth-wise, linear 1x1 projection."""

    def __init__(self, channels: int, out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [] if expansion == 1 else [_conv6(channels, hidden, 1)]
        spatial = _conv6(hidden, hidden, 3, stride=stride, groups=hidden)
        self.conv = nn.Sequential(*expand, spatial, nn.Conv2d(hidden, out, 1))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out, H/stride, W/stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def _blocks() -> list[nn.Module]:
    blocks: list[nn.Module] = [_conv6(3, 32, 3, stride=2)]
    channels = 32
    for expansion, out, repeats, stride in BOTTLENECKS:
        for index in range(repeats):
            step = stride if index == 0 else 1
            blocks.append(InvertedResidual(channels, out, stride=step, expansion=expansion))
            channels = out
    return [*blocks, _conv6(channels, EMBEDDING, 1)]


class MobileNetFront(nn.Module):
    """Pixels to block-6 features: (N, 3, H, W) RGB 0..255 -> (N, 32, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise((127.5,) * 3, (1 / 127.5,) * 3)
        self.features = nn.Sequential(*_blocks()[:SPLIT])

    def forward(self, image: Tensor) -> Tensor:
        """Run the part before the split point."""
        features: Tensor = self.features(self.normalise(image))
        return features


class MobileNetTail(nn.Module):
    """Block-6 features to ImageNet logits; the blocks keep their numbers in the whole network."""

    def __init__(self) -> None:
        super().__init__()
        blocks = {str(i): block for i, block in enumerate(_blocks()) if i >= SPLIT}
        self.features = nn.ModuleDict(blocks)
        self.classifier = nn.ModuleDict({"1": nn.Linear(EMBEDDING, 1000)})

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, 1000) from (N, 32, h, w), h and w about 28."""
        for block in self.features.values():
            features = block(features)
        logits: Tensor = self.classifier["1"](features.mean(dim=(2, 3)))
        return logits


class MobileNetEmbedding(nn.Module):
    """Pixels to pooled features: the whole network but its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise((127.5,) * 3, (1 / 127.5,) * 3)
        self.features = nn.Sequential(*_blocks())

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB 0..255 to (N, 1280)."""
        features: Tensor = self.features(self.normalise(image))
        return features.mean(dim=(2, 3))
