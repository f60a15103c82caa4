"""Every installed model on every engine: from photos through streams to answers."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cdvision
from cdvision.bench.fuzz import fuzz_streams
from cdvision.bench.mutations import UnsealedStream
from cdvision.engines import create_engine
from cdvision.entropy.described_map import DescribedLatents
from cdvision.entropy.hyperprior import Latents
from cdvision.errors import (
    BitstreamError,
    CdvisionError,
    EngineError,
    ImageError,
    ModelError,
    UnsupportedTask,
)
from cdvision.opened import Stream
from cdvision.package.loader import load_package
from cdvision.photo import FittedPhoto, central_window, content_size, fit_photo, read_photo
from cdvision.stream import StreamLimits, read_stream
from cdvision.stream.varint import encode_varint

MODELS = [info.name for info in cdvision.models() if "detect" in info.tasks]  # of whole photos
INPUT_WIDTH_AT, QUALITY_AT, LAYER_ID_AT = 6, 8, 10  # of the first layer; two fields a layer


def same_latents(first: Latents, second: Latents) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def gradient(width: int, height: int) -> np.ndarray:
    """Draw a picture of any size that is not flat."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([across % 256, down % 256, (3 * across + 5 * down) % 256], -1).astype(np.uint8)


@pytest.fixture(scope="session")
def small_stream(model: cdvision.Model, photos: list[Path]) -> bytes:
    """Return a stream that is quick to decode."""
    return model.encode(photos[1], 4, size=96)


ENGINES = ("onnx", "torch")  # TensorRT has tests of its own: its library needs a GPU


# --- every model, engine and quality


@pytest.mark.parametrize("quality", [1, 4, 8])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_from_a_photo_to_answers(
    load_model: Any, photos: list[Path], name: str, engine: str, quality: int
) -> None:
    model = load_model(name, engine)
    bits = model.encode(photos[0], quality)
    stream = model.open(bits)
    header, spec = stream.header, model.card.latents
    assert stream.complete
    assert header.quality == quality
    assert header.fingerprint.hex() == model.card.fingerprint[:8]
    descriptor, symbols, hyper = stream.latents()
    assert descriptor.shape == (512,)
    across, down = stream.input_size
    assert symbols.shape == (spec.channels, down // spec.stride, across // spec.stride)
    assert symbols.dtype == hyper.dtype == np.int32
    fitted = fit_photo(read_photo(photos[0]), model.card.input, model.card.input.size)
    assert same_latents(stream.latents(), model.encode_latents(fitted, quality))
    for task in model.card.tasks:
        answer = getattr(stream, task)()
        assert json.loads(answer.to_json())
    assert len(stream.classify(top=7)) == 7
    everything = stream.detect(confidence=0.01, max_detections=30)
    assert 0 < len(everything) <= 30
    assert (np.diff(everything.confidence) <= 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_qualities_cost_more_and_more(load_model: Any, photos: list[Path], name: str) -> None:
    model = load_model(name)
    mean = [
        np.mean([len(model.encode(photo, quality)) for photo in photos])
        for quality in range(1, model.card.qualities + 1)
    ]
    assert mean == sorted(mean)
    assert mean[-1] > 3 * mean[0]


@pytest.mark.parametrize("name", MODELS)
def test_features_have_the_shapes_on_the_card(
    load_model: Any, photos: list[Path], name: str
) -> None:
    model = load_model(name)
    stream = model.open(model.encode(photos[1], 2))
    across, down = stream.input_size
    for tail, card in model.card.tails.items():
        spec, features = card.features, stream.features(tail)
        cells = (down // spec.stride, across // spec.stride)
        assert features.shape == (spec.channels, *((spec.cells,) * 2 if spec.cells else cells))
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
    with pytest.raises(UnsupportedTask, match="no tail 'nothing': it has nanodet_plus_m"):
        stream.features("nothing")


# --- engines agree


@pytest.mark.parametrize("name", MODELS)
def test_engines_encode_alike_and_decode_the_same(
    load_model: Any, photos: list[Path], name: str
) -> None:
    """Latents of one stream are equal; encoders may round a value on a boundary apart."""
    models = [load_model(name, engine) for engine in ENGINES]
    symbols = differing = 0
    for photo in photos:
        for quality in (1, 8):
            streams = [model.encode(photo, quality) for model in models]
            for bits in streams:
                assert same_latents(*(model.open(bits).latents() for model in models))
            first, second = (models[0].open(bits).latents() for bits in streams)
            apart = np.abs(first.symbols - second.symbols)
            assert apart.max() <= 1
            differing += int((apart > 0).sum()) + int((first.hyper != second.hyper).sum())
            differing += int((first.descriptor != second.descriptor).sum())
            symbols += apart.size
    print(f"{differing} of {symbols} symbols differ between the engines' encoders")
    assert differing <= 1e-5 * symbols


@pytest.mark.parametrize("quality", [2, 6])
@pytest.mark.parametrize("name", MODELS)
def test_engines_answer_alike(load_model: Any, photos: list[Path], name: str, quality: int) -> None:
    for photo in photos:
        bits = load_model(name).encode(photo, quality)
        first, second = (load_model(name, engine).open(bits) for engine in ENGINES)
        for tail in first.model.card.tails:
            dense = first.dense(tail), second.dense(tail)
            for output in dense[0]:
                largest = max(1.0, float(np.abs(dense[0][output]).max()))
                np.testing.assert_allclose(
                    dense[0][output], dense[1][output], atol=1e-4 * largest, rtol=0
                )
        assert_same_boxes(first.detect(confidence=0.2), second.detect(confidence=0.19))
        assert_same_boxes(second.detect(confidence=0.2), first.detect(confidence=0.19))
        one, two = first.classify(top=1), second.classify(top=1)
        np.testing.assert_allclose(one.probability, two.probability, atol=1e-4)


def assert_same_boxes(some: Any, candidates: Any, pixels: float = 0.05) -> None:
    """Find every box of ``some`` among ``candidates``, whose threshold is a little lower."""
    for box, confidence, label in zip(some.xyxy, some.confidence, some.class_id, strict=True):
        near = np.abs(candidates.xyxy - box).max(axis=1) < pixels
        alike = near & (candidates.class_id == label)
        assert (np.abs(candidates.confidence[alike] - confidence) < 1e-4).any()


# --- batches


def test_batches_answer_as_single_streams(model: cdvision.Model, photos: list[Path]) -> None:
    pictures = [(photo, quality) for quality in (3, 7) for photo in photos]
    streams = [model.encode(photo, quality) for photo, quality in pictures]
    streams[4] = model.encode(photos[0], 5, size=320)
    assert len({model.open(bits).input_size for bits in streams}) > 2
    single = [(model.detect(b, confidence=0.1), model.classify(b, top=3)) for b in streams]
    for size in (1, 3, 8):
        tasks = ("detect", "classify")
        results = list(model.analyze(streams, tasks, size, confidence=0.1, top=3))
        assert [result.index for result in results] == list(range(len(streams)))
        for result, (boxes, classes) in zip(results, single, strict=True):
            assert result.error is None
            assert result.detections is not None
            assert result.classification is not None
            assert len(result.detections) == len(boxes)
            assert_same_boxes(result.detections, boxes)
            assert list(result.classification.class_id) == list(classes.class_id)
            np.testing.assert_allclose(
                result.classification.probability, classes.probability, atol=1e-5
            )


def test_latents_do_not_depend_on_batch_mates(model: cdvision.Model, photos: list[Path]) -> None:
    pixels = np.stack(
        [gradient(160, 96)] + [np.full((96, 160, 3), i * 9, np.uint8) for i in range(7)]
    )
    for quality in range(model.card.qualities):
        inputs = {"image": pixels, "quality": np.full(8, quality, np.int64)}
        together = model.engine.run("encoder", inputs)
        window = central_window(Image.fromarray(pixels[0]), model.card.input.window)
        photo = FittedPhoto(pixels[0], (160, 96), window)
        alone = model.encode_latents(photo, quality + 1).map
        coder = model.package.coder
        mate = Latents(together["symbols"][0], together["hyper"][0])
        assert same_latents(coder.keep_coded(mate, quality), alone)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_bad_item_yields_its_error_and_the_rest_go_on(
    model: cdvision.Model, small_stream: bytes, size: int
) -> None:
    damaged = bytearray(small_stream)
    damaged[-9] ^= 1
    other = UnsealedStream.of(small_stream)
    other.fields[3] = b"\0\0\0\0"
    items: list[Any] = [small_stream, bytes(damaged), small_stream, None, b"", other.seal(), "text"]
    items += [small_stream[:-1], small_stream]
    results = list(model.analyze(items, ["detect"], size))
    assert [result.index for result in results] == list(range(len(items)))
    good = [index for index, result in enumerate(results) if result.error is None]
    assert good == [0, 2, 8]
    assert all(isinstance(r.error, CdvisionError) for r in results if r.index not in good)
    assert all((r.detections is None) == (r.index not in good) for r in results)
    assert [type(results[i].error) for i in (1, 4, 5, 7)] == [BitstreamError] * 4
    assert "NoneType" in str(results[3].error)


def test_analysis_reads_its_input_as_it_goes(model: cdvision.Model, small_stream: bytes) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield small_stream

    results = model.analyze(endless(), ["classify"], batch_size=4, workers=1)
    assert [next(results).index for _ in range(5)] == [0, 1, 2, 3, 4]
    assert taken <= 3 * 4


def test_analysis_of_nothing_and_of_an_unknown_task(model: cdvision.Model) -> None:
    assert list(model.analyze([])) == []
    with pytest.raises(UnsupportedTask, match="attributes"):
        model.analyze([], ["detect", "attributes"])
    with pytest.raises(CdvisionError, match="batch_size: expected at least 1, found 0"):
        list(model.analyze([b""], batch_size=0))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_and_two_threads_encode_alike(engine: str, photos: list[Path]) -> None:
    """That decoding is exact under both is shown with the golden streams."""
    if engine == "torch":
        pytest.importorskip("torch")
    latents: list[list[Latents]] = []
    for threads in (2, 1):  # PyTorch's number is the process's: end with the one of the others
        model = cdvision.load("small", engine=engine, threads=threads)
        streams = [model.encode(photo, 6, size=192) for photo in photos]
        latents.append([model.open(bits).latents() for bits in streams])
    for one, two in zip(*latents, strict=True):
        assert np.abs(one.symbols - two.symbols).max() <= 1
        assert (one.symbols != two.symbols).sum() <= 1
        assert (one.hyper == two.hyper).all()


# --- computed once


class Spy:
    """Passes graphs on to a real engine, and counts them."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.runs = engine, Counter[str]()

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.runs[graph] += 1
        outputs: dict[str, Any] = self.engine.run(graph, inputs)
        return outputs


@pytest.fixture
def spied() -> tuple[cdvision.Model, Spy]:
    """Return a model of its own whose engine is watched."""
    model = cdvision.load("small")
    spy = Spy(model.engine)
    model.engine = spy
    return model, spy


def test_answers_share_what_they_have_in_common(
    spied: tuple[cdvision.Model, Spy], small_stream: bytes
) -> None:
    model, spy = spied
    stream = model.open(small_stream)
    stream.latents()
    assert spy.runs == {}
    first = stream.detect(confidence=0.01)
    assert len(stream.detect(confidence=0.5)) <= len(first)
    stream.classify(top=1)
    stream.classify(top=5)
    stream.features("nanodet_plus_m")
    stream.features("mobilenet_v2")
    assert spy.runs == {"answer.nanodet_plus_m": 1, "answer.mobilenet_v2": 1}
    assert stream.latents().symbols is stream.latents().symbols


def test_one_batch_is_one_run(spied: tuple[cdvision.Model, Spy], small_stream: bytes) -> None:
    model, spy = spied
    assert len(list(model.analyze([small_stream] * 6, ["detect"], batch_size=3))) == 6
    assert spy.runs == {"answer.nanodet_plus_m": 2}


def test_features_alone_run_no_tail(spied: tuple[cdvision.Model, Spy], small_stream: bytes) -> None:
    model, spy = spied
    stream = model.open(small_stream)
    features = [stream.features("mobilenet_v2") for _ in range(3)][-1]
    assert spy.runs == {"tap.mobilenet_v2": 1}
    stream.classify()
    np.testing.assert_allclose(stream.features("mobilenet_v2"), features, rtol=1e-4, atol=1e-5)


# --- any image, any size


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (40, 1), (333, 77), (77, 333), (999, 3), (417, 415), (640, 480)]
)
def test_boxes_lie_inside_a_photo_of_any_size(model: cdvision.Model, size: tuple[int, int]) -> None:
    stream = model.open(model.encode(gradient(*size), 8, size=256))
    assert stream.source_size == size
    assert stream.content_size == content_size(size, stream.input_size)
    boxes = stream.detect(confidence=0.001)
    assert boxes.image_size == size
    if max(size) > 40:
        assert len(boxes) > 0
    left, up, right, down = boxes.xyxy.T
    assert ((left >= 0) & (up >= 0) & (left < right) & (up < down)).all()
    assert ((right <= size[0] * (1 + 1e-6)) & (down <= size[1] * (1 + 1e-6))).all()
    assert len(stream.classify()) == 5


def test_a_photo_and_its_enlargement_give_boxes_in_their_own_pixels(
    model: cdvision.Model, photos: list[Path]
) -> None:
    with Image.open(photos[0]) as file:
        photo = file.convert("RGB")
    half = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC)
    large, small = (model.detect(model.encode(p, 8)) for p in (photo, half))
    assert large.class_name[0] == small.class_name[0]
    np.testing.assert_allclose(large.xyxy[0], 2 * small.xyxy[0], atol=0.05 * photo.width)


@pytest.mark.parametrize("size", [32, 64, 224, 608])
def test_the_size_option(model: cdvision.Model, photos: list[Path], size: int) -> None:
    bits = model.encode(photos[1], 4, size=size)
    header = read_stream(bits).header
    assert max(header.input_width, header.input_height) == size
    assert len(model.classify(bits)) == 5
    assert cdvision.encode(photos[1], 4, size=size) == bits


@pytest.mark.parametrize("size", [0, 100, -32, 1568])
def test_a_size_that_no_model_takes(model: cdvision.Model, size: int) -> None:
    with pytest.raises(ImageError, match="size: expected a multiple of 32"):
        model.encode(gradient(9, 9), size=size)


@pytest.mark.parametrize("quality", [0, 9, -1, 4.5, "4", [4]])
def test_a_quality_out_of_range(model: cdvision.Model, quality: Any) -> None:
    with pytest.raises(CdvisionError, match="quality: expected 1 to 8, found"):
        model.encode(gradient(9, 9), quality)


def test_the_default_quality_is_the_cards(model: cdvision.Model) -> None:
    bits = model.encode(gradient(50, 40))
    assert model.open(bits).header.quality == model.card.default_quality
    assert model.encode(gradient(50, 40), np.int64(model.card.default_quality)) == bits


def test_streams_come_as_bytes_of_any_kind(model: cdvision.Model, small_stream: bytes) -> None:
    expected = model.open(small_stream).latents()
    for bits in (bytearray(small_stream), memoryview(small_stream)):
        assert same_latents(model.open(bits).latents(), expected)
    for thing in (None, "text", 3):
        with pytest.raises(TypeError):
            model.open(thing)


# --- which model answers


def test_an_explicit_model_wins(
    model: cdvision.Model, small_stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream's fingerprint is then checked, and not looked up."""
    monkeypatch.setattr(cdvision.api, "folder_for_fingerprint", pytest.fail)
    assert cdvision.open(small_stream, model=model).model is model
    assert cdvision.open(small_stream, model="small").model.name == "small"
    foreign = UnsealedStream.of(small_stream)
    foreign.fields[3] = b"\1\2\3\4"
    with pytest.raises(
        BitstreamError, match=r"model fingerprint: expected .*small.*found 01020304"
    ):
        cdvision.open(foreign.seal(), model=model)


def test_a_stream_of_no_installed_model(small_stream: bytes) -> None:
    foreign = UnsealedStream.of(small_stream)
    foreign.fields[3] = b"\1\2\3\4"
    with pytest.raises(BitstreamError, match=r"model fingerprint at byte 5: .*small.*01020304"):
        cdvision.open(foreign.seal())


def test_a_stream_of_another_codec(model: cdvision.Model, small_stream: bytes) -> None:
    foreign = UnsealedStream.of(small_stream)
    foreign.fields[2] = encode_varint(77)
    with pytest.raises(BitstreamError, match=r"codec: expected 5 .*found 77"):
        model.open(foreign.seal())


def test_a_quality_that_the_model_does_not_have(model: cdvision.Model, small_stream: bytes) -> None:
    foreign = UnsealedStream.of(small_stream)
    foreign.fields[QUALITY_AT] = encode_varint(9)
    with pytest.raises(BitstreamError, match="quality: expected 1 to 8, found 9"):
        model.open(foreign.seal())


def test_unknown_engines_devices_and_graphs(model: cdvision.Model) -> None:
    with pytest.raises(EngineError, match="unknown engine 'abacus': expected one of onnx, torch"):
        cdvision.load("small", engine="abacus")
    with pytest.raises(EngineError, match=r"cannot run on 'abacus': it offers .*CPUExecution"):
        cdvision.load("small", device="abacus")
    with pytest.raises(ModelError, match="no graph 'nothing'"):
        model.engine.run("nothing", {})
    with pytest.raises(EngineError, match="'encoder' failed in ONNX Runtime"):
        model.engine.run("encoder", {})
    pytest.importorskip("torch")
    with pytest.raises(EngineError, match="PyTorch cannot use 'abacus'"):
        cdvision.load("small", engine="torch", device="abacus")


def test_both_engines_know_the_same_graphs(model: cdvision.Model) -> None:
    pytest.importorskip("torch")
    torch_engine = create_engine("torch", load_package(model.package.folder))
    graphs = {name.removesuffix(".onnx") for name in model.card.files if name.endswith(".onnx")}
    with pytest.raises(ModelError) as caught:
        torch_engine.run("nothing", {})
    named = str(caught.value).split("expected one of ")[1].split(", ")
    assert set(named) == graphs


# --- damage


def latents_or_refusal(model: cdvision.Model, bits: bytes) -> str:
    try:
        stream = model.open(bits)
        stream.latents()
    except BitstreamError as error:
        return error.field
    return "latents"


def test_truncation_at_every_byte(model: cdvision.Model, small_stream: bytes) -> None:
    lengths = range(len(small_stream))
    found = [latents_or_refusal(model, small_stream[:length]) for length in lengths]
    first = found.index("latents")  # from there on, the descriptor is whole
    assert first < 0.5 * len(small_stream)
    assert set(found[:first]) >= {"descriptor or map"}  # a cut stream opens: its header is whole
    assert set(found[first:]) == {"latents"}
    cut, whole = model.open(small_stream[:-1]), model.open(small_stream)
    assert not cut.complete
    assert cut.source_size == whole.source_size
    assert cut.latents().map is None
    assert cut.classify().to_json() == whole.classify().to_json()
    with pytest.raises(BitstreamError, match=r"layer: expected layer 1, .*found 0: the stream was"):
        cut.detect()
    nothing = model.open(small_stream[: first - 1])
    for ask in (Stream.latents, Stream.classify):
        with pytest.raises(BitstreamError, match="the stream was cut"):
            ask(nothing)


def test_some_thousand_mutants(
    model: cdvision.Model, photos: list[Path], small_stream: bytes, tmp_path: Path
) -> None:
    seeds = [small_stream, model.encode(photos[0], 1, size=64), model.encode(photos[2], 8, size=64)]
    report = fuzz_streams(
        seeds, lambda bits: model.open(bits).latents(), 3000, seed=2, folder=tmp_path / "fuzz"
    )
    assert report.ok, str(report)
    assert set(report.outcomes) == {"result", "BitstreamError"}
    assert report.outcomes["result"] > 100
    assert report.slowest_seconds < 1


LARGEST = 2**20 - 1


@pytest.mark.parametrize("quality", [1, 8])
@pytest.mark.parametrize(
    ("low", "high"), [(LARGEST, LARGEST), (-LARGEST, -LARGEST), (-LARGEST, LARGEST)]
)
def test_the_wildest_latents_give_finite_answers(
    model: cdvision.Model, small_stream: bytes, low: int, high: int, quality: int
) -> None:
    """A forger can write a perfect stream of any latents: the networks must bear them."""
    coder, rng = model.package.coder, np.random.default_rng(3)
    symbols = rng.integers(low, high + 1, (coder.channels, 6, 6)).astype(np.int32)
    bound = coder.network.bound
    hyper = rng.integers(-bound, bound + 1, (coder.hyper_channels, 2, 2)).astype(np.int32)
    forged = UnsealedStream.of(small_stream)
    forged.fields[4:9] = [encode_varint(n) for n in (90, 90, 96 // 8, 96 // 8, quality)]
    wild = model.package.codec.coder
    descriptor = np.full(wild.descriptor.elements, low if quality == 1 else high, np.int32)
    bodies = wild.encode(DescribedLatents(descriptor, symbols, hyper), quality - 1)
    for place, body in bodies.items():
        forged.replace_body(place, body)
    stream = model.open(forged.seal())
    assert np.abs(stream.latents().symbols).max() > 2**18
    boxes = stream.detect(confidence=0.01)
    assert np.isfinite(boxes.xyxy).all()
    assert boxes.xyxy.max(initial=0) <= 90
    assert np.isfinite(stream.classify().probability).all()


HUGE = encode_varint(2**24 // 8)


@pytest.mark.parametrize(
    "fields",
    [
        {INPUT_WIDTH_AT: HUGE},
        {INPUT_WIDTH_AT + 1: HUGE},
        {INPUT_WIDTH_AT: encode_varint(1536 // 8 + 4), INPUT_WIDTH_AT + 1: encode_varint(1)},
        {INPUT_WIDTH_AT: encode_varint(8192 // 8), INPUT_WIDTH_AT + 1: encode_varint(8192 // 8)},
        {INPUT_WIDTH_AT: encode_varint(1), INPUT_WIDTH_AT + 1: encode_varint(1)},
        {INPUT_WIDTH_AT: encode_varint(13)},
        {4: encode_varint(8192), 5: encode_varint(8192)},
        {4: encode_varint(2**26), 5: encode_varint(1)},
    ],
    ids=str,
)
def test_hostile_headers_are_refused_before_they_cost_anything(
    model: cdvision.Model, small_stream: bytes, fields: dict[int, bytes]
) -> None:
    hostile = UnsealedStream.of(small_stream)
    for at, value in fields.items():
        hostile.fields[at] = value
    bits = hostile.seal()
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="network-input size"):
            model.open(bits)
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_the_largest_input_that_a_header_can_claim_is_bounded(
    model: cdvision.Model, small_stream: bytes
) -> None:
    """A few bytes that claim 1536 x 1536 cost what its latents take, and no more."""
    hostile = UnsealedStream.of(small_stream)
    hostile.fields[4:8] = [encode_varint(n) for n in (8000, 8000, 1536 // 8, 1536 // 8)]
    bits = hostile.seal()
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            model.open(bits).latents()
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_limits_are_the_callers(small_stream: bytes) -> None:
    model = cdvision.load("small", limits=StreamLimits(max_pixels=1000))
    with pytest.raises(BitstreamError, match="at most 1000 pixels"):
        model.open(small_stream)


def test_a_stream_of_unknown_layers(model: cdvision.Model, small_stream: bytes) -> None:
    other = UnsealedStream.of(small_stream)
    for place, number in enumerate((3, 4)):
        other.fields[LAYER_ID_AT + 2 * place] = encode_varint(number)
    stream = model.open(other.seal())
    assert stream.complete
    with pytest.raises(
        BitstreamError, match="descriptor or map: expected layer 0 or 1, found 3, 4"
    ):
        stream.latents()


def test_all_bytes_are_counted(model: cdvision.Model, small_stream: bytes) -> None:
    layers = read_stream(small_stream).layers
    assert len(small_stream) - sum(len(layer.body) for layer in layers) <= 28 + 7


# --- streams for some tasks


def test_a_stream_for_one_task_holds_what_that_task_reads(
    spied: tuple[cdvision.Model, Spy], photos: list[Path]
) -> None:
    model, spy = spied
    whole = model.encode(photos[0], 4)
    layers = {layer.id: layer.body for layer in read_stream(whole).layers}
    assert spy.runs == {"descriptor": 1, "encoder": 1}
    for task, layer, graph in (("classify", 0, "descriptor"), ("detect", 1, "encoder")):
        spy.runs.clear()
        bits = model.encode(photos[0], 4, tasks=[task])
        assert spy.runs == {graph: 1}
        assert [(one.id, one.body) for one in read_stream(bits).layers] == [(layer, layers[layer])]
        assert len(bits) - len(layers[layer]) <= 28
        answer, wanted = (getattr(model.open(b), task)().to_json() for b in (bits, whole))
        assert answer == wanted
    assert model.encode(photos[0], 4, tasks=["segment", "classify"]) == whole
    with pytest.raises(BitstreamError, match="found 1: the stream was cut, or encoded for other"):
        model.classify(bits)
    with pytest.raises(UnsupportedTask, match="cannot juggle: it can detect"):
        model.encode(photos[0], tasks=["juggle"])


def test_an_answer_decodes_no_more_than_it_reads(
    model: cdvision.Model, small_stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, read = type(model.package.codec), list[int | None]()
    decode = kind.read

    def noted(codec: Any, bodies: Any, header: Any, part: int | None) -> Any:
        read.append(part)
        return decode(codec, bodies, header, part)

    monkeypatch.setattr(kind, "read", noted)
    stream = model.open(small_stream)
    stream.classify()
    stream.classify(top=1)
    assert read == [0]
    stream.detect()
    assert read == [0, 1]
    assert stream.latents().descriptor is stream.latents_for("mobilenet_v2").descriptor
    assert read == [0, 1], "what was decoded for an answer is not decoded again"
    (result,) = model.analyze([small_stream], ["classify"])
    assert result.classification is not None
    assert read == [0, 1, 0]


def test_a_model_that_answers_no_task_encodes_all_the_same(
    model: cdvision.Model, photos: list[Path]
) -> None:
    """Models of `train encoder` give features for networks of their user's own, and no more."""
    tails = {name: replace(tail, tasks=()) for name, tail in model.card.tails.items()}
    silent = cdvision.Model(replace(model.package, card=replace(model.card, tails=tails)))
    assert silent.card.tasks == ()
    assert silent.encode(photos[0], 2) == model.encode(photos[0], 2)
    with pytest.raises(CdvisionError, match="tasks: expected at least one, found none"):
        model.encode(photos[0], tasks=[])
