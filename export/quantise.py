"""INT8 graphs in QDQ form, by ONNX Runtime's static quantisation with calibration photos.

Weights per output channel and symmetric, activations symmetric. In float stay: heads, the front of
a sender, and the integer hyper-decoder, which computes exactly already.

Source: quantise-dequantise pairs, Jacob et al., "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", CVPR 2018.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import onnx
from onnx import helper

from cdvision.errors import CdvisionError, ModelError
from cdvision.export.recorded_inputs import Inputs, spread

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
# Parts of parameter names that mark a layer behind the last feature map (a dense head's logits span
# ranges that 256 steps do not hold), or a sender's front: its rounding noise is coded like detail,
# with every bit of it. An INT8 front cost `small` 0.08 of AP.
FLOATING = (".head.", ".classifier.", ".roi_heads.", ".rpn.", ".encoder.front.")
PARAMETERS = "network."  # begins the name of every weight that a network learned
# Layers between two quantised ones that keep integers as they are, so that no pair of
# conversions stands between them. TensorRT places these itself.
PASSING = ("LeakyRelu", "Relu", "Clip", "MaxPool", "Add", "Concat", "Resize", "Split")
CALIBRATION_RUNS = 96


def quantised_graph(
    model: onnx.ModelProto, runs: Sequence[Inputs], *, for_tensorrt: bool = False
) -> onnx.ModelProto:
    """Return the INT8 QDQ form of a stand-alone float32 graph.

    Args:
        model: with plain float32 weights, see ``standalone_graph``.
        runs: inputs recorded from calibration photos; at most ``CALIBRATION_RUNS`` are used.
        for_tensorrt: leave biases in float and convert at weighted layers alone, as TensorRT
            asks; ONNX Runtime is faster with integer biases and integers passed on.

    Raises:
        CdvisionError: no calibration inputs.
        ModelError: ONNX Runtime cannot quantise this graph.
    """
    if not runs:
        raise CdvisionError(
            "INT8 needs calibration photos that reach this graph: pass more of them"
        )
    nodes = quantisable_nodes(model)
    if not nodes:
        return model
    try:
        quantised = _quantised(model, spread(runs, CALIBRATION_RUNS), nodes, for_tensorrt)
    except Exception as error:  # the quantiser raises ValueError, RuntimeError and protobuf's own
        raise ModelError(f"{model.doc_string}: INT8 quantisation failed ({error})") from error
    helper.set_model_props(quantised, {prop.key: prop.value for prop in model.metadata_props})
    quantised.doc_string = model.doc_string
    return quantised


def quantisable_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the weighted layers that become INT8: learned weights, no head and no front."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED
        and node.input[1].startswith(PARAMETERS)
        and not any(part in node.input[1] for part in FLOATING)
    ]


def _quantised(
    model: onnx.ModelProto, runs: Sequence[Inputs], nodes: list[str], for_tensorrt: bool
) -> onnx.ModelProto:
    from onnxruntime import quantization as q

    chosen = {*nodes, *([] if for_tensorrt else _between(model, set(nodes)))}
    kinds = {node.op_type for node in model.graph.node if node.name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, str(source))
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # it advises a preprocessing that standalone_graph has done
        try:
            q.quantize_static(
                str(source),
                str(target),
                SimpleNamespace(get_next=partial(next, map(dict, runs), None)),
                quant_format=q.QuantFormat.QDQ,
                op_types_to_quantize=sorted(kinds),
                nodes_to_quantize=sorted(chosen),
                per_channel=True,  # channels' weights differ by 100 times: one scale erases some
                activation_type=q.QuantType.QInt8,
                weight_type=q.QuantType.QInt8,
                calibrate_method=q.CalibrationMethod.MinMax,
                extra_options={
                    # Zero points of 0: TensorRT takes no others.
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    # In int32, in steps of input scale times weight scale: sums need no conversion.
                    "QuantizeBias": not for_tensorrt,
                },
            )
        finally:
            logger.setLevel(level)
        return onnx.load(str(target))


def _between(model: onnx.ModelProto, nodes: set[str]) -> list[str]:
    """Names of the layers whose inputs all come from quantised layers or from each other."""
    names: list[str] = []
    # Values that are integers already; the nodes stand in the order of computation.
    quantised = {out for n in model.graph.node if n.name in nodes for out in n.output}
    for node in model.graph.node:
        # Of Resize, Clip and Split the further inputs are settings, no data.
        data = [name for name in node.input[: None if node.op_type in ("Add", "Concat") else 1]]
        if node.op_type in PASSING and all(name in quantised for name in data):
            names.append(node.name)
            quantised |= set(node.output)
    return names
