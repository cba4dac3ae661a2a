"""A classifier as ONNX, its scaling inside the graph: unscaled features go in, logits and probabilities come out.

The graph is written node by node, since a perceptron has few kinds of them: https://onnx.ai/onnx/operators/.

Shapes: B rows, F features, C classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from groundup.data.table.preprocess import Preprocessor
from groundup.errors import UserError
from groundup.models.perceptron import HiddenLayer, Perceptron

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # the one that belongs to it, so that older runtimes read the file
_MAX_BYTES = 2**31 - 1  # protobuf's limit
_ACTIVATIONS = {"relu": "Relu", "gelu": "Gelu", "tanh": "Tanh"}


class _Graph:
    """Nodes and weights in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def activation(self, name: str, x: str, output: str) -> str:
        if name == "silu":  # an operator of its own only from opset 24 on
            return self.add("Mul", [x, self.add("Sigmoid", [x], f"{output}.gate")], output)
        return self.add(_ACTIVATIONS[name], [x], output)


def write_onnx(model: Perceptron, preprocessor: Preprocessor, path: Path) -> None:
    """Write `features`, double [B, F] -> `logits`, `probabilities`, float [B, C], for any number of rows.

    The names of features and the classes are in the model's metadata, as JSON. Raises UserError where the model is
    larger than the format holds in one file.
    """
    tensors = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size + (1 << 20) > _MAX_BYTES:
        raise UserError(
            f"the model has {size:,} bytes, more than an ONNX file holds",
            where="export.onnx",
            expected=f"at most {_MAX_BYTES:,}",
            advice="Set export.onnx = false",
        )
    graph = _Graph()

    def linear(name: str, x: str, output: str) -> str:
        weight, bias = (graph.weight(f"{name}.{part}", tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        return graph.add("Gemm", [x, weight, bias], output, transB=1)

    mean = graph.weight("preprocess.mean", preprocessor.mean_F.astype(np.float64))
    scale = graph.weight("preprocess.scale", preprocessor.scale_F.astype(np.float64))
    centred = graph.add("Sub", ["features", mean], "preprocess.centred")
    x = graph.add("Cast", [graph.add("Div", [centred, scale], "preprocess.scaled")], "scaled", to=TensorProto.FLOAT)
    for n, layer in enumerate(model.layers):
        assert isinstance(layer, HiddenLayer)
        name = f"layers.{n}"
        x = linear(f"{name}.linear", x, f"{name}.sum")
        if layer.norm is not None:
            parts = [graph.weight(f"{name}.norm.{p}", tensors[f"{name}.norm.{p}"]) for p in ("weight", "bias")]
            x = graph.add("LayerNormalization", [x, *parts], f"{name}.normed", axis=-1, epsilon=layer.norm.eps)
        x = graph.activation(model.model.activation, x, f"{name}.active")
    graph.add("Softmax", [linear("output", x, "logits")], "probabilities", axis=-1)

    inputs = [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", model.features])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", model.classes])
        for name in ("logits", "probabilities")
    ]
    whole = helper.make_model(
        helper.make_graph(graph.nodes, "classifier", inputs, outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="groundup",
    )
    facts = {"features": preprocessor.feature_names, "classes": preprocessor.classes, "target": preprocessor.target}
    helper.set_model_props(whole, {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()})
    onnx.checker.check_model(whole, full_check=True)
    path.write_bytes(whole.SerializeToString(deterministic=True))


def run_onnx(path: Path, features_BF: NDArray[np.float64]) -> NDArray[np.float32]:
    """Logits [B, C] of unscaled features, as onnxruntime computes them on a CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits_BC,) = session.run(["logits"], {"features": features_BF})
    return np.asarray(logits_BC, dtype=np.float32)
