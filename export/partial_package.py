"""Cuts a package in two: what the camera's side needs, and what the receiver needs.

::

    package ─┬─ sender:   encoder descriptor
             └─ receiver: tap.* answer.* base.* segment.* box.* mask.*

A part has tables, names and the weights of its own graphs. It is a package like any other, for ONNX
Runtime and TensorRT: its graphs are the whole package's but for the places of their weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from safetensors import safe_open
from safetensors.numpy import save_file

from cdvision.errors import ModelError
from cdvision.export.shared_weights import repoint_weights, shared_names
from cdvision.export.standalone_graph import graph_names
from cdvision.package.card import CARD_FILE, ModelCard
from cdvision.package.loader import (
    CLASSES_FILE,
    SEQUENCE_FILE,
    TABLES_FILE,
    WEIGHTS_FILE,
    ModelPackage,
    file_sha256,
    load_package,
)

PART_WEIGHTS_FILE = "graphs.safetensors"  # no weights.safetensors: PyTorch would miss some of them


def write_sender_package(package: ModelPackage, folder: Path) -> ModelPackage:
    """Write what turns photos into streams; raises ModelError where the package has no encoder."""
    graphs = [name for name in graph_names(package) if name in package.card.sender_graphs]
    if not graphs:
        raise ModelError(f"model {package.card.name!r} holds no encoder: nothing to send with")
    return _write_part(package, folder, graphs)


def write_receiver_package(package: ModelPackage, folder: Path) -> ModelPackage:
    """Write what answers from streams; raises ModelError where the package has no such graphs."""
    graphs = [name for name in graph_names(package) if name not in package.card.sender_graphs]
    if not graphs:
        raise ModelError(f"model {package.card.name!r} holds the encoder alone: nothing to receive")
    return _write_part(package, folder, graphs)


def write_card(card: ModelCard, folder: Path, files: Iterable[str]) -> ModelCard:
    """Write ``model.json`` over files that lie in the folder, and return the card."""
    finished = replace(card, files={name: file_sha256(folder / name) for name in files})
    (folder / CARD_FILE).write_text(finished.to_json(), encoding="utf-8")
    return finished


def copy_tables(package: ModelPackage, folder: Path) -> list[str]:
    """Copy what is no graph and no weight: entropy tables and class names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [TABLES_FILE, CLASSES_FILE]
    names += [SEQUENCE_FILE] if SEQUENCE_FILE in package.card.files else []
    for name in names:
        shutil.copyfile(package.folder / name, folder / name)
    return names


def _write_part(package: ModelPackage, folder: Path, graphs: Sequence[str]) -> ModelPackage:
    files = copy_tables(package, folder)
    paths = [Path(shutil.copy(package.graph_path(graph), folder)) for graph in graphs]
    models = [onnx.load(path, load_external_data=False) for path in paths]
    names = set().union(*map(shared_names, models))
    if names:
        weights = folder / PART_WEIGHTS_FILE
        _write_weights(package, weights, names)
        files.append(weights.name)
        for path in paths:
            repoint_weights(path, weights)
    write_card(package.card, folder, [*files, *(path.name for path in paths)])
    return load_package(folder)


def _write_weights(package: ModelPackage, path: Path, names: set[str]) -> None:
    stored = [WEIGHTS_FILE, PART_WEIGHTS_FILE]  # a part can be cut again
    source = next(name for name in stored if name in package.card.files)
    with safe_open(package.folder / source, framework="numpy") as tensors:
        # Sorted: sets have no order, and the same package must give the same bytes.
        save_file({name: tensors.get_tensor(name) for name in sorted(names)}, path)
