"""The dense parts of a two-stage detector, as engines run them.

    stages ─ dense ─▶ pyramid, objectness, deltas ─ numpy ─▶ regions ─ box ─▶ numpy ─ mask ─▶ numpy

What lies between them (``numpy``) is `cdvision.heads.two_stage`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.heads.two_stage.config import BOX_CELLS, MASK_CELLS
from cdvision.heads.two_stage.network import TwoStageDetector
from cdvision.networks.graphs import Axes, Graph


class DenseGraph(nn.Module):
    """Backbone stages to the pyramid and to objectness and deltas of every anchor."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.fpn, self.rpn_head = detector.fpn, detector.rpn.head
        self._pyramid, self._pooled = detector.pyramid, len(detector.strides)

    def forward(self, *stages: Tensor) -> tuple[Tensor, ...]:
        """Map (N, channels, h, w) stages to the arrays that `dense_outputs` names."""
        levels = list(self._pyramid(stages).values())
        objectness, deltas = self.rpn_head(levels)
        return (*levels[: self._pooled], *objectness, *deltas)


class BoxGraph(nn.Module):
    """Pooled regions to class logits and box deltas."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        heads = detector.roi_heads
        self.box_head, self.box_predictor = heads.box_head, heads.box_predictor

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Map (K, C, 7, 7) to (K, 1 + classes) and (K, 4 (1 + classes)), background first."""
        logits, deltas = self.box_predictor(self.box_head(regions))
        return logits, deltas


class MaskGraph(nn.Module):
    """Pooled regions to one mask a class."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        heads = detector.roi_heads
        self.mask_head, self.mask_predictor = heads.mask_head, heads.mask_predictor

    def forward(self, regions: Tensor) -> tuple[Tensor]:
        """Map (K, C, 14, 14) to (K, 1 + classes, 28, 28) logits, background first."""
        return (self.mask_predictor(self.mask_head(regions)),)


def dense_outputs(detector: TwoStageDetector) -> tuple[str, ...]:
    """Names of what the dense graph returns, as `detect_two_stage` looks them up."""
    levels = range(len(detector.config.anchor_sizes))
    return (
        *(f"pyramid{level}" for level in range(len(detector.strides))),
        *(f"objectness{level}" for level in levels),
        *(f"deltas{level}" for level in levels),
    )


def two_stage_graphs(detector: TwoStageDetector) -> dict[str, Graph]:
    """Return the graphs ``dense`` (on backbone stages), ``box`` and, with masks, ``mask``.

    The number of regions K is the batch axis of ``box`` and ``mask``.
    """
    detector.eval()
    channels = _pyramid_channels(detector)
    graphs = {
        "dense": _graph(DenseGraph(detector), _stage_axes(detector), dense_outputs(detector)),
        "box": _graph(BoxGraph(detector), _region_axes(channels, BOX_CELLS), ("logits", "deltas")),
    }
    if detector.has_masks:
        axes = _region_axes(channels, MASK_CELLS)
        graphs["mask"] = _graph(MaskGraph(detector), axes, ("masks",))
    return graphs


def _graph(module: nn.Module, inputs: Axes, outputs: tuple[str, ...]) -> Graph:
    return Graph(module.eval(), inputs, outputs, dict.fromkeys(inputs, torch.float32))


def _stage_axes(detector: TwoStageDetector) -> Axes:
    channels = [_first_convolution(block).in_channels for block in detector.fpn.inner_blocks]
    return {
        f"stage{number}": ("batch", width, f"h{stride}", f"w{stride}")
        for number, (width, stride) in enumerate(zip(channels, detector.strides, strict=True))
    }


def _region_axes(channels: int, cells: int) -> Axes:
    return {"regions": ("batch", channels, cells, cells)}


def _pyramid_channels(detector: TwoStageDetector) -> int:
    return _first_convolution(detector.fpn.layer_blocks[0]).out_channels


def _first_convolution(block: nn.Module) -> nn.Conv2d:
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            return layer
    raise ModelError("two-stage detector: a pyramid block holds no convolution")
