"""Labelled photos, read one at a time from a folder or a tar: objects, classes, attributes."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvision.errors import CdvisionError
from cdvision.evaluation.attribute_scoring import AttributeTable
from cdvision.evaluation.class_index import ClassIndex
from cdvision.evaluation.coco_labels import CocoLabels, read_coco_labels
from cdvision.evaluation.notices import listed, notice
from cdvision.evaluation.photo_files import PhotoFiles, open_photo_files

FILE = "file"
LABELS = ("imagenet_class", "class", "label")
Row = dict[str, str]


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo: the bytes of its file, and the key of its labels.

    Attributes:
        name: of the file, relative to its folder or tar.
        data: bytes of the file.
        label: image id, class index, or row of an attribute table.
    """

    name: str
    data: bytes
    label: int


class LabelledPhotos:
    """Photos that are read when they are asked for, so that a set may be larger than memory.

    Args:
        files: where they lie.
        entries: name and label of each.

    Raises:
        CdvisionError: there is none.
    """

    def __init__(self, files: PhotoFiles, entries: Iterable[tuple[str, int]]) -> None:
        self.files, self.entries = files, tuple(entries)
        if not self.entries:
            raise CdvisionError("no labelled photo matches")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[LabelledPhoto]:
        return (LabelledPhoto(name, self.files.read(name), label) for name, label in self.entries)

    def limited(self, most: int) -> LabelledPhotos:
        """Return at most so many photos, spread evenly over the set."""
        count = min(most, len(self))
        # Evenly spread: sets are often sorted by class, and the first ones would be one class.
        chosen = [self.entries[number * len(self) // count] for number in range(count)]
        return LabelledPhotos(self.files, chosen)

    def digest(self) -> str:
        """SHA-256 over names and labels."""
        return hashlib.sha256(repr(self.entries).encode()).hexdigest()


def coco_photos(annotations: Path | CocoLabels, images: Path) -> LabelledPhotos:
    """Return the photos of a COCO json in its order, labelled with image ids."""
    labels = read_coco_labels(annotations) if isinstance(annotations, Path) else annotations
    entries = [(str(image["file_name"]), image["id"]) for image in labels.images]
    return LabelledPhotos(open_photo_files(images), entries)


def classified_photos(
    table: Path,
    images: Path,
    *,
    where: dict[str, str],
    label: str | None = None,
    class_names: Sequence[str] | None = None,
) -> LabelledPhotos:
    """Return the photos of a csv with a ``file`` and a label column, labelled with class indices.

    Args:
        table: the csv.
        images: folder or tar of the files.
        where: keep the rows that have these values in these columns.
        label: the column of labels: indices, names or ImageNet's WordNet ids; where None, it is
            ``imagenet_class``, ``class``, ``label``, or the only column beside ``file``.
        class_names: a model's classes; needed for labels that are no indices.
    """
    rows = read_rows(table, where)
    column = label_column(table, list(rows[0]), label)
    labels = {row["file"]: row[column] for row in rows if row[column]}
    if len(labels) < len(rows):
        notice(f"{table}: {len(rows) - len(labels)} photos left out: no {column}, or named twice")
    entries = _with_classes(labels, ClassIndex(class_names), f"{table}, column {column}")
    return LabelledPhotos(open_photo_files(images), entries)


def folder_photos(images: Path, class_names: Sequence[str]) -> LabelledPhotos:
    """Return the photos of an ImageFolder (or a tar of one), labelled with class indices.

    Args:
        images: the folder that a photo lies in names its class: an index, a name, or one of
            ImageNet's WordNet ids.
        class_names: a model's classes.
    """
    files = open_photo_files(images)
    labels = {name: name.split("/")[-2] for name in files.names() if "/" in name}
    if not labels:
        raise CdvisionError(f"{images}: expected one folder of photos a class, found none")
    return LabelledPhotos(files, _with_classes(labels, ClassIndex(class_names), str(images)))


def table_photos(
    table: Path, images: Path, *, where: dict[str, str]
) -> tuple[LabelledPhotos, list[dict[str, str]]]:
    """Return the photos of a csv with a ``file`` column, labelled with their rows' places."""
    rows = read_rows(table, where)
    entries = [(row["file"], number) for number, row in enumerate(rows)]
    return LabelledPhotos(open_photo_files(images), entries), rows


def attribute_photos(
    table: Path, images: Path, *, where: dict[str, str]
) -> tuple[LabelledPhotos, AttributeTable]:
    """Return the photos of a csv with a ``file`` column and 0/1 columns, and those columns."""
    photos, rows = table_photos(table, images, where=where)
    return photos, AttributeTable.from_rows(table, rows)


def _with_classes(labels: dict[str, str], index: ClassIndex, place: str) -> list[tuple[str, int]]:
    """Translate labels to indices; leave out, and name, those that are no class of the model."""
    found = {label: index.find(label) for label in set(labels.values())}
    unknown = Counter(label for label in labels.values() if found[label] is None)
    if len(unknown) == len(found):
        raise CdvisionError(
            f"{place}: expected {index.expected}, found only {listed(sorted(unknown))}"
        )
    if unknown:
        notice(
            f"{place}: {sum(unknown.values())} photos left out; these name no single class of the "
            f"model: {listed(sorted(unknown))}"
        )
    numbered = ((name, found[label]) for name, label in labels.items())
    return [(name, number) for name, number in numbered if number is not None]


def read_rows(table: Path, where: Mapping[str, str]) -> list[Row]:
    """Return the rows that have the wanted values; at least one.

    Raises:
        CdvisionError: no csv with a ``file`` column, an unknown column in ``where``, no such row.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise CdvisionError(f"{table}: not a csv that can be read ({error})") from error
    for column in (FILE, *where):
        if column not in columns:
            raise CdvisionError(f"{table}: expected a column {column!r}, found {listed(columns)}")
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise CdvisionError(f"{table}: row {number + 1}: expected {len(columns)} cells")
    kept = [row for row in rows if all(row[column] == value for column, value in where.items())]
    if not kept:
        wanted = " and ".join(f"{column}={value}" for column, value in where.items())
        raise CdvisionError(f"{table}: no row{f' with {wanted}' if wanted else ''}")
    return kept


def label_column(table: Path, columns: Sequence[str], wanted: str | None) -> str:
    """Return the column that holds the classes; raises CdvisionError where none is plain."""
    others = [column for column in columns if column != FILE]
    if wanted is not None and wanted in others:
        return wanted
    usual = [column for column in LABELS if column in others]
    if wanted is None and (usual or len(others) == 1):
        return (usual or others)[0]
    expected = repr(wanted) if wanted is not None else f"one of {', '.join(LABELS)}"
    raise CdvisionError(f"{table}: expected a column {expected}, found {listed(others)}")
