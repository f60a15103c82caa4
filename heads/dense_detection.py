"""From the dense outputs of a detection head to Detections in source pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.core.boxes import best_candidates, distinct_boxes
from cdvision.heads.distribution_boxes import BINS, SIDES, cell_grid, weight_sums
from cdvision.heads.dynamic_masks import STRIDE, dynamic_masks
from cdvision.heads.suppression import largest_below
from cdvision.results.checks import ResultError, check_array, check_image_size
from cdvision.results.detections import Detections
from cdvision.results.masks import Rle

if TYPE_CHECKING:
    from cdvision.heads.registry import Question

Size = tuple[int, int]

# The better candidates of a crowded picture; more of them changes AP by nothing and costs time.
_CANDIDATES = 1000


class MaskOutputs(NamedTuple):
    """What a dense mask branch gives beside scores and distances."""

    codes: NDArray[np.float32]  # (64, M): of every cell
    control: NDArray[np.float32]  # (129, 65): turns codes into the cells' own networks
    prototypes: NDArray[np.float32]  # (12, H / 4, W / 4)


def answer_objects(question: Question) -> Detections:
    """Answer `detect` and `segment` from the outputs of a dense head."""
    dense = question.dense
    masks = None
    if question.task == "segment":
        masks = MaskOutputs(*(dense[name] for name in MaskOutputs._fields))
    return detect_from_dense(
        dense["scores"],
        dense["distances"],
        input_size=question.input_size,
        content_size=question.content_size,
        source_size=question.source_size,
        class_names=question.class_names,
        masks=masks,
        **question.options,
    )


def detect_from_dense(
    scores: NDArray[np.float32],
    distances: NDArray[np.float32],
    *,
    input_size: Size,
    content_size: Size,
    source_size: Size,
    class_names: Sequence[str],
    confidence: float = 0.05,
    iou: float = 0.6,
    max_detections: int = 100,
    class_agnostic: bool = False,
    masks: MaskOutputs | None = None,
) -> Detections:
    """Find the boxes of one image in the outputs of its dense head.

    Scores (M, classes) float32 come after the sigmoid, rows as in `cell_grid`; distances (M, 32)
    float32 are logits, see `decode_boxes`. Sizes are (width, height) of the network input, of the
    scaled image at its top left, to which boxes are clipped, and of the source image, to whose
    pixels they are scaled. Of two boxes of a class (of any, where
    ``class_agnostic``) that overlap by ``iou`` the weaker is dropped. With ``masks`` each detection
    has a mask.

    Raises:
        ResultError: the arrays do not have the shapes that `input_size` and `class_names` imply.
    """
    width, height = check_image_size(input_size)
    cells = cell_grid(height, width)
    check_array("scores", scores, shape=(len(cells), len(class_names)), dtype=np.float32)
    check_array("distances", distances, shape=(len(cells), SIDES * BINS), dtype=np.float32)
    if max_detections < 1:
        raise ResultError(f"max_detections must be at least 1, but got {max_detections}")
    # The exponentials and their sums are numpy's: boxes are those of `decode_boxes` to the last
    # bit.
    scores, distances = (np.ascontiguousarray(a, np.float32) for a in (scores, distances))
    cell, class_id, found, logits = best_candidates(scores, distances, confidence, _CANDIDATES)
    sums, threshold = weight_sums(logits), largest_below(iou)
    content = check_image_size(content_size)
    frame = *content, source_size[0] / content[0], source_size[1] / content[1]
    rivals = np.zeros_like(class_id) if class_agnostic else class_id  # boxes of one class compete
    kept, boxes, scaled = distinct_boxes(
        sums, cells, cell, rivals, frame, threshold, max_detections
    )
    cell, class_id = cell[kept], class_id[kept]
    sizes = input_size, content_size, source_size
    return Detections(
        xyxy=scaled,
        confidence=found[kept],
        class_id=class_id,
        class_name=_name_array(tuple(class_names))[class_id],
        image_size=source_size,
        mask=None if masks is None else _masks(masks, cell, boxes, sizes),
    )


@lru_cache(maxsize=64)
def _name_array(class_names: tuple[str, ...]) -> NDArray[np.str_]:
    return np.array(class_names, dtype=np.str_)


def _masks(
    masks: MaskOutputs,
    cell: NDArray[np.int64],
    boxes: NDArray[np.float32],
    sizes: tuple[Size, Size, Size],
) -> tuple[Rle, ...]:
    """Return the masks of chosen cells; sizes are those of input, content and source."""
    (width, height), content, source = sizes
    cells, expected = len(cell_grid(height, width)), (height // STRIDE, width // STRIDE)
    codes, control = masks.codes, masks.control
    check_array("codes", codes, shape=("c", cells), dtype=np.float32)
    check_array("control", control, shape=("k", len(codes) + 1), dtype=np.float32)
    check_array("prototypes", masks.prototypes, shape=("k", *expected), dtype=np.float32)
    # ``control`` is a linear layer, its bias in the last column: run for the chosen cells only.
    coefficients = codes[:, cell].T @ control[:, :-1].T + control[:, -1]
    return dynamic_masks(
        masks.prototypes, coefficients, boxes, content_size=content, source_size=source
    )
