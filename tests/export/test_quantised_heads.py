"""Heads of int8 graphs say of crops that show nobody what they say in float, though ranges come from hands alone."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")

from splite_deploy.export.graph.walk import from_proto, head, run_graph
from splite_deploy.export.quant.precision import to_int8
from splite_deploy.export.quant.qdq import Consumer

NOISE = np.random.default_rng(2).normal(0, 1, (8, 3, 16, 16)).astype(np.float32)
THERE, NOBODY = np.abs(NOISE) + 0.2, NOISE - NOISE.mean((1, 2, 3), keepdims=True)
WEIGHTS = {
    "w": np.random.default_rng(0).normal(0, 0.2, (8, 3, 3, 3)),
    "v": np.random.default_rng(1).normal(0, 0.3, (4, 8, 1, 1)),
    "h": np.array([[-4.0, 4.0]] * 3),
    "hb": np.array([4.0, 0.0]),
    "o": np.array([[-3.0], [1.0]]),
    "ob": np.array([-4.0]),
}
NODES = (
    ("Conv", ["image", "w"], "summed", "trunk", {"pads": [1, 1, 1, 1]}),
    ("Relu", ["summed"], "features", "relu", {}),
    ("Conv", ["features", "v"], "heatmap", "map", {}),
    ("GlobalAveragePool", ["image"], "pooled", "pool", {}),
    ("Flatten", ["pooled"], "flat", "flatten", {}),
    ("Gemm", ["flat", "h", "hb"], "hidden", "first", {}),
    ("Relu", ["hidden"], "shown", "hidden_relu", {}),
    ("Gemm", ["shown", "o", "ob"], "logit", "last", {}),
    ("Sigmoid", ["logit"], "presence", "sigmoid", {}),
)


@pytest.mark.parametrize("consumer", ["ort", "trt"])
def test_a_head_with_a_hidden_layer_stays_float(consumer: Consumer) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, read, [made], name, **more) for op, read, made, name, more in NODES],
        "net",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [
            onnx.helper.make_tensor_value_info("heatmap", onnx.TensorProto.FLOAT, [1, 4, 16, 16]),
            onnx.helper.make_tensor_value_info("presence", onnx.TensorProto.FLOAT, [1, 1]),
        ],
        [onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in WEIGHTS.items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = from_proto(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9))
    assert head(model.graph) == {"map", "pool", "flatten", "first", "hidden_relu", "last", "sigmoid"}
    int8, report = to_int8(model, THERE, consumer, reduce_range=True)
    assert "trunk" in report.quantised
    said = run_graph(model, NOBODY)["presence"]
    assert said.max() < 0.01 and run_graph(model, THERE)["presence"].min() > 0.6
    np.testing.assert_allclose(run_graph(int8, NOBODY)["presence"], said, atol=1e-5)
