"""Networks that the tests of `cdvision fit` and `cdvision train encoder` are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

FEATURES = 12


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


SERVED_CODE = """
import torch
from torch import nn
class Fine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.layer2 = nn.Conv2d(8, 12, 2, 2)
        self.fc = nn.Linear(12, 5)
    def forward(self, image):
        pooled = self.layer2(self.layer1(image)).relu().mean((2, 3))
        return {"classes": self.fc(pooled), "pooled": pooled}
def fine():
    torch.manual_seed(SEED)
    return Fine()
def coarse():
    torch.manual_seed(1)
    front = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.Tanh(), nn.Conv2d(6, 10, 4, 4))
    return front, nn.Conv2d(10, 4, 1)
def odd():
    return nn.Conv2d(3, 4, 3, 3), nn.Conv2d(4, 2, 1)
def branching():
    class Branching(Fine):
        def forward(self, image):
            return super().forward(image if image.mean() > 0 else -image)
    return Branching()
"""


def write_served(path: Path, seed: int = 0) -> Path:
    """Write factories of networks that an encoder may serve, and of some that none can."""
    path.write_text(SERVED_CODE.replace("SEED", str(seed)))
    return path
