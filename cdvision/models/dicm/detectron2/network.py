"""Detectron2's Faster and Mask R-CNN from res3 on, fed with features at the output of res2.

Parameters keep Detectron2's names, so its checkpoints fit; those of the stem and of res2 are left
out, because that part of the network runs where the stream is made.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone, GeneralizedRCNN
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import ResNet, build_resnet_backbone
from detectron2.structures import ImageList
from torch import Tensor

from cdvision.errors import ModelError

FEATURE_STRIDE = 4  # pixels of the network input a cell of the features, at the output of res2
SPLIT = "res2"


class StreamResNet(Backbone):  # type: ignore[misc]  # Detectron2 has no types
    """The stages after res2 of a ResNet, taken over from it; res2 itself is the input."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self._shapes = resnet.output_shape()
        self._later = [name for name in resnet.stage_names if name != SPLIT]
        for name in self._later:
            self.add_module(name, getattr(resnet, name))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map (N, C, h, w) features at stride 4 to the stages that the config asks for."""
        stages = {SPLIT: features}
        for name in self._later:
            features = getattr(self, name)(features)
            stages[name] = features
        return {name: stages[name] for name in self._shapes}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every stage that `forward` returns."""
        return dict(self._shapes)


def build_cdvision_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> StreamResNet:
    """Build the ResNet that a C4 or DC5 config describes, without its front."""
    return StreamResNet(build_resnet_backbone(cfg, input_shape))


def build_cdvision_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """Build the FPN that a config describes, on a ResNet without its front."""
    pyramid = build_resnet_fpn_backbone(cfg, input_shape)
    pyramid.bottom_up = StreamResNet(pyramid.bottom_up)
    return pyramid


class CdvisionRCNN(GeneralizedRCNN):  # type: ignore[misc]  # Detectron2 has no types
    """GeneralizedRCNN whose inputs hold ``features`` and ``image_size`` instead of ``image``.

    Every input is a dict as `stream_inputs` makes it: ``features`` (C, h, w) float32 at stride 4,
    ``image_size`` (height, width) of the photo inside the network input, which bounds the boxes,
    ``height`` and ``width`` of the source, to which they are scaled, and ``instances`` to train.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Batch the features; sizes are those of the photos, in pixels of the network input."""
        features = [self._move_to_current_device(item["features"]) for item in batched_inputs]
        # Detectron2 pads pixels to what the pyramid can halve; here these are cells.
        cells = max(self.backbone.size_divisibility // FEATURE_STRIDE, 1)
        padded = ImageList.from_tensors(features, cells)
        sizes = [tuple(map(int, item["image_size"])) for item in batched_inputs]
        return ImageList(padded.tensor, sizes)


BACKBONES = {
    "build_resnet_backbone": build_cdvision_resnet_backbone,
    "build_resnet_fpn_backbone": build_cdvision_resnet_fpn_backbone,
}
for _registry, _part in (
    *((BACKBONE_REGISTRY, builder) for builder in BACKBONES.values()),
    (META_ARCH_REGISTRY, CdvisionRCNN),
):
    # A second import of this package, in a notebook say, must not fail.
    if _part.__name__ not in _registry:
        _registry.register(_part)


def stream_config(cfg: Any, *, model: str = "", tail: str = "", channels: int = 256) -> Any:
    """Return a copy of a config whose network takes decoded features.

    Args:
        cfg: a Detectron2 config of a Faster or Mask R-CNN on a ResNet (C4 or DC5) or on an FPN.
        model: name or folder of the package that writes the streams; where empty, each stream's
            fingerprint tells.
        tail: the package's tail whose features are taken; where empty, the one that detects.
        channels: channels of those features.

    Raises:
        ModelError: a config of another kind of network.
    """
    changed = cfg.clone()
    changed.defrost()
    for node, key, known in (
        (changed.MODEL, "META_ARCHITECTURE", {"GeneralizedRCNN": CdvisionRCNN}),
        (changed.MODEL.BACKBONE, "NAME", BACKBONES),
    ):
        if node[key] not in known:
            raise ModelError(f"Detectron2 config: {key}: expected {[*known]}, found {node[key]!r}")
        node[key] = known[node[key]].__name__
    changed.MODEL.RESNETS.RES2_OUT_CHANNELS = channels
    changed.CDVISION = CfgNode({"MODEL": model, "TAIL": tail})
    return changed
