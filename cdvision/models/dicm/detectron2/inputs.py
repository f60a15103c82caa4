"""From a stream to what `CdvisionRCNN` takes, for inference and for training."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from detectron2.data import detection_utils
from detectron2.data.transforms import ResizeTransform

import cdvision
from cdvision.errors import ModelError
from cdvision.models.dicm.detectron2.network import FEATURE_STRIDE


def stream_inputs(bits: bytes, cfg: Any) -> dict[str, Any]:
    """Decode a stream to the features of the tail that `stream_config` has named.

    Returns:
        ``features`` (C, h, w) float32 tensor, ``image_size`` (height, width) of the photo in the
        network input, and ``height`` and ``width`` of the source.

    Raises:
        BitstreamError: the bytes are no stream of the model.
        ModelError: the tail's features do not fit the config's network.
    """
    stream = cdvision.open(bits, model=cfg.CDVISION.MODEL or None)
    tail = cfg.CDVISION.TAIL or stream.tail_for("detect")
    spec, channels = stream.model.card.tails.get(tail), cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    found = None if spec is None else (spec.features.channels, spec.features.stride)
    if found != (channels, FEATURE_STRIDE):
        raise ModelError(
            f"model {stream.model.name!r}, tail {tail!r}: expected features of {channels} channels "
            f"at stride {FEATURE_STRIDE} for this Detectron2 config, found {found}; "
            f"see stream_config(cfg, tail=…, channels=…)"
        )
    width, height = stream.content_size
    return {
        "features": torch.from_numpy(stream.features(tail)),
        "image_size": (height, width),
        "height": stream.source_size[1],
        "width": stream.source_size[0],
    }


def map_stream(record: dict[str, Any], cfg: Any) -> dict[str, Any]:
    """Map a record of a Detectron2 data set whose ``file_name`` is a stream to a training input.

    Use it as ``build_detection_train_loader(cfg, mapper=partial(map_stream, cfg=cfg))``.

    Returns:
        What `stream_inputs` gives and, where the record has ``annotations`` (in pixels of the
        source image), ``instances`` scaled to the network input.
    """
    inputs = stream_inputs(Path(record["file_name"]).read_bytes(), cfg)
    if "annotations" in record:
        height, width = inputs["image_size"]
        scale = ResizeTransform(inputs["height"], inputs["width"], height, width)
        objects = [
            detection_utils.transform_instance_annotations(_copied(item), [scale], (height, width))
            for item in record["annotations"]
            if not item.get("iscrowd", 0)
        ]
        found = detection_utils.annotations_to_instances(
            objects, (height, width), mask_format=cfg.INPUT.MASK_FORMAT
        )
        inputs["instances"] = detection_utils.filter_empty_instances(found)
    return inputs


def _copied(annotation: dict[str, Any]) -> dict[str, Any]:
    # The box as floats: Detectron2 would scale integers to integers.
    return {**deepcopy(annotation), "bbox": [float(side) for side in annotation["bbox"]]}
