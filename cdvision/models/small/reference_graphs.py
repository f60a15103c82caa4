"""Exports the uncompressed task networks, whole: the references that streams are held against."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cdvision.export.onnx_graphs import export_graph
from cdvision.models.small.nanodet_weights import load_nanodet
from cdvision.networks.graphs import Graph
from cdvision.networks.initial_weights import load_mobilenet


class WholeNetwork(nn.Module):
    """Pixels to the outputs of a network that a package splits: front and tail in a row."""

    def __init__(self, front: nn.Module, tail: nn.Module, *, scores: bool) -> None:
        super().__init__()
        self.front, self.tail, self._scores = front, tail, scores

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (N, H, W, 3) uint8 to dense outputs."""
        outputs = self.tail(self.front(image.permute(0, 3, 1, 2).float()))
        if not self._scores:
            return (outputs,)
        return torch.sigmoid(outputs.scores), outputs.distances


def write_graphs(initial_weights: Path, folder: Path) -> dict[str, Path]:
    """Write ``nanodet_plus_m.onnx`` and ``mobilenet_v2.onnx`` with their weights beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = {
        "nanodet_plus_m": (load_nanodet(initial_weights), ("scores", "distances")),
        "mobilenet_v2": (load_mobilenet(initial_weights), ("logits",)),
    }
    paths = {}
    for name, (parts, outputs) in networks.items():
        module = WholeNetwork(*parts, scores="scores" in outputs).requires_grad_(False)
        weights = folder / f"{name}.safetensors"
        state = {key: value.half().contiguous() for key, value in module.state_dict().items()}
        save_file(state, weights)
        module.load_state_dict({key: value.float() for key, value in state.items()})
        axes: dict[str, tuple[str | int, ...]] = {"image": ("batch", "height", "width", 3)}
        paths[name] = folder / f"{name}.onnx"
        export_graph(Graph(module, axes, outputs, {"image": torch.uint8}), paths[name], weights)
    return paths
