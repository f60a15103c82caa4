"""Records of accuracy as tables, files and curves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cdvision.evaluation.bootstrap import Draws, interval
from cdvision.evaluation.plot import Curve

Record = Mapping[str, Any]

UNCOMPRESSED = "none"  # codec of the records of pixels

# Figures by name, as people write them; the first that a record holds is its main one.
FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "ap": "AP",
        "ap50": "AP50",
        "top1": "top-1",
        "top5": "top-5",
        "accuracy": "mean accuracy",
        "balanced_accuracy": "balanced accuracy",
        "average_precision": "mean AP",
        "majority_accuracy": "majority guess",
    }
)


def main_figure(record: Record) -> str:
    """Return the name of the figure that a plot shows.

    >>> main_figure({"task": "detect", "ap50": 0.5, "ap": 0.3})
    'ap'
    """
    return next(name for name in FIGURES if name in record)


def format_records(records: Sequence[Record]) -> str:
    """Return a Markdown table; intervals stand in brackets."""
    shown = [name for name in FIGURES if any(name in record for record in records)]
    losses = [f"{name}_loss" for name in shown if any(f"{name}_loss" in r for r in records)]
    lost = [f"{FIGURES[name.removesuffix('_loss')]} lost" for name in losses]
    titles = ["codec", "quality", "bytes", *(FIGURES[name] for name in shown), *lost, "photos"]
    rows = [
        [
            str(record["codec"]),
            str(record["quality"] or ""),
            f"{record['mean_bytes']:,.0f}",
            *(figure_cell(record, name) for name in [*shown, *losses]),
            str(record["photos"]),
        ]
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    padded = ([c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in (titles, *rows))
    table = markdown_table(next(padded), ["-" * width for width in widths], padded)
    return "\n".join([*table, *_footnote(records)])


def format_attributes(record: Record) -> str:
    """Return a Markdown table of a record's figures of each attribute; intervals in brackets."""
    first = next(iter(attributes_of(record)), "")
    shown = {name: title for name, title in FIGURES.items() if f"{name}.{first}" in record}
    titles = ["attribute", *(title.removeprefix("mean ") for title in shown.values())]
    rows = [
        [one.replace("_", " "), *(figure_cell(record, f"{name}.{one}") for name in shown)]
        for one in attributes_of(record)
    ]
    return "\n".join(markdown_table(titles, ["---", *["---:"] * len(shown)], rows))


def markdown_table(
    titles: Sequence[str], rules: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[str]:
    """Lay out a table in Markdown; ``rules`` say how its columns are aligned."""
    return [f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows)]


def attributes_of(record: Record) -> list[str]:
    """Return the attributes that a record has figures of."""
    found = [key.removeprefix("accuracy.") for key in record if key.startswith("accuracy.")]
    return [name for name in found if not name.endswith(("_low", "_high"))]


def figure_cell(record: Record, name: str) -> str:
    """Return a figure with its interval in brackets, as tables show it."""
    if name not in record:
        return ""
    ends_of = _interval(record, name)
    between = " to " if name.endswith("_loss") else "-"  # a loss may be a gain: below 0
    ends = between.join(f"{end:.3f}" for end in ends_of or ())
    return f"{record[name]:.3f}" + (f" ({ends})" if ends else "")


def _interval(record: Record, name: str) -> tuple[float, float] | None:
    low, high = record.get(f"{name}_low"), record.get(f"{name}_high")
    return None if low is None or high is None else (float(low), float(high))


def _footnote(records: Sequence[Record]) -> list[str]:
    draws = max((int(record.get("resamples", 0)) for record in records), default=0)
    notes = [f"In brackets: 95 % of {draws:,} draws of the photos."] if draws else []
    if any(key.endswith("_loss") for record in records for key in record):
        notes.append("Lost: against the same photos without a codec, drawn together.")
    return ["", " ".join(notes)] if notes else []


def strict_json(content: Any) -> str:
    """Return strict JSON: figures that are undefined become null."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def records_to_csv(records: Sequence[Record]) -> str:
    """Return a csv with one column for every key that any record has."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def curves_of(records: Sequence[Record]) -> list[Curve]:
    """Return one curve a codec, of the main figure, without codec ``none``; smallest rate first."""
    return [
        _curve(codec, sorted(found, key=lambda record: float(record["mean_bytes"])))
        for codec, found in by_codec(records).items()
        if codec != UNCOMPRESSED
    ]


def by_codec(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group records by their codec, in the order in which codecs and records come."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record["codec"]), []).append(record)
    return groups


def uncompressed_figure(records: Sequence[Record]) -> float | None:
    """Return the main figure of the networks without a codec, where it was measured."""
    return next((float(r[main_figure(r)]) for r in records if r["codec"] == "none"), None)


def _curve(codec: str, records: Sequence[Record]) -> Curve:
    name = main_figure(records[0])
    intervals = [ends for record in records if (ends := _interval(record, name))]
    complete = len(intervals) == len(records)
    return Curve(
        codec,
        [float(record["mean_bytes"]) for record in records],
        [float(record[name]) for record in records],
        [low for low, _ in intervals] if complete else None,
        [high for _, high in intervals] if complete else None,
    )


def with_losses(records: Sequence[dict[str, Any]], draws: Sequence[Draws]) -> list[dict[str, Any]]:
    """Add ``NAME_loss``, ``_low`` and ``_high`` to every record of a stream.

    NAME is the record's main figure. Records stay as they are where nothing was measured without a
    codec, or not on the same photos.; ``draws`` are their drawn figures in the same order.
    """
    # Both were drawn together, the same photos each time, so the interval of their difference is a
    # fraction of each one's own: photos that are hard are hard for both.
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
