"""What holds for every model package: round trip, exactness, damage, batches, engines.

Runs over the installed models and over the tiny ones in ``tests/packages`` (real architectures,
random weights; ``make_packages.py`` there writes them).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_coders import first_of, same_latents

import cdvision
from cdvision.errors import BitstreamError
from cdvision.model import Model
from cdvision.package.graph_names import cheapest_graph
from cdvision.stream import read_stream, truncate_stream

PACKAGES = Path(__file__).parent / "packages"
NAMES = (
    *(info.name for info in cdvision.list_models()),
    *sorted(folder.name for folder in PACKAGES.glob("test-*")),
)
SIZES = ((160, 224), (97, 61), (1, 1))  # height and width of photos
QUALITIES = (1, 4, 8)


@cache
def model(name: str, engine: str = "onnx") -> Model:
    folder = PACKAGES / name
    return cdvision.load(folder if folder.is_dir() else name, engine=engine, threads=1)


FACES = tuple(name for name in NAMES if "attributes" in model(name).card.tasks)


def encode(name: str, picture: NDArray[np.uint8], quality: int) -> bytes:
    """Encode anything: the pictures here are no faces."""
    return model(name).encode(picture, quality, check=False)


@cache
def photo(height: int, width: int) -> NDArray[np.uint8]:
    """A picture with edges and gradients, so that latents differ from place to place."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    blocks = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
    ramp = np.linspace(-60, 60, width)[None, :, None]
    return (blocks + ramp).clip(0, 255).astype(np.uint8)


@cache
def stream(name: str, quality: int = 4) -> bytes:
    return encode(name, photo(160, 224), quality)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", NAMES)
def test_latents_survive_the_stream(name: str, quality: int, size: tuple[int, int]) -> None:
    from cdvision.photo import fit_photo, read_photo

    sender = model(name)
    bits = encode(name, photo(*size), quality)
    fitted = fit_photo(read_photo(photo(*size)), sender.card.input)
    sent, received = sender.encode_latents(fitted, quality), sender.open(bits).latents()
    assert same_latents(received, sent)
    assert list(received) == list(sender.card.latents)
    shapes = sender.card.latent_shapes(sender.open(bits).input_size)
    for latents, array in received.items():
        spec = sender.card.latents[latents]
        assert array.shape == shapes[latents]
        assert spec.low <= array.min() <= array.max() <= spec.high
    assert next(iter(received.values())).any() or quality < max(QUALITIES)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_what_the_tables_say(name: str) -> None:
    coder = model(name).package.coder
    for quality in QUALITIES:
        bits = stream(name, quality)
        latents = model(name).open(bits).latents()
        bodies = coder.encode(latents, quality - 1)
        assert bodies == {layer.id: layer.body for layer in read_stream(bits).layers}
        ideals = coder.estimate_bits(latents, quality - 1)
        assert list(ideals) == list(bodies)
        for layer, ideal in ideals.items():
            assert len(bodies[layer]) <= 1.01 * ideal / 8 + 16
        sizes = [len(body) for body in bodies.values()]
        spent = len(bits) - sum(sizes)  # header and checksums
        assert spent <= 28 + 7 * (len(sizes) - 1)
        if coder.compact:
            assert len(truncate_stream(bits, 1)) <= sizes[0] + 20 + 2 * (len(sizes) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_cut_after_a_layer_is_one_of_fewer_layers(name: str) -> None:
    receiver, bits = model(name), stream(name, 8)
    whole, layers = receiver.open(bits), receiver.package.coder.layers
    for count in range(1, len(layers) + 1):
        cut = receiver.open(truncate_stream(bits, count))
        assert cut.complete == (count == len(layers))
        names = [latents for layer in layers[:count] for latents in layer.latents]
        assert same_latents(cut.latents(), first_of(whole.latents(), len(names)))
        assert list(cut.latents()) == names
        for tail, spec in receiver.card.tails.items():
            arrived = [layer.id for layer in layers[:count] if layer.id in spec.layers]
            if len(arrived) < spec.least_layers:
                with pytest.raises(BitstreamError, match="which this question is answered from"):
                    cut.dense(tail)
                continue
            assert cut.layers_for(tail) == arrived
            answer = cut.dense(tail)
            if len(arrived) == len(spec.layers):  # what it does not read changes nothing
                for output, value in whole.dense(tail).items():
                    np.testing.assert_array_equal(answer[output], value)


@pytest.mark.parametrize("name", FACES)
def test_any_number_of_layers_shows_a_face(name: str) -> None:
    receiver, bits = model(name), stream(name, 8)
    for count in range(1, len(receiver.package.coder.layers) + 1):
        cut = receiver.open(truncate_stream(bits, count))
        assert len(cut.attributes(all_attributes=True)) == 40
        side = receiver.card.input.size
        assert cut.reconstruct().shape == (side, side, 3)
    base = receiver.open(truncate_stream(bits, 1))
    assert not np.array_equal(base.reconstruct(), receiver.open(bits).reconstruct())


@pytest.mark.parametrize("name", NAMES)
def test_streams_of_different_layers_share_a_batch(name: str) -> None:
    receiver, bits = model(name), stream(name, 8)
    (task, *_), layers = receiver.card.tasks, receiver.package.coder.layers
    if task == "reconstruct":
        pytest.skip("gives features and pictures, which no analysis returns")
    cuts = [truncate_stream(bits, count) for count in range(1, len(layers) + 1)]
    for cut, result in zip(cuts, receiver.analyze(cuts, [task]), strict=True):
        single = receiver.open(cut)
        if result.error is not None:
            with pytest.raises(BitstreamError, match=re.escape(str(result.error))):
                getattr(single, task)()
            continue
        alone = getattr(single, task)()
        if task == "attributes":
            assert result.attributes is not None
            np.testing.assert_allclose(result.attributes.probability, alone.probability, atol=1e-5)
        elif task == "classify":
            assert result.classification is not None
            np.testing.assert_array_equal(result.classification.class_id, alone.class_id)
        else:
            assert result.detections is not None
            np.testing.assert_allclose(result.detections.xyxy, alone.xyxy, atol=1e-2)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", FACES)
def test_the_base_graph_gives_what_the_whole_graph_gives_of_the_base(
    name: str, engine: str
) -> None:
    pytest.importorskip("torch")
    receiver = model(name, engine)
    cuts = [truncate_stream(stream(name, quality), 1) for quality in QUALITIES]
    single = [receiver.open(cut).graph_inputs("attributes") for cut in cuts]
    inputs = {key: np.concatenate([one[key] for one in single]) for key in single[0]}
    chosen, taken = cheapest_graph(receiver.card, "answer.attributes", inputs)
    first = next(iter(receiver.card.latents))
    assert (chosen, set(taken)) == ("base.attributes", {first, "quality"})
    found = receiver.engine.run(chosen, taken)
    for output, value in receiver.engine.run("answer.attributes", inputs).items():
        np.testing.assert_allclose(found[output], value, atol=1e-5, err_msg=output)


@pytest.mark.parametrize("name", FACES)
def test_more_than_the_base_needs_the_whole_graph(name: str) -> None:
    receiver = model(name)
    inputs = receiver.open(stream(name)).graph_inputs("attributes")
    assert cheapest_graph(receiver.card, "answer.attributes", inputs) == (
        "answer.attributes",
        inputs,
    )
    alone = receiver.open(truncate_stream(stream(name), 1)).graph_inputs("attributes")
    files = {file: key for file, key in receiver.card.files.items() if "base" not in file}
    older = replace(receiver.card, files=files)
    for card, graph in ((older, "answer.attributes"), (receiver.card, "answer.generator")):
        assert cheapest_graph(card, graph, alone) == (graph, alone)


@pytest.mark.parametrize("name", NAMES)
def test_both_engines_answer_alike(name: str) -> None:
    pytest.importorskip("torch")
    bits = stream(name, 8)
    ours, theirs = model(name).open(bits), model(name, "torch").open(bits)
    for tail in ours.model.card.tails:
        wanted, found = ours.dense(tail), theirs.dense(tail)
        assert wanted.keys() == found.keys()
        for output, value in wanted.items():
            scale = max(1.0, float(np.abs(value).max()))
            least = 1.0 if value.dtype == np.uint8 else 0.0  # a pixel at half may round either way
            atol = max(1e-4 * scale, least)
            np.testing.assert_allclose(
                found[output].astype(np.float64), value, atol=atol, err_msg=output
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_answers_as_its_streams_do(name: str) -> None:
    receiver = model(name)
    bits = [encode(name, photo(160, 224), quality) for quality in QUALITIES]
    tasks = [task for task in receiver.card.tasks if task != "reconstruct"]
    for one, many in zip(bits, receiver.analyze(bits, tasks, batch_size=3), strict=True):
        alone = receiver.open(one)
        if many.classification is not None:
            np.testing.assert_allclose(
                many.classification.probability, alone.classify().probability, atol=1e-5
            )
        if many.detections is not None:
            again = alone.segment() if "segment" in tasks else alone.detect()
            np.testing.assert_allclose(many.detections.xyxy, again.xyxy, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_answers_in_source_pixels(name: str) -> None:
    receiver = model(name)
    opened = receiver.open(stream(name, 8))
    for task in receiver.card.tasks:
        if task == "classify":
            assert opened.classify(top=2).probability.shape == (2,)
        if task not in ("detect", "segment"):
            continue
        found = getattr(opened, task)(confidence=0.01)
        assert found.image_size == (224, 160)
        assert (found.xyxy[:, 2] <= 224).all()
        assert (found.xyxy[:, 3] <= 160).all()
        if task == "segment":
            assert found.mask is not None
            assert all(mask["size"] == [160, 224] for mask in found.mask)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_stream_says_so(name: str) -> None:
    bits = truncate_stream(stream(name), 1)  # with the base layer, it is a stream again
    for length in range(0, len(bits), max(1, len(bits) // 40)):
        with pytest.raises(BitstreamError):
            model(name).open(bits[:length]).latents()


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_noticed(name: str) -> None:
    bits, rng = stream(name), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(bits)
        damaged[rng.integers(len(bits))] ^= 1 << rng.integers(8)
        with pytest.raises(BitstreamError):
            model(name).open(bytes(damaged)).latents()


@pytest.mark.parametrize("name", NAMES)
def test_bodies_that_pass_the_checksum_are_not_trusted_either(name: str) -> None:
    """Random bytes behind a valid header and checksum: latents or one error, nothing else."""
    receiver, rng = model(name), np.random.default_rng(1)
    coder, opened = receiver.package.coder, receiver.open(stream(name))
    shapes = receiver.card.latent_shapes(opened.input_size)
    bodies = coder.encode(opened.latents(), 3)
    for round_ in range(60):
        chosen = list(bodies)[round_ % len(bodies)]
        body = bytearray(bodies[chosen])
        for position in rng.integers(len(body), size=3):
            body[position] = rng.integers(256)
        try:
            latents = coder.decode(bodies | {chosen: bytes(body)}, 3, shapes)
        except BitstreamError:
            continue
        assert {name: array.shape for name, array in latents.items()} == shapes
