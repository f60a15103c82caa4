"""The options that name labelled photos, and the one place where they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from cdvision.cli.dataclass_options import dataclass_options
from cdvision.errors import CdvisionError, UnsupportedTask
from cdvision.package.families import imported
from cdvision.tasks import find_task, task_of_labels
from cdvision.training.checked_options import CheckedOptions, Count, Range

if TYPE_CHECKING:
    from cdvision import Model
    from cdvision.evaluation.accuracy import Scoring
    from cdvision.evaluation.curve import LabelledSet
    from cdvision.evaluation.labelled import LabelledPhotos

SOURCES = ("coco", "voc", "classes", "folder", "attributes", "table")  # options that name labels


@dataclass(frozen=True)
class LabelledData(CheckedOptions):
    """Labelled photos as the options name them; one of the first six is given.

    Attributes:
        coco: COCO json of boxes: AP and AP50.
        voc: COCO json of VOC's 20 classes, difficult objects marked ``ignore``: AP50.
        classes: csv with the column file and one of classes.
        folder: ImageFolder (or tar): one folder a class.
        attributes: csv with the column file and 0/1 columns.
        table: csv with the column file, for --task to read.
        task: who reads --table.
        images: folder or tar of the photos.
        where: COLUMN=VALUE: rows of the csv to use; may be repeated.
        label: column of the classes (default: found).
        iou_type: overlap of boxes, or of masks.
        limit: measure N photos, evenly spread.
        resamples: draws of the photos behind the 95 % intervals.

    Raises:
        CdvisionError: options are missing, or do not go together.
    """

    coco: Path | None = None
    voc: Path | None = None
    classes: Path | None = None
    folder: Path | None = None
    attributes: Path | None = None
    table: Path | None = None
    task: str | None = None
    images: Path | None = None
    where: tuple[str, ...] = ()
    label: str | None = None
    iou_type: Literal["bbox", "segm"] = "bbox"
    limit: Count | None = None
    resamples: Annotated[int, Range(0)] = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self._given()) != 1:
            options = ", ".join(f"--{name}" for name in SOURCES)
            raise CdvisionError(f"Expected exactly one of {options}.")
        of_rows = self.classes or self.attributes or self.table
        rules = {
            "Expected --images, the folder or tar of the photos, except with --folder, which holds "
            "them itself.": (self.images is None) == (self.folder is not None),
            "--where chooses rows of --classes, --attributes or --table.": (
                not self.where or of_rows is not None
            ),
            "--table goes with --task, which says who reads its columns.": (
                (self.table is None) == (self.task is None)
            ),
            "--label names a column of --classes.": self.label is None or self.classes is not None,
            "--iou-type segm needs --coco with masks.": (
                self.iou_type == "bbox" or self.coco is not None
            ),
            "--where: expected COLUMN=VALUE.": all("=" in condition for condition in self.where),
        }
        for message, kept in rules.items():
            if not kept:
                raise CdvisionError(message)

    @property
    def source(self) -> Path:
        """The file or folder that holds the labels."""
        return self._given()[0][1]

    @property
    def measured_task(self) -> str:
        """The task that the labels are for."""
        if self.task is not None:
            return self.task
        kind = self._given()[0][0]
        return task_of_labels("coco-masks" if self.iou_type == "segm" else kind).name

    def _given(self) -> list[tuple[str, Path]]:
        return [(name, path) for name in SOURCES if (path := getattr(self, name)) is not None]

    def read(self, model: Model) -> tuple[LabelledSet, str]:
        """Open the set, and return it with the hash of its names and labels.

        Raises:
            UnsupportedTask: the model does not answer what the labels ask.
            CdvisionError: the labels cannot be read, or the model knows none of their classes.
        """
        from cdvision.evaluation.curve import LabelledSet

        if self.measured_task not in model.card.tasks:
            raise UnsupportedTask(model.no_task_message(self.measured_task))
        photos, scoring = self._photos(model)
        # Of all photos: which of them are measured changes no answer that is kept.
        digest = photos.digest()
        if self.limit is not None:
            photos = photos.limited(self.limit)
        name = " ".join([self.source.name, *self.where])
        data = LabelledSet(photos, given_scoring=scoring, name=name, resamples=self.resamples)
        return data, digest

    def _photos(self, model: Model) -> tuple[LabelledPhotos, Scoring]:
        from cdvision.evaluation import labelled
        from cdvision.evaluation.accuracy import TopScoring
        from cdvision.evaluation.attribute_scoring import AttributeScoring

        images = self.images or Path()
        where = dict(condition.split("=", 1) for condition in self.where)
        if self.attributes is not None:
            photos, table = labelled.attribute_photos(self.attributes, images, where=where)
            return photos, AttributeScoring(table)
        if self.table is not None:
            photos, rows = labelled.table_photos(self.table, images, where=where)
            return photos, _table_scoring(self.measured_task)(rows)
        tail = model.card.tail_for(self.measured_task) or ""
        names = model.package.classes[model.card.tails[tail].classes]
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
            # VOC's names differ from COCO's: sofa is couch, tvmonitor is tv.
            labels = labels.known_to([voc_class(name) for name in names])
            return coco_photos(labels, images), VocScoring(labels)
        labels = labels.known_to(names)
        if self.iou_type == "segm":
            labels = labels.with_masks()
        return coco_photos(labels, images), CocoScoring(labels, self.iou_type)


def _table_scoring(task: str) -> Callable[[list[dict[str, str]]], Scoring]:
    """Return what scores a task by the rows of a csv."""
    scoring = find_task(task).scoring
    if "table" not in scoring:
        raise click.UsageError(f"--table: nothing scores {task} by the columns of a csv.")
    made: Callable[[list[dict[str, str]]], Scoring] = imported(scoring["table"])
    return made


data_options = dataclass_options(labels=LabelledData)
