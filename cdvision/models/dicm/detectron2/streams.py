"""From the bytes of a stream to what Detectron2's networks take, and to its Instances."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from detectron2.data import detection_utils
from detectron2.data.transforms import ResizeTransform
from detectron2.modeling import build_model
from detectron2.structures import Instances
from safetensors.torch import load_file
from torch import nn

import cdvision
from cdvision.errors import ModelError
from cdvision.models.dicm.detectron2.network import FEATURE_STRIDE

# Parts of a checkpoint that a receiver has not got, or that Detectron2 computes itself.
_FRONT = tuple(
    f"backbone.{where}{part}." for where in ("", "bottom_up.") for part in ("stem", "res2")
)
_COMPUTED = ("pixel_mean", "pixel_std", "anchor_generator")


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


class CdvisionPredictor:
    """Counterpart of Detectron2's DefaultPredictor for one stream at a time.

    ``MODEL.WEIGHTS`` of the config is a safetensors file, or empty for fresh weights. Pickled
    checkpoints are never loaded: see `cdvision train convert-zoo`.
    """

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg.clone()
        self.model: nn.Module = build_model(self.cfg).eval()
        if self.cfg.MODEL.WEIGHTS:
            load_weights(self.model, Path(self.cfg.MODEL.WEIGHTS))

    def __call__(self, bits: bytes) -> Instances:
        """Return the objects of one stream, boxes and masks in pixels of the source image.

        Raises:
            BitstreamError: the bytes are no stream of the config's model.
        """
        with torch.inference_mode():
            return self.model([stream_inputs(bits, self.cfg)])[0]["instances"]


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file of Detectron2's names, the front left out.

    Raises:
        ModelError: not a safetensors file, or one of another network.
    """
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path}: expected a .safetensors file; convert a pickled Detectron2 checkpoint once, "
            f"with `cdvision train convert-zoo FILE.pkl`"
        )
    state = {
        name: value
        for name, value in load_file(path).items()
        if not name.startswith(_FRONT) and not any(part in name for part in _COMPUTED)
    }
    result = model.load_state_dict(state, strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise ModelError(
            f"{path}: not weights of this network: missing {result.missing_keys[:3]}, "
            f"unexpected {result.unexpected_keys[:3]}"
        )
