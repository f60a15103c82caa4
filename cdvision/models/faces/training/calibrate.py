"""Fits how a face model's logits become probabilities and answers, on faces held out of training.

Every number of layers has its own fit: what one layer tells is less certain than what three tell.
The logits come through the real coder, at a low, a middle and the highest quality.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cdvision.entropy.layered_coder import LayeredCoder
from cdvision.heads.attribute_answers import AttributeCalibration
from cdvision.models.faces.network import FacePackage
from cdvision.models.faces.training.attribute_scores import balanced_thresholds
from cdvision.models.faces.training.codec_report import join_faces, split_faces
from cdvision.models.faces.training.face_bank import FaceBank

Floats = NDArray[np.float64]
BATCH = 32
STEPS, RIDGE = 30, 1e-3  # of Newton's method, and of its curvature
LEAST = 0.05  # scale: no fit may turn the order of the logits around
CALIBRATED = (0, 3, 7)  # qualities, counted from 0, whose logits are fitted together
NEUTRAL = (
    "Eyeglasses", "Wearing_Hat", "Smiling", "Mouth_Slightly_Open", "Black_Hair", "Blond_Hair",
    "Brown_Hair", "Gray_Hair", "Bald", "Bangs", "Straight_Hair", "Wavy_Hair", "Mustache",
    "No_Beard", "Goatee", "Sideburns", "5_o_Clock_Shadow", "Young", "Wearing_Earrings",
    "Wearing_Necklace", "Wearing_Necktie", "Blurry",
)  # fmt: skip
"""CelebA's attributes that a look at the picture settles; the others judge a person."""


def calibrate(model: FacePackage, coder: LayeredCoder, bank: FaceBank) -> AttributeCalibration:
    """Fit scale, bias and threshold of every attribute, for each number of layers.

    ``bank`` holds faces with attributes that neither trained the model nor are in any report.
    """
    sent = [decoded_logits(model, coder, bank, quality) for quality in CALIBRATED]
    truth = np.tile(bank.attributes.cpu().numpy().astype(np.float64), (len(CALIBRATED), 1))
    tables = []
    for layer in range(len(coder.shapes)):
        logits = np.concatenate([part[layer] for part in sent])
        scale, bias = fit_sigmoid(logits, truth)
        calibrated = scale * logits + bias
        # Beyond 4 a threshold would say no (or yes) to nearly everybody, for want of examples.
        cut = np.clip(balanced_thresholds(calibrated, truth), -4, 4)
        tables.append((scale, bias, 1 / (1 + np.exp(-cut))))
    scales, biases, thresholds = (np.stack(column) for column in zip(*tables, strict=True))
    report = tuple(name for name in bank.names if name in NEUTRAL) or bank.names
    return AttributeCalibration(scales, biases, thresholds, report)


@torch.no_grad()
def decoded_logits(
    model: FacePackage, coder: LayeredCoder, bank: FaceBank, quality: int
) -> list[Floats]:
    """Return the logits (M, A) from 1, 2, ... layers, as a receiver has them; quality from 0."""
    found: list[list[Floats]] = [[] for _ in coder.shapes]
    for faces in bank.batches(BATCH):
        at = torch.full((len(faces.images),), quality)
        latents, _ = model.encode(faces.images, at)
        # Through the real coder: a symbol that it clips changes the answer.
        sent = [coder.received(face, quality) for face in split_faces(latents)]
        kept = join_faces(sent, faces.images.device)
        for count, logits in enumerate(found, start=1):
            arrived = torch.full((len(faces.images),), count)
            decoded = model.attributes(model.codec.decode(kept, arrived, at))
            logits.append(decoded.double().cpu().numpy())
    return [np.concatenate(parts) for parts in found]


def fit_sigmoid(logits: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Return scale and bias (A,) of the sigmoids that make ``truth`` (M, A) most likely."""
    pairs = [_fit_one(x, y) for x, y in zip(logits.T, truth.T, strict=True)]
    scale, bias = np.array(pairs).T
    return scale, bias


def _fit_one(x: Floats, y: Floats) -> Floats:
    """Run Newton's method on the two parameters, held near the logits as they are."""
    # Targets stay short of 0 and 1 by Platt's rule: an attribute that no face here has, or that
    # the logits separate, would have no finite fit.
    ones = y.sum()
    target = np.where(y > 0, (ones + 1) / (ones + 2), 1 / (len(y) - ones + 2))
    design, start = np.stack([x, np.ones_like(x)], axis=1), np.array([1.0, 0.0])

    def loss(found: Floats) -> float:
        strength = design @ found
        # log(1 + exp(x)) without overflow.
        entropy = np.logaddexp(0, strength) - target * strength
        return float(entropy.mean() + RIDGE / 2 * ((found - start) ** 2).sum())

    found = start
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        gradient = design.T @ (p - target) / len(y) + RIDGE * (found - start)
        # The ridge keeps it invertible where an attribute is rare.
        curvature = (design * (p * (1 - p))[:, None]).T @ design / len(y) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Far from the minimum a whole step may overshoot: it is halved until it lowers the loss.
        while loss(found - step) > loss(found) and np.abs(step).max() > 1e-9:
            step = step / 2
        found = found - step
    if found[0] < LEAST:
        # The bias alone then meets the attribute's share at the mean logit.
        odds = target.mean() / (1 - target.mean())
        return np.array([LEAST, np.log(odds) - LEAST * x.mean()])
    return found
