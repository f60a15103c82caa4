"""What export computes, against cases by hand: INT8, half precision, limits, profiles, weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdvision.errors import EngineError, ModelError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from cdvision.engines.onnx_engine import OnnxGraph  # noqa: E402
from cdvision.engines.plan_cache import PlanKey, covers, usable_plan  # noqa: E402
from cdvision.export import bundle_check, parity  # noqa: E402
from cdvision.export.half_precision import half_graph  # noqa: E402
from cdvision.export.parity import (  # noqa: E402
    FINITE,
    TOLERANCES,
    Difference,
    check,
    check_parity,
    differences,
    largest_differences,
    paired_milliseconds,
    worst,
)
from cdvision.export.quantise import _between, quantised_graph  # noqa: E402
from cdvision.export.recorded_inputs import spread  # noqa: E402
from cdvision.export.shared_weights import external_tensor, weight_places  # noqa: E402
from cdvision.export.standalone_graph import fold_constants  # noqa: E402
from cdvision.export.tensorrt_profiles import ShapeRange, concrete_shape  # noqa: E402
from cdvision.export.trtexec_script import PlannedBuild, trtexec_arguments  # noqa: E402

Arrays = dict[str, np.ndarray]


def graph_of(nodes: list[Any], weights: Arrays, x: list[Any], **outputs: list[Any]) -> Any:
    """A graph from a float input ``x`` to float outputs, with axes as given."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [start], ends, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], f"{kind}_{output}", **attributes)


def run(model: Any, x: np.ndarray) -> Arrays:
    return OnnxGraph(model.SerializeToString(), threads=1).run({"x": x})


# --- INT8


def constants_of(model: Any) -> Arrays:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def dequantised(model: Any, value: str) -> tuple[Any, list[np.ndarray]]:
    """The DequantizeLinear that gives a value, and its constants: integers, scales, zero points."""
    held = constants_of(model)
    (found,) = [n for n in model.graph.node if n.output[0] == value]
    assert found.op_type == "DequantizeLinear"
    return found, [held[name] for name in found.input if name in held]


def weighted_input(model: Any, kind: str) -> str:
    (found,) = [n.input[1] for n in model.graph.node if n.op_type == kind]
    return str(found)


# Two output channels whose largest weights are 1.27 and 12.7: steps of 0.01 and 0.1. One scale for
# both would be 0.1, and the first channel's 0.02 would become 0.
ROWS = np.array([[1.27, 0.02, -0.5], [-12.7, 6.3, 0.1]], np.float32)
STEPS = [0.01, 0.1]
LEVELS = [[127, 2, -50], [-127, 63, 1]]
LAYERS = {
    "Conv": (ROWS[:, :, None, None], {}, 0),
    "ConvTranspose": (np.ascontiguousarray(ROWS.T)[:, :, None, None], {}, 1),
    "Gemm": (ROWS, {"transB": 1}, 0),
}


@pytest.mark.parametrize("for_tensorrt", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_have_one_scale_an_output_channel(kind: str, for_tensorrt: bool) -> None:
    weight, attributes, axis = LAYERS[kind]
    x = ["n", 3] if kind == "Gemm" else ["n", 3, "h", "w"]
    layer = node(kind, ["x", "network.body.w"], "y", **attributes)
    model = graph_of([layer], {"network.body.w": weight}, x, y=[None] * len(x))
    inputs = [{"x": np.ones([1, 3, 2, 2][: len(x)], np.float32)}]
    found = quantised_graph(model, inputs, for_tensorrt=for_tensorrt)
    dequantise, (levels, scales, zeros) = dequantised(found, weighted_input(found, kind))
    axes = [a.i for a in dequantise.attribute if a.name == "axis"]
    assert axes == [axis]
    np.testing.assert_allclose(scales, STEPS, rtol=1e-6)
    rows = levels.reshape(levels.shape[:2])
    assert levels.dtype == np.int8
    assert (rows.T if axis == 1 else rows).tolist() == LEVELS
    assert not zeros.any()


def test_activations_span_the_calibration_runs_symmetrically() -> None:
    weight = {"network.body.w": np.ones((1, 1, 1, 1), np.float32)}
    model = graph_of([node("Conv", ["x", "network.body.w"], "y")], weight, ["n", 1, 1, "w"],
                     y=["n", 1, 1, "w"])  # fmt: skip
    runs = [{"x": np.array(row, np.float32).reshape(1, 1, 1, -1)}
            for row in ([0.5, -1.0], [0.1, 0.2], [-2.54, 1.0])]  # fmt: skip
    found = quantised_graph(model, runs)
    held = constants_of(found)
    (first,) = [n for n in found.graph.node if n.op_type == "QuantizeLinear" and "x" in n.input]
    assert held[first.input[1]] == pytest.approx(0.02)  # 2.54 over 127, of the last run
    assert held[first.input[2]] == 0
    x = np.array([0.03, 1.0, 9.0], np.float32).reshape(1, 1, 1, 3)  # 1.5, 50 and 450 steps
    assert run(found, x)["y"].ravel().tolist() == pytest.approx([0.04, 1.0, 2.54], abs=1e-5)


def test_calibration_takes_runs_from_the_whole_list() -> None:
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2]
    weight = {"network.body.w": np.ones((1, 1, 1, 1), np.float32)}
    model = graph_of([node("Conv", ["x", "network.body.w"], "y")], weight, ["n", 1, 1, "w"],
                     y=["n", 1, 1, "w"])  # fmt: skip
    runs = [{"x": np.full((1, 1, 1, 1), number, np.float32)} for number in range(192)]
    found = quantised_graph(model, runs)  # 96 of 192: every second one, up to 190
    (first,) = [n for n in found.graph.node if n.op_type == "QuantizeLinear" and "x" in n.input]
    assert constants_of(found)[first.input[1]] == pytest.approx(190 / 127)


def chain() -> Any:
    """Two quantised layers with two passing ones between them, then a head; biases are ones."""
    weights: Arrays = {}
    nodes = []
    for name, source, target in (("body.a", "x", "a"), ("body.b", "p", "b"), ("head.c", "b", "y")):
        weights[f"network.{name}.w"] = np.full((1, 1, 1, 1), 1.27, np.float32)
        weights[f"network.{name}.b"] = np.ones(1, np.float32)
        nodes.append(node("Conv", [source, f"network.{name}.w", f"network.{name}.b"], target))
    nodes[1:1] = [node("LeakyRelu", ["a"], "r"), node("MaxPool", ["r"], "p", kernel_shape=[1, 1])]
    return graph_of(nodes, weights, ["n", 1, 1, "w"], y=["n", 1, 1, "w"])


def test_onnx_runtime_gets_integer_biases_and_passing_layers_and_tensorrt_neither() -> None:
    runs = [{"x": np.array([-1.0, 1.27], np.float32).reshape(1, 1, 1, 2)}]
    plain = chain()
    own, tensorrt = (quantised_graph(plain, runs, for_tensorrt=t) for t in (False, True))
    for model, integers in ((own, True), (tensorrt, False)):
        producers = {n.output[0]: n.op_type for n in model.graph.node}
        first, _, head = [n for n in model.graph.node if n.op_type == "Conv"]
        assert (producers.get(first.input[2]) == "DequantizeLinear") is integers
        assert head.input[1] not in producers  # float, as it was
        readers = [n.op_type for n in model.graph.node if "r" in n.input]
        assert readers == (["QuantizeLinear"] if integers else ["MaxPool"])
    # The first layer's bias in steps of input (1.27 / 127) times weight (1.27 / 127): 1e-4.
    conv = next(n for n in own.graph.node if n.op_type == "Conv")
    _, (levels, scales, *_) = dequantised(own, conv.input[2])
    assert (levels.tolist(), scales.tolist()) == ([10000], pytest.approx([1e-4]))


def test_a_sum_passes_integers_on_only_where_both_of_its_terms_are() -> None:
    one = {f"network.body.{n}": np.ones((1, 1, 1, 1), np.float32) for n in "ab"}
    nodes = [node("Conv", ["x", "network.body.a"], "a"), node("Conv", ["x", "network.body.b"], "b"),
             node("Add", ["a", "b"], "both"), node("Add", ["both", "x"], "y"),
             node("Relu", ["y"], "z")]  # fmt: skip
    axes = ["n", 1, 1, "w"]
    assert _between(graph_of(nodes, one, axes, z=axes), {"Conv_a", "Conv_b"}) == ["Add_both"]


# --- half precision


def two_paths() -> Any:
    """A learned layer and one without learned weights (as in the integer hyper-decoder)."""
    one = np.ones((1, 1, 1, 1), np.float32)
    nodes = [node("Conv", ["x", "network.body.w"], "a"), node("Relu", ["a"], "y"),
             node("Conv", ["x", "integers.w"], "z")]  # fmt: skip
    weights = {"network.body.w": one, "integers.w": one}
    axes = ["n", 1, 1, "w"]
    return graph_of(nodes, weights, axes, y=axes, z=axes)


def test_learned_layers_compute_in_half_precision_and_integers_stay_exact() -> None:
    model = half_graph(two_paths())
    onnx.checker.check_model(model, full_check=True)
    x = np.array([2047, 2049, 4097], np.float32).reshape(1, 1, 1, 3)  # beyond 2048: even ones alone
    found = run(model, x)
    assert found["y"].ravel().tolist() == [2047, 2048, 4096]
    assert found["z"].ravel().tolist() == [2047, 2049, 4097]
    assert all(value.dtype == np.float32 for value in found.values())
    held = constants_of(model)
    assert held["integers.w"].dtype == np.float32
    assert held["network.body.w.half"].dtype == np.float16
    assert "network.body.w" not in held


@pytest.mark.parametrize("kind", ["Exp", "Round", "Sigmoid", "Sqrt", "Softmax", "Tanh", "Floor"])
def test_what_half_precision_is_too_coarse_for_stays_float(kind: str) -> None:
    axes = ["n", 1, 1, "w"]
    nodes = [node("Conv", ["x", "network.body.w"], "a"), node(kind, ["a"], "b"),
             node("Relu", ["b"], "y")]  # fmt: skip
    model = half_graph(graph_of(nodes, {"network.body.w": np.ones((1, 1, 1, 1), np.float32)},
                                axes, y=axes))  # fmt: skip
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    assert [types[n.output[0]] for n in model.graph.node if n.op_type != "Cast"] == [
        TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT,
    ]  # fmt: skip


def test_weights_beyond_half_precision_are_clipped_and_scales_of_resize_stay_float() -> None:
    weights = {
        "network.body.w": np.array([1e6, -1e6, 1.0], np.float32).reshape(3, 1, 1, 1),
        "scales": np.array([1, 1, 1, 2], np.float32),
    }
    nodes = [node("Conv", ["x", "network.body.w"], "a"),
             node("Resize", ["a", "", "scales"], "y", mode="nearest")]  # fmt: skip
    model = half_graph(graph_of(nodes, weights, ["n", 1, 1, "w"], y=["n", 3, 1, "v"]))
    onnx.checker.check_model(model, full_check=True)
    held = constants_of(model)
    assert held["network.body.w.half"].ravel().tolist() == [65504, -65504, 1]
    assert held["scales"].dtype == np.float32
    found = run(model, np.array([1.0, 0.5], np.float32).reshape(1, 1, 1, 2))["y"]
    assert found[0, 2, 0].tolist() == [1, 1, 0.5, 0.5]


# --- parity


def test_the_limits_of_each_precision() -> None:
    def fails(precision: str, found: list[Any], expected: list[Any]) -> bool:
        whole = all(isinstance(value, int) for value in expected)
        a, b = (np.array(v, np.int32 if whole else np.float64) for v in (found, expected))
        (item,) = differences({"y": a}, {"y": b})
        allowed = item.allowed(TOLERANCES[precision])
        if not allowed:
            with pytest.raises(ModelError, match="output 'y' lies"):
                check("g", {"y": item}, TOLERANCES[precision])
        return not allowed

    real = [-2.0, 0.5]  # the largest is 2: off by 3e-4 is 1.5e-4 of it
    assert not fails("fp32", [-2.0, 0.50018], real)
    assert fails("fp32", [-2.0, 0.5003], real)
    assert not fails("fp16", [-2.0, 0.509], real)
    assert fails("fp16", [-2.0, 0.511], real)
    assert not fails("int8", [-2.0, 0.59], real)
    assert fails("int8", [-2.0, 0.61], real)
    for precision, share in (("fp32", 1), ("fp16", 20), ("int8", 50)):  # of 1000 integers
        whole = [0] * 1000
        assert not fails(precision, [1] * share + whole[share:], whole)
        assert fails(precision, [-1] * (share + 1) + whole[share + 1 :], whole)


def test_a_value_that_is_no_number_is_refused_whatever_came_before_or_after() -> None:
    good = Difference("y", 0.0, 0.0, integer=False)
    (bad,) = differences({"y": np.array([np.nan, 1.0])}, {"y": np.ones(2)})
    for joined in (worst(good, bad), worst(bad, good)):
        assert joined.runs == 2
        for tolerance in (*TOLERANCES.values(), FINITE):
            with pytest.raises(ModelError):
                check("g", {"y": joined}, tolerance)
    check("g", {"y": Difference("y", 9.0, 9.0, integer=False)}, FINITE)


def test_bytes_do_not_wrap_and_small_values_count_against_the_largest() -> None:
    (item,) = differences({"y": np.array([0, 9], np.uint8)}, {"y": np.array([1, 9], np.uint8)})
    assert (item.absolute, item.relative, item.integer) == (1.0, 0.5, True)
    (item,) = differences({"y": np.array([0.002, -4.0])}, {"y": np.array([0.001, -4.0])})
    assert item.relative == pytest.approx(0.001 / 4)


def test_the_worst_of_two_runs_counts() -> None:
    first = Difference("y", 3.0, 0.1, integer=False)
    second = Difference("y", 1.0, 0.5, integer=False)
    assert worst(first, second) == Difference("y", 3.0, 0.5, integer=False, runs=2)
    assert worst(None, first) is first


class Times:
    """A graph that multiplies, by a factor of its own for each number of rows."""

    def __init__(self, **factors: float) -> None:
        self._factors = factors

    def run(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        return {"y": x * self._factors.get(f"rows{len(x)}", 1.0)}


def test_a_fault_in_batches_alone_and_one_in_a_single_run_are_found() -> None:
    runs = [{"x": np.full((1, 2), value, np.float32)} for value in (1.0, 2.0, 4.0)]
    found = largest_differences(Times(), Times().run, runs)
    assert (found["y"].relative, found["y"].runs) == (0, 4)  # three alone, and a batch of two
    assert largest_differences(Times(rows2=1.5), Times().run, runs)["y"].relative == 0.5
    found = largest_differences(Times(rows1=1.25), Times().run, runs)
    assert (found["y"].absolute, found["y"].relative) == (1.0, 0.25)


def test_times_are_medians_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0, 0.001, 0, 0.1, 0, 0.002, 0, 0.2, 0, 0.009, 0, 0.3]))
    monkeypatch.setattr(parity, "perf_counter", lambda: next(clock))
    runs = [{"x": np.ones((1, 1))}]
    found = paired_milliseconds({"a": Times(), "b": Times()}, runs, rounds=3)
    assert found == {"a": pytest.approx(2.0), "b": pytest.approx(200.0)}


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Path]:
    """A graph ``(x, round(10 x))``, as a file."""
    nodes = [node("Identity", ["x"], "y"), node("Mul", ["x", "ten"], "m"),
             node("Round", ["m"], "r"),
             node("Cast", ["r"], "whole", to=TensorProto.INT32)]  # fmt: skip
    axes = ["n", 2, "h", "w"]
    model = graph_of(nodes, {"ten": np.array(10, np.float32)}, axes, y=axes, whole=axes)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT32
    onnx.save(model, str(tmp_path / "g.onnx"))
    return tmp_path / "g.onnx"


@pytest.mark.parametrize(
    ("factor", "step", "said"),
    [
        (1.0, 0, None),
        (1.0001, 0, None),
        (1.0004, 0, "'y' lies"),
        (1.0, 1, None),
        (1.0, 2, "'whole'"),
    ],
)
def test_a_traced_graph_must_be_its_network(
    traced: Path, factor: float, step: int, said: str | None
) -> None:
    torch = pytest.importorskip("torch")
    from cdvision.networks.graphs import Graph

    class Network(torch.nn.Module):
        def forward(self, x: Any) -> tuple[Any, Any]:
            return x * factor, (10 * x).round().int() + step

    graph = Graph(Network(), {"x": ("batch", 2, "height", "width")}, ("y", "whole"),
                  {"x": torch.float32})  # fmt: skip
    if said is None:
        real, whole = check_parity(graph, traced)
        assert real.relative == pytest.approx(factor - 1, abs=1e-6)
        assert (whole.absolute, whole.integer, whole.runs) == (step, True, 4)
    else:
        with pytest.raises(ModelError, match=said):
            check_parity(graph, traced)


# --- profiles


def test_a_side_over_a_stride_is_rounded_up_and_height_is_not_width() -> None:
    axes = ("batch", 3, "h16", "w16", "height", "width", "h64")
    shape = concrete_shape(axes, batch=2, height=40, width=64)
    assert shape == (2, 3, 3, 4, 40, 64, 1)
    assert concrete_shape(("regions", 8), batch=2, height=32, width=32, regions=7) == (7, 8)
    with pytest.raises(ValueError, match="found 'depth'"):
        concrete_shape(("depth",), batch=1, height=1, width=1)


def test_a_profile_has_the_smallest_usual_and_largest_shape() -> None:
    model = graph_of([node("Relu", ["x"], "y")], {}, ["batch", 8, "h16", "width"],
                     y=["batch", 8, "h16", "width"])  # fmt: skip
    profile = ShapeRange((32, 64, 160), (1, 3, 5)).profile(model)
    assert profile == {"x": ((1, 8, 2, 32), (3, 8, 4, 64), (5, 8, 10, 160))}
    for inside in ((1, 8, 2, 32), (5, 8, 10, 160)):
        assert covers(profile, {"x": inside})
    for outside in ((6, 8, 2, 32), (1, 8, 1, 32), (1, 8, 2, 161), (1, 8, 2)):
        assert not covers(profile, {"x": outside})
    assert not covers(profile, {"z": (1, 8, 2, 32)})
    build = PlannedBuild(Path("g.onnx"), Path("g.plan"), profile)
    arguments = trtexec_arguments(build, workspace_bytes=256 * 2**20)
    assert {"--minShapes=x:1x8x2x32", "--optShapes=x:3x8x4x64", "--maxShapes=x:5x8x10x160",
            "--memPoolSize=workspace:256M", "--noTF32"} <= {*arguments}  # fmt: skip


def test_the_newest_plan_of_this_machine_that_takes_the_shapes_is_used() -> None:
    def key(most: int, **changed: str) -> PlanKey:
        fields = {"model": "m", "model_sha256": "a", "graph": "g", "precision": "fp32",
                  "tensorrt": "10.3", "compute_capability": "8.7"}  # fmt: skip
        return PlanKey(**{**fields, **changed}, profile={"x": ((1,), (1,), (most,))})

    wanted = {"model_sha256": "a", "tensorrt": "10.3", "compute_capability": "8.7"}
    narrow, wide, old = key(2), key(8), key(8, precision="fp16")
    for name in wanted:
        keys = [key(9, **{name: "other"}), narrow, wide, old]
        assert usable_plan(keys, wanted, {"x": (4,)}, build="build") is wide
        assert usable_plan(keys, wanted, {"x": (2,)}, build="build") is narrow
        with pytest.raises(EngineError, match=r"\(9,\).*--sizes"):
            usable_plan(keys, wanted, {"x": (9,)}, build="build")
        with pytest.raises(EngineError, match="build it on this machine: build"):
            usable_plan(keys[:1], wanted, {"x": (2,)}, build="build")


def test_regions_of_two_stage_heads_have_a_range_of_their_own() -> None:
    model = graph_of([node("Relu", ["x"], "y")], {}, ["regions", 4], y=["regions", 4])
    assert ShapeRange((32, 64, 96)).profile(model) == {"x": ((1, 4), (200, 4), (1000, 4))}


# --- weights and constants


def test_a_shared_weight_is_where_its_place_says(tmp_path: Path) -> None:
    tensors = {"a": np.array([[1, 2, 3]], np.float16), "b": np.array([4, 5], np.float16),
               "c": np.array([6.0], np.float32)}  # fmt: skip
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    places, content = weight_places(path), path.read_bytes()
    assert places.keys() == {"a", "b"}  # half precision alone is shared
    for name, place in places.items():
        stored = np.frombuffer(content[place.offset : place.offset + place.length], np.float16)
        np.testing.assert_array_equal(stored.reshape(place.shape), tensors[name])
    tensor = external_tensor("a.fp16", path.name, places["a"])
    onnx.external_data_helper.load_external_data_for_tensor(tensor, str(tmp_path))
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), tensors["a"])


def test_what_depends_on_weights_alone_is_computed_once() -> None:
    nodes = [node("Mul", ["a", "b"], "ab"), node("Add", ["ab", "b"], "c"),
             node("Mul", ["x", "c"], "y"), node("Neg", ["a"], "z")]  # fmt: skip
    weights = {"a": np.array([2.0, 3.0], np.float32), "b": np.array([5.0, 7.0], np.float32)}
    model = graph_of(nodes, weights, [2], y=[2], z=[2])
    fold_constants(model)
    assert [n.op_type for n in model.graph.node] == ["Mul", "Neg"]  # a node must give an output
    assert {n: v.tolist() for n, v in constants_of(model).items()} == {
        "a": [2.0, 3.0], "c": [15.0, 28.0],
    }  # fmt: skip


# --- the smoke test of a bundle


def box(confidence: float = 0.5, left: float = 10.0, class_id: int = 1) -> dict[str, Any]:
    sides = {"left": left, "top": 20.0, "right": 30.0, "bottom": 40.0}
    return {"class_id": class_id, "class_name": "cat", "confidence": confidence, **sides}


def test_boxes_are_one_within_two_pixels_and_three_hundredths() -> None:
    same = bundle_check.alike
    assert same(box(), box(left=11.9))
    assert not same(box(), box(left=12.1))
    assert same(box(), box(confidence=0.529))
    assert not same(box(), box(confidence=0.531))
    assert not same(box(), box(class_id=2))
    assert same({**box(), "mask": "a"}, {**box(), "mask": "b"})


def test_boxes_near_the_least_confidence_may_come_and_go() -> None:
    rows = [box(0.12), box(0.14)]
    (said,) = bundle_check.unmatched(rows, [], 0.13)
    assert "class_name cat, confidence 0.14, left 10.0" in said
    assert bundle_check.unmatched(rows, rows, 0.0) == []


def test_probabilities_are_compared_by_name() -> None:
    expected = [{"name": "a", "probability": 0.6}, {"name": "b", "probability": 0.04}]
    found = [{"name": "a", "probability": 0.58}]
    assert bundle_check.unmatched(expected, found, 0.03) == ["name b, probability 0.04"]
    found = [{"name": "b", "probability": 0.02}, {"name": "a", "probability": 0.56}]
    assert bundle_check.unmatched(expected, found, 0.03) == ["name a, probability 0.6"]
