"""The packages of face models: their entropy models and their cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cdvision.building.card_parts import latent_specs, one_sender
from cdvision.building.package_builder import PackageFacts, write_package
from cdvision.entropy.layered_coder import LayeredCoder
from cdvision.heads.attribute_answers import AttributeCalibration
from cdvision.models.faces.graphs import ATTRIBUTES, GENERATOR
from cdvision.models.faces.network import HSC as HSC_PROFILE
from cdvision.models.faces.network import FacePackage, save_face_weights
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import FeatureSpec, InputSpec, ModelCard, TailSpec
from cdvision.package.families import HSC, SFIC_STYLE


@dataclass(frozen=True)
class FaceFacts:
    """What the card of a face package says that its weights do not."""

    name: str
    description: str  # one line
    licence: str  # of the weights
    provenance: tuple[Mapping[str, str], ...]  # the initial weights of every part, their licence
    calibration: AttributeCalibration  # of the attribute head's answers


def build_faces(
    model: FacePackage, folder: Path, names: FaceFacts, facts: PackageFacts
) -> ModelCard:
    """Write the package of a trained network to a folder, over its files if there are any.

    ``facts`` hold the names of the attributes (list ``attributes``), training record and metrics.

    Raises:
        ModelError: a sum of an integer network could reach 2^24, or a graph differs from its
            module.
    """
    model.eval().requires_grad_(False)
    coder, save = model.codec.build_coder(), partial(save_face_weights, model)
    return write_package(_card(model, coder, names), coder, folder, facts, save)


def _card(model: FacePackage, coder: LayeredCoder, names: FaceFacts) -> ModelCard:
    widths, layers = model.widths, tuple(layer.id for layer in coder.layers)
    side, rows = widths.resolution, FeatureSpec(widths.rows * widths.style, widths.resolution)
    return ModelCard(
        name=names.name,
        description=names.description,
        network="faces",
        codec=HSC if model.settings.profile == HSC_PROFILE else SFIC_STYLE,
        fingerprint="",
        qualities=QUALITIES,
        default_quality=4,
        latents=latent_specs(coder, fixed=coder.shapes),
        senders=one_sender(coder),
        input=InputSpec(
            size=side, multiple=side, max_size=side, padding=(0, 0, 0), least_size=side,
            fit="square", least_score=round(float(model.score.threshold), 4),
        ),
        tails={
            ATTRIBUTES: TailSpec(
                ("attributes",), rows, ATTRIBUTES, "perceptron on decoded style rows",
                head="attributes", settings=names.calibration.to_settings(), layers=layers,
            ),
            GENERATOR: TailSpec(
                ("reconstruct",), rows, "", "style-based generator", head="picture",
                layers=layers,
            ),
        },
        licence=names.licence,
        provenance=names.provenance,
        training={},
        metrics=(),
    )  # fmt: skip
