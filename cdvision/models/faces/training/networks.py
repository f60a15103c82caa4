"""The networks that face stages train: what they begin with, how runs are read and put together."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.models.faces.attribute_head import AttributeHead
from cdvision.models.faces.inversion_encoder import (
    FaceScore,
    InversionCodes,
    InversionEncoder,
    RowRefiner,
)
from cdvision.models.faces.network import (
    HSC,
    SFIC_STYLE,
    FacePackage,
    FaceSettings,
    load_face_weights,
)
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.style_weights import load_style_generator
from cdvision.models.faces.widths import FACE, FaceWidths
from cdvision.training.finished import fill_module, open_finished
from cdvision.training.run_folder import read_record

Codec = TypeVar("Codec", bound=nn.Module)
CODEC_FACTS = {HSC: "hsc_widths", SFIC_STYLE: "layout"}  # what a codec run's record keeps


class FaceNetworks(nn.Module):
    """Generator, inversion encoder, attribute head and face score; a refiner if ``refined``."""

    def __init__(
        self, widths: FaceWidths = FACE, *, fixed_noise: bool = False, refined: bool = False
    ) -> None:
        super().__init__()
        self.widths = widths
        self.generator = StyleGenerator(widths, fixed_noise=fixed_noise)
        self.encoder = InversionEncoder(widths)
        self.head = AttributeHead(widths, use_feature=True)
        self.score = FaceScore(self.encoder.pooled_size)
        self.refiner = RowRefiner(widths) if refined else None

    def codes(self, images: Tensor) -> InversionCodes:
        """Return the codes of faces (N, 3, R, R), 0..255; rows refined where a refiner is."""
        codes: InversionCodes = self.encoder(images)
        if self.refiner is None:
            return codes
        return codes._replace(rows=self.refiner(codes.rows, codes.feature))

    def facts(self) -> dict[str, Any]:
        """Return what ``training.json`` must keep, so that the run can be read again."""
        facts = {"widths": asdict(self.widths), "fixed_noise": self.generator.fixed_noise}
        return facts if self.refiner is None else facts | {"refined": True}


def load_face_networks(source: Path | str) -> FaceNetworks:
    """Return the networks of a finished face run or of a face package, in evaluation mode.

    Raises:
        CdvisionError: there is neither.
    """
    found = open_finished(source)
    found.require_network("faces")
    if found.card is not None:
        return _packaged_networks(load_face_weights(found.weights_path))
    record = found.record
    if "widths" not in record:
        raise CdvisionError(f"{source} is a run of {record.get('stage')}, not of a face stage")
    networks = FaceNetworks(
        FaceWidths(**record["widths"]),
        fixed_noise=record["fixed_noise"],
        refined=record.get("refined", False),
    )
    fill_module(networks, found.weights(), source)
    return networks.eval()


def _packaged_networks(package: FacePackage) -> FaceNetworks:
    settings = package.settings
    networks = FaceNetworks(
        package.widths, fixed_noise=settings.fixed_noise, refined=settings.refined
    )
    stored = {k: v for k, v in package.state_dict().items() if not k.startswith("codec.")}
    # Without F in the stream there are no weights that read it: they begin as they do in training.
    fill_module(networks, networks.state_dict() | stored, settings.profile)
    return networks.eval()


def packaged_codec(source: Path | str | None, kind: type[Codec]) -> Codec | None:
    """Return the codec that a codec stage goes on with: a package's, if it is of this kind."""
    found = None if source is None else open_finished(source)
    if found is None or found.card is None:
        return None
    codec = load_face_weights(found.weights_path).codec
    return codec if isinstance(codec, kind) else None


def start_networks(
    *, start: Path | str | None = None, trunk_weights: Path | None = None,
    generator: Path | None = None, widths: FaceWidths = FACE,
) -> FaceNetworks:  # fmt: skip
    """Return the networks that a stage trains on.

    Args:
        start: a finished run of a face stage, or a face package; it decides the widths.
        trunk_weights: folder with the ImageNet weights of the trunk, where it is not trained yet.
        generator: without ``start``: safetensors file of a StyleGAN2 generator, see
            :mod:`cdvision.models.faces.style_weights`; it decides resolution and style.
        widths: without both: sizes. With ``generator``, its trunk and heads are still used.
    """
    if start is not None:
        if generator is not None:
            raise CdvisionError("expected --start or --generator, found both")
        networks = load_face_networks(start)
    elif generator is not None:
        loaded = load_style_generator(generator, feature_side=widths.feature_side)
        sizes = replace(
            loaded.widths, trunk=widths.trunk, head=widths.head, attributes=widths.attributes,
            trunk_side=max(widths.trunk_side, min(256, loaded.widths.resolution)),
        )  # fmt: skip
        networks = FaceNetworks(sizes, fixed_noise=loaded.fixed_noise)
        networks.generator.load_state_dict(loaded.state_dict())
    else:
        networks = FaceNetworks(widths)
    encoder = networks.encoder
    # A trained trunk has given its heads their statistics: published weights would undo it.
    if trunk_weights is not None and not encoder.standard.fitted:
        encoder.trunk.load(trunk_weights)
    return networks


def assemble_faces(
    codec: Path, start: Path | str, score: Path | None = None
) -> tuple[FacePackage, dict[str, Any]]:
    """Build the network of a face package, and return the records of its runs with it.

    ``codec`` is a run of ``hsc`` or ``style-layers``, ``start`` the run or package whose encoder
    gave the codes that it was trained on, ``score`` a later run that fitted the face score.
    Raises CdvisionError where a folder is no such run, or they do not fit together.
    """
    record = read_record(codec)
    profile = next((p for p, fact in CODEC_FACTS.items() if fact in record), None)
    if profile is None:
        raise CdvisionError(f"{codec}: expected a run of hsc or style-layers")
    networks = load_face_networks(start)
    # Through JSON, as the record was: its lists are no tuples.
    if record["widths"] != json.loads(json.dumps(asdict(networks.widths))):
        raise CdvisionError(f"{codec} was trained on faces of other widths than {start} codes")
    refined = networks.refiner is not None
    if record.get("refined", False) != refined:
        raise CdvisionError(
            f"{codec} was trained on rows that a run of `rows` has {'not ' if refined else ''}"
            f"refined, unlike those of {start}"
        )
    model = FacePackage(
        FaceSettings(
            profile,
            asdict(networks.widths),
            record[CODEC_FACTS[profile]],
            networks.generator.fixed_noise,
            refined,
        )
    )
    known, trained = model.state_dict(), networks.state_dict()
    # The profile without F has no weights that read it.
    fill_module(model, known | {n: value for n, value in trained.items() if n in known}, start)
    model.score.load_state_dict(load_face_networks(score or start).score.state_dict())
    fill_module(model.codec, open_finished(codec).weights(), codec)
    training = {"networks": open_finished(start).record, "codec": record}
    return model.eval(), training
