"""From the bytes of a stream to Detectron2's Instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from safetensors.torch import load_file
from torch import nn

from cdvision.errors import ModelError
from cdvision.models.dicm.detectron2.inputs import stream_inputs

# Parts of a checkpoint that a receiver has not got, or that Detectron2 computes itself.
_FRONT = tuple(
    f"backbone.{where}{part}." for where in ("", "bottom_up.") for part in ("stem", "res2")
)
_COMPUTED = ("pixel_mean", "pixel_std", "anchor_generator")


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
