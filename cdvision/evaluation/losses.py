"""What a codec costs in accuracy: each figure against that of the same photos without a codec.

Both are drawn together, the same photos each time, so the interval of their difference is a
fraction of each one's own: photos that are hard are hard for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cdvision.evaluation.bootstrap import Draws, interval
from cdvision.evaluation.records import main_figure

Record = dict[str, Any]


def with_losses(records: Sequence[Record], draws: Sequence[Draws]) -> list[Record]:
    """Add ``NAME_loss``, ``_low`` and ``_high`` to every record of a stream.

    NAME is the record's main figure. Records stay as they are where nothing was measured without a
    codec, or not on the same photos.

    Args:
        records: one measurement each, all of one set.
        draws: their drawn figures, in the same order.
    """
    references = [number for number, record in enumerate(records) if record["codec"] == "none"]
    if not references:
        return list(records)
    reference, drawn = records[references[0]], draws[references[0]]
    return [
        record if record["codec"] == "none" else {**record, **_loss(reference, drawn, record, own)}
        for record, own in zip(records, draws, strict=True)
    ]


def _loss(reference: Record, drawn: Draws, record: Record, own: Draws) -> dict[str, float]:
    name = main_figure(record)
    if "refused" in reference or "refused" in record or name not in reference:
        return {}
    loss = float(reference[name]) - float(record[name])
    if name not in own:
        return {f"{name}_loss": loss}
    # Draw by draw, since entry r of both is of the same photos: what both miss cancels out.
    low, high = interval(loss, drawn[name] - own[name])
    return {f"{name}_loss": loss, f"{name}_loss_low": low, f"{name}_loss_high": high}
