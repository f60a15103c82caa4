"""What a trained `sfic-style` codec costs and tells, layer by layer and quality by quality."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.faces.receiver.style_layers import LAYERS
from cdvision.models.faces.style_layers import StyleLayers
from cdvision.models.faces.style_tables import build_style_coder
from cdvision.models.faces.training.attribute_scores import balanced_accuracy, mean_accuracy
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.networks.scales import QUALITIES


@torch.no_grad()
def report_layers(
    codec: StyleLayers,
    rows: Tensor,
    *,
    metric: StyleMetric,
    head: nn.Module,
    attributes: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Measure a codec on the rows of faces (M, rows, style); one entry a quality.

    ``bytes`` are mean bytes of each layer's body as the real coder writes it, ``error`` the
    metric's error of the rows after each layer; with 0/1 ``attributes`` (M, A), also the head's
    mean and balanced accuracy after each layer, and at last from uncoded rows.
    """
    codec.eval()
    coder = build_style_coder(codec)
    found = []
    for number in range(QUALITIES):
        sent = codec(rows, torch.full((len(rows),), number, device=rows.device))
        symbols = [part.cpu().numpy().astype(np.int32) for part in sent.symbols]
        faces = (dict(zip(LAYERS, face, strict=True)) for face in zip(*symbols, strict=True))
        bodies = [list(coder.encode(face, number).values()) for face in faces]
        entry: dict[str, Any] = {
            "quality": number + 1,
            "bytes": _rounded(np.mean([[len(body) for body in face] for face in bodies], 0), 2),
            "error": _rounded([float(metric(part, rows).mean()) for part in sent.rows], 4),
        }
        if attributes is not None:
            entry |= _accuracies(head, [*sent.rows, rows], attributes)
        found.append(entry)
    return found


def _accuracies(head: nn.Module, rows: list[Tensor], attributes: Tensor) -> dict[str, list[float]]:
    truth = attributes.cpu().numpy()
    logits = [head(part).cpu().numpy() for part in rows]
    return {
        "mean_accuracy": _rounded([mean_accuracy(x, truth) for x in logits], 4),
        "balanced_accuracy": _rounded([balanced_accuracy(x, truth) for x in logits], 4),
    }


def _rounded(values: Any, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]
