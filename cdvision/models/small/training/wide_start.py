"""A head start for the tap of a wider detector: regression on what the plain tap's blocks give.

Weighted errors of the wide features at both scales, crops of coco-train and voc-train at all
qualities, 1 for the mean: .483 from 3x3 latents, .453 from 3x3 cells behind the plain tap's blocks,
.454 of it at rank 192. Of the coarse features alone: .455 from those cells, .413 from stage 3 run
on the predicted fine features, .371 from both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.models.small.detector_taps import WideDetectorTap
from cdvision.models.small.nanodet import PLAIN, DetectorFeatures
from cdvision.models.small.network import Small, detector_of, module_key, pack
from cdvision.networks.layers import expand_and_shuffle
from cdvision.training.finished import Finished, fill_module
from cdvision.training.latent_start import bias_of, set_linear

# Deviation of what lies between the factors: it puts the weights of both, 0.03 and 0.04, on one
# scale with all others. At 1 the last ones are 0.002, of which a step of 1e-4 is a twentieth, and
# training loses what regression had found.
UNIT = 0.05
RIDGE = 1e-5  # of each input's energy: keeps latents that send nothing from dividing by zero


class Example(NamedTuple):
    """What arrives of a batch, and what the wide detector computes for it."""

    y: Tensor  # (N, C, h, w)
    wanted: DetectorFeatures


class Regression(NamedTuple):
    """A linear prediction ``x @ weight + bias``, and the second moment of its inputs."""

    weight: Tensor  # (inputs, outputs) float64
    bias: Tensor  # (outputs,) float64
    moment: Tensor  # (inputs + 1, inputs + 1) float64; the last input is 1


def fill_beside_detector(model: Small, start: Finished) -> Small:
    """Fill all of a model but its detector's tap and tail; return the start's own, without masks.

    Raises:
        CdvisionError: the start's detector is not the plain one, or its weights do not fit.
    """
    weights = {k: v for k, v in start.weights().items() if not k.startswith("masks.")}
    had = detector_of(weights)
    if had != PLAIN:
        raise CdvisionError(
            f"{start.folder}: expected one of {PLAIN}, which every other detector starts from, "
            f"found one of {had}"
        )
    plain = Small()
    fill_module(plain, weights, start.folder)
    ours = tuple(f"{part}.{module_key(PLAIN)}." for part in ("taps", "tails"))
    kept = {name: value for name, value in weights.items() if not name.startswith(ours)}
    fill_module(model, {**model.state_dict(), **kept}, start.folder)
    return plain


@torch.no_grad()
def start_wide_tap(
    tap: WideDetectorTap,
    *,
    plain: nn.Module,
    stage3: nn.Module,
    root: Tensor,
    examples: Sequence[Example],
) -> None:
    """Set all of a wide tap.

    Args:
        tap: what is set.
        plain: ``context`` of the plain detector's tap.
        stage3: the wide detector's own stage 3.
        root: the metric of its packed features (P, P), see ``Sensitivity``.
        examples: some hundred crops, in batches.
    """
    tap.context.load_state_dict(plain.state_dict())
    tap.stage3.load_state_dict(stage3.state_dict())
    _start_opening(tap, root, examples)
    _start_coarse(tap, examples)


def _start_opening(tap: WideDetectorTap, root: Tensor, examples: Sequence[Example]) -> None:
    """Set opening and closing convolutions: the best prediction of such a rank in the metric."""
    first = tap.opening
    pairs = ((_windows(tap.context(e.y)), _cells(pack(e.wanted))) for e in examples)
    found = regress(pairs)
    inward, outward = reduce_rank(found, root.double(), first.out_channels)
    first.weight.copy_(inward.T.reshape(first.weight.shape))
    bias_of(first).zero_()
    split = [tap.fine.out_channels, tap.coarse.out_channels]
    weights, biases = torch.split(outward.T.float(), split), torch.split(found.bias.float(), split)
    set_linear(tap.fine, weights[0], biases[0])
    set_linear(tap.coarse, weights[1], biases[1])


def _start_coarse(tap: WideDetectorTap, examples: Sequence[Example]) -> None:
    """Set what the coarse features take of stage 3, and of the map before it."""

    def pair(example: Example) -> tuple[Tensor, Tensor]:
        hidden = tap.opening(tap.context(example.y))
        own = tap.stage3(expand_and_shuffle(tap.fine, hidden, 2))
        return torch.cat([_cells(own), _cells(hidden)], dim=1), _cells(example.wanted.coarse)

    found = regress(pair(example) for example in examples)
    split = [tap.mix.in_channels, tap.opening.out_channels]
    mix, direct = torch.split(found.weight.T.float(), split, dim=1)
    tap.mix.weight.copy_(mix[:, :, None, None])
    set_linear(tap.coarse, direct, found.bias.float())


def regress(pairs: Iterable[tuple[Tensor, Tensor]]) -> Regression:
    """Return the linear prediction of least squared error from inputs (n, I) to targets (n, O)."""
    moment, product = torch.zeros(()), torch.zeros(())
    for inputs, targets in pairs:
        known = F.pad(inputs.double(), (0, 1), value=1.0)
        moment = moment.to(known) + known.T @ known
        product = product.to(known) + known.T @ targets.double()
    steadied = moment + RIDGE * torch.diag(moment.diagonal())
    solved = torch.linalg.solve(steadied, product)
    return Regression(solved[:-1], solved[-1], moment)


def reduce_rank(found: Regression, root: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors (I, rank), (rank, O) whose product predicts best in a metric (O, O).

    Source: Izenman, "Reduced-rank regression for the multivariate linear model", 1975.
    """
    weighted = found.weight @ root
    # Around their mean: the bias stays whole, so the rank is spent on what differs.
    count, total = found.moment[-1, -1], found.moment[-1, :-1]
    spread = found.moment[:-1, :-1] / count - torch.outer(total, total) / count**2
    _, directions = torch.linalg.eigh(weighted.T @ spread @ weighted)
    kept = directions[:, -rank:]
    inward = weighted @ kept
    deviation = (inward.T @ spread @ inward).diagonal().clamp_min(1e-12).sqrt()
    unit = deviation / UNIT
    return inward / unit, torch.linalg.solve(root, kept).T * unit[:, None]


def _cells(features: Tensor) -> Tensor:
    """Gather cells (n, C) of a map."""
    return features.movedim(1, -1).flatten(0, 2)


def _windows(features: Tensor) -> Tensor:
    """Gather the 3x3 windows (n, 9 C) of a map, as a convolution with padding reads them."""
    return F.unfold(features, 3, padding=1).movedim(1, -1).flatten(0, 1)
