"""Builds a model package from trained weights: tables, proof, graphs, parity, card.

Needs the ``torch`` and ``export`` extras; using a package needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdvision.building.multiply_adds import count_multiply_adds
from cdvision.entropy.coder import Coder
from cdvision.export.onnx_graphs import export_graph
from cdvision.export.parity import check_parity
from cdvision.export.partial_package import write_card
from cdvision.networks.graphs import graph_modules, load_network
from cdvision.package.card import ModelCard, SenderSpec
from cdvision.package.graph_names import QUALITY
from cdvision.package.loader import (
    CLASSES_FILE,
    TABLES_FILE,
    WEIGHTS_FILE,
)


@dataclass(frozen=True)
class PackageFacts:
    """Class names by list, the training's record, and measured figures with their data."""

    classes: Mapping[str, Sequence[str]]
    training: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...] = ()


def write_package(
    card: ModelCard,
    coder: Coder,
    folder: Path,
    facts: PackageFacts,
    save_weights: Callable[[Path], None],
    write_graphs: Callable[[Path], Sequence[str]] | None = None,
) -> ModelCard:
    """Write a package into a folder; every file that its card names is checked first.

    Hashes and fingerprint of the card are filled in. ``save_weights`` writes the fp16 safetensors
    of the card's network; ``write_graphs`` writes the graphs into the folder and returns their
    files, those of the card's network where None. Raises ModelError where a graph differs from its
    module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / TABLES_FILE, **coder.to_arrays())  # type: ignore[arg-type]
    save_weights(folder / WEIGHTS_FILE)
    lists = {name: list(names) for name, names in facts.classes.items()}
    (folder / CLASSES_FILE).write_text(json.dumps(lists, indent=0) + "\n", encoding="utf-8")
    # Graphs are traced from the weights on disk, which are rounded to half precision.
    written = _write_graphs(card.network, folder) if write_graphs is None else write_graphs(folder)
    files = [TABLES_FILE, WEIGHTS_FILE, CLASSES_FILE, *written]
    finished = replace(
        card,
        fingerprint=coder.fingerprint.hex(),
        training=facts.training,
        metrics=facts.metrics,
        senders={
            name: _count_sender(sender, card, folder) for name, sender in card.senders.items()
        },
    )
    return write_card(finished, folder, files)


def _count_sender(sender: SenderSpec, card: ModelCard, folder: Path) -> SenderSpec:
    """Return a sender with the multiply-adds of its graphs, for an input of the card's size."""
    sides = {"image": card.input.size}
    if card.input.window is not None:
        sides["window"] = card.input.window.side
    shapes = {QUALITY: (1,), **{name: (1, side, side, 3) for name, side in sides.items()}}
    counted = {
        name: replace(graph, multiply_adds=count_multiply_adds(folder / f"{name}.onnx", shapes))
        for name, graph in sender.graphs.items()
    }
    return replace(sender, graphs=counted)


def _write_graphs(network: str, folder: Path) -> list[str]:
    """Export from the half-precision weights on disk, so that both engines hold the same ones."""
    weights = folder / WEIGHTS_FILE
    stored = graph_modules(network, load_network(network, weights))
    for name, graph in stored.items():
        export_graph(graph, folder / f"{name}.onnx", weights)
        check_parity(graph, folder / f"{name}.onnx")
    return [f"{name}.onnx" for name in stored]
