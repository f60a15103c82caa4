"""From any R50 config of Detectron2 to one that reads streams."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from cdvision.errors import ModelError

_ARCHITECTURE = {"GeneralizedRCNN": "CdvisionRCNN"}
_BACKBONES = {
    "build_resnet_backbone": "build_cdvision_resnet_backbone",
    "build_resnet_fpn_backbone": "build_cdvision_resnet_fpn_backbone",
}


def stream_config(cfg: Any, *, model: str = "", tail: str = "", channels: int = 256) -> Any:
    """Return a copy of a config whose network takes decoded features.

    Args:
        cfg: a Detectron2 config of a Faster or Mask R-CNN on a ResNet (C4 or DC5) or on an FPN.
        model: name or folder of the package that writes the streams; where empty, each stream's
            fingerprint tells.
        tail: the package's tail whose features are taken; where empty, the one that detects.
        channels: channels of those features.

    Returns:
        The config with its own ``MODEL.META_ARCHITECTURE``, ``MODEL.BACKBONE.NAME`` and a node
        ``CDVISION``.

    Raises:
        ModelError: a config of another kind of network.
    """
    changed = cfg.clone()
    changed.defrost()
    for node, key, known in (
        (changed.MODEL, "META_ARCHITECTURE", _ARCHITECTURE),
        (changed.MODEL.BACKBONE, "NAME", _BACKBONES),
    ):
        if node[key] not in known:
            raise ModelError(f"Detectron2 config: {key}: expected {[*known]}, found {node[key]!r}")
        node[key] = known[node[key]]
    changed.MODEL.RESNETS.RES2_OUT_CHANNELS = channels
    changed.CDVISION = CfgNode({"MODEL": model, "TAIL": tail})
    return changed
