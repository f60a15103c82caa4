"""What every stage of DICM is given on the command line, and what it is made into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import dataclass_options
from cdvision.cli.training_options import OUT, PHOTOS, RunOptions, photo_groups, train_stage
from cdvision.models.dicm.training.options import CropOptions, StartOptions

if TYPE_CHECKING:
    from torch import Tensor

    from cdvision.models.dicm.training.models import Start
    from cdvision.models.dicm.training.views import ViewBank
    from cdvision.training.photo_bank import PhotoBank
    from cdvision.training.plan import Plan
    from cdvision.training.stage import Stage

Command = Callable[..., None]
SMOKE_SIDE, SMOKE_PHOTOS = 64, 8


@dataclass(frozen=True)
class DicmTask:
    """What a command of a stage is given."""

    out: Path  # folder of the run
    run: RunOptions
    begin: StartOptions
    photos: tuple[Path, ...] = ()  # none for heads, which have labelled photos of their own
    crops: CropOptions = field(default_factory=CropOptions)

    @property
    def side(self) -> int:
        """Pixels of a square crop."""
        return SMOKE_SIDE if self.run.smoke else self.crops.side

    def start(self, *, needed: bool = False) -> Start:
        """Return where the stage begins; ``needed`` refuses random weights, a smoke test apart."""
        from cdvision.models.dicm.training.models import start_from

        begin = self.begin
        if needed and not (begin.start or begin.weights or self.run.smoke):
            raise click.UsageError(
                "expected --start RUN or --weights FILE: features of a random network are worth "
                "nothing"
            )
        return start_from(begin.start, begin.backbone, begin.weights)

    def views(self) -> ViewBank:
        """Read the photos for contrastive learning."""
        from cdvision.models.dicm.training.views import ViewBank

        photos = [photo for group in self._groups() for photo in group]
        if self.run.smoke:
            return ViewBank(photos, self.side, every=0.5, heat_side=SMOKE_SIDE)
        return ViewBank(photos, self.side)

    def banks(self) -> list[PhotoBank]:
        """Read the photos, each source a bank."""
        from cdvision.training.photo_bank import CropPlan, PhotoBank

        # By a power below 1 large sources are drawn less often than their size says.
        return [
            PhotoBank(group, CropPlan(sides=(self.side,), least=0.7, share=len(group) ** 0.6))
            for group in self._groups()
        ]

    def train(self, stage: Stage, plan: Plan, start: Start, **facts: Any) -> None:
        """Train the stage; its record keeps the facts."""
        origin = {"backbone": start.backbone, "origin": start.origin}
        train_stage(stage, self.out, plan, {**origin, **facts})

    def _groups(self) -> list[list[Tensor]]:
        most = SMOKE_PHOTOS if self.run.smoke else None
        groups = photo_groups(self.photos, self.crops.split_table, self.run.place)
        return [group[:most] for group in groups]


def dicm_stage(*, minutes: float, batch: int, **parts: Any) -> Callable[[Command], Command]:
    """Give a command its task, of a run of that length, and dataclasses of its own.

    Args:
        minutes: default length of the run.
        batch: default photos a step.
        parts: see `dataclass_options`; with ``crops``, the command has the argument PHOTOS.
    """
    run = RunOptions(minutes=minutes, batch=batch)
    options = dataclass_options(begin=StartOptions, **parts, run=run)
    given = ("out", "run", "begin", *(("photos", "crops") if "crops" in parts else ()))

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(**values: Any) -> None:
            command(DicmTask(**{name: values.pop(name) for name in given}), **values)

        read = OUT(options(gathered))
        return PHOTOS(read) if "crops" in parts else read

    return decorate
