"""Puts finished runs together: a codec and its heads become the network of one package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.heads.pooled_classifier import PooledClassifier
from cdvision.models.dicm.network import DicmPackage, DicmSettings
from cdvision.models.dicm.training.models import (
    CODEC,
    CONTRASTIVE,
    FULL,
    HEADS,
    LIGHT,
    tensors_below,
)
from cdvision.training.finished import fill_module
from cdvision.training.run_folder import WEIGHTS, read_record
from cdvision.training.tensor_files import read_tensors

DETECT, CLASSIFY = "detect", "classify"  # tasks of a heads run, and prefixes of its weights
LISTS = {DETECT: "detector", CLASSIFY: "classifier"}  # names of a package's lists of classes


class Assembled(NamedTuple):
    """A package's network, its lists of class names, and the records of all runs."""

    network: DicmPackage
    classes: dict[str, tuple[str, ...]]
    training: dict[str, Any]


def assemble(codec: Path, heads: Sequence[Path]) -> Assembled:
    """Build the network of a package.

    ``codec`` is a run of ``full``, ``redundancy`` or ``joint`` (profile `dicm-re`), of ``light``
    (`dicm-light`) or of ``codec`` (`dicm`). ``heads`` are runs on its features; the first that
    trained a task or the tail gives it.

    Raises CdvisionError where a folder is no such run, or they do not fit together.
    """
    record = read_record(codec)
    if record["stage"] in (CONTRASTIVE, HEADS):
        raise CdvisionError(f"{codec}: expected a run of redundancy, joint or codec")
    records = [(run, read_record(run)) for run in heads]
    for run, found in records:
        if found["stage"] != HEADS or found["backbone"] != record["backbone"]:
            raise CdvisionError(f"{run}: expected a run of heads on {record['backbone']}")
    # Backwards, so that the first run of a task is the last to be written.
    tasks = {task: (run, r) for run, r in reversed(records) for task in r["classes"]}
    classes = {LISTS[task]: tuple(r["classes"][task]) for task, (_, r) in tasks.items()}
    network = DicmPackage(
        DicmSettings(
            {CODEC: "dicm", LIGHT: "dicm-light"}.get(record["stage"], "dicm-re"),
            record["backbone"],
            classes=len(classes.get(LISTS[CLASSIFY], ())),
            detector=tasks[DETECT][1]["detector"]["arguments"] if DETECT in tasks else None,
            # Users of the zoo have it; only heads of our own read it from a package.
            tail=bool(heads) or record["stage"] not in (FULL, LIGHT),
        )
    )
    _load(network.codec, codec)
    for run in [run for run, r in records if r["tail_trained"]][:1]:
        _load(network.codec.tail, run, "tail.")
    for task, (run, _) in tasks.items():
        head = network.detector if task == DETECT else network.classifier
        _load(head.fc if isinstance(head, PooledClassifier) else head, run, f"{task}.")
    training = {"codec": record, **{f"heads {n}": r for n, (_, r) in enumerate(records, 1)}}
    return Assembled(network, classes, training)


def _load(module: nn.Module | None, run: Path, prefix: str = "") -> None:
    if module is not None:
        tensors = tensors_below(read_tensors(run / WEIGHTS), prefix)
        fill_module(module, _fitting(tensors, module.state_dict()), run)


def _fitting(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # The backbone's own classifier, which no package uses, is left out, and a tail where a package
    # has none; another tensor that the module lacks is an error.
    absent = () if any(name.startswith("tail.") for name in wanted) else ("tail.",)
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name in wanted or not (".fc." in f".{name}" or name.startswith(absent))
    }
