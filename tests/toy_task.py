"""A task that no product file knows, with a result of its own, and a package that answers it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdvision.heads.registry import HEADS, Question
from cdvision.tasks import TASKS, Column, Task, TaskOption, register_task

PACKAGES = Path(__file__).parent / "packages"


@dataclass(frozen=True)
class Shares:
    """Shares of a whole by name, largest first."""

    share: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"shares": self.to_rows()}

    def to_rows(self) -> list[dict[str, Any]]:
        return [{"name": name, "share": share} for name, share in self.share.items()]

    def __len__(self) -> int:
        return len(self.share)

    def __str__(self) -> str:
        return ", ".join(f"{name} {share:.2f}" for name, share in self.share.items())


TASK = Task(
    "share",
    "Say which dense output is the largest, from its stream.",
    "toy_task:Shares",
    "shares",
    (
        TaskOption("least", 0.0, "Least share.", 0, 1),
        TaskOption("most_rows", 2, "How many rows.", 1),
        TaskOption("as_percent", False, "Hundredths instead of shares."),
        TaskOption("alone", False, "Not for batches.", batched=False),
    ),
    Column("shares", "share", {"name": "string", "share": "float"}),
    example={"shares": [{"name": "features", "share": 0.5}]},
)


def answer_share(question: Question) -> Shares:
    """Return each dense output's share of the sum of all magnitudes."""
    sums = {name: float(np.abs(values).sum()) for name, values in question.dense.items()}
    scale = (100 if question.options["as_percent"] else 1) / sum(sums.values())
    best = sorted(sums, key=lambda name: -sums[name])[: question.options["most_rows"]]
    shares = {name: round(sums[name] * scale, 4) for name in best}
    return Shares({name: s for name, s in shares.items() if s >= question.options["least"]})


@contextmanager
def toy_package(folder: Path) -> Iterator[Path]:
    """Register task and head, and write a package whose classifier has the task too."""
    shutil.copytree(PACKAGES / "test-dicm-re", folder)
    card = json.loads((folder / "model.json").read_text())
    classifier = card["tails"]["classifier"]
    card["name"] = "toy"
    classifier |= {"tasks": [TASK.name], "head": "toy_share"}
    (folder / "model.json").write_text(json.dumps(card))
    HEADS["toy_share"] = "toy_task:answer_share"
    register_task(TASK)
    try:
        yield folder
    finally:
        del TASKS[TASK.name], HEADS["toy_share"]
