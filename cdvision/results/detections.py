"""What `detect` and `segment` answer: boxes in source pixels, with classes and optional masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.numbers import check_number
from cdvision.results import connectors
from cdvision.results.answer_rows import AnswerRows, text_table
from cdvision.results.checks import ResultError, check_image_size, check_same_length
from cdvision.results.masks import Rle

if TYPE_CHECKING:
    import supervision as sv
    from PIL import Image
    from typing_extensions import Self

    from cdvision.photo import ImageLike

SIDES = ("left", "top", "right", "bottom")
Index = int | np.integer[Any] | slice | list[int] | list[bool] | NDArray[Any]


class Detection(NamedTuple):
    """One box of Detections, as plain Python values."""

    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    class_name: str
    mask: Rle | None


@dataclass(frozen=True, eq=False, repr=False)
class Detections(AnswerRows[Detection]):
    """The N objects found in one image.

    >>> found = Detections(
    ...     xyxy=np.array([[10, 20, 110, 220], [5, 5, 50, 40]], dtype=np.float32),
    ...     confidence=np.array([0.75, 0.25], dtype=np.float32),
    ...     class_id=np.array([0, 16]),
    ...     class_name=np.array(["person", "dog"]),
    ...     image_size=(640, 480),
    ... )
    >>> len(found), [box.class_name for box in found.above(0.5)]
    (2, ['person'])
    >>> found[found.class_name == "dog"].to_json()
    '{"image_size":[640,480],"detections":[{"xyxy":[5.0,5.0,50.0,40.0],"confidence":0.25,"class_id":16,"class_name":"dog"}]}'

    Indexing with an int, a slice, a bool mask or an array of indices gives Detections again;
    iterating gives one `Detection` per box.

    Attributes:
        xyxy: (N, 4) float32, left, top, right, bottom in pixels of the source image.
        confidence: (N,) float32 in [0, 1].
        class_id: (N,) int64.
        class_name: (N,) numpy str array.
        image_size: (width, height) of the source image.
        mask: None, or N COCO run-length masks ``{"size": [height, width], "counts": bytes}``.

    Raises:
        ResultError: a shape, a dtype or a length differs from these.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    class_name: NDArray[np.str_]
    image_size: tuple[int, int]
    mask: tuple[Rle, ...] | None = None

    KEY: ClassVar = "detections"
    COLUMNS: ClassVar = {
        "xyxy": (("n", 4), np.float32),
        "confidence": (("n",), np.float32),
        "class_id": (("n",), np.int64),
        "class_name": (("n",), np.str_),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        # Frozen: only object's own setter stores the size as two Python ints.
        object.__setattr__(self, "image_size", check_image_size(self.image_size))
        if self.mask is not None:
            _check_masks(self.mask, len(self.xyxy), self.image_size)

    @classmethod
    def empty(cls, image_size: tuple[int, int]) -> Self:
        """Return zero detections for an image of this (width, height)."""
        return cls.from_dict({"image_size": image_size, "detections": []})

    def above(self, confidence: float) -> Detections:
        """Keep the boxes of at least this confidence."""
        check_number("confidence", confidence, None, None)
        return self[self.confidence >= confidence]

    def __iter__(self) -> Iterator[Detection]:
        masks: Sequence[Rle | None] = self.mask if self.mask is not None else [None] * len(self)
        boxes, *columns = (getattr(self, name).tolist() for name in self.COLUMNS)
        rows = zip(map(tuple, boxes), *columns, masks, strict=True)
        return (Detection(*row) for row in rows)

    def __getitem__(self, index: Index) -> Detections:
        rows = _selected_rows(index, len(self))
        arrays = {name: getattr(self, name)[rows] for name in self.COLUMNS}
        masks = None if self.mask is None else tuple(self.mask[row] for row in rows)
        return Detections(**arrays, image_size=self.image_size, mask=masks)

    def __repr__(self) -> str:
        counts = Counter(self.class_name.tolist()).most_common(6)
        classes = ", ".join(f"{count} {name}" for name, count in counts) or "nothing"
        width, height = self.image_size
        return f"Detections({len(self)} in {width}x{height}: {classes})"

    def __str__(self) -> str:
        rows = [
            [box.class_name, f"{box.confidence:.2f}", *(f"{side:.0f}" for side in box.xyxy)]
            for box in self
        ]
        return text_table(["class", "confidence", *SIDES], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values: boxes rounded to 0.01 pixel, confidences to 4 digits."""
        rows = []
        for box in self:
            row: dict[str, Any] = {
                "xyxy": [round(side, 2) for side in box.xyxy],
                "confidence": round(box.confidence, self.DIGITS),
                "class_id": box.class_id,
                "class_name": box.class_name,
            }
            if box.mask is not None:
                row["mask"] = connectors.plain_mask(box.mask)
            rows.append(row)
        return {"image_size": list(self.image_size), "detections": rows}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the boxes as entries of a table, unrounded; ``mask`` is a string of runs."""
        return [
            {
                **dict(zip(SIDES, box.xyxy, strict=True)),
                "confidence": box.confidence,
                "class_id": box.class_id,
                "class_name": box.class_name,
                "mask": None if box.mask is None else connectors.plain_mask(box.mask)["counts"],
            }
            for box in self
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from what `to_dict` returned."""
        rows = values["detections"]
        masks = None
        if any("mask" in row for row in rows):
            masks = tuple(
                Rle(size=list(row["mask"]["size"]), counts=row["mask"]["counts"].encode("ascii"))
                for row in rows
            )
        return cls(**cls._arrays(rows), image_size=values["image_size"], mask=masks)

    def to_coco(
        self, image_id: int, category_ids: Sequence[int] | Mapping[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """Return COCO result entries, as `pycocotools.coco.COCO.loadRes` takes them.

        Args:
            image_id: the image's number in the annotation file.
            category_ids: category of each class; by default class + 1. Pass `COCO_CATEGORY_IDS`
                for the official annotations, whose 80 classes are numbered 1 to 90 with gaps.
        """
        return connectors.coco_entries(self, image_id, category_ids)

    def to_supervision(self) -> sv.Detections:
        """Return `supervision.Detections`; only here are masks decoded to dense arrays."""
        return connectors.supervision_detections(self)

    def _table_columns(self) -> dict[str, Any]:
        _, *others = self.COLUMNS
        sides = dict(zip(SIDES, self.xyxy.T, strict=True))
        return {**sides, **{name: getattr(self, name) for name in others}}

    def draw(
        self, image: ImageLike, *, caption: str | None = None, channels: str = "rgb"
    ) -> Image.Image:
        """Draw boxes, labels and masks on a copy of the image.

        Args:
            image: the source picture, or a smaller or larger copy of it: a path, the bytes of an
                image file, a PIL image or an (H, W, 3) uint8 array.
            caption: text for a strip that is added below the picture.
            channels: ``"bgr"`` where the array comes from OpenCV; the result is RGB all the same.
        """
        from cdvision.results.drawing import draw_detections

        return draw_detections(image, self, caption=caption, channels=channels)


def _selected_rows(index: Index, count: int) -> list[int]:
    rows = np.arange(count)
    try:
        picked = rows[index if not isinstance(index, list) or index else []]
    except IndexError as error:
        raise IndexError(f"{error}; there are {count} detections") from None
    return list(np.atleast_1d(picked).tolist())


def _check_masks(masks: object, count: int, image_size: tuple[int, int]) -> None:
    if not isinstance(masks, tuple):
        raise ResultError(f"mask must be None or a tuple of RLEs, but got a {type(masks).__name__}")
    check_same_length(count, "xyxy", mask=masks)
    expected = [image_size[1], image_size[0]]
    for number, mask in enumerate(masks):
        if not isinstance(mask, dict) or set(mask) != {"size", "counts"}:
            raise ResultError(f"mask {number} must be a dict of size and counts, but got {mask!r}")
        if list(mask["size"]) != expected or not isinstance(mask["counts"], bytes):
            raise ResultError(
                f"mask {number} must have size {expected} and counts in bytes, but got size "
                f"{mask['size']} and counts in {type(mask['counts']).__name__}"
            )
