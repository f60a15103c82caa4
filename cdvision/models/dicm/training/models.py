"""Builds what a stage trains: from published weights, or from the run of an earlier stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.models.dicm.network import load_package_weights
from cdvision.models.dicm.network import make_backbone as new_backbone
from cdvision.models.dicm.tiny_backbone import STAGE_CHANNELS as TINY_CHANNELS
from cdvision.models.dicm.widths import backbone_widths
from cdvision.package.card import ModelCard
from cdvision.training.finished import Finished, fill_module, open_finished
from cdvision.training.protocols import Backbone

STAGES = {  # channels and strides, the split point first
    "resnet50": ((256, 512, 1024, 2048), (4, 8, 16, 32)),
    "resnet50v2": ((256, 512, 1024), (4, 8, 16)),
    "tiny": (TINY_CHANNELS, (4, 8, 16)),  # of the packages that tests use
}
CONTRASTIVE, JOINT, CODEC, HEADS = "contrastive", "joint", "codec", "heads"


@dataclass(frozen=True)
class Start:
    """Where a stage begins.

    Attributes:
        backbone: name of the network.
        stage: stage of the run that it begins from; empty for published or random weights.
        tensors: of that run.
        origin: what a card says of it.
        weights: published weights, by a name of torchvision's or as a file.
        detector: weights of a package's detector, where it has one.
    """

    backbone: str
    stage: str
    tensors: dict[str, Tensor]
    origin: str
    weights: str | None = None
    detector: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Channels of the tail's last stage."""
        return STAGES[self.backbone][0][-1]

    def fill_detector(self, detector: nn.Module) -> bool:
        """Go on with the package's detector; False where it has none of the same layers."""
        shapes = {name: value.shape for name, value in detector.state_dict().items()}
        if shapes != {name: value.shape for name, value in self.detector.items()}:
            return False
        detector.load_state_dict(dict(self.detector))
        return True


def start_from(source: Path | str | None, backbone: str, weights: str | None) -> Start:
    """Return where to begin: a run's or package's networks if one is given, else other weights.

    Args:
        source: a finished run, or a package by its folder or name; None for none.
        backbone: without ``source``: name of the network.
        weights: without ``source``: published weights, see `Start`; None for random ones.

    Raises:
        CdvisionError: ``source`` is neither, or of another family.
    """
    if source is None:
        return Start(backbone, "", {}, weights or "random", weights)
    found = open_finished(source)
    found.require_network("dicm")
    if found.card is not None:
        return _start_from_package(found, found.card)
    record = found.record
    if record.get("backbone") not in STAGES or "stage" not in record:
        raise CdvisionError(f"{source}: expected the record of a stage of dicm")
    return Start(record["backbone"], record["stage"], found.weights(), record["origin"])


def _start_from_package(found: Finished, card: ModelCard) -> Start:
    model = load_package_weights(found.weights_path)
    return Start(
        model.settings.backbone,
        CODEC if model.settings.profile == "dicm" else JOINT,
        model.codec.state_dict(),
        found.record.get("codec", {}).get("origin", card.name),
        detector={} if model.detector is None else model.detector.state_dict(),
    )


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
    model = DicmRe(backbone.front, backbone.tail, backbone_widths(start.backbone))
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
    front, tail, _ = new_backbone(name, None if classifier is None else len(classifier))
    return Backbone(front, tail).eval()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], start: Start) -> None:
    fill_module(module, tensors, f"the start, a {start.stage!r} of {start.backbone},")
