"""Intervals, tables, files and plots of accuracy."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from cdvision.errors import CdvisionError
from cdvision.evaluation.bootstrap import bootstrap
from cdvision.evaluation.plot import Curve, write_plot
from cdvision.evaluation.records import (
    curves_of,
    format_records,
    main_figure,
    records_to_csv,
    strict_json,
    uncompressed_figure,
)

SVG = "{http://www.w3.org/2000/svg}"


def record(codec: str, rate: float, ap: float, **more: Any) -> dict[str, Any]:
    figures = {"ap": ap, "ap_low": ap - 0.03, "ap_high": ap + 0.04, "ap50": ap + 0.1}
    common = {"task": "detect", "photos": 128, "resamples": 1000, "mean_bytes": rate}
    return {"codec": codec, "quality": None, **common, **figures, **more}


RECORDS = [
    record("cdvision small", 1900.4, 0.29, quality=2),
    record("cdvision small", 700.0, 0.22, quality=1),
    record("none", 90_000.0, 0.372),
]


# --- intervals


def test_an_interval_of_a_share_is_the_binomial_one() -> None:
    right = (np.arange(400) % 4 > 0).astype(float)
    found = bootstrap(lambda weights: {"top1": weights @ right / 400}, 400, resamples=2000)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found["top1"] == 0.75
    assert found["top1_low"] == pytest.approx(0.75 - half, abs=0.006)
    assert found["top1_high"] == pytest.approx(0.75 + half, abs=0.006)


def test_draws_are_repeatable_and_draw_as_many_photos() -> None:
    sums: list[float] = []

    def figure(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums.extend(weights.sum(axis=1))
        return {"x": weights @ np.arange(7.0)}

    first = bootstrap(figure, 7, resamples=250)
    assert set(sums) == {7.0}
    assert len(sums) == 251
    assert bootstrap(figure, 7, resamples=250) == first
    assert bootstrap(figure, 7, resamples=250, seed=1) != first
    assert bootstrap(figure, 7, resamples=0) == {"x": 21.0}


def test_a_figure_that_a_draw_lacks_leaves_that_draw_out() -> None:
    def figure(weights: np.ndarray) -> dict[str, np.ndarray]:
        value = np.where(weights[:, 0] > 0, weights[:, 0], np.nan)
        return {"x": value, "never": np.full(len(weights), np.nan)}

    found = bootstrap(figure, 5, resamples=100)
    assert found["x_low"] <= found["x"] < found["x_high"]
    assert np.isnan([found["never"], found["never_low"], found["never_high"]]).all()


def test_an_interval_holds_its_figure_even_where_every_draw_is_higher() -> None:
    """As average precision over many rare classes is; and no share is above 1."""

    def figure(weights: np.ndarray) -> dict[str, np.ndarray]:
        whole = (weights == 1).all(axis=1)
        return {"ap": np.where(whole, 0.9, 0.95 + 0.01 * np.minimum(weights[:, 0], 4))}

    found = bootstrap(figure, 20, resamples=500)
    assert found["ap"] == 0.9
    assert found["ap_low"] < 0.9 < found["ap_high"] < 0.95
    share = bootstrap(lambda w: {"x": w @ (np.arange(8) > 0) / 8}, 8, resamples=500)
    assert share["x"] == 0.875
    assert share["x_high"] == 1.0


# --- tables and files


def test_the_table_shows_figures_with_their_intervals() -> None:
    lines = format_records(RECORDS).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "codec", "quality", "bytes", "AP", "AP50", "photos",
    ]  # fmt: skip
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells == ["cdvision small", "2", "1,900", "0.290 (0.260-0.330)", "0.390", "128"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == "In brackets: 95 % of 1,000 draws of the photos."


def test_json_and_csv_hold_every_value() -> None:
    records = [*RECORDS, {**RECORDS[0], "extra.Bald": float("nan")}]
    read = json.loads(strict_json(records))
    assert read[:3] == RECORDS
    assert read[3]["extra.Bald"] is None
    rows = list(csv.DictReader(io.StringIO(records_to_csv(records))))
    assert [float(row["ap_low"]) for row in rows] == [r["ap_low"] for r in records]
    assert [row["extra.Bald"] for row in rows] == ["", "", "", "nan"]


def test_curves_are_sorted_and_without_pixels() -> None:
    (curve,) = curves_of(RECORDS)
    assert curve == Curve("cdvision small", [700.0, 1900.4], [0.22, 0.29], *(
        [pytest.approx(ap + off) for ap in (0.22, 0.29)] for off in (-0.03, 0.04)
    ))  # fmt: skip
    assert uncompressed_figure(RECORDS) == 0.372
    assert uncompressed_figure(RECORDS[:2]) is None
    without = [{k: v for k, v in r.items() if k != "ap_low"} for r in RECORDS]
    assert curves_of(without)[0].low is None


def test_the_main_figure_is_that_of_the_task() -> None:
    for figures, wanted in (
        ({"ap50": 0.1}, "ap50"),
        ({"top5": 0.1, "top1": 0.1}, "top1"),
        ({"balanced_accuracy": 0.1, "accuracy": 0.1}, "accuracy"),
    ):
        assert main_figure(figures) == wanted


# --- plots


def curves() -> list[Curve]:
    """Return published-like curves: five codecs of which three cross."""
    points = {
        "cdvision small": ([420, 900, 1900, 3600, 4900], [0.12, 0.22, 0.29, 0.325, 0.34]),
        "HEVC": ([2162, 4411, 9168, 23076], [0.218, 0.298, 0.350, 0.369]),
        "AVIF": ([3506, 5235, 7792, 15332], [0.274, 0.317, 0.323, 0.366]),
        "WebP": ([6580, 10242, 17333], [0.284, 0.305, 0.359]),
        "JPEG": ([4767, 8296, 14073, 23006], [0.082, 0.229, 0.334, 0.361]),
    }
    return [
        Curve(name, rates, values, [v - 0.03 for v in values], [v + 0.03 for v in values])
        for name, (rates, values) in points.items()
    ]


def test_a_plot_is_an_svg_and_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        write_plot(path, curves(), title="coco-dev & more", y_label="AP", reference=0.372)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert len(first) < 120_000
    root = ElementTree.fromstring(first)  # noqa: S314 - we wrote it
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == "coco-dev & more"
    assert re.search(rb"<dc:date>|20\d\d-\d\d-\d\d", first) is None


def test_the_legend_names_curves_and_reference_in_their_colours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn: list[Any] = []
    save = figure.savefig
    monkeypatch.setattr(figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    write_plot(tmp_path / "x.svg", curves(), title="t", y_label="AP", reference=0.372)
    legend = drawn[0].axes[0].get_legend()
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [*(curve.name for curve in curves()), "uncompressed 0.372"]
    lines = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    for handle, name in zip(legend.legend_handles, named, strict=True):
        assert handle.get_color() == lines[name].get_color()
    assert drawn[0].axes[0].get_xscale() == "log"
    assert lines["AVIF"].get_xdata().tolist() == [3506, 5235, 7792, 15332]
    assert lines["AVIF"].get_ydata().tolist() == [0.274, 0.317, 0.323, 0.366]
    bars = drawn[0].axes[0].collections[2].get_segments()  # of the third curve, AVIF's
    assert bars[1].tolist() == [[5235, pytest.approx(0.287)], [5235, pytest.approx(0.347)]]


def test_one_point_without_error_bars_can_be_plotted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(tmp_path / "x.svg", [Curve("one", [900], [0.5])], title="t", y_label="top-1")
    assert (tmp_path / "x.svg").stat().st_size > 5000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (([1, 2], [0.1]), "found 2 rates and"),
        (([], []), "at least one"),
        (([0.0], [0.1]), "rates above 0"),
        (([5.0], [0.1], [0.05]), "both ends"),
        (([5.0], [0.1], [0.05], [0.1, 0.2]), "as many figures as rates"),
    ],
)
def test_a_curve_that_does_not_fit_together_is_refused(fields: tuple[Any], message: str) -> None:
    with pytest.raises(CdvisionError, match=message):
        Curve("x", *fields)


def test_a_plot_without_curves_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(CdvisionError, match="at least one curve"):
        write_plot(tmp_path / "x.svg", [], title="t", y_label="AP")


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CdvisionError, match=r"pip install 'cdvision\[eval\]'"):
        write_plot(tmp_path / "x.svg", curves(), title="t", y_label="AP")


def test_evaluating_does_not_load_matplotlib_or_pycocotools() -> None:
    code = (
        "import sys, cdvision.cli.evaluate, cdvision.evaluation.curve\n"
        "sys.exit(bool({'matplotlib', 'pycocotools', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
