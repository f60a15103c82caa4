"""torchvision's ResNet-50, split after layer1 into a front and a tail.

::

    RGB ─ normalise ─ conv1, bn1, max 3/2, layer1: 256@1/4 ─┤front│tail├─ layer2: 512@1/8
                                       layer4: 2048@1/32 ─ pool ─ fc   └─ layer3: 1024@1/16

Parameters keep torchvision's own names, so every state dict of its ``resnet50`` fits.
Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; torchvision's
variant has the stride on the 3x3 convolution.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import ResNet, ResNet50_Weights, resnet50

from cdvision.errors import ModelError
from cdvision.networks.layers import Normalise

EMBEDDING = 2048  # channels of layer4
MEAN = (255 * 0.485, 255 * 0.456, 255 * 0.406)  # of ImageNet's RGB in 0..255
SCALE = (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225))
IMAGENET_CLASSES = 1000


class ResNet50Front(nn.Module):
    """Pixels to layer1 features: (N, 3, H, W) RGB 0..255 -> (N, 256, H/4, W/4), >= 0.

    Takes the modules of ``network``; of a new one with random weights if None.
    """

    def __init__(self, network: ResNet | None = None) -> None:
        super().__init__()
        network = resnet50() if network is None else network
        self.normalise = Normalise(MEAN, SCALE)
        self.conv1, self.bn1, self.relu = network.conv1, network.bn1, network.relu
        self.maxpool, self.layer1 = network.maxpool, network.layer1

    def forward(self, image: Tensor) -> Tensor:
        """Run the part before the split point."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(image)))))
        features: Tensor = self.layer1(x)
        return features


class ResNet50Tail(nn.Module):
    """Layer1 features to layers 2 to 4, and to logits of ``classes``, None for no classifier.

    Takes the layers of ``network``, and ``fc`` where it has as many outputs.
    """

    def __init__(
        self, classes: int | None = IMAGENET_CLASSES, network: ResNet | None = None
    ) -> None:
        super().__init__()
        network = resnet50() if network is None else network
        self.layer2, self.layer3, self.layer4 = network.layer2, network.layer3, network.layer4
        fits = getattr(network.fc, "out_features", None) == classes
        new_fc = nn.Identity() if classes is None else nn.Linear(EMBEDDING, classes)
        self.fc = network.fc if fits else new_fc

    def stages(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, 256, 8h, 8w) to (N, 512, 4h, 4w), (N, 1024, 2h, 2w), (N, 2048, h, w)."""
        second = self.layer2(features)
        third = self.layer3(second)
        return second, third, self.layer4(third)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, classes), or the pooled (N, 2048) vector without a classifier."""
        logits: Tensor = self.fc(self.stages(features)[-1].mean(dim=(2, 3)))
        return logits


def split_resnet50(weights: str | Path | None = None) -> tuple[ResNet50Front, ResNet50Tail]:
    """Return a ResNet-50 as front and tail, in evaluation mode.

    Args:
        weights: None for random weights; a name of torchvision's (``"IMAGENET1K_V2"``), which it
            downloads into its cache; or a state dict of ``resnet50`` in a ``.safetensors``,
            ``.pth`` or ``.pt`` file, with or without ``fc``.

    Raises:
        ModelError: there is no such name or file, or the file holds something else.

    Example:
        >>> front, tail = split_resnet50()
        >>> tail(front(torch.zeros(1, 3, 64, 64))).shape
        torch.Size([1, 1000])
    """
    classes: int | None = IMAGENET_CLASSES
    if weights is None:
        network = resnet50()
    elif str(weights) in ResNet50_Weights.__members__:
        network = _downloaded(ResNet50_Weights[str(weights)])
    else:
        network, classes = _filled(_read(Path(weights)), Path(weights))
    return ResNet50Front(network).eval(), ResNet50Tail(classes, network).eval()


def _downloaded(weights: ResNet50_Weights) -> ResNet:
    try:
        return resnet50(weights=weights)
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise ModelError(
            f"torchvision could not download {weights.url} ({error}); "
            "download it elsewhere and name the file instead"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        names = ", ".join(ResNet50_Weights.__members__)
        raise ModelError(f"expected a file or one of {names} for ResNet-50, found {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path}: expected a file of plain tensors ({error})") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ModelError(f"{path}: expected a state dict, name to tensor")
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _filled(tensors: dict[str, Tensor], path: Path) -> tuple[ResNet, int | None]:
    """Return a whole ResNet-50 with these tensors, and the number of its classes."""
    weight = tensors.get("fc.weight")
    classes = None if weight is None else weight.shape[0]
    network = resnet50(num_classes=classes or IMAGENET_CLASSES)
    if classes is None:
        network.fc = nn.Identity()
    # Files made for inference leave the counters of BatchNorms out.
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(counters | tensors)
    except RuntimeError as error:
        summary = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path}: not a state dict of torchvision's resnet50: {summary}"
        ) from error
    return network, classes
