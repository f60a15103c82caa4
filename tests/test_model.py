"""Every installed model on every engine: from photos through streams to answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_checks import gradient
from PIL import Image
from small_coders import same_latents

import cdvision
from cdvision.bench.mutations import UnsealedStream
from cdvision.entropy.coder import Latents
from cdvision.errors import (
    BitstreamError,
    CdvisionError,
    UnsupportedTask,
)
from cdvision.photo import FittedPhoto, central_window, fit_photo, read_photo

MODELS = [info.name for info in cdvision.list_models() if "detect" in info.tasks]  # of whole photos


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
    header, latents, card = stream.header, stream.latents(), model.card.latents
    assert stream.complete
    assert header.quality == quality
    assert header.fingerprint.hex() == model.card.fingerprint[:8]
    assert list(latents) == list(card) == ["descriptor", "symbols", "hyper"]
    assert latents["descriptor"].shape == (512,)
    (across, down), spec = stream.input_size, card["symbols"]
    assert spec.stride is not None
    cells = (down // spec.stride, across // spec.stride)
    assert latents["symbols"].shape == (spec.channels, *cells)
    assert {array.dtype for array in latents.values()} == {np.dtype(np.int32)}
    fitted = fit_photo(read_photo(photos[0]), model.card.input, model.card.input.size)
    assert same_latents(latents, model.encode_latents(fitted, quality))
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
            assert np.abs(first["symbols"] - second["symbols"]).max() <= 1
            differing += sum(int((first[name] != second[name]).sum()) for name in first)
            symbols += first["symbols"].size
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
        alone = model.encode_latents(photo, quality + 1)
        mate = model.package.coder.received({k: v[0] for k, v in together.items()}, quality)
        assert list(mate) == ["symbols", "hyper"]
        assert same_latents(mate, {name: alone[name] for name in mate})


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
        assert np.abs(one["symbols"] - two["symbols"]).max() <= 1
        assert (one["symbols"] != two["symbols"]).sum() <= 1
        assert (one["hyper"] == two["hyper"]).all()
