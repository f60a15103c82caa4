"""A family of two layers with a task of its own, as a third party would write it.

Layer ``mean`` tells a picture's colour, layer ``grid`` how 4 x 4 cells differ from it; the task
`lightness` answers from one layer or better from both. Nothing in the product knows of it: it is
there once ``registered()`` has named its codec, its task and its head.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cdvision import tasks as table
from cdvision.building.card_parts import latent_specs, one_sender
from cdvision.entropy.coder import Latents, LayerSpec, symbol_range
from cdvision.entropy.layered_coder import Code, LayeredCoder
from cdvision.entropy.tables import SymbolTables, gaussian_tables, named_parts, part_of
from cdvision.evaluation.answer_formats import AnswerFormat
from cdvision.evaluation.bootstrap import Scorer
from cdvision.heads.registry import HEADS, Question
from cdvision.package import families
from cdvision.package.card import CARD_FILE, FeatureSpec, InputSpec, ModelCard, TailSpec
from cdvision.package.loader import CLASSES_FILE, TABLES_FILE, file_sha256

CODEC, SIDE, CELLS, STEP = 901, 64, 4, 8.0
SHAPES = {"mean": (3,), "grid": (3, CELLS, CELLS)}
SCALES = (0.11, 1.0, 8.0)  # deviations; symbols of the first table are skipped


@dataclass(frozen=True, eq=False)
class ToyCoder(LayeredCoder):
    """Both layers, each under one Gaussian; ``grid`` is refused before ``mean`` is known."""

    layers: ClassVar[tuple[LayerSpec, ...]] = (
        LayerSpec(0, ("mean",)),
        LayerSpec(1, ("grid",), needs=(0,)),
    )
    tables: SymbolTables
    qualities: int = 8

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return SHAPES

    def ranges(self) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(SHAPES, symbol_range(self.tables))

    def _code_layer(self, layer: int, known: Latents, quality: int, code: Code) -> None:
        shape = SHAPES["grid" if layer else "mean"]
        # A dark picture's cells differ less: which table codes them depends on the first layer.
        wide = 2 if not layer else 1 + int(np.abs(known["mean"]).max() > 2)
        code(..., np.full(shape, wide, np.uint16), self.tables)

    def canonical_parts(self) -> list[bytes]:
        return [b"TOY", self.tables.canonical_bytes()]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        return named_parts({"tables": self.tables.to_arrays()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ToyCoder:
        return cls(SymbolTables.from_arrays(part_of(arrays, "tables")))


@dataclass(frozen=True)
class Lightness:
    """How bright a picture is, 0 to 255, and whether both layers told it."""

    level: float
    sure: bool

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return f"lightness {self.level:.1f}"

    def to_dict(self) -> dict[str, Any]:
        return {"lightness": self.to_rows()}

    def to_rows(self) -> list[dict[str, Any]]:
        return [{"level": round(self.level, 3), "sure": self.sure}]

    def to_json(self) -> str:
        return json.dumps(self.to_dict())


def answer_lightness(question: Question) -> Lightness:
    level = float(question.dense["level"][0]) * question.options["gain"]
    if question.options["inverted"]:
        level = 255 - level
    return Lightness(round(level, question.options["digits"]), question.layers == 2)


class LightnessScoring:
    """Mean difference from a labelled lightness."""

    task = "lightness"
    format: AnswerFormat[float] = AnswerFormat(
        lambda found: {"level": found.level}, lambda plain: float(plain["level"])
    )

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self._wanted = [float(row["lightness"]) for row in rows]

    def scorer(self, labels: list[int], answers: list[float]) -> Scorer:
        wrong = np.array([abs(self._wanted[k] - a) for k, a in zip(labels, answers, strict=True)])
        return lambda weights: {"error": weights @ wrong / weights.sum(axis=1)}


TASK = table.Task(
    "lightness",
    "Tell how bright a picture is, from its stream.",
    "toy_family:Lightness",
    "lightness",
    (
        table.TaskOption("gain", 1.0, "What the level is multiplied by.", 0, 10),
        table.TaskOption("digits", 3, "Digits behind the point.", 0),
        table.TaskOption("inverted", False, "Tell darkness instead."),
        table.TaskOption("alone", False, "Not for batches.", batched=False),
    ),
    table.Column("lightness", "lightness", {"level": "float", "sure": "boolean"}),
    scoring={"table": "toy_family:LightnessScoring"},
    example={"lightness": [{"level": 101.5, "sure": True}]},
)


@contextmanager
def registered() -> Iterator[None]:
    """Name codec, task and head, and forget them again."""
    families.CODECS[CODEC] = "toy_family:ToyCoder"
    HEADS["lightness"] = "toy_family:answer_lightness"
    table.register_task(TASK)
    try:
        yield
    finally:
        del families.CODECS[CODEC], HEADS["lightness"], table.TASKS["lightness"]


def write_toy(folder: Path) -> Path:
    """Write the package."""
    folder.mkdir(parents=True)
    coder = ToyCoder(gaussian_tables(SCALES))
    np.savez(folder / TABLES_FILE, **coder.to_arrays())  # type: ignore[arg-type]
    (folder / CLASSES_FILE).write_text("{}")
    onnx.save(_sender(), str(folder / "encoder.onnx"))
    for kind in ("tap", "answer"):
        onnx.save(_receiver(), str(folder / f"{kind}.lightness.onnx"))
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    card = ModelCard(
        name="toy",
        description="For tests: colours.",
        network="toy",
        codec=CODEC,
        fingerprint=coder.fingerprint.hex(),
        qualities=8,
        default_quality=4,
        latents=latent_specs(coder, fixed=SHAPES),
        input=InputSpec(SIDE, SIDE, SIDE, (0, 0, 0), least_size=SIDE, fit="square"),
        senders=one_sender(coder),
        tails={
            "lightness": TailSpec(
                ("lightness",), FeatureSpec(3, SIDE), "", head="lightness", layers=(0, 1)
            )
        },
        licence="Apache-2.0",
        provenance=(),
        training={},
        metrics=(),
        files=files,
    )
    (folder / CARD_FILE).write_text(json.dumps(asdict(card)))
    return folder


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **constants: NDArray[Any],
) -> onnx.ModelProto:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, tensors)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9)


def _value(name: str, kind: int, *axes: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, axes)


def _sender() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        node("ReduceMean", ["planes", "sides"], ["colour"], keepdims=1),
        node("Div", ["colour", "step"], ["mean_real"]),
        node("Round", ["mean_real"], ["mean_whole"]),
        node("Squeeze", ["mean_whole", "sides"], ["mean_flat"]),
        node("Cast", ["mean_flat"], ["mean"], to=TensorProto.INT32),
        node("AveragePool", ["planes"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
        node("Div", ["cells", "step"], ["cells_real"]),
        node("Sub", ["cells_real", "mean_whole"], ["difference"]),
        node("Round", ["difference"], ["grid_whole"]),
        node("Cast", ["grid_whole"], ["grid"], to=TensorProto.INT32),
    ]
    inputs = [
        _value("image", TensorProto.UINT8, "batch", SIDE, SIDE, 3),
        _value("quality", TensorProto.INT64, "batch"),
    ]
    outputs = [
        _value("mean", TensorProto.INT32, "batch", 3),
        _value("grid", TensorProto.INT32, "batch", 3, CELLS, CELLS),
    ]
    sides, step = np.array([2, 3]), np.array(STEP, np.float32)
    return _model(nodes, inputs, outputs, sides=sides, step=step)


def _receiver() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Cast", ["mean"], ["mean_real"], to=TensorProto.FLOAT),
        node("Cast", ["grid"], ["grid_real"], to=TensorProto.FLOAT),
        node("ReduceMean", ["grid_real", "sides"], ["correction"], keepdims=0),
        node("Add", ["mean_real", "correction"], ["sum"]),
        node("Mul", ["sum", "step"], ["colour"]),
        node("Unsqueeze", ["colour", "sides"], ["features"]),
        node("ReduceMean", ["colour", "channel"], ["level"], keepdims=1),
    ]
    inputs = [
        _value("mean", TensorProto.INT32, "batch", 3),
        _value("grid", TensorProto.INT32, "batch", 3, CELLS, CELLS),
        _value("layers", TensorProto.INT64, "batch"),
        _value("quality", TensorProto.INT64, "batch"),
    ]
    outputs = [
        _value("features", TensorProto.FLOAT, "batch", 3, 1, 1),
        _value("level", TensorProto.FLOAT, "batch", 1),
    ]
    constants = {"sides": np.array([2, 3]), "channel": np.array([1])}
    return _model(nodes, inputs, outputs, step=np.array(STEP, np.float32), **constants)
