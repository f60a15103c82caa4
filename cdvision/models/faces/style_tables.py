"""Freezes a trained `sfic-style` codec into the integers of a package."""

from __future__ import annotations

import numpy as np
import torch

from cdvision.building.map_tables import symbol_tables
from cdvision.models.faces.receiver.style_layers import StyleLayersCoder
from cdvision.models.faces.scale_transformer import build_scale_transformer
from cdvision.models.faces.style_layers import StyleLayers


@torch.no_grad()
def build_style_coder(codec: StyleLayers) -> StyleLayersCoder:
    """Return the coder of a codec; raises ModelError where a sum may stop being exact."""
    fixed = 1 if codec.scales is not None else len(codec.layout.rows)
    return StyleLayersCoder(
        tables=symbol_tables(),
        fixed=tuple(
            codec.fixed_index(layer).cpu().numpy().astype(np.uint16) for layer in range(fixed)
        ),
        transformer=None if codec.scales is None else build_scale_transformer(codec.scales),
    )
