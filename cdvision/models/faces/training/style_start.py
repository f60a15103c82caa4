"""A head start for the `sfic-style` codec: its linear paths begin as the best linear code of rows.

Layer by layer: of what the layers before do not tell, the components that matter most in the
metric, one step size a quality by the bytes that the layer may take, a regression that predicts
later layers from decoded ones, and tables as wide as what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdvision.models.faces.scale_transformer import INDEX_UNIT
from cdvision.models.faces.style_layers import StyleLayers
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS, index_of
from cdvision.training.latent_start import gain_for

RIDGE = 1e-3  # of regressions, over the mean variance of what they read
WHOLE = 0.1  # weight of what is known already: a prediction is drawn through the same components
OBSERVED = 1000  # faces whose symbols give the tables their widths
ENERGY = 100.0  # of all components together: it puts weights on a scale that trains well


@torch.no_grad()
def start_style_layers(
    codec: StyleLayers, metric: StyleMetric, rows: Tensor, targets: Sequence[Sequence[float]]
) -> None:
    """Set the linear paths, gains and fixed tables of a codec, in place.

    ``rows`` are those of training faces, (M, rows, style); ``targets`` the bytes of each layer at
    every quality, layer by layer.
    """
    parts = [part.flatten(1) for part in torch.split(rows, list(codec.layout.rows), dim=1)]
    wanted = (rows.flatten(1) - metric.center) @ metric.root.T
    # Qualities in turn: later layers predict from values as coarse as those that they will meet.
    quality = torch.arange(len(rows), device=rows.device) % QUALITIES
    y: list[Tensor] = []
    values: list[Tensor] = []
    decoded: list[Tensor] = []  # all values after each layer
    for layer, (part, target) in enumerate(zip(parts, targets, strict=True)):
        known = decoded[-1] if decoded else None
        _start_transform(codec, layer, part, wanted, known)
        y.append(codec.analyse(rows)[layer])
        mean = torch.zeros_like(y[layer]) if known is None else _told(known, y[layer])
        _start_gains(codec, layer, y[layer] - mean, target)
        symbols = torch.round((y[layer] - mean) * torch.exp(codec.log_gain[layer])[quality])
        if layer and codec.layout.corrected:
            new = (symbols * torch.exp(codec.log_rescale[layer])[quality]).flatten(1)
            # What rounding took from earlier layers, as far as the new symbols tell it.
            off = [(y[j] - value).flatten(1) for j, value in enumerate(values)]
            _set_linear(codec.correction[layer - 1], ridge_regression(new, torch.cat(off, 1)).T)
        values = codec.received(values, symbols, mean, quality)
        decoded.append(torch.cat([value.flatten(1) for value in values], dim=1))
    for layer, (linear, known) in enumerate(zip(codec.linear, decoded, strict=False)):
        later = torch.cat([part.flatten(1) for part in y[layer + 1 :]], dim=1)
        _set_linear(linear, ridge_regression(known, later).T)
    _start_tables(codec, rows[:: max(1, len(rows) // OBSERVED)])


def _told(known: Tensor, wanted: Tensor) -> Tensor:
    """Predict ``wanted`` (M, ...) from ``known`` (M, values)."""
    found = known @ ridge_regression(known, wanted.flatten(1))
    return found.view_as(wanted)


def _start_transform(
    codec: StyleLayers, layer: int, part: Tensor, wanted: Tensor, known: Tensor | None
) -> None:
    """Take the components of a layer's rows that tell most about all rows, in the metric."""
    center = part.mean(0)
    new, missing = part - center, wanted
    # What decoded layers tell is taken off first: components of the whole would spend this
    # layer's symbols on telling it again.
    if known is not None:
        new, missing = new - _told(known, new), missing - _told(known, missing)
    weight = ridge_regression(new, missing)
    told, whole = new @ weight, (part - center) @ weight
    count = math.prod(codec.layout.shapes[layer])
    # eigh gives the weakest components first.
    _, basis = torch.linalg.eigh(told.T @ told + WHOLE * whole.T @ whole)
    basis = basis.flip(1)[:, :count] * ENERGY**0.5
    analysis = part.new_zeros(count, part.shape[1])
    analysis[: basis.shape[1]] = (weight @ basis).T
    _set_linear(codec.analysis[layer], analysis, -analysis @ center)
    synthesis = ridge_regression((part - center) @ analysis.T, part - center).T
    _set_linear(codec.synthesis[layer], synthesis, center)


def _start_gains(
    codec: StyleLayers, layer: int, residual: Tensor, targets: Sequence[float]
) -> None:
    """Choose one gain a quality, by the bytes that a layer's symbols would take."""
    for number, target in enumerate(targets):
        deviation = residual[number::QUALITIES].flatten(1).square().mean(0).sqrt()
        gain = math.log(gain_for(deviation, 8 * target))
        codec.log_gain[layer][number] = gain
        codec.log_rescale[layer][number] = -gain


def _start_tables(codec: StyleLayers, rows: Tensor) -> None:
    """Set every table to the scale of its symbols before rounding, none of them skipped."""
    # First wide tables everywhere: a skipped symbol would hide how wide it is.
    for index in codec.fixed:
        index.fill_(SCALE_LEVELS / 2 / INDEX_UNIT)
    if codec.scales is not None:
        codec.scales.start([index * INDEX_UNIT for index in list(codec.fixed)[1:]])
    for number in range(QUALITIES):
        quality = torch.full((len(rows),), number, device=rows.device)
        for layer, residual in enumerate(codec(rows, quality).residuals):
            index = index_of(residual.square().mean(0).sqrt().clamp_min(1e-3))
            codec.fixed[layer][number] = index.clamp(1, SCALE_LEVELS - 1) / INDEX_UNIT
    if codec.scales is not None:
        codec.scales.start([index * INDEX_UNIT for index in list(codec.fixed)[1:]])


def ridge_regression(known: Tensor, wanted: Tensor) -> Tensor:
    """Ridge regression (inputs, outputs) of ``wanted`` on ``known``, both (M, ...) and centred."""
    # Rows move along few directions: without a ridge, and in float32, the solution is noise.
    moment = (known.T @ known).double()
    ridge = RIDGE * moment.diagonal().mean() + 1e-12
    moment = moment + ridge * torch.eye(len(moment)).to(moment)
    solution: Tensor = torch.linalg.solve(moment, (known.T @ wanted).double()).float()
    return solution


def _set_linear(linear: nn.Module, *values: Tensor) -> None:
    """Copy the weight, and the bias where there is one."""
    for parameter, value in zip(linear.parameters(), values, strict=True):
        parameter.copy_(value)
