"""The rules that figures of evaluations depend on: one case worked out by hand for each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdvision.bench.cold_start import cold_starts
from cdvision.bench.speed import Ratio, _bar, _batch, _part_times, _ratios
from cdvision.bench.speed_parts import (
    DETECT,
    ENTROPY,
    JPEG,
    WEBP,
    Part,
    end_to_end,
    picture_file,
)
from cdvision.bench.timing import Spread, paired_times
from cdvision.errors import ImageError
from cdvision.evaluation import vvc
from cdvision.evaluation.accuracy import TopScoring, measure_accuracy
from cdvision.evaluation.bootstrap import bootstrap, interval
from cdvision.evaluation.curve import LabelledSet, pixel_record, stream_curve
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.evaluation.layers import LayerSender
from cdvision.evaluation.ranking import (
    RankedDetections,
    area_under_curve,
    mean_over_classes,
    precision_at_recalls,
)
from cdvision.evaluation.records import with_losses
from cdvision.evaluation.rival_curve import RivalPath, rival_paths, rival_record
from cdvision.evaluation.rivals import RIVALS, PillowRival, shrink
from cdvision.heads.content_pooling import pooling_inputs
from cdvision.models.small.uncompressed import PublishedNetworks
from cdvision.package.card import InputSpec, WindowSpec
from cdvision.photo import central_window
from cdvision.results import Classification, Detections
from cdvision.stream import Layer, write_stream

SPEC = InputSpec(size=416, multiple=32, max_size=1024, padding=(0, 0, 0))
PNG = PillowRival("png", "PNG", "PNG", (0, 1), lambda: "lossless")


def png(width: int, height: int, colour: tuple[int, int, int] = (9, 99, 199)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def size_of(coded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(coded)) as picture:
        return picture.size


def classes(*found: int) -> Classification:
    share = np.linspace(0.9, 0.1, len(found)).astype(np.float32)
    names = np.array([str(n) for n in found], np.str_)
    return Classification(class_id=np.array(found, np.int64), class_name=names, probability=share)


# --- precision and recall


def ranked(
    true: Sequence[int], *, photo: Sequence[int] | None = None, positives: Sequence[float] = (4.0,)
) -> RankedDetections:
    found = np.array([true], bool)
    where = np.zeros(len(true), np.int64) if photo is None else np.array(photo, np.int64)
    return RankedDetections(where, found, np.zeros_like(found), np.array(positives))


def test_coco_reads_precision_at_101_recalls_and_voc_takes_the_area() -> None:
    """Right, wrong, right of 4 objects: recall 1/4 and 2/4 at precision 1 and 2/3.

    COCO: recalls 0 to .25 are 26, .26 to .50 are 25. VOC: a quarter each. VOC's older figure, the
    mean at 11 recalls, would be (3 + 3 * 2/3) / 11.
    """
    (curve,) = ranked([1, 0, 1]).curves(np.ones((1, 1)))
    assert precision_at_recalls(*curve)[0] == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert area_under_curve(*curve)[0] == pytest.approx((1 + 2 / 3) / 4)
    assert area_under_curve(*curve)[0] != pytest.approx((3 + 3 * 2 / 3) / 11, abs=0.02)


def test_a_photo_drawn_twice_counts_its_objects_and_its_mistakes_twice() -> None:
    """Photo 0: one of two objects found. Photo 1: a better, wrong detection, and no object."""
    one = ranked([0, 1], photo=[1, 0], positives=(2.0, 0.0))
    (curve,) = one.curves(np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]))
    recall, precision = (value[:, 0].tolist() for value in curve)
    assert recall == [0.5, 0.5, 0.5, 0.0]
    assert precision == pytest.approx([1 / 2, 2 / 3, 1 / 3, 0])
    assert one.missing(np.array([[0.0, 3.0], [1.0, 0.0]])).tolist() == [True, False]


def test_the_mean_over_classes_weighs_classes_alike() -> None:
    nan = np.nan
    found = mean_over_classes([np.array([0.2, nan, nan]), np.array([0.6, 0.5, nan])])
    np.testing.assert_allclose(found, [0.4, 0.5, nan])


# --- figures of a set


def photos(*labels: int) -> list[LabelledPhoto]:
    return [LabelledPhoto(f"{n}.png", bytes([n]), label) for n, label in enumerate(labels)]


def test_top1_top5_and_mean_bytes_of_four_photos() -> None:
    """First; fifth; sixth; refused. Bytes 10, 20, 60: the refused photo costs nothing."""
    answers = {0: (classes(7, 1, 2), 10), 1: (classes(1, 2, 3, 4, 7, 9), 20),
               2: (classes(1, 2, 3, 4, 5, 7), 60)}  # fmt: skip

    def answer(photo: bytes) -> tuple[Any, int]:
        if photo[0] not in answers:
            raise ImageError("no face")
        return answers[photo[0]]

    kept: dict[str, Any] = {}
    found = measure_accuracy(photos(7, 7, 7, 7), TopScoring(), answer, resamples=30, keep=kept)
    assert (found["photos"], found["refused"], found["resamples"]) == (3, 1, 30)
    assert (found["top1"], found["top5"]) == pytest.approx((1 / 3, 2 / 3))
    assert found["mean_bytes"] == pytest.approx(30)
    assert set(kept) == {"top1", "top5", "mean_bytes"}
    assert found["mean_bytes_low"] < 30 < found["mean_bytes_high"]


def test_answers_stay_with_their_photos_and_a_set_that_is_refused_whole_is_an_error() -> None:
    """Each photo has a class of its own, and is told it: all are right."""
    found = measure_accuracy(
        photos(4, 5, 6), TopScoring(), lambda photo: (classes(4 + photo[0]), 1), resamples=0
    )
    assert found["top1"] == 1.0

    def refuse(photo: bytes) -> tuple[Any, int]:
        raise ImageError("no face")

    with pytest.raises(ImageError, match="no face"):
        measure_accuracy(photos(1), TopScoring(), refuse)


def test_bytes_of_a_draw_are_those_of_the_photos_in_it() -> None:
    scorer = TopScoring().scorer([1, 2], [np.array([1]), np.array([1])])
    figures = scorer(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    assert figures["top1"].tolist() == [0.5, 1.0, 0.0]


def test_an_interval_leaves_out_a_fortieth_at_each_end() -> None:
    """Draws 0 to 1000 about their own mean, 500, moved to a figure of 100."""
    assert interval(100.0, np.arange(1001.0)) == pytest.approx((-375.0, 575.0))
    assert interval(0.5, np.linspace(0, 1, 41)) == pytest.approx((0.025, 0.975))


def test_two_codecs_are_drawn_on_the_same_photos() -> None:
    """Right and wrong turned about: the draws of one are 1 less those of the other, each."""
    right = (np.arange(40) % 3 == 0).astype(float)
    drawn: list[dict[str, Any]] = [{}, {}]
    for values, keep in zip((right, 1 - right), drawn, strict=True):
        bootstrap(lambda w, v=values: {"top1": w @ v / 40}, 40, resamples=50, keep=keep)
    np.testing.assert_allclose(drawn[0]["top1"], 1 - drawn[1]["top1"])
    assert np.ptp(drawn[0]["top1"]) > 0.1


def test_a_loss_is_pixels_less_stream_and_its_interval_is_paired() -> None:
    """Draw by draw the stream loses .1 or .2, although both swing by far more."""
    pixels = np.array([0.2, 0.4, 0.6, 0.8] * 25)
    stream = pixels - np.tile([0.1, 0.2], 50)
    records = [{"codec": "cdvision x", "top1": 0.35}, {"codec": "none", "top1": 0.5}]
    found, _ = with_losses(records, [{"top1": stream}, {"top1": pixels}])
    assert found["top1_loss"] == pytest.approx(0.15)
    assert (found["top1_loss_low"], found["top1_loss_high"]) == pytest.approx((0.1, 0.2))


@dataclass
class RecordingModel:
    """Stands for a model: notes what it was asked, sends as many bytes as the quality says."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    name: str = "fake"
    engine: object = None
    card: Any = field(
        default_factory=lambda: SimpleNamespace(tasks=("classify",), files={}, fingerprint="f")
    )

    def encode(self, image: bytes, **options: Any) -> bytes:
        self.calls.append({"image": image, **options})
        return stream_of(100 * options["quality"])

    def open(self, bits: bytes) -> Any:
        return SimpleNamespace(ask=partial(self.ask, bits))

    def ask(self, bits: bytes, task: str, **options: Any) -> Classification:
        self.calls.append({task: len(bits), **options})
        return classes(len(bits) // 100, 0, 0, 0, 0)


def stream_of(size: int) -> bytes:
    """Write a stream of so many bytes, of one layer."""
    sizes = {"width": 8, "height": 8, "input_width": 8, "input_height": 8}
    head = {"codec": 1, "fingerprint": b"fake", **sizes, "quality": 1}
    streams = (write_stream(**head, layers=[Layer(0, bytes(n))]) for n in range(size))  # type: ignore[arg-type]
    return next(stream for stream in streams if len(stream) == size)


def test_each_record_is_of_its_own_quality() -> None:
    """Quality 3 answers class 3, and nothing else: it alone is right about label 3."""
    model = RecordingModel()
    records = stream_curve(model, LabelledSet(photos(3, 3), resamples=0), [1, 3], size=64)  # type: ignore[arg-type]
    assert [(r["quality"], r["mean_bytes"], r["top1"]) for r in records] == [
        (1, 100.0, 0.0), (3, 300.0, 1.0)
    ]  # fmt: skip
    # Without header and checksums.
    assert 0 < 100 - records[0]["mean_payload_bytes"] < 30
    asked = [call for call in model.calls if "image" in call]
    assert [call["quality"] for call in asked] == [1, 1, 3, 3]
    assert all((call["size"], call["tasks"]) == (64, None) for call in asked)
    assert all(call["top"] == 5 for call in model.calls if "classify" in call)
    alone = stream_curve(model, LabelledSet(photos(3), resamples=0), [2], for_task=True)  # type: ignore[arg-type]
    assert model.calls[-2]["tasks"] == ["classify"]
    assert alone[0]["codec"] == "cdvision fake for classify"


def test_a_photo_is_encoded_once_for_all_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cdvision.evaluation.layers.truncate_stream", lambda bits, n: bits[: 10 * n]
    )
    made: list[bytes] = []
    sender = LayerSender(lambda image: made.append(image) or image * 30)
    assert [len(sender.send(image, n)) for n in (1, 2) for image in (b"a", b"b")] == [
        10,
        10,
        20,
        20,
    ]
    assert made == [b"a", b"b"]
    assert len(sender.send(b"a")) == 30


# --- rivals


@dataclass
class RecordingNetworks:
    """Stands for the uncompressed networks: finds one box, the size of what it was shown."""

    shown: list[tuple[tuple[int, int], dict[str, Any]]] = field(default_factory=list)
    package: Any = field(default_factory=lambda: SimpleNamespace(card=SimpleNamespace(input=SPEC)))

    def detect(self, image: Any, **options: Any) -> Detections:
        size = image.size if isinstance(image, Image.Image) else size_of(image)
        self.shown.append((size, options))
        return Detections(
            xyxy=np.array([[0, 0, size[0] / 2, size[1]]], np.float32),
            confidence=np.array([0.9], np.float32),
            class_id=np.array([0], np.int64),
            class_name=np.array(["cat"], np.str_),
            image_size=size,
        )

    def classify(self, image: Any, **options: Any) -> Classification:
        self.shown.append(
            (image.size if isinstance(image, Image.Image) else size_of(image), options)
        )
        return classes(1, 2, 3, 4, 5)

    def digest(self) -> str:
        return "digest"


@pytest.mark.parametrize(
    ("photo", "scale", "sent"),
    [
        ((832, 624), 1.0, (416, 312)),  # the working size: 416 pixels at the long side
        ((832, 624), 0.75, (312, 234)),
        ((624, 832), 0.5, (156, 208)),
        ((200, 100), 1.0, (200, 100)),  # smaller than the working size: never enlarged
        ((200, 100), 0.5, (100, 50)),
    ],
)
def test_a_rival_sends_its_share_of_what_the_network_sees(
    photo: tuple[int, int], scale: float, sent: tuple[int, int]
) -> None:
    networks = RecordingNetworks()
    path = RivalPath(PNG, 0, scale, networks)
    image = png(*photo)
    coded = path.send(image)
    assert size_of(coded) == sent
    found = path.detect(coded, image)
    # Enlarged again behind the codec, and half the picture is half the photo.
    longest = min(416, max(photo))
    ((shown, options),) = networks.shown
    assert shown == tuple(round(side * longest / max(photo)) for side in photo)
    assert options == {"confidence": 0.05, "size": -(-longest // 32) * 32 if longest > 224 else 224}
    np.testing.assert_allclose(found.xyxy, [[0, 0, photo[0] / 2, photo[1]]], rtol=1e-5)
    assert found.image_size == photo


def test_shrinking_keeps_the_shape_and_averages_bilinearly() -> None:
    columns = np.tile(np.repeat(np.array([0, 100], np.uint8), 2), (4, 1))  # 0 0 100 100
    photo = Image.fromarray(np.stack([columns] * 3, axis=-1))
    assert np.asarray(shrink(photo, 2))[0, :, 0].tolist() == [14, 86]  # 1/7 of the other side
    assert shrink(photo, 9) is photo
    assert shrink(Image.new("RGB", (300, 200)), 150).size == (150, 100)


def test_a_rival_is_measured_at_every_quality_and_scale() -> None:
    networks = RecordingNetworks()
    found = [(path.quality, path.scale) for path in rival_paths(PNG, networks)]
    assert found == [(q, scale) for scale in (1.0, 0.75, 0.5) for q in (0, 1)]


def test_a_rivals_record_counts_every_byte_and_those_without_containers() -> None:
    """Files of 8 and 24 bytes of which 3 are the container's, right about one of two photos."""

    class Boxed(PillowRival):
        def encode(self, picture: Image.Image, quality: int) -> bytes:
            return bytes(picture.size[0])

        def decode(self, coded: bytes) -> Image.Image:
            return Image.new("RGB", (len(coded), 8))

        def payload_bytes(self, coded: bytes) -> int:
            return len(coded) - 3

    data = LabelledSet(
        [LabelledPhoto("a", png(8, 8), 1), LabelledPhoto("b", png(24, 8), 6)], resamples=0
    )
    path = RivalPath(Boxed("box", "Box", "PNG", (5,), lambda: ""), 5, 1.0, RecordingNetworks())
    found = rival_record(path, data, jobs=2)
    assert (found["mean_bytes"], found["mean_payload_bytes"]) == (16.0, 13.0)
    assert (found["codec"], found["quality"], found["scale"]) == ("box", 5, 1.0)
    assert (found["top1"], found["top5"]) == (0.5, 0.5)


def test_pixels_cost_their_files() -> None:
    image = png(20, 10)
    data = LabelledSet([LabelledPhoto("a", image, 2)], resamples=0)
    found = pixel_record(data, RecordingNetworks())
    assert (found["codec"], found["mean_bytes"]) == ("none", len(image))
    assert (found["top1"], found["top5"]) == (0.0, 1.0)


def test_qualities_of_rivals_rise() -> None:
    for rival in RIVALS.values():
        rising = rival.qualities if rival.name != "vvc" else rival.qualities[::-1]  # QP falls
        assert list(rising) == sorted(set(rising))


def test_ten_bits_are_rounded_to_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Luma 400..403 of 1023 is 100 and a quarter a step: 100, 100, 101, 101; 1023 is 255."""
    samples = np.array([400, 401, 402, 403] + [1023] * 4 + [512] * 4, "<u2")

    def call(command: Sequence[str]) -> str:
        Path(command[command.index("-o") + 1]).write_bytes(samples.tobytes())
        return ""

    seen: list[np.ndarray] = []
    monkeypatch.setattr(vvc, "_call", call)
    monkeypatch.setattr(vvc, "from_yuv420", lambda planes, size: seen.append(planes))
    RIVALS["vvc"].decode(vvc.SIZE.pack(4, 2) + b"stream")
    assert seen[0].tolist() == [100, 100, 101, 101] + [255] * 4 + [128] * 4


# --- windows of classifiers


def numbered(width: int, height: int) -> Image.Image:
    """Return a picture whose red says the column, and whose green says the row."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows, 0 * rows], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_window_of_its_own_size_is_cut_out_to_the_pixel() -> None:
    """Of 31 columns the central 20 are 5 to 24, of 22 rows 1 to 20; no pixel is interpolated."""
    spec = WindowSpec(side=20, crop=0.9)  # 19.8 pixels: close to 20
    window = central_window(numbered(31, 22), spec)
    assert window[0, :, 0].tolist() == list(range(5, 25))
    assert window[:, 0, 1].tolist() == list(range(1, 21))


def test_a_larger_window_is_scaled_about_its_centre() -> None:
    """Half of 80 rows is a square of 40; columns 40 to 79, two to one: means of two pixels."""
    window = central_window(numbered(120, 80), WindowSpec(side=20, crop=0.5))
    assert window.shape == (20, 20, 3)
    np.testing.assert_allclose(window[10, 1:-1, 0], 40.5 + 2 * np.arange(1, 19), atol=0.51)
    np.testing.assert_allclose(window[1:-1, 10, 1], 20.5 + 2 * np.arange(1, 19), atol=0.51)


def test_the_uncompressed_classifier_sees_the_central_224_of_256(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """512 x 256 is at its size: columns 144 to 367, rows 16 to 239, to the pixel."""
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = np.arange(512) % 256, np.arange(256)[:, None]
    path = PublishedNetworks.__new__(PublishedNetworks)
    path.package = SimpleNamespace(classes={"imagenet": tuple(map(str, range(9)))})  # type: ignore[assignment]
    seen: list[np.ndarray] = []

    def run(name: str, crop: np.ndarray) -> list[np.ndarray]:
        seen.append(crop)
        return [np.arange(9.0, dtype=np.float32)[None]]

    monkeypatch.setattr(path, "_run", run)
    assert path.classify(Image.fromarray(pixels), top=2).class_id.tolist() == [8, 7]
    np.testing.assert_array_equal(seen[0], pixels[16:240, 144:368])
    path.classify(Image.fromarray(pixels).resize((256, 128)))  # twice enlarged, the same part
    np.testing.assert_allclose(seen[1][:, 112, 1], np.arange(16, 240), atol=2)


def test_a_classifier_averages_over_the_photos_cells_only() -> None:
    """40 of 96 columns and 64 of 64 rows at stride 16: 2.5 of 6 cells, and 4 of 4."""
    tail: Any = SimpleNamespace(settings={"pool_stride": 16})
    found = pooling_inputs(tail, content=(40, 64), network=(96, 64))
    np.testing.assert_allclose(found["columns"], [[[0.4, 0.4, 0.2, 0, 0, 0]]])
    np.testing.assert_allclose(found["rows"], [[[0.25] * 4]])
    assert pooling_inputs(SimpleNamespace(settings={}), (40, 64), (96, 64)) == {}  # type: ignore[arg-type]


# --- times


def test_rounds_are_timed_in_milliseconds_without_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that the actions themselves move: 30 ms, the first two times 500."""
    now, calls = [0.0], [0]

    def work() -> None:
        calls[0] += 1
        now[0] += 0.5 if calls[0] <= 2 else 0.03

    monkeypatch.setattr("cdvision.bench.timing.perf_counter", lambda: now[0])
    times = paired_times([{"work": work}], 4)
    np.testing.assert_allclose(times["work"], [30] * 4)


def test_a_batchs_times_and_bytes_are_those_of_one_photo() -> None:
    def nothing() -> None:
        return None

    work = [{"a": Part(nothing, 600)}, {"a": Part(nothing, 1000)}]
    (found,) = _part_times(work, {"a": np.array([40.0, 80.0, 400.0])}, 4)
    assert found.milliseconds.median == 20
    assert found.size == 200  # a mean of 800 for four photos
    assert (found.part, found.batch) == ("a", 4)


def test_ratios_are_of_rounds_and_ours_over_the_rivals() -> None:
    """Round by round 2, 1/2 and 1/4; the medians are 4 and 9."""
    times = {DETECT: np.array([2.0, 4, 8]), end_to_end(JPEG): np.array([1.0, 8, 32]),
             ENTROPY: np.array([1.0, 1, 1])}  # fmt: skip
    jpeg, entropy = _ratios({**times, end_to_end(JPEG): np.array([1.0, 9, 32])}, 1)
    assert jpeg.value.median == pytest.approx(4 / 9)
    jpeg, entropy = _ratios({**times, DETECT: np.array([2.0, 4, 1])}, 1)
    assert (jpeg.part, jpeg.rival, jpeg.bar) == (DETECT, end_to_end(JPEG), 0.8)
    assert jpeg.value.median == 0.5  # of 2, 1/2 and 1/32; the medians' ratio is 1/4
    assert (entropy.part, entropy.rival, entropy.value.median) == (ENTROPY, DETECT, 0.5)
    assert [_bar(one) for one in (jpeg, entropy)] == ["0.80: met", "0.05: missed"]
    assert {ratio.bar for ratio in _ratios(times, 16)} == {None}  # bars are of single photos


def test_a_bar_is_met_by_the_median() -> None:
    missed = Ratio("a", "b", 1, Spread(median=0.9, low=0.7, high=1.0), bar=0.8)
    assert _bar(missed) == "0.80: missed"
    assert _bar(replace(missed, bar=0.9)) == "0.90: met"


def test_the_first_start_fills_the_caches_and_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three commands a turn: 50 s each in the first, then 1, 2, 3 and 3, 4, 5."""
    outcomes = iter([(50.0, 9.0)] * 3 + [(float(s), 7.0) for s in (1, 2, 3, 3, 4, 5)])
    monkeypatch.setattr("cdvision.bench.cold_start._launch", lambda command: next(outcomes))
    found = cold_starts(b"", tmp_path, runs=2)
    assert [start.seconds.median for start in found] == [2, 3, 4]
    assert [start.peak_mib for start in found] == [7.0] * 3


def test_rivals_decode_baseline_files_of_good_quality() -> None:
    pixels = np.asarray(numbered(64, 48))
    for name, lowest in ((JPEG, 85), (WEBP, 80)):
        wanted = io.BytesIO()
        Image.fromarray(pixels).save(wanted, name, quality=lowest)
        assert picture_file(pixels, name) == wanted.getvalue()


def test_a_spread_is_the_median_and_the_middle_eight_tenths() -> None:
    assert Spread.of([*range(10), 1000]) == Spread(median=5, low=1, high=9)


def test_a_batch_is_of_the_most_common_size_again_and_again() -> None:
    sizes = {b"a": (1, 1), b"b": (2, 2), b"c": (2, 2)}
    model: Any = SimpleNamespace(
        encode=lambda photo, quality: photo,
        open=lambda bits: SimpleNamespace(input_size=sizes[bits]),
    )
    assert _batch(model, [b"a", b"b", b"c"], 1, 5) == [b"b", b"c", b"b", b"c", b"b"]
