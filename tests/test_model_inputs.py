"""What a model takes: any image of any size, and streams of any kind that are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_checks import gradient
from PIL import Image
from small_coders import same_latents

import cdvision
from cdvision.bench.mutations import UnsealedStream
from cdvision.engines import create_engine
from cdvision.errors import (
    BitstreamError,
    CdvisionError,
    EngineError,
    ImageError,
    ModelError,
)
from cdvision.package.loader import load_package
from cdvision.photo import content_size
from cdvision.stream import read_stream
from cdvision.stream.varint import encode_varint

QUALITY_AT = 8  # of the fields of a header


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


@pytest.mark.parametrize("sender", ["nope", "", "FULL"])
def test_a_sender_that_the_model_does_not_have(model: cdvision.Model, sender: str) -> None:
    with pytest.raises(CdvisionError) as caught:
        model.encode(gradient(9, 9), sender=sender)
    assert str(caught.value) == f"sender: expected one of full, found {sender!r}"
    with pytest.raises(CdvisionError, match="sender: expected one of full, found 'nope'"):
        cdvision.encode(gradient(9, 9), sender="nope")


def test_the_first_sender_is_the_default(model: cdvision.Model) -> None:
    assert model.encode(gradient(50, 40)) == model.encode(gradient(50, 40), sender="full")


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
