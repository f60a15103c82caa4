"""Adds a trained mask branch to a finished package: one new graph, and nothing else changes.

Needs the ``torch`` and ``export`` extras; using a package needs neither.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cdvision.errors import CdvisionError, ModelError
from cdvision.export.onnx_graphs import export_graph
from cdvision.export.parity import check_parity
from cdvision.export.shared_weights import repoint_weights
from cdvision.models.small.network import Small
from cdvision.models.small.package_builder import with_masks
from cdvision.networks.graphs import graph_modules, load_network
from cdvision.networks.stored_weights import restore_weights
from cdvision.package.card import CARD_FILE, ModelCard
from cdvision.package.loader import WEIGHTS_FILE, ModelPackage, file_sha256, load_package
from cdvision.training.tensor_files import read_tensors

RECORD = "training.json"


def add_mask_branch(package: Path, run: Path, out: Path) -> ModelCard:
    """Write a package of `small` again, with the mask branch of a run.

    The entropy tables, the fingerprint and every weight that was there stay as they are; graphs
    that were there are not traced again, they only learn where their weights now lie.

    The run is a finished one of `cdvision train masks` on this package; ``out`` must be new or
    empty.

    Raises:
        ModelError: the run was trained on another package, or the graph differs from its module.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ModelError(f"{out}: expected a new or empty folder, found files")
    source = load_package(package)
    weights = _joined_weights(source, run)
    out.mkdir(parents=True, exist_ok=True)
    for name in source.card.files:
        if name != WEIGHTS_FILE:
            shutil.copyfile(package / name, out / name)
    save_file(weights, out / WEIGHTS_FILE)
    for name in source.card.files:
        if name.endswith(".onnx"):
            repoint_weights(out / name, out / WEIGHTS_FILE)
    network = cast(Small, load_network(source.card.network, out / WEIGHTS_FILE))
    name = f"segment.{network.detector}"
    path, graph = out / f"{name}.onnx", graph_modules(source.card.network, network)[name]
    if not path.is_file():  # a package that had masks has the graph, with the new weights
        export_graph(graph, path, out / WEIGHTS_FILE)
    check_parity(graph, path)
    return _write_card(source.card, run, out, path.name)


def _joined_weights(package: ModelPackage, run: Path) -> dict[str, Tensor]:
    """Return the run's weights as stored, once they are known to be the package's."""
    path = run / WEIGHTS_FILE
    try:
        trained = {name: value.half().contiguous() for name, value in read_tensors(path).items()}
    except CdvisionError as error:
        raise ModelError(f"{path}: expected the weights of a run ({error})") from error
    masks = {name: value for name, value in trained.items() if name.startswith("masks.")}
    stored = load_file(package.weights_path)
    kept = {name: value for name, value in stored.items() if not name.startswith("masks.")}
    old = {name: value.half() for name, value in restore_weights(kept).items()}
    rest = trained.keys() - masks.keys()
    if not masks:
        raise ModelError(f"{path}: expected a mask branch, found none")
    if rest != set(old) or not all(torch.equal(trained[name], old[name]) for name in old):
        raise ModelError(f"{path}: expected weights that were trained on {package.folder}")
    # What was there stays as it was stored: the graphs that are there point to it.
    return {**kept, **masks}


def _write_card(card: ModelCard, run: Path, out: Path, graph: str) -> ModelCard:
    record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    names = dict.fromkeys([*card.files, graph])
    finished = replace(
        with_masks(card),
        training={**card.training, "masks": record},
        files={name: file_sha256(out / name) for name in names},
    )
    (out / CARD_FILE).write_text(finished.to_json(), encoding="utf-8")
    return finished
