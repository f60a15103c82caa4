"""The packages of `dicm-re` and `dicm`: their entropy models and their cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cdvision.building.card_parts import map_latents
from cdvision.building.map_tables import (
    build_coder,
    build_integer_network,
    prior_tables,
    symbol_tables,
)
from cdvision.building.package_builder import PackageFacts, write_package
from cdvision.entropy.coder import Coder
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.models.dicm.codec import Dicm, DicmCodec, DicmRe
from cdvision.models.dicm.graphs import CLASSIFIER, DETECTOR, feature_spec, map_shapes
from cdvision.models.dicm.integer_checkerboard import build_checkerboard_network
from cdvision.models.dicm.light_codec import LightCodec
from cdvision.models.dicm.map_codec import FullCodec, MapCodec
from cdvision.models.dicm.map_graphs import PICTURE, RES2
from cdvision.models.dicm.network import DicmPackage, save_package_weights
from cdvision.models.dicm.receiver.coder import CheckerboardCoder
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import (
    FeatureSpec,
    InputSpec,
    ModelCard,
    SenderGraph,
    SenderSpec,
    TailSpec,
)
from cdvision.package.families import CHECKERBOARD, HYPERPRIOR
from cdvision.package.tap import RAW

PADDING = (124, 116, 104)  # ImageNet's mean
MAP_LAYER = 0
# Long side of the network input: photos of COCO as they are, or as Detectron2's zoo sees them.
_SIZES: Mapping[type, int] = {LightCodec: 640, FullCodec: 1088}


@dataclass(frozen=True)
class DicmFacts:
    """What the card of a DICM package says that its weights do not."""

    name: str
    description: str
    provenance: tuple[Mapping[str, str], ...]  # the initial weights of every part, their licence


def build_dicm(
    model: DicmPackage, folder: Path, names: DicmFacts, facts: PackageFacts
) -> ModelCard:
    """Write the package of a trained network; the folder's files are overwritten.

    ``facts`` may have lists of class names, called as the tails are: ``classifier``, ``detector``.

    Raises:
        ModelError: a sum of an integer network could reach 2^24, or a graph differs from its
            module.
    """
    model.eval().requires_grad_(False)
    coder = _build_coder(model.codec)
    return write_package(
        _card(model, coder, names), coder, folder, facts, partial(save_package_weights, model)
    )


def _build_coder(codec: DicmCodec) -> Coder:
    """Freeze a codec's probabilities into integers; proves its networks' sums exact."""
    if isinstance(codec, MapCodec):
        return build_coder(codec.bottleneck)
    symbols, hyper = symbol_tables(), prior_tables(codec.bottleneck.hyper_prior)
    channels = codec.bottleneck.log_gain.shape[1]
    if isinstance(codec, DicmRe):
        network = build_integer_network(codec.bottleneck.hyper_decoder)
        return HyperpriorCoder(symbols, hyper, network, QUALITIES, channels)
    context = build_checkerboard_network(codec.bottleneck.integer)
    return CheckerboardCoder(symbols, hyper, context, QUALITIES, channels)


def _card(model: DicmPackage, coder: Coder, names: DicmFacts) -> ModelCard:
    # The network input is a multiple of the stride of y1, or in `dicm` of z.
    sender = "light" if isinstance(model.codec, LightCodec) else "full"
    multiple = 64 if isinstance(model.codec, Dicm) else 32
    return ModelCard(
        name=names.name,
        description=names.description,
        network="dicm",
        codec=CHECKERBOARD if isinstance(model.codec, Dicm) else HYPERPRIOR,
        fingerprint="",
        qualities=QUALITIES,
        default_quality=4,
        latents=map_latents(coder, *map_shapes(model)),
        senders={sender: SenderSpec({"encoder": SenderGraph((MAP_LAYER,))})},
        input=InputSpec(
            size=_SIZES.get(type(model.codec), 416 // multiple * multiple),
            multiple=multiple,
            max_size=1536,
            padding=PADDING,
            least_size=-(-224 // multiple) * multiple,
        ),
        tails=_tails(model),
        licence="Apache-2.0",
        provenance=names.provenance,
        training={},
        metrics=(),
    )


def _tails(model: DicmPackage) -> dict[str, TailSpec]:
    backbone, spec = model.settings.backbone, feature_spec(model)
    tails = {}
    if isinstance(model.codec, MapCodec):
        tails[RES2] = TailSpec(
            (), spec, classes="", description=f"{backbone} after stem and res2", head=RAW,
            settings={"resize_multiple": 32} if isinstance(model.codec, LightCodec) else {},
        )  # fmt: skip
    if isinstance(model.codec, LightCodec):
        tails[PICTURE] = TailSpec(
            ("reconstruct",), FeatureSpec(3, 1), classes="", description="pixels", head="picture"
        )
    if model.detector is not None:
        config = model.detector.config
        tails[DETECTOR] = TailSpec(
            ("detect", "segment") if config.masks else ("detect",), spec, DETECTOR,
            f"{backbone} after stage 1, FPN, RPN, RoI heads",
            head="two_stage", settings={"selection": config.to_dict()},
        )  # fmt: skip
    if model.classifier is not None:
        tails[CLASSIFIER] = TailSpec(
            ("classify",), spec, CLASSIFIER, f"{backbone} after stage 1, linear classifier",
            head="classes", settings={"pool_stride": model.pool_stride},
        )  # fmt: skip
    return tails
