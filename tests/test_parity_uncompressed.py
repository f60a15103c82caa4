"""The task networks before any codec: our modules compute what the published files describe.

Needs ``../shared/data`` and is skipped without it; with ``CDVISION_SLOW`` set, AP is measured too.
"""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cdvision

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from cdvision.models.small import nanodet_weights  # noqa: E402
from cdvision.models.small.nanodet_weights import FILES, load_nanodet  # noqa: E402
from cdvision.networks import initial_weights  # noqa: E402
from cdvision.networks.initial_weights import load_mobilenet  # noqa: E402

MEAN, SCALE = (103.53, 116.28, 123.675), (0.017429, 0.017507, 0.017125)  # of BGR, upstream's
LEVELS = (8, 16, 32, 64)


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "weights"


def convolution(inputs: list[Any], layer: dict[str, Any], tensors: dict[str, Any]) -> Any:
    number = {key: value for key, value in layer["params"].items() if not isinstance(value, list)}
    weight, bias = (tensors[f"{layer['name']}.{part}"] for part in ("weight", "bias"))
    sizes = {"stride": number["3"], "padding": number["4"], "dilation": number["2"]}
    # Of a group's channels, not of the number of groups: that is another one in the wider network.
    groups = inputs[0].shape[1] // weight.shape[1]
    assert (groups > 1) == (number.get("7", 1) > 1)
    out = F.conv2d(inputs[0], weight, bias, groups=groups, **sizes)
    assert weight.shape[2:] == (number["1"], number["1"])
    if "9" not in number:
        return out
    (slope,) = layer["params"]["-23310"]
    return F.leaky_relu(out, slope)


def interpret(layers: list[dict[str, Any]], tensors: dict[str, Any], image: Any) -> dict[str, Any]:
    """Execute the published list of layers, one after the other, by name."""
    blobs = {"data": image}
    for layer in layers:
        kind, inputs = layer["type"], [blobs[name] for name in layer["inputs"]]
        if kind in ("Convolution", "ConvolutionDepthWise"):
            outputs = [convolution(inputs, layer, tensors)]
        elif kind == "Pooling":
            outputs = [F.max_pool2d(inputs[0], 3, 2, 1)]
        elif kind == "Split":
            outputs = inputs * len(layer["outputs"])
        elif kind == "Concat":
            outputs = [torch.cat(inputs, 1)]
        elif kind == "Slice":
            first = int(layer["params"]["-23300"][0])  # -233: an equal share
            first = inputs[0].shape[1] // 2 if first < 0 else first
            outputs = list(inputs[0].split([first, inputs[0].shape[1] - first], 1))
        elif kind == "ShuffleChannel":
            outputs = [F.channel_shuffle(inputs[0], layer["params"]["0"])]
        elif kind == "BinaryOp":
            outputs = [inputs[0] + inputs[1]]
        elif kind == "Interp":
            size = {"scale_factor": 2.0, "mode": "bilinear", "align_corners": False}
            outputs = [F.interpolate(inputs[0], **size)]
        elif kind == "Sigmoid":
            outputs = [torch.sigmoid(inputs[0])]
        else:
            assert kind in ("Input", "Permute"), kind
            outputs = inputs or [image]
        blobs |= zip(layer["outputs"], outputs, strict=True)
    return blobs


@pytest.mark.parametrize("size", [(416, 416), (160, 224)])
@pytest.mark.parametrize("detector", FILES)
def test_nanodet_equals_a_plain_execution_of_its_graph(
    weights: Path, detector: str, size: tuple[int, int]
) -> None:
    layers = json.loads((weights / "nanodet_plus_m_416.graph.json").read_text())
    tensors = {k: v.float() for k, v in load_file(weights / FILES[detector]).items()}
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, *size))).float()
    bgr = (rgb.flip(1) - torch.tensor(MEAN).view(1, 3, 1, 1)) * torch.tensor(SCALE).view(1, 3, 1, 1)
    front, tail = load_nanodet(weights, detector)
    with torch.inference_mode():
        blobs = interpret(layers, tensors, bgr)
        features = front(rgb)
        scores, distances = tail(features)
    torch.testing.assert_close(features.fine, blobs["32"], rtol=1e-3, atol=1e-3)
    for found, wanted in ((torch.sigmoid(scores), "cls{}"), (distances, "dis{}_pre")):
        levels = [blobs[wanted.format(level)].flatten(2).mT for level in LEVELS]
        torch.testing.assert_close(found, torch.cat(levels, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("detector", FILES)
def test_every_published_tensor_is_used(weights: Path, detector: str) -> None:
    published = load_file(weights / FILES[detector])
    layers = nanodet_weights._front_layers() | nanodet_weights._tail_layers()
    names = sorted(f"{layer}.{part}" for layer in layers.values() for part in ("weight", "bias"))
    assert names == sorted(published)
    for load, file in (
        (partial(load_nanodet, detector=detector), FILES[detector]),
        (load_mobilenet, initial_weights.MOBILENET_FILE),
    ):
        ours = [p for network in load(weights) for p in network.parameters()]
        published = load_file(weights / file)
        assert len(ours) == len(published)
        assert sum(p.numel() for p in ours) == sum(t.numel() for t in published.values())


def test_mobilenet_names_the_example_photos(weights: Path, photos: list[Path]) -> None:
    """The classes are ImageNet's own: 281 to 285 are cats, 967 espresso, 968 cup, 504 mug."""
    front, tail = load_mobilenet(weights)
    for name, wanted in (("cat.jpg", set(range(281, 286))), ("coffee.jpg", {504, 967, 968})):
        (path,) = (photo for photo in photos if photo.name == name)
        with Image.open(path) as file:
            photo = file.convert("RGB")
        side = min(photo.size)
        left, up = ((extent - side) // 2 for extent in photo.size)
        crop = photo.crop((left, up, left + side, up + side)).resize((224, 224))
        image = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            top = tail(front(image))[0].topk(5).indices.tolist()
        assert wanted & set(top), (name, top)


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW to measure AP")
@pytest.mark.timeout(900)
def test_uncompressed_average_precision(shared: Path, weights: Path) -> None:
    """As the data's README measured it: images stretched to 416 x 416, AP 0.372."""
    pytest.importorskip("pycocotools")
    from cdvision.evaluation.coco_ap import CocoScoring
    from cdvision.evaluation.coco_labels import read_coco_labels
    from cdvision.evaluation.labelled import coco_photos
    from cdvision.heads.dense_detection import detect_from_dense

    labels = read_coco_labels(shared / "detection" / "coco-dev.json")
    names = cdvision.load("small").package.classes["coco"]
    front, tail = load_nanodet(weights)
    ids, answers = [], []
    for labelled in coco_photos(labels, shared / "detection" / "coco-dev.tar"):
        photo = Image.open(io.BytesIO(labelled.data)).convert("RGB")
        pixels = np.array(photo.resize((416, 416), Image.Resampling.BILINEAR))
        with torch.inference_mode():
            dense = tail(front(torch.from_numpy(pixels).permute(2, 0, 1)[None].float()))
        found = detect_from_dense(
            torch.sigmoid(dense.scores)[0].numpy(), dense.distances[0].numpy(),
            input_size=(416, 416), content_size=(416, 416), source_size=photo.size,
            class_names=names, confidence=0.05,
        )  # fmt: skip
        ids.append(labelled.label)
        answers.append(found)
    (precision,) = CocoScoring(labels).scorer(ids, answers)(np.ones((1, len(ids))))["ap"]
    assert precision == pytest.approx(0.372, abs=0.003)
