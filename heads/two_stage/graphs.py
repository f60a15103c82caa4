"""The graphs that a two-stage detector runs on regions, as engines run them.

    pyramid, objectness, deltas ─ numpy ─▶ regions ─ box ─▶ numpy ─ regions ─ mask ─▶ numpy

What lies between them (``numpy``) is `cdvision.heads.two_stage`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.heads.two_stage.config import BOX_CELLS, MASK_CELLS
from cdvision.heads.two_stage.network import TwoStageDetector
from cdvision.networks.graphs import Graph


class RegionGraph(nn.Module):
    """Pooled regions to class logits and box deltas, or to one mask a class.

    It holds the whole detector, so that its parameters have the names that they have there.
    """

    def __init__(self, detector: TwoStageDetector, *, masks: bool) -> None:
        super().__init__()
        self.detector, self._masks = detector, masks

    def forward(self, regions: Tensor) -> tuple[Tensor, ...]:
        """Map (K, C, 7, 7) to (K, 1 + classes) and (K, 4 (1 + classes)), background first.

        For masks, map (K, C, 14, 14) to (K, 1 + classes, 28, 28) logits.
        """
        heads = self.detector.roi_heads
        if self._masks:
            return (heads.mask_predictor(heads.mask_head(regions)),)
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        return logits, deltas


def dense_outputs(detector: TwoStageDetector) -> tuple[str, ...]:
    """Return the names of a detector's dense maps, as `detect_two_stage` looks them up."""
    levels = range(len(detector.config.anchor_sizes))
    return (
        *(f"pyramid{level}" for level in range(len(detector.strides))),
        *(f"objectness{level}" for level in levels),
        *(f"deltas{level}" for level in levels),
    )


def two_stage_graphs(detector: TwoStageDetector) -> dict[str, Graph]:
    """Return the graphs ``box`` and, with masks, ``mask``; regions are their batch axis."""
    graphs = {"box": _region_graph(detector, BOX_CELLS, ("logits", "deltas"))}
    if detector.has_masks:
        graphs["mask"] = _region_graph(detector, MASK_CELLS, ("masks",))
    return graphs


def _region_graph(detector: TwoStageDetector, cells: int, outputs: tuple[str, ...]) -> Graph:
    module = RegionGraph(detector, masks="masks" in outputs)
    layers = detector.fpn.layer_blocks[0].modules()
    channels = next(layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d))
    axes = ("batch", channels, cells, cells)
    return Graph(module.eval(), {"regions": axes}, outputs, {"regions": torch.float32})
