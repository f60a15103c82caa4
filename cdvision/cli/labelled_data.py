"""The options that name labelled photos, and the one place where they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdvision.errors import UnsupportedTask
from cdvision.package.families import imported
from cdvision.tasks import find_task, task_of_labels

if TYPE_CHECKING:
    from cdvision import Model
    from cdvision.evaluation.accuracy import Scoring
    from cdvision.evaluation.curve import LabelledSet
    from cdvision.evaluation.labelled import LabelledPhotos

existing = click.Path(exists=True, path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])

SOURCES = ("coco", "voc", "classes", "folder", "attributes", "table")  # options that name labels


@dataclass(frozen=True)
class LabelledData:
    """Labelled photos as the options name them; one of the first six is given.

    Attributes:
        coco: COCO json.
        voc: COCO json of VOC's classes, scored by VOC's protocol.
        classes: csv of classes.
        folder: ImageFolder, or a tar of one.
        attributes: csv of 0/1 columns.
        table: csv whose columns the scoring of ``task_name`` reads.
        task_name: of a table.
        images: folder or tar of the photos, but for ``folder``.
        where: ``COLUMN=VALUE`` conditions on the rows of a csv.
        label: column of the classes.
        iou_type: ``"bbox"`` or ``"segm"``.
        limit: measure at most so many photos.
        resamples: draws behind the intervals.
    """

    coco: Path | None
    voc: Path | None
    classes: Path | None
    folder: Path | None
    attributes: Path | None
    table: Path | None
    task_name: str | None
    images: Path | None
    where: tuple[str, ...]
    label: str | None
    iou_type: str
    limit: int | None
    resamples: int

    @property
    def source(self) -> Path:
        """The file or folder that holds the labels."""
        return next(path for name, path in self._given())

    def check(self) -> None:
        """Raise a usage error where options are missing, or do not go together."""
        if len(self._given()) != 1:
            options = ", ".join(f"--{name}" for name in SOURCES)
            raise click.UsageError(f"Expected exactly one of {options}.")
        if (self.images is None) != (self.folder is not None):
            raise click.UsageError("Expected --images, the folder or tar of the photos, except "
                                   "with --folder, which holds them itself.")  # fmt: skip
        if self.where and self.classes is None and self.attributes is None and self.table is None:
            raise click.UsageError("--where chooses rows of --classes, --attributes or --table.")
        if (self.table is None) != (self.task_name is None):
            raise click.UsageError("--table goes with --task, which says who reads its columns.")
        if self.label is not None and self.classes is None:
            raise click.UsageError("--label names a column of --classes.")
        if self.iou_type == "segm" and self.coco is None:
            raise click.UsageError("--iou-type segm needs --coco with masks.")
        if not all("=" in condition for condition in self.where):
            raise click.UsageError("--where: expected COLUMN=VALUE.")

    def read(self, model: Model) -> tuple[LabelledSet, str]:
        """Open the set, and return it with the hash of its names and labels.

        Raises:
            UnsupportedTask: the model does not answer what the labels ask.
            CdvisionError: the labels cannot be read, or the model knows none of their classes.
        """
        from cdvision.evaluation.curve import LabelledSet

        self.check()
        photos, scoring = self._photos(model)
        digest = photos.digest()
        if self.limit is not None:
            photos = photos.limited(self.limit)
        name = " ".join([self.source.name, *self.where])
        return LabelledSet(
            photos, given_scoring=scoring, name=name, resamples=self.resamples
        ), digest

    @property
    def task(self) -> str:
        """The task that the labels are for."""
        if self.task_name is not None:
            return self.task_name
        kind = self._given()[0][0]
        return task_of_labels("coco-masks" if self.iou_type == "segm" else kind).name

    def _given(self) -> list[tuple[str, Path]]:
        return [(name, path) for name in SOURCES if (path := getattr(self, name)) is not None]

    def _photos(self, model: Model) -> tuple[LabelledPhotos, Scoring]:
        from cdvision.evaluation import labelled
        from cdvision.evaluation.accuracy import TopScoring
        from cdvision.evaluation.attribute_scoring import AttributeScoring

        images = self.images or Path()
        where = dict(condition.split("=", 1) for condition in self.where)
        if self.attributes is not None:
            _check_task(model, self.task)
            photos, table = labelled.attribute_photos(self.attributes, images, where=where)
            return photos, AttributeScoring(table)
        if self.table is not None:
            _check_task(model, self.task)
            photos, rows = labelled.table_photos(self.table, images, where=where)
            return photos, _table_scoring(self.task)(rows)
        names = _class_names(model, self.task)
        if self.folder is not None:
            return labelled.folder_photos(self.folder, names), TopScoring()
        if self.classes is not None:
            photos = labelled.classified_photos(
                self.classes, images, where=where, label=self.label, class_names=names
            )
            return photos, TopScoring()
        return self._objects(names, images)

    def _objects(self, names: tuple[str, ...], images: Path) -> tuple[LabelledPhotos, Scoring]:
        from cdvision.evaluation.coco_ap import CocoScoring
        from cdvision.evaluation.coco_labels import read_coco_labels
        from cdvision.evaluation.labelled import coco_photos
        from cdvision.evaluation.voc_ap import VocScoring
        from cdvision.evaluation.voc_classes import voc_class

        labels = read_coco_labels(self.source)
        if self.voc is not None:
            labels = labels.known_to([voc_class(name) for name in names])
            return coco_photos(labels, images), VocScoring(labels)
        labels = labels.known_to(names)
        if self.iou_type == "segm":
            labels = labels.with_masks()
            return coco_photos(labels, images), CocoScoring(labels, "segm")
        return coco_photos(labels, images), CocoScoring(labels)


def _check_task(model: Model, task: str) -> None:
    if task not in model.card.tasks:
        raise UnsupportedTask(model.no_task_message(task))


def _table_scoring(task: str) -> Callable[[list[dict[str, str]]], Scoring]:
    """Return what scores a task by the rows of a csv."""
    scoring = find_task(task).scoring
    if "table" not in scoring:
        raise click.UsageError(f"--table: nothing scores {task} by the columns of a csv.")
    made: Callable[[list[dict[str, str]]], Scoring] = imported(scoring["table"])
    return made


def _class_names(model: Model, task: str) -> tuple[str, ...]:
    """Return the classes of a model's answers to a task."""
    _check_task(model, task)
    tail = model.card.tail_for(task) or ""
    return model.package.classes[model.card.tails[tail].classes]


def data_options(command: Command) -> Command:
    """Add the options that `LabelledData` takes to a command."""
    for option in reversed(
        (
            click.option("--coco", type=existing, help="COCO json of boxes: AP and AP50."),
            click.option(
                "--voc",
                type=existing,
                help="COCO json of VOC's 20 classes, difficult objects marked `ignore`: AP50.",
            ),
            click.option(
                "--classes", type=existing, help="csv with the column file and one of classes."
            ),
            click.option(
                "--folder", type=existing, help="ImageFolder (or tar): one folder a class."
            ),
            click.option(
                "--attributes", type=existing, help="csv with the column file and 0/1 columns."
            ),
            click.option(
                "--table", type=existing, help="csv with the column file, for --task to read."
            ),
            click.option("--task", "task_name", metavar="TASK", help="Who reads --table."),
            click.option("--images", type=existing, help="Folder or tar of the photos."),
            click.option(
                "--where", multiple=True, metavar="COLUMN=VALUE", help="Rows of the csv to use."
            ),
            click.option(
                "--label", metavar="COLUMN", help="Column of the classes (default: found)."
            ),
            click.option(
                "--iou-type",
                type=click.Choice(["bbox", "segm"]),
                default="bbox",
                show_default=True,
                help="Overlap of boxes, or of masks.",
            ),
            click.option(
                "--limit", type=click.IntRange(1), help="Measure N photos, evenly spread."
            ),
            click.option(
                "--resamples",
                type=click.IntRange(0),
                default=1000,
                show_default=True,
                help="Draws of the photos behind the 95 % intervals.",
            ),
        )
    ):
        command = option(command)
    return command
