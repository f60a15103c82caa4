"""Puts finished runs together: face networks and a codec become the network of one package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.models.faces.network import HSC, SFIC_STYLE, FacePackage, FaceSettings
from cdvision.models.faces.training.networks import load_face_networks
from cdvision.training.finished import fill_module, open_finished
from cdvision.training.run_folder import read_record

CODEC_FACTS = {HSC: "hsc_widths", SFIC_STYLE: "layout"}  # what a codec run's record keeps


@dataclass(frozen=True)
class AssembledFaces:
    """A package's network, and the records of all runs."""

    network: FacePackage
    training: dict[str, Any]


def assemble_faces(codec: Path, start: Path | str, score: Path | None = None) -> AssembledFaces:
    """Build the network of a face package.

    Args:
        codec: run of ``hsc`` or ``style-layers``.
        start: run or package whose encoder gave the codes that it was trained on.
        score: run that fitted the face score, where that is a later one.

    Raises:
        CdvisionError: a folder is no such run, or they do not fit together.
    """
    record = read_record(codec)
    profile = next((p for p, fact in CODEC_FACTS.items() if fact in record), None)
    if profile is None:
        raise CdvisionError(f"{codec}: expected a run of hsc or style-layers")
    networks = load_face_networks(start)
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
    return AssembledFaces(model.eval(), training)
