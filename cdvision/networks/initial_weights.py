"""Loads published initial weights into our modules, by name; their licences stand in NOTICE."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.networks.mobilenet_v2 import (
    EMBEDDING,
    SPLIT,
    MobileNetEmbedding,
    MobileNetFront,
    MobileNetTail,
)

MOBILENET_FILE = "mobilenet_v2.safetensors"
LAST = "classifier.1."  # begins the names of MobileNet's last layer


def load_mobilenet(folder: Path) -> tuple[MobileNetFront, MobileNetTail]:
    """Return MobileNetV2 (ImageNet-1k) as front and tail, in evaluation mode."""
    tensors = read_weights(folder / MOBILENET_FILE)
    front, tail = MobileNetFront(), MobileNetTail()
    in_front = {k for k in tensors if k.startswith("features.") and int(k.split(".")[1]) < SPLIT}
    front.load_state_dict({k: v for k, v in tensors.items() if k in in_front})
    tail.load_state_dict({k: v for k, v in tensors.items() if k not in in_front})
    return front.eval(), tail.eval()


def load_mobilenet_embedding(folder: Path) -> tuple[MobileNetEmbedding, nn.Linear]:
    """Return MobileNetV2 (ImageNet-1k) split before its last layer, in evaluation mode."""
    tensors = read_weights(folder / MOBILENET_FILE)
    last = {k.removeprefix(LAST): tensors.pop(k) for k in list(tensors) if k.startswith(LAST)}
    network, classifier = MobileNetEmbedding(), nn.Linear(EMBEDDING, len(last["bias"]))
    network.load_state_dict(tensors)
    classifier.load_state_dict(last)
    return network.eval(), classifier.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read published weights in single precision; raises ModelError where the file is missing."""
    if not path.is_file():
        raise ModelError(f"initial weights not found: {path} (pass the folder that holds them)")
    return {name: tensor.float() for name, tensor in load_file(path).items()}
