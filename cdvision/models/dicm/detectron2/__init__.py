"""Detectron2 on streams: backbones that take decoded features, and a predictor that takes bytes.

    import cdvision.models.dicm.detectron2 as streams

    cfg = streams.stream_config(model_zoo.get_config("COCO-InstanceSegmentation/"
                                                     "mask_rcnn_R_50_FPN_1x.yaml"))
    predictor = streams.CdvisionPredictor(cfg)
    instances = predictor(bits)                 # detectron2.structures.Instances

Importing this package registers its backbones and ``CdvisionRCNN``. `stream_config` makes any
R50-C4, R50-DC5 or R50-FPN config of a Faster or Mask R-CNN use them, and `map_stream` is the
dataset mapper to train with.
"""

from __future__ import annotations

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "cdvision.models.dicm.detectron2 needs Detectron2, which is not on the package index: "
        "install it by its own guide, https://detectron2.readthedocs.io/tutorials/install.html"
    ) from error

from cdvision.models.dicm.detectron2.network import CdvisionRCNN, StreamResNet, stream_config
from cdvision.models.dicm.detectron2.streams import CdvisionPredictor, map_stream, stream_inputs
from cdvision.models.dicm.zoo_weights import convert_zoo_checkpoint

__all__ = [
    "CdvisionPredictor",
    "CdvisionRCNN",
    "StreamResNet",
    "convert_zoo_checkpoint",
    "map_stream",
    "stream_config",
    "stream_inputs",
]
