"""The packages of `dicm-re` and `dicm`: their entropy models and their cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cdvision.building.card_parts import map_latents, one_sender
from cdvision.building.map_tables import build_integer_network, prior_tables, symbol_tables
from cdvision.building.package_builder import PackageFacts, write_package
from cdvision.entropy.coder import Coder
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.models.dicm.bottleneck import (
    Bottleneck,
    CheckerboardBottleneck,
    HyperpriorBottleneck,
)
from cdvision.models.dicm.graphs import CLASSIFIER, DETECTOR, map_shapes, pool_stride
from cdvision.models.dicm.integer_checkerboard import build_checkerboard_network
from cdvision.models.dicm.network import DicmPackage, save_package_weights
from cdvision.models.dicm.receiver.coder import CheckerboardCoder
from cdvision.models.dicm.widths import FEATURES_STRIDE
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import FeatureSpec, InputSpec, ModelCard, TailSpec
from cdvision.package.families import CHECKERBOARD, HYPERPRIOR

CLASSIFIER_LIST, DETECTOR_LIST = "classifier", "detector"  # of class names
PADDING = (124, 116, 104)  # ImageNet's mean


@dataclass(frozen=True)
class DicmFacts:
    """What the card of a DICM package says that its weights do not.

    Attributes:
        name: of the model.
        description: one line.
        provenance: the initial weights of every part and their licence.
    """

    name: str
    description: str
    provenance: tuple[Mapping[str, str], ...]


def build_dicm(
    model: DicmPackage, folder: Path, names: DicmFacts, facts: PackageFacts
) -> ModelCard:
    """Write the package of a trained network.

    Args:
        model: codec and heads.
        folder: where to write; created, its files overwritten.
        names: what its card says of it.
        facts: class names (lists ``classifier`` and ``detector``), training record, metrics.

    Raises:
        ModelError: a sum of an integer network could reach 2^24, or a graph differs from its
            module.
    """
    model.eval().requires_grad_(False)
    coder = build_coder(model.codec.bottleneck)
    return write_package(
        _card(model, coder, names), coder, folder, facts, partial(save_package_weights, model)
    )


def build_coder(bottleneck: Bottleneck) -> Coder:
    """Freeze a bottleneck's probabilities into integers; proves its networks' sums exact."""
    tables = symbol_tables(), prior_tables(bottleneck.hyper_prior)
    channels = bottleneck.log_gain.shape[1]
    if isinstance(bottleneck, HyperpriorBottleneck):
        network = build_integer_network(bottleneck.hyper_decoder)
        return HyperpriorCoder(*tables, network, QUALITIES, channels)
    if isinstance(bottleneck, CheckerboardBottleneck):
        context = build_checkerboard_network(bottleneck.integer)
        return CheckerboardCoder(*tables, context, QUALITIES, channels)
    raise TypeError(type(bottleneck).__name__)


def _card(model: DicmPackage, coder: Coder, names: DicmFacts) -> ModelCard:
    small = model.settings.profile == "dicm-re"
    return ModelCard(
        name=names.name,
        description=names.description,
        network="dicm",
        codec=HYPERPRIOR if small else CHECKERBOARD,
        fingerprint="",
        qualities=QUALITIES,
        default_quality=4,
        latents=map_latents(coder, *map_shapes(model)),
        senders=one_sender(coder),
        input=_input(multiple=32 if small else 64),
        tails=_tails(model),
        licence="Apache-2.0",
        provenance=names.provenance,
        training={},
        metrics=(),
    )


def _input(*, multiple: int) -> InputSpec:
    size = 416 // multiple * multiple
    least = -(-224 // multiple) * multiple
    return InputSpec(size=size, multiple=multiple, max_size=1536, padding=PADDING, least_size=least)


def _tails(model: DicmPackage) -> dict[str, TailSpec]:
    backbone, tails = model.settings.backbone, {}
    spec = FeatureSpec(model.widths.features, FEATURES_STRIDE)
    if model.detector is not None:
        config = model.detector.config
        tails[DETECTOR] = TailSpec(
            ("detect", "segment") if config.masks else ("detect",), spec, DETECTOR_LIST,
            f"{backbone} after stage 1, FPN, RPN, RoI heads",
            head="two_stage", settings={"selection": config.to_dict()},
        )  # fmt: skip
    if model.classifier is not None:
        tails[CLASSIFIER] = TailSpec(
            ("classify",), spec, CLASSIFIER_LIST, f"{backbone} after stage 1, linear classifier",
            head="classes", settings={"pool_stride": pool_stride(model)},
        )  # fmt: skip
    return tails
