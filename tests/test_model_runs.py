"""What is computed for an answer, and what is sent for a task: nothing twice, nothing in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.errors import (
    BitstreamError,
    CdvisionError,
    UnsupportedTask,
)
from cdvision.stream import read_stream

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
    assert stream.latents()["symbols"] is stream.latents()["symbols"]


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
    kind, read = type(model.package.coder), list[int]()
    decode = kind.decode_layer

    def noted(coder: Any, layer: int, *rest: Any) -> Any:
        read.append(layer)
        return decode(coder, layer, *rest)

    monkeypatch.setattr(kind, "decode_layer", noted)
    stream = model.open(small_stream)
    stream.classify()
    stream.classify(top=1)
    assert read == [0]
    stream.detect()
    assert read == [0, 1]
    (descriptor,) = stream.latents_for("mobilenet_v2").values()
    assert stream.latents()["descriptor"] is descriptor
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
