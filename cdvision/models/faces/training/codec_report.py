"""What a trained codec of faces costs and tells, layer by layer and quality by quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdvision.entropy.coder import Latents
from cdvision.entropy.layered_coder import LayeredCoder
from cdvision.models.faces.codec import DecodedFaces, FaceCodec
from cdvision.models.faces.training.attribute_scores import accuracies
from cdvision.models.faces.training.face_bank import FaceCodes
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.networks.scales import QUALITIES


@dataclass(frozen=True)
class CodedFaces:
    """What became of M faces that a real coder wrote at one quality."""

    bytes: NDArray[np.float64]  # (M, layers), of each body as it was written
    ideal: NDArray[np.float64]  # (M, layers), of each body as the coder estimates it
    after: list[DecodedFaces]  # what the receiver has after each layer


def split_faces(latents: Mapping[str, Tensor]) -> list[Latents]:
    """Cut the integers of a batch, held in float, into what a coder takes of each face."""
    arrays = [part.cpu().numpy().astype(np.int32) for part in latents.values()]
    return [dict(zip(latents, face, strict=True)) for face in zip(*arrays, strict=True)]


def join_faces(faces: Sequence[Latents], device: torch.device) -> dict[str, Tensor]:
    """Join the integers of faces into a batch again."""
    return {
        name: torch.from_numpy(np.stack([face[name] for face in faces])).float().to(device)
        for name in faces[0]
    }


@torch.no_grad()
def transmit_faces(
    codec: FaceCodec, coder: LayeredCoder, codes: FaceCodes, quality: int
) -> CodedFaces:
    """Send faces through the real coder; ``quality`` counts from 0."""
    device, whole = codes.rows.device, codes.at(torch.arange(len(codes)))
    at = torch.full((len(codes),), quality, device=device)
    faces = split_faces(codec.encode(whole, at))
    bodies = [coder.encode(face, quality) for face in faces]
    estimates = [coder.estimate_bits(face, quality) for face in faces]
    kept = [coder.decode(body, quality, coder.shapes) for body in bodies]
    # What the coder could not write is clipped: networks get what a receiver has.
    latents = join_faces(kept, device)
    return CodedFaces(
        np.array([[len(body) for body in each.values()] for each in bodies], np.float64),
        np.array([list(each.values()) for each in estimates]) / 8,
        [
            codec.decode(latents, torch.full_like(at, count), at)
            for count in range(1, len(latents) + 1)
        ],
    )


@torch.no_grad()
def report_codec(
    codec: FaceCodec, codes: FaceCodes, *, metric: StyleMetric, head: nn.Module
) -> list[dict[str, Any]]:
    """Measure a codec on the codes of faces that it has not seen; one entry a quality.

    ``bytes`` are mean bytes of each layer's body as the coder writes it, and ``ideal`` as it
    estimates them. Errors of rows are the metric's: after each layer, or one where the base has
    all rows; that of F is a share of its variance. With labels also the head's mean and balanced
    accuracy after each layer, and from codes that were never coded.
    """
    codec.eval()
    coder = codec.build_coder()
    found = []
    for number in range(QUALITIES):
        got = transmit_faces(codec, coder, codes, number)
        entry: dict[str, Any] = {
            "quality": number + 1,
            "bytes": _rounded(got.bytes.mean(0), 2),
            "ideal": _rounded(got.ideal.mean(0), 2),
            "most_bytes": _rounded(got.bytes.max(0), 0),
        }
        found.append(entry | _errors(codec, got, codes, metric) | _answers(head, got, codes))
    return found


def _errors(
    codec: FaceCodec, got: CodedFaces, codes: FaceCodes, metric: StyleMetric
) -> dict[str, Any]:
    last = got.after[-1]
    if last.feature is None:
        errors = [float(metric(faces.rows, codes.rows).mean()) for faces in got.after]
        return {"error": _rounded(errors, 4)}
    return {
        "rows_error": round(float(metric(last.rows, codes.rows).mean()), 4),
        "feature_error": round(float(codec.feature_error(last.feature[0], codes.feature)), 4),
    }


def _answers(head: nn.Module, got: CodedFaces, codes: FaceCodes) -> dict[str, list[float]]:
    truth = codes.attributes.cpu().numpy()
    if not truth.size:
        return {}
    logits = []
    for number, faces in enumerate(got.after):
        # The first layer never holds F.
        feature = None if number == 0 or faces.feature is None else faces.feature[0]
        logits.append(head(faces.rows, feature))
    uncoded = codes.feature.float() if got.after[-1].feature is not None else None
    logits.append(head(codes.rows, uncoded))
    found = [accuracies(answer.cpu().numpy(), truth) for answer in logits]
    return {name: [each[name] for each in found] for name in found[0]}


def _rounded(values: Any, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]
