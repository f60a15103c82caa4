"""COCO's official category numbers, with their gaps, for classes that detectors count 0 to 79."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdvision.results.checks import ResultError

# 91 numbers were planned; these eleven never got a box.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}

COCO_CATEGORY_IDS: tuple[int, ...] = tuple(
    number for number in range(1, 92) if number not in _UNUSED
)


def category_id(class_id: int, category_ids: Sequence[int] | Mapping[int, int] | None) -> int:
    """Map a class to its COCO category; without a mapping, classes count from 1.

    >>> category_id(79, None), category_id(79, COCO_CATEGORY_IDS)
    (80, 90)
    """
    if category_ids is None:
        return class_id + 1
    try:
        return int(category_ids[class_id])
    except (IndexError, KeyError):
        raise ResultError(
            f"category_ids must map every class, but class {class_id} is not among its "
            f"{len(category_ids)} entries"
        ) from None
