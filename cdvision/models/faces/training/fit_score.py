"""Fits the face / something else score on the trunk's pooled features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdvision.models.faces.training.face_bank import HELD_OUT, FaceBank
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last

STEPS, LEARNING_RATE, DECAY = 400, 1e-2, 1e-2
FACES_KEPT = 0.995  # share of held-out faces that must pass: refusing a face is the worse mistake


def fit_score(
    networks: FaceNetworks, bank: FaceBank, held_out: FaceBank, photos: Sequence[Tensor], plan: Plan
) -> dict[str, Any]:
    """Fit ``networks.score`` in place and return its error rates on held-out training data.

    Faces that are held out set the threshold. ``photos`` are uint8 (3, H, W) pictures of anything;
    the last tenth is held out. A few of them show a face that fills the picture, so their error
    rate cannot be zero.
    """
    side = networks.widths.resolution
    rng = np.random.default_rng(plan.seed)
    others = torch.cat([_square(photo, side, rng) for photo in photos])
    kept = len(others) - max(1, round(HELD_OUT * len(others)))
    networks.eval()
    faces, spare = (_pooled(networks, b.images, plan) for b in (bank, held_out))
    rest, rest_spare = (_pooled(networks, part, plan) for part in (others[:kept], others[kept:]))
    _fit(networks, faces, rest)
    with torch.no_grad():
        logits, others_logits = networks.score(spare), networks.score(rest_spare)
        # Set by faces alone: refusing a face is the worse mistake, whatever is let in.
        networks.score.threshold.copy_(torch.quantile(logits, 1 - FACES_KEPT))
        limit = networks.score.threshold
    return {
        "faces": len(faces),
        "photos": kept,
        "held_out_faces": len(spare),
        "held_out_photos": len(rest_spare),
        "faces_refused": round(float((logits < limit).float().mean()), 4),
        "photos_accepted": round(float((others_logits >= limit).float().mean()), 4),
        "threshold": round(float(limit), 4),
    }


def _fit(networks: FaceNetworks, faces: Tensor, others: Tensor) -> None:
    score = networks.score
    inputs = torch.cat([faces, others])
    truth = torch.cat([torch.ones(len(faces)), torch.zeros(len(others))]).to(inputs.device)
    # Both kinds count as much, however many there are of each.
    weight = torch.where(truth > 0, len(others) / len(inputs), len(faces) / len(inputs))
    score.standard.fit(inputs)
    score.requires_grad_(True)
    optimizer = torch.optim.Adam(score.unit.parameters(), LEARNING_RATE)
    for _ in range(STEPS):
        penalty = DECAY * score.unit.weight.square().sum()
        loss = F.binary_cross_entropy_with_logits(score(inputs), truth, weight) + penalty
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _pooled(networks: FaceNetworks, images: Tensor, plan: Plan) -> Tensor:
    encoder = networks.encoder
    parts = [channels_last(part.float(), plan.device) for part in torch.split(images, plan.batch)]
    return torch.cat([encoder.pool(encoder.trunk(part)) for part in parts])


def _square(photo: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Cut a random square of at least half the short side, resized to (1, 3, side, side) uint8."""
    height, width = photo.shape[1:]
    # From the whole short side to half of it: faces come in crops of any tightness.
    cut = round(min(height, width) * rng.uniform(0.5, 1.0))
    top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
    crop = photo[None, :, top : top + cut, left : left + cut].float()
    size = F.interpolate(crop, (side, side), mode="bilinear", antialias=True)
    return size.clamp(0, 255).round().to(torch.uint8)
