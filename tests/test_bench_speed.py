"""`cdvision bench speed`: rounds are paired and rotated, parts add up, rivals really detect."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.bench import speed_parts as parts
from cdvision.bench.cold_start import cold_starts, peak_memory
from cdvision.bench.speed import RATIOS, SpeedReport, bench_speed, format_speed, read_photos
from cdvision.bench.speed_parts import (
    content_pixels,
    detect_in_files,
    make_parts,
    picture_file,
    rivals,
)
from cdvision.bench.timing import WARM_UPS, Spread, paired_times, pairwise_ratio, rotated
from cdvision.cli import command_line
from cdvision.errors import CdvisionError
from cdvision.photo import read_photo

PARTS = {
    parts.ENCODE, parts.ENCODER, parts.ENTROPY, parts.NETWORKS, parts.POST, parts.DETECT,
    parts.SEGMENT, parts.CLASSIFY, parts.UNCOMPRESSED,
    "JPEG decode", "JPEG decode + uncompressed network",
}  # fmt: skip
ROUNDS, BATCH = 8, 3


@pytest.mark.parametrize("count", [2, 5, 12])
def test_every_part_gets_every_place_and_either_neighbour(count: int) -> None:
    names = [str(number) for number in range(count)]
    orders = [rotated(names, number) for number in range(2 * count)]
    assert all(sorted(order) == sorted(names) for order in orders)
    for place in range(count):
        assert {order[place] for order in orders} == set(names)
    before = Counter(pair for order in orders for pair in pairwise(order))
    for name, follower in pairwise(names):
        assert before[name, follower] > 0
        assert before[follower, name] > 0


def test_a_round_runs_every_action_once_on_one_item() -> None:
    log: list[str] = []
    work = [{name: lambda tag=f"{item}{name}": log.append(tag) for name in "abc"} for item in "xy"]
    times = paired_times(work, 5)
    assert {name: values.shape for name, values in times.items()} == dict.fromkeys("abc", (5,))
    counted = log[2 * WARM_UPS * 3 :]
    assert len(counted) == 15
    for number in range(5):
        expected = [f"{'xy'[number % 2]}{name}" for name in rotated("abc", number)]
        assert counted[3 * number : 3 * number + 3] == expected


def test_times_are_those_of_the_action() -> None:
    from time import sleep

    times = paired_times([{"long": lambda: sleep(0.02), "short": lambda: None}], 3)
    assert (times["long"] >= 20).all()
    assert np.median(times["short"]) < 10
    assert pairwise_ratio(times, "short", "long").median < 0.5


def test_drift_leaves_pairwise_ratios_alone() -> None:
    drift = np.array([1.0, 1.1, 5.0, 0.7, 9.0])
    ratio = pairwise_ratio({"a": 3 * drift, "b": 4 * drift}, "a", "b")
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((0.75, 0.75, 0.75))


@pytest.mark.parametrize("work", [[], [{}], [{"a": print}, {"b": print}]])
def test_work_that_cannot_be_paired_is_refused(work: list) -> None:
    with pytest.raises(ValueError, match="same actions"):
        paired_times(work, 2)


def test_a_spread_needs_values() -> None:
    assert Spread.of(range(101)) == Spread(50, 10, 90)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


@pytest.fixture(scope="module")
def report(model: cdvision.Model, photos: list[Path]) -> SpeedReport:
    files = [path.read_bytes() for path in photos[:2]]
    return bench_speed(model, files, quality=3, rounds=ROUNDS, batch=BATCH, cold_runs=1)


def milliseconds(report: SpeedReport, batch: int) -> dict[str, float]:
    """Fast tenth of every part's rounds: what else runs on the machine hits it least."""
    return {t.part: t.milliseconds.low for t in report.times if t.batch == batch}


@pytest.mark.parametrize("batch", [1, BATCH])
def test_every_part_is_timed(report: SpeedReport, batch: int) -> None:
    times = milliseconds(report, batch)
    assert set(times) >= PARTS
    assert {f"{rival} decode" for rival in rivals()} <= set(times)
    for time in report.times:
        spread = time.milliseconds
        assert 0 < spread.low <= spread.median <= spread.high < math.inf


@pytest.mark.parametrize("batch", [1, BATCH])
def test_the_parts_add_up(report: SpeedReport, batch: int) -> None:
    times = milliseconds(report, batch)
    inside = times[parts.ENTROPY] + times[parts.NETWORKS] + times[parts.POST]
    assert 0.5 < inside / times[parts.DETECT] < 1.6
    rival = times["JPEG decode"] + times[parts.UNCOMPRESSED] + times[parts.POST]
    assert 0.5 < rival / times["JPEG decode + uncompressed network"] < 1.6
    assert times[parts.ENCODE] > 0.5 * times[parts.ENCODER]
    assert times[parts.ENTROPY] < times[parts.DETECT]


def test_sizes_are_those_of_the_files(
    report: SpeedReport, model: cdvision.Model, photos: list[Path]
) -> None:
    sizes = {time.part: time.size for time in report.times if time.batch == 1}
    streams = [len(model.encode(path, 3)) for path in photos[:2]]
    assert sizes[parts.DETECT] == sizes[parts.ENCODE] == np.mean(streams)
    assert sizes["JPEG decode"] == sizes["JPEG decode + uncompressed network"]
    assert sizes["JPEG decode"] > 4 * sizes[parts.DETECT]
    assert sizes[parts.NETWORKS] == 0


def test_ratios_have_their_bars_at_batch_one_only(report: SpeedReport) -> None:
    bars = {(r.part, r.rival): r.bar for r in report.ratios if r.batch == 1}
    assert [bar for bar in bars.values() if bar is not None] == [0.8, 0.05, 1.3, 1.5]
    assert all(r.bar is None for r in report.ratios if r.batch == BATCH)
    named = {(part, rival) for part, rival, _ in RATIOS if "AVIF" not in rival}
    for batch in (1, BATCH):
        assert {(r.part, r.rival) for r in report.ratios if r.batch == batch} >= named
    share = next(r.value.median for r in report.ratios if r.part == parts.ENTROPY)
    assert 0 < share < 0.5


def test_starts_are_cold_and_memory_is_their_own(report: SpeedReport) -> None:
    python, inspect, detect = report.cold
    assert python.seconds.median < inspect.seconds.median < detect.seconds.median
    if python.peak_mib is None or inspect.peak_mib is None or detect.peak_mib is None:
        pytest.skip("this system does not tell the memory of processes")
    assert report.peak_mib is not None
    assert 1 < python.peak_mib < inspect.peak_mib < detect.peak_mib < report.peak_mib
    assert python.peak_mib < 60 < report.peak_mib, "a child has inherited this process's peak"


def test_peak_memory_counts_mebibytes() -> None:
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    held = np.ones(int(before) << 20, np.uint8)  # as much as was ever held so far
    after = peak_memory()
    assert after is not None
    assert held.nbytes / 2**20 < after < 3 * before + 64


def test_the_report_is_a_table_and_plain_json(report: SpeedReport) -> None:
    record = json.loads(json.dumps(report.to_dict()))
    assert {t["part"] for t in record["times"]} >= PARTS
    assert record["times"][0]["milliseconds"].keys() == {"median", "low", "high"}
    assert record["quality"] == 3
    assert {"machine", "versions", "ratios", "cold", "peak_mib"} < record.keys()
    text = format_speed(report)
    for line in ("| one photo at a time |", f"| {BATCH} photos at a time", "| cdvision detect |"):
        assert line in text
    assert text.count("0.80: met") + text.count("0.80: missed") == 1


def test_the_rival_detects_what_the_stream_shows(model: cdvision.Model, photos: list[Path]) -> None:
    chosen = [path for path in photos if path.stem in ("cat", "coffee")]
    streams = [model.open(model.encode(path)) for path in chosen]
    assert len({stream.input_size for stream in streams}) == 1
    for rival in rivals():
        contents = [
            content_pixels(path.read_bytes(), stream)
            for path, stream in zip(chosen, streams, strict=True)
        ]
        files = [picture_file(pixels, rival) for pixels in contents]
        assert read_photo(files[0]).size == streams[0].content_size
        together = detect_in_files(model, files, streams)
        assert "cat" in together[0].class_name
        for file, stream, found in zip(files, streams, together, strict=True):
            (alone,) = detect_in_files(model, [file], [stream])
            assert alone.class_name.tolist() == found.class_name.tolist()
            assert np.allclose(alone.xyxy, found.xyxy, atol=0.5)


def test_a_batch_of_streams_gives_what_each_gives(
    model: cdvision.Model, photos: list[Path]
) -> None:
    files = [path.read_bytes() for path in photos if path.stem in ("cat", "coffee")]
    both = make_parts(model, files, 4)[parts.DETECT].action()
    for result, file in zip(both, files, strict=True):
        alone = make_parts(model, [file], 4)[parts.DETECT].action()
        assert result.detections.class_name.tolist() == alone.class_name.tolist()


def test_no_photo_is_an_error(model: cdvision.Model, tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="at least one photo"):
        bench_speed(model, [])
    with pytest.raises(CdvisionError, match=r"expected \.jpg.* files, found none"):
        read_photos(tmp_path)


def test_a_drawn_photo_stands_in() -> None:
    (photo,) = read_photos(None)
    assert read_photo(photo).size == (640, 480)


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        CdvisionError, match=r"inspect .*stream.cdv` failed: cdvision: .*bad stream: magic"
    ):
        cold_starts(b"no stream", tmp_path, runs=1)


def test_the_command_writes_what_it_prints(tmp_path: Path, photos: list[Path]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "speed.json"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(photos[0].read_bytes())
    arguments = ["bench", "speed", "--photos", folder, "--rounds", "2", "--batch", "2"]
    arguments += ["-o", out, "--json"]
    result = CliRunner().invoke(command_line, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record == json.loads(out.read_text(encoding="utf-8"))
    assert {time["batch"] for time in record["times"]} == {1, 2}
    assert record["photos"] == 1
    assert sys.version.split()[0] == record["versions"]["python"]
