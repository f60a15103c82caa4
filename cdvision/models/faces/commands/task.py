"""What every stage of the face models is given on the command line, and what it is made into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.training_options import OUT, RunOptions
from cdvision.models.faces.training.options import FaceSource, NetworkOptions, PerceptualOptions

if TYPE_CHECKING:
    from cdvision.models.faces.training.face_bank import FaceBank, FaceCodes
    from cdvision.models.faces.training.networks import FaceNetworks
    from cdvision.models.faces.training.perceptual import PerceptualLoss

Command = Callable[..., None]
SMOKE_FACES = 24


@dataclass(frozen=True)
class FaceRun(RunOptions):
    """How long, how much and where a face stage trains."""

    smoke_batch: ClassVar[int] = 4


@dataclass(frozen=True)
class FaceTask:
    """What a command of a stage is given."""

    faces: Path  # folder or tar
    out: Path  # folder of the run
    run: FaceRun
    source: FaceSource

    def banks(self, networks: FaceNetworks) -> tuple[FaceBank, FaceBank]:
        """Read the faces to train on and those held out."""
        from cdvision.models.faces.training.face_bank import read_face_banks

        return read_face_banks(
            self.faces,
            self.source.labels,
            resolution=networks.widths.resolution,
            device=self.run.place,
            limit=SMOKE_FACES if self.run.smoke else None,
        )

    def starting_networks(self, asked: NetworkOptions) -> FaceNetworks:
        """Return the networks that a stage trains on; new ones are tiny in a smoke test."""
        from cdvision.models.faces.training.networks import start_networks
        from cdvision.models.faces.widths import FACE, FACE_TINY

        ours = replace(FACE, resolution=asked.resolution, trunk=asked.trunk)
        return start_networks(
            start=self.source.start,
            trunk_weights=asked.initial_weights,
            generator=asked.generator,
            widths=FACE_TINY if self.run.smoke else ours,
        )

    def finished_networks(self) -> FaceNetworks:
        """Return the networks of --start, or tiny random ones for a smoke test."""
        from cdvision.models.faces.training.networks import FaceNetworks, load_face_networks
        from cdvision.models.faces.widths import FACE_TINY

        if self.source.start is not None:
            return load_face_networks(self.source.start)
        if not self.run.smoke:
            raise click.UsageError("expected --start: a finished run of an earlier stage")
        return FaceNetworks(FACE_TINY)

    def codes(self, networks: FaceNetworks, bank: FaceBank) -> FaceCodes:
        """Return the codes of the training faces and of their mirror images, kept in the run."""
        from cdvision.models.faces.training.face_bank import FILE, cached_codes

        return cached_codes(self.out / FILE, networks, bank, mirror=True)

    def perceptual_loss(self, options: PerceptualOptions) -> PerceptualLoss | None:
        """Return what compares pictures; None where nothing does."""
        from cdvision.models.faces.training.perceptual import PerceptualLoss

        if options.perceptual == "none":
            return None
        if options.initial_weights is None and not self.run.smoke:
            raise click.UsageError("expected --initial-weights: pictures are compared on them")
        return PerceptualLoss(options.initial_weights, options.perceptual)


def face_stage(*, minutes: float, batch: int, **parts: Any) -> Callable[[Command], Command]:
    """Give a command its task, by default of that length, and ``dataclass_options`` of its own."""
    run = FaceRun(minutes=minutes, batch=batch)
    options = dataclass_options(source=FaceSource, **parts, run=run)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(faces: Path, out: Path, run: FaceRun, source: FaceSource, **rest: Any) -> None:
            command(FaceTask(faces, out, run, source), **rest)

        return click.argument("faces", type=EXISTING)(OUT(options(gathered)))

    return decorate
