"""The two-stage detector around an engine: dense maps in, Detections out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.heads.two_stage.box_coding import sigmoid
from cdvision.heads.two_stage.box_selection import BoxLimits, SelectedBoxes, select_boxes
from cdvision.heads.two_stage.config import BOX_CELLS, MASK_CELLS, TwoStageConfig
from cdvision.heads.two_stage.mask_pasting import paste_masks
from cdvision.heads.two_stage.proposals import propose_regions
from cdvision.results.checks import ResultError, check_array
from cdvision.results.detections import Detections
from cdvision.results.masks import Rle

if TYPE_CHECKING:
    from cdvision.heads.registry import Question

Array = NDArray[Any]
Floats = NDArray[np.float32]
Size = tuple[int, int]
# How an engine runs a graph: its name and inputs by name to outputs by name.
RunGraph = Callable[[str, dict[str, Array]], dict[str, Array]]


def answer_objects(question: Question) -> Detections:
    """Answer `detect` and `segment` from dense maps and the graphs behind proposals."""
    return detect_two_stage(
        question.run,
        question.dense,
        config=TwoStageConfig.from_dict(question.settings["selection"]),
        input_size=question.input_size,
        content_size=question.content_size,
        source_size=question.source_size,
        class_names=question.class_names,
        masks=question.task == "segment",
        **question.options,
    )


def detect_two_stage(
    run: RunGraph,
    dense: Mapping[str, Floats],
    *,
    config: TwoStageConfig,
    input_size: Size,
    content_size: Size,
    source_size: Size,
    class_names: Sequence[str],
    confidence: float = 0.05,
    iou: float = 0.5,
    max_detections: int = 100,
    class_agnostic: bool = False,
    masks: bool = False,
) -> Detections:
    """Find the objects of one image in what the dense part of a two-stage detector gave.

    Args:
        run: runs the graph ``"box"``, ``regions`` (K, C, 7, 7) to ``logits`` and ``deltas``, and,
            for masks, ``"mask"``, ``regions`` (K, C, 14, 14) to ``masks`` (K, 1 + classes, m, m)
            logits. Neither is run on no region.
        dense: one image's ``pyramid<k>`` (C, h, w), ``objectness<k>`` (A, h, w) and ``deltas<k>``
            (4 A, h, w), float32.
        config: of the detector.
        input_size: (width, height) of the network input.
        content_size: (width, height) of the photo in it, at the top left.
        source_size: (width, height) of the source image, to whose pixels boxes are scaled.
        class_names: one a class, background not counted.
        confidence: see ``BoxLimits``, as for the next three.
        iou: of boxes that overlap.
        max_detections: most boxes.
        class_agnostic: whether boxes of different classes compete.
        masks: also return a mask for every box.

    Raises:
        ResultError: maps that do not fit `config` and `class_names`, or masks asked of a detector
            that has none.
    """
    if masks and not config.masks:
        raise ResultError("masks were asked for, but this detector has no mask head")
    regions = propose_regions(dense, config, input_size=input_size, content_size=content_size)
    pyramid = [dense[f"pyramid{level}"] for level in range(len(config.strides))]

    def pooled(boxes: Floats, cells: int) -> Floats:
        from cdvision.heads.two_stage.roi_align import pool_regions

        return pool_regions(
            pyramid, boxes, strides=config.strides, cells=cells, samples=config.samples
        )

    found = SelectedBoxes(regions, regions[:, 0], np.zeros(0, dtype=np.int64))
    if len(regions):
        outputs = run("box", {"regions": pooled(regions, BOX_CELLS)})
        logits, expected = outputs["logits"], (len(regions), 1 + len(class_names))
        check_array("logits", logits, shape=expected, dtype=np.float32)
        limits = BoxLimits(confidence, iou, max_detections, class_agnostic)
        found = select_boxes(logits, outputs["deltas"], regions, config, content_size, limits)
    scale = np.array(source_size) / np.array(content_size)
    scaled = found.boxes * np.tile(scale, 2).astype(np.float32)
    outlines: tuple[Rle, ...] | None = () if masks else None
    if masks and len(scaled):
        drawn = run("mask", {"regions": pooled(found.boxes, MASK_CELLS)})["masks"]
        # One mask a class, background first: of each box that of its own class.
        chosen = drawn[np.arange(len(drawn)), found.class_ids + 1]
        outlines = paste_masks(sigmoid(chosen), scaled, source_size)
    return Detections(
        xyxy=scaled,
        confidence=found.scores,
        class_id=found.class_ids,
        class_name=np.array(class_names, dtype=np.str_)[found.class_ids],
        image_size=source_size,
        mask=outlines,
    )
