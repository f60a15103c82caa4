"""The classifier that looks at pictures: what streams of faces are held against."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cdvision.errors import ModelError
from cdvision.evaluation.answer_formats import AttributeVerdict
from cdvision.evaluation.attribute_scoring import AttributeTable
from cdvision.evaluation.labelled import LabelledPhotos
from cdvision.models.faces.attribute_head import AttributeHead
from cdvision.models.faces.graphs import ATTRIBUTES
from cdvision.models.faces.inversion_encoder import InversionEncoder
from cdvision.models.faces.network import load_face_weights
from cdvision.models.faces.training.attribute_scores import balanced_thresholds
from cdvision.models.faces.training.face_bank import HELD_OUT
from cdvision.models.faces.training.networks import load_face_networks
from cdvision.package.card import CARD_FILE
from cdvision.package.loader import load_package
from cdvision.training.run_folder import RECORD, WEIGHTS
from cdvision.training.tensor_files import written_files

BATCH = 32
Pictures = NDArray[np.uint8]
Logits = NDArray[np.float32]
PixelNetworks = tuple[InversionEncoder, AttributeHead, tuple[str, ...], Path]
"""Networks that were trained on pixels, the names of what they answer, and their file."""


class PixelClassifier:
    """Attributes of pictures: trunk, style rows and attribute head, with no codec between.

    Args:
        source: folder of a finished ``cdvision train faces trunk``, or of a face model: a codec is
            trained between an encoder and a head that stay as they were trained on pixels.

    Raises:
        CdvisionError: the folder holds neither.
    """

    def __init__(self, source: Path) -> None:
        package = (source / CARD_FILE).is_file()
        found = _networks_of_package(source) if package else _networks_of_run(source)
        self.encoder, self.head, self.names, weights = found
        self.thresholds = np.zeros(len(self.names))  # logits from which attributes are present
        # A large file may be written in parts: the digest is of all of them.
        content = b"".join(file.read_bytes() for file in written_files(weights))
        self.digest = hashlib.sha256(content).hexdigest()

    @torch.inference_mode()
    def logits(self, pictures: Pictures) -> Logits:
        """Return (N, A) logits for (N, R, R, 3) uint8."""
        found = []
        for part in np.split(pictures, [*range(BATCH, len(pictures), BATCH)]):
            image = torch.from_numpy(part.transpose(0, 3, 1, 2).copy()).float()
            rows = self.encoder.rows(self.encoder.pool(self.encoder.trunk(image)))
            found.append(self.head(rows).float().numpy())
        return np.concatenate(found)

    def answers(self, pictures: Pictures) -> list[dict[str, AttributeVerdict]]:
        """Return probability and verdict by attribute, one mapping a picture."""
        logits = self.logits(pictures).astype(np.float64)
        probability, present = 1 / (1 + np.exp(-logits)), logits > self.thresholds
        return [
            {
                name: AttributeVerdict(float(value), bool(said))
                for name, value, said in zip(self.names, *row, strict=True)
            }
            for row in zip(probability, present, strict=True)
        ]

    def fit_thresholds(self, pictures: Pictures, present: NDArray[np.bool_]) -> None:
        """Choose the thresholds as face models choose theirs, on faces that trained nothing.

        Args:
            pictures: (N, R, R, 3) uint8.
            present: (N, A) bool, by ``names``.
        """
        fitted = balanced_thresholds(self.logits(pictures), present.astype(np.float64))
        self.thresholds = fitted.astype(np.float64)


def _networks_of_run(run: Path) -> PixelNetworks:
    networks = load_face_networks(run)
    record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    names = tuple(record.get("attributes", ()))
    if len(names) != networks.widths.attributes:
        raise ModelError(
            f"{run / RECORD}: expected the names of {networks.widths.attributes} "
            f"attributes, found {len(names)}: was it trained with --labels?"
        )
    return networks.encoder, networks.head, names, run / WEIGHTS


def _networks_of_package(folder: Path) -> PixelNetworks:
    package = load_package(folder)
    if package.card.network != "faces":
        raise ModelError(f"{folder}: expected a model of faces, found one of {package.card.tasks}")
    model = load_face_weights(package.weights_path).eval()
    return model.encoder, model.head, package.classes[ATTRIBUTES], package.weights_path


def held_out(photos: LabelledPhotos) -> LabelledPhotos:
    """Return the faces that the stages of training hold out: the last tenth by name."""
    entries = sorted(photos.entries)
    # The same share, and the same end of the names, as `face_bank` keeps from training.
    return LabelledPhotos(photos.files, entries[-max(1, round(HELD_OUT * len(entries))) :])


def present_in(table: AttributeTable, names: tuple[str, ...], rows: list[int]) -> NDArray[np.bool_]:
    """Return (N, A): what a table says of some rows, in the order of ``names``."""
    missing = [name for name in names if name not in table.names]
    if missing:
        raise ModelError(f"{table.path}: expected a column {missing[0]!r}, which the run answers")
    return table.present[rows][:, [table.names.index(name) for name in names]]
