"""Builds what a stage trains: from published weights, or from the run of an earlier stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.models.dicm.backbones import BACKBONES, make_backbone
from cdvision.models.dicm.codec import Dicm, Redundancy, redundancy_codec
from cdvision.models.dicm.light_codec import LightCodec
from cdvision.models.dicm.map_codec import FullCodec, MapCodec
from cdvision.models.dicm.network import load_package_weights
from cdvision.training.finished import fill_module, open_finished
from cdvision.training.protocols import Backbone

CONTRASTIVE, JOINT, CODEC, HEADS = "contrastive", "joint", "codec", "heads"
FULL, LIGHT = "full", "light"  # stages, and senders
_ORIGINS = {
    "resnet50-msra": "MSRA's ResNet-50 (KaimingHe/deep-residual-networks), ImageNet-1k",
}
_STAGES = {"dicm": CODEC, "dicm-re": JOINT, "dicm-light": LIGHT}  # that a package is taken for


@dataclass(frozen=True)
class Start:
    """Where a stage begins."""

    backbone: str
    stage: str  # of the run that it begins from; empty for published or random weights
    tensors: dict[str, Tensor]  # of that run
    origin: str  # what a card says of it
    weights: str | None = None  # published ones, by a name of torchvision's or as a file
    detector: Mapping[str, Tensor] = field(default_factory=dict)  # of a package that has one

    @property
    def channels(self) -> int:
        """Channels of the tail's last stage."""
        return BACKBONES[self.backbone].channels[-1]

    @property
    def has_redundancy(self) -> bool:
        """Whether it holds trained RE networks."""
        return self.stage not in ("", CONTRASTIVE, LIGHT)

    def redundancy_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of RE and backbone, which a codec holds inside."""
        return tensors_below(self.tensors, "re.") if self.stage == CODEC else self.tensors

    def fill(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Load some of the tensors; raises CdvisionError where they do not fit."""
        fill_module(module, tensors, f"the start, a {self.stage!r} of {self.backbone},")

    def fill_detector(self, detector: nn.Module) -> bool:
        """Go on with the package's detector; False where it has none of the same layers."""
        shapes = {name: value.shape for name, value in detector.state_dict().items()}
        if shapes != {name: value.shape for name, value in self.detector.items()}:
            return False
        detector.load_state_dict(dict(self.detector))
        return True


def start_from(source: Path | str | None, backbone: str, weights: str | None) -> Start:
    """Return where to begin: with a run's or package's networks, or without a source otherwise.

    Without a source, ``weights`` are published ones of a backbone, see `Start`, or None: random.
    With a package that leaves the tail to its users, front and tail are those.

    Raises:
        CdvisionError: ``source`` is neither, or of another family.
    """
    if source is None:
        origin = "random" if weights is None else _ORIGINS.get(backbone, weights)
        return Start(backbone, "", {}, origin, weights)
    found = open_finished(source)
    found.require_network("dicm")
    record = found.record
    if found.card is not None:
        model = load_package_weights(found.weights_path)
        tensors = model.codec.state_dict()
        if not model.settings.tail:
            tensors |= _published_tensors(model.settings.backbone, weights, source)
        return Start(
            model.settings.backbone,
            _STAGES[model.settings.profile],
            tensors,
            record.get("codec", {}).get("origin", found.card.name),
            detector={} if model.detector is None else model.detector.state_dict(),
        )
    if record.get("backbone") not in BACKBONES or "stage" not in record:
        raise CdvisionError(f"{source}: expected the record of a stage of dicm")
    return Start(record["backbone"], record["stage"], found.weights(), record["origin"])


def _published_tensors(backbone: str, weights: str | None, source: Path | str) -> dict[str, Tensor]:
    if weights is None:
        raise CdvisionError(f"{source}: its users have the tail, it does not: give --weights too")
    return _published(backbone, weights).state_dict()


def start_backbone(start: Start) -> Backbone:
    """Return front and tail with the start's weights, in evaluation mode."""
    if not start.stage and start.weights is not None:
        return _published(start.backbone, start.weights)
    tensors = start.redundancy_tensors()
    # The run's tail may have a classifier of its own, of as many classes as its weights say.
    classifier = tensors.get("tail.fc.weight")
    classes = None if classifier is None else len(classifier)
    network = Backbone(*make_backbone(start.backbone, classes)).eval()
    if start.stage:
        start.fill(network, {k: v for k, v in tensors.items() if k.startswith(("front.", "tail."))})
    return network


def _published(backbone: str, weights: str) -> Backbone:
    if backbone == "resnet50-msra":
        from cdvision.networks.resnet50_msra import load_resnet50_msra

        return Backbone(*load_resnet50_msra(weights))
    if backbone == "resnet50v2":
        from cdvision.networks.resnet50v2 import load_resnet50v2

        return Backbone(*load_resnet50v2(weights))
    from cdvision.models.dicm.resnet50 import split_resnet50

    return Backbone(*split_resnet50(weights))


def make_redundancy(start: Start) -> Redundancy:
    """Return a codec with RE on the start's backbone, with its RE networks where it has them."""
    backbone = start_backbone(start)
    model = redundancy_codec(backbone.front, backbone.tail, BACKBONES[start.backbone].widths)
    if start.has_redundancy:
        start.fill(model, start.redundancy_tensors())
    return model


def make_sender(sender: str, start: Start) -> MapCodec:
    """Return the codec of a sender, ``full`` or ``light``, trained as far as the start is.

    Raises:
        CdvisionError: the start is a run of another sender, or of a backbone without such codecs.
    """
    if BACKBONES[start.backbone].widths.filtered_stride != 16:
        raise CdvisionError(f"{sender}: expected --backbone resnet50-msra, found {start.backbone}")
    if start.stage not in ("", CONTRASTIVE) and (start.stage == LIGHT) != (sender == LIGHT):
        raise CdvisionError(f"{sender}: expected --start with a run of it, found {start.stage!r}")
    backbone = start_backbone(start)
    kind = FullCodec if sender == FULL else LightCodec
    model: MapCodec = kind(backbone.front, backbone.tail, BACKBONES[start.backbone].widths)
    if start.stage not in ("", CONTRASTIVE):
        start.fill(model, start.redundancy_tensors())
    return model


def make_codec(start: Start) -> Dicm:
    """Return `Dicm` around the start's RE model, with its codec where it has one."""
    if not start.has_redundancy:
        raise CdvisionError(
            "codec: expected --start with a run of `redundancy` or `joint`, found "
            f"{start.stage or 'no run'}; train the RE networks first"
        )
    model = Dicm(make_redundancy(start))
    if start.stage == CODEC:
        start.fill(model, start.tensors)
    return model


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
