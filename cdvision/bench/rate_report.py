"""The report of ``cdvision bench rate``: Bjøntegaard figures, tables and a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdvision.bench.bjontegaard import bd_accuracy, bd_rate, non_dominated
from cdvision.errors import CdvisionError
from cdvision.evaluation.plot import write_plot
from cdvision.evaluation.records import (
    FIGURES,
    UNCOMPRESSED,
    by_codec,
    curves_of,
    figure_cell,
    main_figure,
    markdown_table,
    strict_json,
    uncompressed_figure,
)
from cdvision.evaluation.rivals import RIVALS

Record = Mapping[str, Any]
PAYLOAD = "mean_payload_bytes"


@dataclass(frozen=True)
class Comparison:
    """Our streams against one rival's envelope; None where the curves cannot be compared.

    Attributes:
        rival: name of the rival.
        bd_rate: mean difference of bytes at equal accuracy, percent.
        bd_accuracy: mean difference of the main figure at equal bytes.
        bd_rate_payload: ``bd_rate`` without containers, the rival's and ours.
        bd_accuracy_payload: ``bd_accuracy``, likewise.
        reasons: why a figure is None, by its name.
    """

    rival: str
    bd_rate: float | None
    bd_accuracy: float | None
    bd_rate_payload: float | None
    bd_accuracy_payload: float | None
    reasons: Mapping[str, str]


def envelope(records: Sequence[Record], rate: str = "mean_bytes") -> list[Record]:
    """Return the records that no other beats in bytes and main figure, smallest rate first.

    Args:
        records: of one codec, at any qualities and scales.
        rate: the entry that counts as bytes.
    """
    figures = [record[main_figure(record)] for record in records]
    return [records[i] for i in non_dominated([record[rate] for record in records], figures)]


def compare(records: Sequence[Record], ours: str) -> list[Comparison]:
    """Return the Bjøntegaard figures of codec ``ours`` against every other codec's envelope."""
    codecs = by_codec(records)
    own = codecs.get(ours, [])
    rivals = {name: found for name, found in codecs.items() if name not in (ours, UNCOMPRESSED)}
    return [_comparison(name, found, own) for name, found in rivals.items()]


def _comparison(rival: str, records: Sequence[Record], own: Sequence[Record]) -> Comparison:
    figures: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    wanted: tuple[tuple[str, Callable[..., float], str], ...] = (
        ("bd_rate", bd_rate, "mean_bytes"),
        ("bd_accuracy", bd_accuracy, "mean_bytes"),
        ("bd_rate_payload", bd_rate, PAYLOAD),
        ("bd_accuracy_payload", bd_accuracy, PAYLOAD),
    )
    for name, delta, rate in wanted:
        try:
            figures[name] = delta(*_points(records, rate), *_points(own, rate))
        except CdvisionError as error:
            figures[name], reasons[name] = None, str(error)
    return Comparison(rival, **figures, reasons=reasons)


def _points(records: Sequence[Record], rate: str) -> tuple[list[float], list[float]]:
    # What has no container to speak of has no second figure.
    rates = [float(record.get(rate, record["mean_bytes"])) for record in records]
    return rates, [float(record[main_figure(record)]) for record in records]


def write_report(facts: Mapping[str, Any], folder: Path) -> str:
    """Write ``rate.json``, ``rate.md`` and ``rate.svg`` of a run's facts; return the Markdown."""
    comparisons = compare(facts["records"], facts["ours"])
    text = format_report(facts, comparisons)
    (folder / "rate.md").write_text(text + "\n", encoding="utf-8")
    content = {**facts, "comparisons": [asdict(one) for one in comparisons]}
    (folder / "rate.json").write_text(strict_json(content), encoding="utf-8")
    _draw(folder / "rate.svg", facts)
    return text


def format_report(facts: Mapping[str, Any], comparisons: Sequence[Comparison]) -> str:
    """Lay out what was measured as Markdown."""
    records = facts["records"]
    figure = FIGURES[main_figure(records[0])]
    packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    found = uncompressed_figure(records)
    lines = [
        f"# Bytes and {figure}: {facts['data']}, {records[0]['photos']} photos",
        "",
        f"{facts['machine']}; {packages}; {facts['ours']}, fingerprint {facts['fingerprint']:.8}.",
        *([] if found is None else ["", f"Uncompressed networks: {figure} {found:.3f}."]),
        "",
        *_comparison_lines(comparisons, facts["ours"], figure),
        "",
        *(f"* {_title(name)}: {made_by}" for name, made_by in facts["codecs"].items()),
        *(f"* {_title(name)}: left out, {why}" for name, why in facts["left_out"].items()),
    ]
    for codec, points in by_codec(records).items():
        if codec != UNCOMPRESSED:
            lines += ["", f"## {_title(codec)}", "", *_table(points)]
    return "\n".join(lines)


def _comparison_lines(comparisons: Sequence[Comparison], ours: str, figure: str) -> list[str]:
    """Table of Bjøntegaard figures, and below it why some are missing."""
    lines = [
        f"{ours} against the best of each rival's qualities and scales (its points that no other "
        f"beats). BD-rate: bytes at equal {figure}; BD-{figure}: {figure} at equal bytes; both "
        "over the range that the curves share. Without containers: without the boxes of a rival's "
        "file, and without header and checksums of a stream.",
        "",
        f"| rival | BD-rate | BD-{figure} | BD-rate, without containers | "
        f"BD-{figure}, without containers |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for one in comparisons:
        lines.append(
            f"| {_title(one.rival)} | {_signed(one.bd_rate)} "
            f"| {_signed(one.bd_accuracy, '{:+.3f}')} "
            f"| {_signed(one.bd_rate_payload)} "
            f"| {_signed(one.bd_accuracy_payload, '{:+.3f}')} |"
        )
    missing = [
        f"{_title(one.rival)}: {reason}"
        for one in comparisons
        for reason in dict.fromkeys(one.reasons.values())
    ]
    note = f"— (test: {ours}, anchor: the rival): {'; '.join(missing)}."
    return [*lines, "", note] if missing else lines


def _table(records: Sequence[Record]) -> list[str]:
    """Every point of one codec, by bytes; those of its envelope are marked."""
    best = {id(record) for record in envelope(records)}
    shown = [name for name in FIGURES if name in records[0]]
    scaled = any("scale" in record for record in records)
    titles = ["quality", *(["scale"] if scaled else []), "bytes", "without container"]
    titles += [*(FIGURES[name] for name in shown), "envelope"]
    rows = []
    for record in sorted(records, key=lambda record: float(record["mean_bytes"])):
        cells = [str(record["quality"]), *([f"{record['scale']:g}"] if scaled else [])]
        cells += [
            f"{record['mean_bytes']:,.0f}",
            f"{record.get(PAYLOAD, record['mean_bytes']):,.0f}",
        ]
        cells += [figure_cell(record, name) for name in shown]
        rows.append([*cells, "*" if id(record) in best else ""])
    return markdown_table(titles, [*["---:"] * (len(titles) - 1), ":---:"], rows)


def _draw(path: Path, facts: Mapping[str, Any]) -> None:
    """Plot our points, and every rival's envelope without its intervals: they would hide all."""
    records, ours = facts["records"], facts["ours"]
    plotted: list[Record] = []
    for codec, found in by_codec(records).items():
        if codec == ours:
            plotted += found
        elif codec != UNCOMPRESSED:
            plotted += [
                {
                    name: value
                    for name, value in record.items()
                    if not name.endswith(("_low", "_high"))
                }
                for record in envelope(found)
            ]
    write_plot(
        path,
        curves_of([{**record, "codec": _title(record["codec"])} for record in plotted]),
        title=f"{facts['data']}, {records[0]['photos']} photos",
        y_label=f"{FIGURES[main_figure(records[0])]}, bars: 95 % interval",
        reference=uncompressed_figure(records),
        reference_label="uncompressed networks",
    )


def _title(codec: str) -> str:
    return RIVALS[codec].title if codec in RIVALS else codec


def _signed(value: float | None, form: str = "{:+.1f} %") -> str:
    return "—" if value is None else form.format(value)
