"""How long a receiver takes from bytes to attributes, for each number of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from cdvision.bench.timing import Spread, paired_times
from cdvision.engines.onnx_engine import OnnxEngine
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.stream import truncate_stream

if TYPE_CHECKING:
    from cdvision.model import Model

FACES, ROUNDS = 16, 200


def attribute_times(
    model: Model, photos: Iterable[LabelledPhoto], layers: Sequence[int]
) -> list[dict[str, Any]]:
    """Time ``model.attributes(bits)`` with one thread, on faces of the default quality.

    Args:
        model: on any engine; that of ONNX Runtime takes one thread here.
        photos: faces, of which the first sixteen are taken.
        layers: after how many the streams are cut.

    Returns:
        For each of ``layers``: ``layers``, ``mean_bytes``, and milliseconds as ``median``, ``low``
        and ``high`` (the 10th and 90th percentile).
    """
    receiver = _with_one_thread(model)
    whole = [receiver.encode(photo.data) for photo in islice(iter(photos), FACES)]
    cut = {count: [truncate_stream(bits, count) for bits in whole] for count in layers}
    work = [
        {str(count): partial(receiver.attributes, cut[count][face]) for count in layers}
        for face in range(len(whole))
    ]
    times = paired_times(work, ROUNDS, label="bytes to attributes")
    return [_row(count, cut[count], Spread.of(times[str(count)])) for count in layers]


def _with_one_thread(model: Model) -> Model:
    receiver = copy(model)
    if isinstance(model.engine, OnnxEngine):
        receiver.engine = model.engine.single_threaded()
    return receiver


def _row(count: int, streams: Sequence[bytes], spread: Spread) -> dict[str, Any]:
    size = float(np.mean([len(bits) for bits in streams]))
    times = {"median": spread.median, "low": spread.low, "high": spread.high}
    return {"layers": count, "mean_bytes": size, **times}
