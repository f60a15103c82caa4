"""The report of ``cdvision bench faces``: tables in Markdown and JSON, and a plot a figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdvision.evaluation.records import attributes_of, markdown_table, strict_json
from cdvision.models.faces.bench.figures import (
    ATTRIBUTES,
    RATE,
    RECONSTRUCTIONS,
    Envelope,
    Facts,
    Figure,
    Record,
    best_of,
    count_wins,
    draw_figure,
    figures_of,
    our_records,
    pixel_record,
    rival_records,
    title_of,
)

MOST_BYTES = 400  # up to which attributes are held against rivals


def write_face_report(facts: Facts, folder: Path) -> str:
    """Write ``faces.md``, ``faces.json`` and ``faces-*.svg`` to a folder; return the Markdown."""
    text = _markdown(facts)
    (folder / "faces.md").write_text(text + "\n", encoding="utf-8")
    content = {**facts, "at our bytes": [*_comparisons(facts)]}
    (folder / "faces.json").write_text(strict_json(content), encoding="utf-8")
    for figure in figures_of(facts):
        draw_figure(folder / f"faces-{figure.name.replace('_', '-')}.svg", facts, figure)
    return text


def _markdown(facts: Facts) -> str:
    records, side = facts["records"], facts["side"]
    packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        f"# Faces at few bytes: {facts['data']}, {records[0]['photos']} faces of {side} x {side}",
        "",
        f"{facts['machine']}; {packages}; {facts['ours']}, fingerprint {facts['fingerprint']:.8}.",
        "",
        " ".join(_classifier_sentences(facts)),
        "",
        *_win_lines(facts),
        "",
        "Tables: ours, and each rival at the same mean bytes: the best of its qualities and "
        "scales, interpolated over log bytes, without the bytes of its container. `< N B`: its "
        "smallest picture takes N bytes.",
        "",
        _metric_line(facts),
        *_speed_lines(facts),
    ]
    for figure in figures_of(facts):
        lines += ["", f"## {_heading(figure)}", "", *_figure_table(facts, figure)]
    lines += ["", "## Attributes, one by one", "", *_attribute_table(facts), ""]
    lines += [f"* {title_of(name)}: {made_by}" for name, made_by in facts["codecs"].items()]
    lines += [f"* {title_of(name)}: left out, {why}" for name, why in facts["left_out"].items()]
    return "\n".join(lines)


def _heading(figure: Figure) -> str:
    if figure in ATTRIBUTES:
        return f"Attributes from the bitstream: {figure.title}"
    if figure in RECONSTRUCTIONS:
        return f"The classifier on our reconstructions: {figure.title}"
    return f"{figure.title} ({'higher' if figure.higher else 'lower'} is better)"


def _classifier_sentences(facts: Facts) -> Iterator[str]:
    yield f"Classifier on pictures: {facts['classifier']}."
    if facts["refused"]:
        yield f"Left out: {facts['refused']} pictures that the model takes for no faces."
    record = pixel_record(facts)
    if record is not None:
        shown = ", ".join(f"{f.title} {_interval(record, f)}" for f in ATTRIBUTES)
        yield f"On the original pixels: {shown}."
        yield f"Majority guess: {record['majority_accuracy']:.3f}."
    yield (
        "The classifier's thresholds fit clear pixels, ours our streams: on coarse pictures it may "
        "fall below the majority guess. Mean AP needs no threshold."
    )


def _metric_line(facts: Facts) -> str:
    if facts["metrics"] is None:
        return "LPIPS and DISTS: left out, `cdvision bench picture-metrics` prepares them."
    return (
        f"LPIPS (AlexNet, its published linear weights) and DISTS, weights {facts['metrics'][:8]}, "
        "on pictures at their own size."
    )


def _speed_lines(facts: Facts) -> list[str]:
    """Say how long attributes take."""
    if not facts.get("speed"):
        return []
    rows = (
        (str(row["layers"]), f"{row['mean_bytes']:,.0f}", f"{row['median']:.2f}",
         f"{row['low']:.2f} to {row['high']:.2f}")
        for row in facts["speed"]
    )  # fmt: skip
    heading = "## From bytes to attributes, one thread, default quality"
    titles = ("layers", "bytes", "median ms", "10 % to 90 %")
    return ["", heading, "", *markdown_table(titles, ["---:"] * len(titles), rows)]


def _win_lines(facts: Facts) -> list[str]:
    """Say at how many of our points up to 400 bytes each rival is beaten."""
    own = [record for record in our_records(facts) if record["mean_bytes"] <= MOST_BYTES]
    figures, rows = figures_of(facts), []
    for codec, found in rival_records(facts).items():
        least, file = (min(record[name] for record in found) for name in (RATE, "mean_bytes"))
        smallest = f"{least:,.0f} B" + (f" ({file:,.0f} B as a file)" if file > least else "")
        wins = [count_wins(own, best_of(found, figure), figure) for figure in figures]
        rows.append([title_of(codec), smallest, *(" / ".join(map(str, each)) for each in wins)])
    titles = ["rival", "smallest picture", *(figure.title for figure in figures)]
    return [
        f"Our {len(own)} points of at most {MOST_BYTES} bytes, better / not better than the rival "
        "at the same bytes / without a picture of the rival's so small:",
        "",
        *markdown_table(titles, ["---", "---:", *[":---:"] * len(figures)], rows),
    ]


def _figure_table(facts: Facts, figure: Figure) -> list[str]:
    best = {codec: best_of(found, figure) for codec, found in rival_records(facts).items()}
    titles = ["quality", "layers", "bytes", "ours", *map(title_of, best)]
    rows = []
    for record in our_records(facts):
        cells = [str(record["quality"]), str(record["layers"]), f"{record['mean_bytes']:,.0f}"]
        cells.append(_interval(record, figure))
        cells += [_rival_cell(one, record["mean_bytes"], figure) for one in best.values()]
        rows.append(cells)
    return markdown_table(titles, ["---:"] * len(titles), rows)


def _rival_cell(best: Envelope, rate: float, figure: Figure) -> str:
    value = best.at(rate)
    if value is not None:
        return f"{value:.{figure.digits}f}"
    return f"< {best.rate[0]:,.0f} B" if len(best.rate) else "—"


def _interval(record: Record, figure: Figure) -> str:
    """Return a figure with its interval; a dash where it was not measured or is undefined."""
    shown = _plain(record, figure.name, figure.digits)
    low, high = (record.get(f"{figure.name}_{end}") for end in ("low", "high"))
    if shown == "—" or low is None or high is None:
        return shown
    return f"{shown} ({low:.{figure.digits}f}-{high:.{figure.digits}f})"


def _plain(record: Record, name: str, digits: int = 3) -> str:
    value = record.get(name)
    return "—" if value is None or value != value else f"{value:.{digits}f}"  # NaN is not itself


def _attribute_table(facts: Facts) -> list[str]:
    """Each attribute from a base layer of at most 100 bytes, from all layers, and from pixels."""
    chosen = {
        "base layer": _most_accurate(facts, layers=1, most=100),
        "all layers": _most_accurate(facts, layers=None, most=MOST_BYTES),
        "pixels": pixel_record(facts),
    }
    known = {title: record for title, record in chosen.items() if record is not None}
    if not known:
        return []
    heads = [f"{title}, {r['mean_bytes']:,.0f} B: accuracy / balanced / AP"
             for title, r in known.items()]  # fmt: skip
    first, rows = next(iter(known.values())), []
    for name in attributes_of(first):
        figures = [" / ".join(_plain(r, f"{f.name}.{name}") for f in ATTRIBUTES)
                   for r in known.values()]  # fmt: skip
        guess = f"{first[f'majority_accuracy.{name}']:.3f}"
        rows.append([name.replace("_", " "), guess, *figures])
    rules = ["---", *["---:"] * (1 + len(heads))]
    return markdown_table(["attribute", "majority guess", *heads], rules, rows)


def _most_accurate(facts: Facts, *, layers: int | None, most: float) -> Record | None:
    """Return our most accurate record of so many layers (None: the most) and bytes."""
    own = our_records(facts)
    wanted = max((r["layers"] for r in own), default=0) if layers is None else layers
    found = [r for r in own if r["layers"] == wanted and r["mean_bytes"] <= most]
    return max(found, key=lambda r: float(r["accuracy"]), default=None)


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
