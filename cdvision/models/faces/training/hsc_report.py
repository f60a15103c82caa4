"""What a trained `hsc` codec costs and tells, layer by layer and quality by quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.faces.hsc import HscCodec
from cdvision.models.faces.hsc_tables import build_hsc_coder
from cdvision.models.faces.receiver.hsc import BASE, DETAIL, HscCoder
from cdvision.models.faces.training.attribute_scores import balanced_accuracy, mean_accuracy
from cdvision.models.faces.training.face_codes import FaceCodes
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.networks.scales import QUALITIES


@dataclass(frozen=True)
class Received:
    """What a receiver decodes of M faces at one quality.

    Attributes:
        bytes: (M, 2), of each body as the real coder writes it.
        ideal: (M, 2), of each body as the coder estimates it.
        rows: (M, rows, style).
        feature: (M, C, side, side).
    """

    bytes: np.ndarray[Any, np.dtype[np.float64]]
    ideal: np.ndarray[Any, np.dtype[np.float64]]
    rows: Tensor
    feature: Tensor


@torch.no_grad()
def transmit_faces(codec: HscCodec, coder: HscCoder, codes: FaceCodes, quality: int) -> Received:
    """Send faces through the real coder; ``quality`` counts from 0."""
    at = torch.full((len(codes),), quality, device=codes.rows.device)
    sent = codec.encode(codes.rows, codes.feature.float(), at)
    arrays = [part.cpu().numpy().astype(np.int32) for part in sent]
    sizes, ideal, kept = [], [], []
    for pair in zip(*arrays, strict=True):
        face = dict(zip((BASE, DETAIL), pair, strict=True))
        bodies = coder.encode(face, quality)
        sizes.append([len(body) for body in bodies.values()])
        ideal.append([bits / 8 for bits in coder.estimate_bits(face, quality).values()])
        kept.append(coder.decode(bodies, quality, coder.shapes))
    base, detail = (
        torch.from_numpy(np.stack([one[name] for one in kept])).float().to(codes.rows.device)
        for name in (BASE, DETAIL)
    )
    rows = codec.decode_base(base, at)
    feature = codec.decode_detail(detail, rows, at)
    return Received(np.array(sizes, np.float64), np.array(ideal), rows, feature)


@torch.no_grad()
def report_hsc(
    codec: HscCodec, codes: FaceCodes, *, metric: StyleMetric, head: nn.Module
) -> list[dict[str, Any]]:
    """Measure a codec on the codes of faces that it has not seen; one entry a quality.

    ``bytes`` are mean bytes of each layer's body as the coder writes it, and ``ideal`` as it
    estimates them; ``rows_error`` is the metric's, ``feature_error`` a share of the variance. With
    labels also the head's mean and balanced accuracy from the base, from both layers, and from
    codes that were never coded.
    """
    codec.eval()
    coder = build_hsc_coder(codec)
    found = []
    for number in range(QUALITIES):
        got = transmit_faces(codec, coder, codes, number)
        difference = (got.feature - codes.feature) / codec.feature.spread
        entry: dict[str, Any] = {
            "quality": number + 1,
            "bytes": _rounded(got.bytes.mean(0), 2),
            "ideal": _rounded(got.ideal.mean(0), 2),
            "most_bytes": _rounded(got.bytes.max(0), 0),
            "rows_error": round(float(metric(got.rows, codes.rows).mean()), 4),
            "feature_error": round(float(difference.square().mean()), 4),
        }
        found.append(entry | _accuracies(head, got, codes))
    return found


def _accuracies(head: nn.Module, got: Received, codes: FaceCodes) -> dict[str, list[float]]:
    truth = codes.attributes.cpu().numpy()
    if not truth.size:
        return {}
    answers = (head(got.rows), head(got.rows, got.feature), head(codes.rows, codes.feature.float()))
    logits = [answer.cpu().numpy() for answer in answers]
    return {
        "mean_accuracy": _rounded([mean_accuracy(x, truth) for x in logits], 4),
        "balanced_accuracy": _rounded([balanced_accuracy(x, truth) for x in logits], 4),
    }


def _rounded(values: Any, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]
