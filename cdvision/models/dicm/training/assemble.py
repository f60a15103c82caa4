"""Puts finished runs together: a codec and its heads become the network of one package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.heads.pooled_classifier import PooledClassifier
from cdvision.models.dicm.network import DicmPackage, DicmSettings
from cdvision.models.dicm.training.models import CODEC, CONTRASTIVE, HEADS
from cdvision.training.finished import fill_module
from cdvision.training.run_folder import WEIGHTS, read_record
from cdvision.training.tensor_files import read_tensors

DETECT, CLASSIFY = "detect", "classify"  # tasks of a heads run, and prefixes of its weights
LISTS = {DETECT: "detector", CLASSIFY: "classifier"}  # names of a package's lists of classes


@dataclass(frozen=True)
class Assembled:
    """A package's network, its lists of class names, and the records of all runs."""

    network: DicmPackage
    classes: dict[str, tuple[str, ...]]
    training: dict[str, Any]


def assemble(codec: Path, heads: Sequence[Path]) -> Assembled:
    """Build the network of a package.

    Args:
        codec: run of ``redundancy`` or ``joint`` (profile `dicm-re`) or of ``codec`` (`dicm`).
        heads: runs of ``heads`` on that codec's features, one or several; the first that trained
            a task or the tail gives it.

    Raises:
        CdvisionError: a folder is no such run, or they do not fit together.
    """
    record = read_record(codec)
    if record["stage"] in (CONTRASTIVE, HEADS):
        raise CdvisionError(f"{codec}: expected a run of redundancy, joint or codec")
    records = [(run, read_record(run)) for run in heads]
    for run, found in records:
        if found["stage"] != HEADS or found["backbone"] != record["backbone"]:
            raise CdvisionError(f"{run}: expected a run of heads on {record['backbone']}")
    tasks = {task: (run, r) for run, r in reversed(records) for task in r["classes"]}
    classes = {LISTS[task]: tuple(r["classes"][task]) for task, (_, r) in tasks.items()}
    network = DicmPackage(
        DicmSettings(
            "dicm" if record["stage"] == CODEC else "dicm-re",
            record["backbone"],
            classes=len(classes.get(LISTS[CLASSIFY], ())),
            detector=tasks[DETECT][1]["detector"]["arguments"] if DETECT in tasks else None,
        )
    )
    _fill(network, codec, tasks, [run for run, r in records if r["tail_trained"]])
    training = {"codec": record, **{f"heads {n}": r for n, (_, r) in enumerate(records, 1)}}
    return Assembled(network, classes, training)


def _fill(
    network: DicmPackage,
    codec: Path,
    tasks: dict[str, tuple[Path, dict[str, Any]]],
    tails: Sequence[Path],
) -> None:
    _load(network.codec, read_tensors(codec / WEIGHTS), codec)
    if tails:
        _load(network.codec.tail, _below(read_tensors(tails[0] / WEIGHTS), "tail."), tails[0])
    for task, head in ((DETECT, network.detector), (CLASSIFY, network.classifier)):
        if head is not None:
            run = tasks[task][0]
            target = head.fc if isinstance(head, PooledClassifier) else head
            _load(target, _below(read_tensors(run / WEIGHTS), f"{task}."), run)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load(module: nn.Module, tensors: dict[str, Tensor], run: Path) -> None:
    """Fill a module; the backbone's own classifier, which no package uses, is left out."""
    kept = {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name in module.state_dict() or ".fc." not in f".{name}"
    }
    fill_module(module, kept, run)
