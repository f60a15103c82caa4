"""All networks of a face model together: what every face stage starts from and writes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.models.faces.attribute_head import AttributeHead
from cdvision.models.faces.face_score import FaceScore
from cdvision.models.faces.inversion_encoder import InversionCodes, InversionEncoder
from cdvision.models.faces.row_refiner import RowRefiner
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.widths import FACE, FaceWidths
from cdvision.training.run_folder import RECORD, WEIGHTS


class FaceNetworks(nn.Module):
    """Generator, inversion encoder, attribute head and face score of one set of widths.

    Args:
        widths: sizes.
        fixed_noise: of the generator.
        refined: rows behind the basic ones are refined out of F.
    """

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


def load_face_networks(run: Path) -> FaceNetworks:
    """Return the networks of a finished face run, in evaluation mode.

    Raises:
        ModelError: the folder holds no finished run of a face stage.
    """
    if not (run / RECORD).is_file() or not (run / WEIGHTS).is_file():
        raise ModelError(f"{run} is not a finished run: expected {WEIGHTS} and {RECORD} in it")
    record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    if "widths" not in record:
        raise ModelError(f"{run} is a run of {record.get('stage')}, not of a face stage")
    networks = FaceNetworks(
        FaceWidths(**record["widths"]),
        fixed_noise=record["fixed_noise"],
        refined=record.get("refined", False),
    )
    tensors = {name: value.float() for name, value in load_file(run / WEIGHTS).items()}
    try:
        networks.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{run / WEIGHTS} does not fit its record: {reason}") from error
    return networks.eval()
