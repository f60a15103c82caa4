"""MobileNetV2 (ImageNet) as two parts, front and tail, split after block 6.

For `cdvision fit --network` and `cdvision train encoder --serve`; a factory that returns two parts
needs no split point. The network normalises its input itself, hence --mean 0 --std 1 --range 255.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cdvision.networks.initial_weights import load_mobilenet


def mobilenet_v2(weights: str) -> tuple[nn.Module, nn.Module]:
    """Build both parts from the folder of mobilenet_v2.safetensors."""
    return load_mobilenet(Path(weights))
