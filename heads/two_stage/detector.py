"""The two-stage detector around an engine: dense maps in, Detections out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.heads.two_stage.activations import sigmoid
from cdvision.heads.two_stage.box_selection import SelectedBoxes, select_boxes
from cdvision.heads.two_stage.config import BOX_CELLS, MASK_CELLS, TwoStageConfig
from cdvision.heads.two_stage.mask_pasting import paste_masks
from cdvision.heads.two_stage.proposals import propose_regions
from cdvision.results.checks import ResultError, check_array
from cdvision.results.detections import Detections
from cdvision.results.masks import Rle

if TYPE_CHECKING:
    from cdvision.heads.registry import Asked

Array = NDArray[Any]
Floats = NDArray[np.float32]
Size = tuple[int, int]
Run = Callable[[str, dict[str, Array]], dict[str, Array]]
"""How an engine runs a graph: its name and inputs by name to outputs by name."""


def answer_objects(asked: Asked) -> Detections:
    """Answer `detect` and `segment` from dense maps and the graphs behind proposals."""
    return detect_two_stage(
        asked.run,
        asked.dense,
        config=TwoStageConfig.from_dict(asked.settings["selection"]),
        input_size=asked.input_size,
        content_size=asked.content_size,
        source_size=asked.source_size,
        class_names=asked.class_names,
        masks=asked.task == "segment",
        **asked.options,
    )


def detect_two_stage(
    run: Run,
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
    masks: bool = False,
) -> Detections:
    """Find the objects of one image in what the dense part of a two-stage detector gave.

    Args:
        run: runs the graph ``"box"``, ``regions`` (K, C, 7, 7) to ``logits`` and ``deltas``, and,
            for masks, ``"mask"``, ``regions`` (K, C, 14, 14) to ``masks`` (K, 1 + classes, m, m)
            logits. Neither is run on no region.
        dense: one image's ``pyramid<k>`` (C, h, w), ``objectness<k>`` (A, h, w) and ``deltas<k>``
            (4 A, h, w), float32.
        config: what the detector was built with.
        input_size: (width, height) of the network input.
        content_size: (width, height) of the photo in it, at the top left.
        source_size: (width, height) of the source image, to whose pixels boxes are scaled.
        class_names: one a class, background not counted.
        confidence: scores must be larger than this.
        iou: overlap from which the weaker of two boxes of a class is dropped.
        max_detections: at most this many boxes.
        masks: also return a mask for every box.

    Raises:
        ResultError: maps that do not fit `config` and `class_names`, or masks asked of a detector
            that has none.
    """
    if masks and not config.masks:
        raise ResultError("masks were asked for, but this detector has no mask head")
    regions = propose_regions(dense, config, input_size=input_size, content_size=content_size)
    pyramid = [dense[f"pyramid{level}"] for level in range(len(config.strides))]
    found = _boxes(run, pyramid, regions, config, class_names, content_size,
                   (confidence, iou, max_detections))  # fmt: skip
    scaled = found.boxes * _scale(content_size, source_size)
    return Detections(
        xyxy=scaled,
        confidence=found.scores,
        class_id=found.class_ids,
        class_name=np.array(class_names, dtype=np.str_)[found.class_ids],
        image_size=source_size,
        mask=_masks(run, pyramid, found, scaled, config, source_size) if masks else None,
    )


def _boxes(
    run: Run,
    pyramid: list[Floats],
    regions: Floats,
    config: TwoStageConfig,
    class_names: Sequence[str],
    content_size: Size,
    limits: tuple[float, float, int],
) -> SelectedBoxes:
    if not len(regions):
        return SelectedBoxes(regions, regions[:, 0], np.zeros(0, dtype=np.int64))
    outputs = run("box", {"regions": _pooled(pyramid, regions, config, BOX_CELLS)})
    expected = (len(regions), 1 + len(class_names))
    check_array("logits", outputs["logits"], shape=expected, dtype=np.float32)
    confidence, iou, max_detections = limits
    return select_boxes(
        outputs["logits"],
        outputs["deltas"],
        regions,
        config,
        content_size=content_size,
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
    )


def _masks(
    run: Run,
    pyramid: list[Floats],
    found: SelectedBoxes,
    scaled: Floats,
    config: TwoStageConfig,
    source_size: Size,
) -> tuple[Rle, ...]:
    if not len(found.boxes):
        return ()
    logits = run("mask", {"regions": _pooled(pyramid, found.boxes, config, MASK_CELLS)})["masks"]
    chosen = logits[np.arange(len(logits)), found.class_ids + 1]
    return paste_masks(sigmoid(chosen), scaled, source_size)


def _pooled(pyramid: list[Floats], boxes: Floats, config: TwoStageConfig, cells: int) -> Floats:
    from cdvision.heads.two_stage.roi_align import pool_regions  # numba: loaded when first needed

    return pool_regions(pyramid, boxes, strides=config.strides, cells=cells, samples=config.samples)


def _scale(content_size: Size, source_size: Size) -> Floats:
    across, down = (
        source / content for source, content in zip(source_size, content_size, strict=True)
    )
    return np.array([across, down, across, down], dtype=np.float32)
