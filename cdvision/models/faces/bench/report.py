"""The report of ``cdvision bench faces``: tables in Markdown and JSON, and a plot a figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdvision.evaluation.records import attributes_of, strict_json
from cdvision.models.faces.bench.facts import (
    Facts,
    best_of,
    figures_of,
    our_records,
    pixel_record,
    rival_records,
    title_of,
)
from cdvision.models.faces.bench.figures import (
    ATTRIBUTES,
    RATE,
    RECONSTRUCTIONS,
    Envelope,
    Figure,
    Record,
    count_wins,
)
from cdvision.models.faces.bench.plots import draw_figure

MOST_BYTES = 400  # up to which attributes are held against rivals


def write_face_report(facts: Facts, folder: Path) -> str:
    """Write ``faces.md``, ``faces.json`` and ``faces-*.svg``; return the Markdown.

    Args:
        facts: see ``facts.py``.
        folder: exists.
    """
    text = format_faces(facts)
    (folder / "faces.md").write_text(text + "\n", encoding="utf-8")
    content = {**facts, "at our bytes": [*_comparisons(facts)]}
    (folder / "faces.json").write_text(strict_json(content), encoding="utf-8")
    for figure in figures_of(facts):
        draw_figure(folder / f"faces-{figure.name.replace('_', '-')}.svg", facts, figure)
    return text


def format_faces(facts: Facts) -> str:
    """Lay out what was measured as Markdown."""
    records, side = facts["records"], facts["side"]
    packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        f"# Faces at few bytes: {facts['data']}, {records[0]['photos']} faces of {side} x {side}",
        "",
        f"{facts['machine']}; {packages}; {facts['ours']}, fingerprint {facts['fingerprint']:.8}.",
        "",
        *_pixel_lines(facts),
        "",
        *_win_lines(facts),
        "",
        "Tables: ours, and each rival at the same mean bytes: the best of its qualities and "
        "scales, interpolated over log bytes, without the bytes of its container. `< N B`: its "
        "smallest picture takes N bytes.",
        *_metric_lines(facts),
        *_speed_lines(facts),
    ]
    for figure in figures_of(facts):
        lines += ["", f"## {_heading(figure)}", "", *_figure_table(facts, figure)]
    lines += ["", "## Attributes, one by one", "", *_attribute_table(facts)]
    lines += ["", *_codec_lines(facts)]
    return "\n".join(lines)


def _heading(figure: Figure) -> str:
    if figure in ATTRIBUTES:
        return f"Attributes from the bitstream: {figure.title}"
    if figure in RECONSTRUCTIONS:
        return f"The classifier on our reconstructions: {figure.title}"
    return f"{figure.title} ({'higher' if figure.higher else 'lower'} is better)"


def _pixel_lines(facts: Facts) -> list[str]:
    lines = [f"Classifier on pictures: {facts['classifier']}."]
    if facts["refused"]:
        lines.append(f"Left out: {facts['refused']} pictures that the model takes for no faces.")
    record = pixel_record(facts)
    if record is not None:
        shown = ", ".join(f"{f.title} {_interval(record, f)}" for f in ATTRIBUTES)
        lines.append(f"On the original pixels: {shown}.")
        lines.append(f"Majority guess: {record['majority_accuracy']:.3f}.")
    lines.append(
        "The classifier's thresholds fit clear pixels, ours our streams: on coarse pictures it may "
        "fall below the majority guess. Mean AP needs no threshold."
    )
    return [" ".join(lines)]


def _metric_lines(facts: Facts) -> list[str]:
    if facts["metrics"] is None:
        return ["", "LPIPS and DISTS: left out, `cdvision bench picture-metrics` prepares them."]
    return [
        "",
        f"LPIPS (AlexNet, its published linear weights) and DISTS, weights {facts['metrics'][:8]}, "
        "on pictures at their own size.",
    ]


def _speed_lines(facts: Facts) -> list[str]:
    """Say how long attributes take."""
    if not facts.get("speed"):
        return []
    return [
        "",
        "## From bytes to attributes, one thread, default quality",
        "",
        "| layers | bytes | median ms | 10 % to 90 % |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {row['layers']} | {row['mean_bytes']:,.0f} | {row['median']:.2f} | "
            f"{row['low']:.2f} to {row['high']:.2f} |"
            for row in facts["speed"]
        ),
    ]


def _win_lines(facts: Facts) -> list[str]:
    """Say at how many of our points up to 400 bytes each rival is beaten."""
    own = [record for record in our_records(facts) if record["mean_bytes"] <= MOST_BYTES]
    lines = [
        f"Our {len(own)} points of at most {MOST_BYTES} bytes, better / not better than the rival "
        "at the same bytes / without a picture of the rival's so small:",
        "",
        f"| rival | smallest picture | {' | '.join(f.title for f in figures_of(facts))} |",
        f"| --- | ---: |{' :---: |' * len(figures_of(facts))}",
    ]
    for codec, found in rival_records(facts).items():
        least, file = (min(record[name] for record in found) for name in (RATE, "mean_bytes"))
        smallest = f"{least:,.0f} B" + (f" ({file:,.0f} B as a file)" if file > least else "")
        cells = [
            " / ".join(map(str, count_wins(own, best_of(found, figure), figure)))
            for figure in figures_of(facts)
        ]
        lines.append(f"| {title_of(codec)} | {smallest} | {' | '.join(cells)} |")
    return lines


def _figure_table(facts: Facts, figure: Figure) -> list[str]:
    best = {codec: best_of(found, figure) for codec, found in rival_records(facts).items()}
    titles = ["quality", "layers", "bytes", "ours", *map(title_of, best)]
    lines = [f"| {' | '.join(titles)} |", f"|{' ---: |' * len(titles)}"]
    for record in our_records(facts):
        cells = [str(record["quality"]), str(record["layers"]), f"{record['mean_bytes']:,.0f}"]
        cells.append(_interval(record, figure))
        cells += [_rival_cell(one, record["mean_bytes"], figure) for one in best.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rival_cell(best: Envelope, rate: float, figure: Figure) -> str:
    value = best.at(rate)
    if value is not None:
        return f"{value:.{figure.digits}f}"
    return f"< {best.rate[0]:,.0f} B" if len(best.rate) else "—"


def _interval(record: Record, figure: Figure) -> str:
    """Return a figure with its interval; a dash where it was not measured or is undefined."""
    value, digits = record.get(figure.name), figure.digits
    if value is None or value != value:
        return "—"
    low, high = record.get(f"{figure.name}_low"), record.get(f"{figure.name}_high")
    bounds = "" if low is None or high is None else f" ({low:.{digits}f}-{high:.{digits}f})"
    return f"{value:.{digits}f}{bounds}"


def _attribute_table(facts: Facts) -> list[str]:
    """Each attribute from a base layer of at most 100 bytes, from all layers, and from pixels."""
    chosen = {
        "base layer": _chosen(facts, layers=1, most=100),
        "all layers": _chosen(facts, layers=None, most=MOST_BYTES),
        "pixels": pixel_record(facts),
    }
    known = {title: record for title, record in chosen.items() if record is not None}
    if not known:
        return []
    heads = [f"{title}, {r['mean_bytes']:,.0f} B: accuracy / balanced / AP"
             for title, r in known.items()]  # fmt: skip
    lines = [
        f"| attribute | majority guess | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * (1 + len(heads))}",
    ]
    first = next(iter(known.values()))
    for name in attributes_of(first):
        cells = [f"{first[f'majority_accuracy.{name}']:.3f}"]
        cells += [" / ".join(_plain(r, f"{f.name}.{name}") for f in ATTRIBUTES)
                  for r in known.values()]  # fmt: skip
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def _plain(record: Record, name: str) -> str:
    value = record.get(name)
    return "—" if value is None or value != value else f"{value:.3f}"


def _chosen(facts: Facts, *, layers: int | None, most: float) -> Record | None:
    """Return our most accurate record of so many layers (None: the most) and bytes."""
    own = our_records(facts)
    wanted = max((r["layers"] for r in own), default=0) if layers is None else layers
    found = [r for r in own if r["layers"] == wanted and r["mean_bytes"] <= most]
    return max(found, key=lambda r: float(r["accuracy"]), default=None)


def _codec_lines(facts: Facts) -> list[str]:
    lines = [f"* {title_of(name)}: {made_by}" for name, made_by in facts["codecs"].items()]
    lines += [f"* {title_of(name)}: left out, {why}" for name, why in facts["left_out"].items()]
    return lines


def _comparisons(facts: Facts) -> Iterator[dict[str, Any]]:
    """Yield what the tables say of rivals, as JSON can hold it."""
    for figure in figures_of(facts):
        for codec, found in rival_records(facts).items():
            best = best_of(found, figure)
            for record in our_records(facts):
                yield {
                    "figure": figure.name,
                    "quality": record["quality"],
                    "layers": record["layers"],
                    "mean_bytes": record["mean_bytes"],
                    "ours": record.get(figure.name),
                    "rival": codec,
                    "rival_figure": best.at(record["mean_bytes"]),
                }
