"""Builds a model package from trained weights: tables, proof, graphs, parity, card.

Needs the ``torch`` and ``export`` extras; using a package needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.entropy.tables import gaussian_tables, log_scale_table, tables_from_probabilities
from cdvision.export.onnx_graphs import export_graph
from cdvision.export.parity import check_parity
from cdvision.networks.graphs import SIDE, graph_modules, load_network
from cdvision.networks.integer_hyper import IntegerConv2d, IntegerHyperDecoder
from cdvision.networks.small import (
    HIGHEST_SCALE,
    HYPER_BOUND,
    HYPER_CHANNELS,
    LATENT_CHANNELS,
    LOWEST_SCALE,
    QUALITIES,
    SCALE_LEVELS,
    Small,
)
from cdvision.package.card import (
    CARD_FILE,
    FeatureSpec,
    InputSpec,
    LatentSpec,
    ModelCard,
    TailSpec,
)
from cdvision.package.loader import CLASSES_FILE, TABLES_FILE, WEIGHTS_FILE, file_sha256

HYPERPRIOR_CODEC = 1


@dataclass(frozen=True)
class PackageFacts:
    """What a builder cannot know by itself.

    Attributes:
        classes: class names by list: ``coco`` and ``imagenet``.
        training: how the weights were trained (recipe, steps, data).
        metrics: measured figures, each with the data that it was measured on.
    """

    classes: Mapping[str, Sequence[str]]
    training: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...] = ()


def build_small(weights: Path, folder: Path, facts: PackageFacts) -> ModelCard:
    """Write the package of ``small``; every file that the card names is checked first.

    Args:
        weights: safetensors of a trained ``Small``.
        folder: where to write; created, its files overwritten.
        facts: class names, training record, metrics.

    Raises:
        ModelError: a sum of the integer network could reach 2^24, or a graph differs from its
            module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = load_network("small", weights)
    if not isinstance(model, Small):  # for the type checker: load_network knows several
        raise TypeError(type(model).__name__)
    coder = build_coder(model)
    np.savez_compressed(folder / TABLES_FILE, **coder.to_arrays())  # type: ignore[arg-type]
    _write_weights(model, folder / WEIGHTS_FILE)
    (folder / CLASSES_FILE).write_text(
        json.dumps({name: list(names) for name, names in facts.classes.items()}, indent=0) + "\n",
        encoding="utf-8",
    )
    files = [TABLES_FILE, WEIGHTS_FILE, CLASSES_FILE, *_write_graphs(folder)]
    hashes = {name: file_sha256(folder / name) for name in files}
    card = replace(_card(coder, facts), files=hashes)
    (folder / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
    return card


@torch.no_grad()
def build_coder(model: Small) -> HyperpriorCoder:
    """Freeze a trained model's probabilities into integers; proves the network's sums exact."""
    scales = log_scale_table(SCALE_LEVELS, LOWEST_SCALE, HIGHEST_SCALE)
    probabilities = model.hyper_prior.probabilities().double().numpy()
    rows = probabilities.reshape(QUALITIES * HYPER_CHANNELS, -1)
    rows = rows / rows.sum(1, keepdims=True)
    return HyperpriorCoder(
        symbol_tables=gaussian_tables(scales),
        hyper_tables=tables_from_probabilities(rows, -HYPER_BOUND, escape=False),
        network=build_integer_network(model.hyper_decoder),
        qualities=QUALITIES,
        channels=LATENT_CHANNELS,
    )


@torch.no_grad()
def build_integer_network(decoder: IntegerHyperDecoder) -> IntegerNetwork:
    """Turn the training twin into the runtime's network; raises ModelError without the proof."""
    layers = (
        _integer_layer(decoder.conv1, upsample=2),
        _integer_layer(decoder.conv2, upsample=1),
        _integer_layer(decoder.conv3, upsample=2, extra=decoder.quality_bias),
    )
    return IntegerNetwork(layers, bound=HYPER_BOUND)


def _integer_layer(
    conv: IntegerConv2d, *, upsample: int, extra: torch.Tensor | None = None
) -> IntegerLayer:
    bias = conv.integer_bias()[None]
    if extra is not None:
        bias = bias + torch.round(extra * 2**conv.shift)
    return IntegerLayer(
        weight=conv.integer_weight().numpy().astype(np.int8),
        bias=bias.numpy().astype(np.int32),
        shift=conv.shift,
        low=conv.low,
        high=conv.high,
        upsample=upsample,
    )


def _write_weights(model: Small, path: Path) -> None:
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path)


def _write_graphs(folder: Path) -> list[str]:
    """Export from the half-precision weights on disk, so that both engines hold the same ones."""
    weights = folder / WEIGHTS_FILE
    stored = graph_modules("small", load_network("small", weights))
    for name, graph in stored.items():
        path = folder / f"{name}.onnx"
        export_graph(graph, path, weights)
        check_parity(graph, path)
    return [f"{name}.onnx" for name in stored]


def _card(coder: HyperpriorCoder, facts: PackageFacts) -> ModelCard:
    return ModelCard(
        name="small",
        description="Photos: COCO-80 detection and ImageNet-1k classification from one stream.",
        network="small",
        codec=HYPERPRIOR_CODEC,
        fingerprint=coder.fingerprint.hex(),
        qualities=QUALITIES,
        default_quality=4,
        latents=LatentSpec(LATENT_CHANNELS, 16),
        hyper_latents=LatentSpec(HYPER_CHANNELS, 64),
        input=InputSpec(size=416, multiple=32, max_size=1536, padding=(124, 116, 104)),
        tails={
            "nanodet_plus_m": TailSpec(
                "detect", FeatureSpec(116, 8), "coco", "NanoDet-Plus-m after stage 2"
            ),
            "mobilenet_v2": TailSpec(
                "classify", FeatureSpec(32, 8, cells=SIDE, crop=0.875), "imagenet",
                "MobileNetV2 1.0 after block 6",
            ),
        },
        licence="Apache-2.0",
        provenance=(
            {
                "part": "encoder.front, tails.nanodet_plus_m",
                "initialised_from": "NanoDet-Plus-m 416 (RangiLyu/nanodet), COCO",
                "licence": "Apache-2.0",
            },
            {
                "part": "encoder.classifier_front, tails.mobilenet_v2",
                "initialised_from": "MobileNetV2 1.0 (Google Coral), ImageNet-1k",
                "licence": "Apache-2.0",
            },
            {
                "part": "everything else",
                "initialised_from": "principal components of those features, or random numbers",
                "licence": "Apache-2.0",
            },
        ),
        training=facts.training,
        metrics=facts.metrics,
    )  # fmt: skip
