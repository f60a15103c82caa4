"""Builds what a stage trains: from published weights, or from the run of an earlier stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.training.protocols import Backbone
from cdvision.training.stage_run import RECORD, WEIGHTS

STAGES = {  # channels and strides, the split point first
    "resnet50": ((256, 512, 1024, 2048), (4, 8, 16, 32)),
    "resnet50v2": ((256, 512, 1024), (4, 8, 16)),
}
CONTRASTIVE, CODEC, HEADS = "contrastive", "codec", "heads"


@dataclass(frozen=True)
class Start:
    """Where a stage begins.

    Attributes:
        backbone: name of the network.
        stage: stage of the run that it begins from; empty for published or random weights.
        tensors: of that run.
        origin: what a card says of it.
        weights: published weights, by a name of torchvision's or as a file.
    """

    backbone: str
    stage: str
    tensors: dict[str, Tensor]
    origin: str
    weights: str | None = None

    @property
    def channels(self) -> int:
        """Channels of the tail's last stage."""
        return STAGES[self.backbone][0][-1]


def start_from(run: Path | None, backbone: str, weights: str | None) -> Start:
    """Return where to begin: a run's result if there is one, else published or random weights."""
    if run is None:
        return Start(backbone, "", {}, weights or "random", weights)
    record_path = run / RECORD
    if not record_path.is_file() or not (run / WEIGHTS).is_file():
        raise CdvisionError(
            f"{run}: expected a finished run with {RECORD} and {WEIGHTS}; let its stage end first"
        )
    record = json.loads(record_path.read_text(encoding="utf-8"))
    if record.get("backbone") not in STAGES or "stage" not in record:
        raise CdvisionError(f"{record_path}: expected the record of a stage of dicm")
    tensors = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(run / WEIGHTS).items()
    }
    return Start(record["backbone"], record["stage"], tensors, record["origin"])


def make_backbone(start: Start) -> Backbone:
    """Return front and tail with the start's weights, in evaluation mode."""
    if not start.stage:
        return _published(start.backbone, start.weights)
    prefix = "re." if start.stage == CODEC else ""
    tensors = _below(start.tensors, prefix)
    network = _empty(start.backbone, tensors.get("tail.fc.weight"))
    kept = {k: v for k, v in tensors.items() if k.startswith(("front.", "tail."))}
    _fill(network, kept, start)
    return Backbone(network.front.eval(), network.tail.eval())


def make_redundancy(start: Start) -> Any:
    """Return `DicmRe` around the start's backbone, with its RE networks where it has them."""
    from cdvision.models.dicm.codec import DicmRe

    backbone = make_backbone(start)
    model = DicmRe(backbone.front, backbone.tail)
    if start.stage not in ("", CONTRASTIVE):
        _fill(model, _below(start.tensors, "re." if start.stage == CODEC else ""), start)
    return model


def make_codec(start: Start) -> Any:
    """Return `Dicm` around the start's RE model, with its codec where it has one."""
    from cdvision.models.dicm.codec import Dicm

    if start.stage in ("", CONTRASTIVE):
        raise CdvisionError(
            "codec: expected --start with a run of `redundancy` or `joint`, found "
            f"{start.stage or 'no run'}; train the RE networks first"
        )
    model = Dicm(make_redundancy(start))
    if start.stage == CODEC:
        _fill(model, start.tensors, start)
    return model


def _published(name: str, weights: str | None) -> Backbone:
    if weights is None:
        return _empty(name, None)
    if name == "resnet50v2":
        from cdvision.networks.resnet50v2 import load_resnet50v2

        return Backbone(*load_resnet50v2(weights))
    from cdvision.models.dicm.resnet50 import split_resnet50

    return Backbone(*split_resnet50(weights))


def _empty(name: str, classifier: Tensor | None) -> Backbone:
    classes = None if classifier is None else classifier.shape[0]
    if name == "resnet50v2":
        from cdvision.networks.resnet50v2 import ResNet50V2Front, ResNet50V2Tail

        return Backbone(ResNet50V2Front(), ResNet50V2Tail(classes)).eval()
    from cdvision.models.dicm.resnet50 import ResNet50Front, ResNet50Tail

    return Backbone(ResNet50Front(), ResNet50Tail(classes)).eval()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(module: nn.Module, tensors: dict[str, Tensor], start: Start) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CdvisionError(
            f"the run of stage {start.stage!r} does not fit this version's networks: {reason}"
        ) from error
