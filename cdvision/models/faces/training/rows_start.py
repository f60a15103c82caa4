"""A head start for the rows stage: one step of Gauss and Newton on every picture, learned by F.

1. Directions of the rows' space, by how much pictures change along them (probed as in
   ``style_metric``), each as long as to change them about equally.
2. How pictures change along each, on a coarse grid, on the average of a few faces.
3. The step of a ridge regression that brings each training face's picture closer.
4. The refiner learns these steps from F, which is cheap: nothing is drawn for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdvision.models.faces.row_refiner import RowRefiner
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.training.face_codes import FaceCodes
from cdvision.models.faces.training.style_metric import gradients_of
from cdvision.training.plan import Plan

PROBED, SENSED, TAUGHT = 600, 8, 4000  # faces
COARSE = 32  # pixels a side
CHANGE = 0.02  # root mean square of a picture's change, in -1..1, along a whole direction
RIDGE = 2.0  # of the step, over the mean strength of a direction: pictures are far from linear
STEPS, BATCH, LEARNING_RATE = 400, 64, 1e-3

Pictures = Callable[[Tensor], Tensor]
"""Positions (N,) of codes to their faces (N, 3, R, R) in -1..1."""
Drawn = Callable[[Tensor], Tensor]
"""Rows (N, rows, style) to coarse pictures (N, pixels)."""


def start_refiner(
    refiner: RowRefiner,
    generator: StyleGenerator,
    codes: FaceCodes,
    pictures: Pictures,
    plan: Plan,
    rng: np.random.Generator,
) -> None:
    """Set a refiner that has learned nothing yet, in place, by codes of faces and ``pictures``."""
    seen = codes.at(_some(codes, PROBED, rng))
    refiner.standard.fit(seen.feature.permute(0, 2, 3, 1).flatten(0, 2))
    with plan.autocast():
        gradients = gradients_of(generator.synthesise, seen.rows)
    # The root of the sum over all values of a picture, whose root mean square is CHANGE.
    change = CHANGE * (3 * generator.widths.resolution**2) ** 0.5
    directions = change * _directions(gradients.float(), refiner.out.out_features)
    refiner.directions.weight.data.copy_(directions)

    def drawn(rows: Tensor) -> Tensor:
        with plan.autocast():
            return _coarse(generator.synthesise(rows).float())

    faces = _some(codes, TAUGHT, rng)
    solve = _solution(refiner, drawn, codes.rows[_some(codes, SENSED, rng)])
    with torch.no_grad():
        steps = [
            (_coarse(pictures(part)) - drawn(codes.rows[part])) @ solve
            for part in torch.split(faces, 16)
        ]
    _learn(refiner, codes.at(faces).feature, torch.cat(steps), plan, rng)


def _some(codes: FaceCodes, count: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.permutation(len(codes))[:count]).to(codes.rows.device)


def _directions(gradients: Tensor, count: int) -> Tensor:
    """Return directions as columns (values, count) along which the pixels' squares change by 1."""
    _, strength, found = torch.linalg.svd(gradients / len(gradients) ** 0.5, full_matrices=False)
    kept = min(count, len(strength))
    # The weak ones are shorter than that: nothing is linear so far out.
    lengths = (strength[:kept].square() + strength[kept - 1].square()).rsqrt()
    columns = gradients.new_zeros(gradients.shape[1], count)
    columns[:, :kept] = (lengths[:, None] * found[:kept]).T
    return columns


@torch.no_grad()
def _solution(refiner: RowRefiner, drawn: Drawn, base: Tensor) -> Tensor:
    """Return what turns a coarse picture's error into a step, (pixels, directions)."""
    before = drawn(base)
    changes = torch.stack(
        [(drawn(base + d.view_as(base[0])) - before).mean(0) for d in refiner.directions.weight.T]
    )
    # Outside of autocast: in half precision the ridge would drown.
    strength = changes @ changes.T
    ridge = RIDGE * strength.diagonal().mean() * torch.eye(len(strength)).to(strength)
    solution: Tensor = torch.linalg.solve(strength + ridge, changes)
    return solution.T


def _coarse(pictures: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pictures, min(COARSE, pictures.shape[3])).flatten(1)


def _learn(
    refiner: RowRefiner, feature: Tensor, steps: Tensor, plan: Plan, rng: np.random.Generator
) -> None:
    """Learn the steps (M, directions) of faces from their F, (M, C, side, side)."""
    optimizer = torch.optim.Adam(refiner.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.from_numpy(rng.integers(len(steps), size=BATCH)).to(steps.device)
        with plan.autocast():  # left in every step: it keeps copies of the weights
            found = refiner.steps(feature[chosen]).float()
        optimizer.zero_grad()
        (found - steps[chosen]).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
