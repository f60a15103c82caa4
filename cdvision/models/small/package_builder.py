"""The package of `small`: its entropy model and its card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from safetensors.torch import save_file

from cdvision.building.card_parts import latent_specs, one_sender
from cdvision.building.map_tables import build_coder, prior_tables
from cdvision.building.package_builder import PackageFacts, write_package
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.models.small.descriptor import ELEMENTS
from cdvision.models.small.nanodet import PLAIN, WIDE, WIDTHS
from cdvision.models.small.network import CLASSIFIER, WINDOW, Small, module_key
from cdvision.models.small.receiver.coder import (
    DESCRIPTOR,
    DESCRIPTOR_LAYER,
    MAP_LAYER,
    DescribedMapCoder,
    DescriptorCoder,
)
from cdvision.networks.latent_model import (
    HYPER_CHANNELS,
    HYPER_STRIDE,
    LATENT_CHANNELS,
    LATENT_STRIDE,
)
from cdvision.networks.mobilenet_v2 import EMBEDDING
from cdvision.networks.scales import QUALITIES
from cdvision.networks.stored_weights import store_weights
from cdvision.package.card import (
    PHOTO_INPUT,
    FeatureSpec,
    ModelCard,
    SenderGraph,
    SequenceSpec,
    TailSpec,
    WindowSpec,
)
from cdvision.package.families import DESCRIBED_MAP
from cdvision.package.loader import CLASSES_FILE
from cdvision.package.registry import DEFAULT_MODEL, model_folder
from cdvision.training.tensor_files import read_tensors

CROP = 0.875  # side of the classifier's window over the photo's short side, as it was trained
DESCRIPTION = "Photos: COCO-80 detection and ImageNet-1k classification from one stream."
WIDER = (
    "The receiver runs NanoDet-Plus-m-1.5x on the streams of `small`; no masks: that branch would "
    "have to be trained on its pyramid."
)
TITLES = {PLAIN: "NanoDet-Plus-m", WIDE: "NanoDet-Plus-m-1.5x"}
WITH_MASKS = "Photos: COCO-80 boxes and masks, and ImageNet-1k classification, from one stream."


def build_package(
    run: Path,
    out: Path,
    *,
    record: dict[str, Any],
    classes: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Build a package from a finished run of `small`, and say what it is.

    Args:
        run: folder of the run.
        out: folder of the package.
        record: ``training.json`` of the run.
        classes: json with the lists coco and imagenet; that of the installed `small` where None.
        metrics: json of `cdvision eval`, for the card.
    """
    names = classes or model_folder(DEFAULT_MODEL) / CLASSES_FILE
    facts = PackageFacts(
        classes=json.loads(names.read_text(encoding="utf-8")),
        training=record,
        metrics=tuple(json.loads(metrics.read_text(encoding="utf-8")) if metrics else ()),
    )
    card = build_small(run / "weights.safetensors", out, facts)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}")


def build_small(weights: Path, folder: Path, facts: PackageFacts) -> ModelCard:
    """Write the package of ``small`` from the safetensors of a trained one, whole or in parts.

    Raises:
        ModelError: an integer sum could reach 2^24, or a graph differs from its module.
    """
    state = {name: value.float() for name, value in read_tensors(weights).items()}
    model = Small.from_state(state).eval().requires_grad_(False)

    def save(path: Path) -> None:
        save_file(store_weights(model.state_dict()), path)

    coder = build_described_coder(model)
    card = _card(coder, model.detector)
    if model.masks is not None:
        card = with_masks(card)
    return write_package(card, coder, folder, facts, save)


def with_masks(card: ModelCard) -> ModelCard:
    """Return the card of ``small`` with a mask branch: its detector answers ``segment`` too."""
    detector = card.tail_for("detect") or PLAIN
    tail = replace(card.tails[detector], tasks=("detect", "segment"))
    tails = {**card.tails, detector: tail}
    # A package that had masks before keeps one entry for them.
    kept = tuple(entry for entry in card.provenance if entry["part"] != "masks")
    provenance = (*kept, _origin("masks", "random numbers"))
    return replace(card, tails=tails, provenance=provenance, description=WITH_MASKS)


def build_described_coder(model: Small) -> DescribedMapCoder:
    """Freeze the probabilities of both layers into integers."""
    tables = prior_tables(model.descriptor.prior)
    return DescribedMapCoder(DescriptorCoder(tables, QUALITIES), build_coder(model))


def _card(coder: DescribedMapCoder, detector: str) -> ModelCard:
    wide = detector != PLAIN
    return ModelCard(
        # Both read the same streams, of which the plain one is the first to be asked.
        name="small-next" if wide else "small",
        description=f"{DESCRIPTION} {WIDER}" if wide else DESCRIPTION,
        network="small",
        codec=DESCRIBED_MAP,
        fingerprint="",
        qualities=QUALITIES,
        default_quality=4,
        latents=latent_specs(
            coder,
            maps={
                SYMBOLS: (LATENT_CHANNELS, LATENT_STRIDE),
                HYPER: (HYPER_CHANNELS, HYPER_STRIDE),
            },
            fixed={DESCRIPTOR: (ELEMENTS,)},
        ),
        senders=one_sender(
            coder,
            encoder=SenderGraph((MAP_LAYER,)),
            descriptor=SenderGraph((DESCRIPTOR_LAYER,), picture="window"),
        ),
        input=replace(PHOTO_INPUT, window=WindowSpec(WINDOW, CROP)),
        tails={
            detector: TailSpec(
                ("detect",), FeatureSpec(WIDTHS[detector].coarse, 16), "coco",
                f"{TITLES[detector]} after stage 3, and after stage 2 for its neck",
                head="distribution", layers=(MAP_LAYER,),
            ),
            CLASSIFIER: TailSpec(
                ("classify",), FeatureSpec(EMBEDDING, 224, cells=1), "imagenet",
                "MobileNetV2 1.0 after pooling", head="classes", layers=(DESCRIPTOR_LAYER,),
            ),
        },
        licence="Apache-2.0",
        provenance=(
            *_detector_origins(detector),
            _origin("descriptor.network, tails.mobilenet_v2",
                    "MobileNetV2 1.0 (Google Coral), ImageNet-1k"),
            _origin("everything else",
                    "principal components of those features, or random numbers"),
        ),
        training={},
        metrics=(),
        # Its tables are counted afterwards: `cdvision train sequence`.
        sequence=SequenceSpec("delta", MAP_LAYER, ""),
    )  # fmt: skip


def _detector_origins(detector: str) -> list[dict[str, str]]:
    """Say where the sender's front, the receiver's tail and parts of its tap come from."""
    front, tail = "encoder.front", f"tails.{module_key(detector)}"
    if detector == PLAIN:
        return [_origin(f"{front}, {tail}", _published(PLAIN))]
    wide = f"{tail}, taps.{module_key(detector)}.stage3, wide_front"
    return [_origin(front, _published(PLAIN)), _origin(wide, _published(detector))]


def _published(detector: str) -> str:
    return f"{TITLES[detector]} 416 (RangiLyu/nanodet), COCO"


def _origin(part: str, source: str) -> dict[str, str]:
    return {"part": part, "initialised_from": source, "licence": "Apache-2.0"}
