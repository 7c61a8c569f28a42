"""Pixel shuffles turned to the order that TFLite has: the graph computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")
from splite_deploy.compile.tflite.pixel_shuffle import channels_last_shuffles

helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT

BLOCK, CHANNELS = 3, 4


def graph(*, act: str | None = "Relu", mode: str = "CRD", group: int = 1, more: Any = None) -> Any:
    """Convolution with bias, an activation, a pixel shuffle."""
    rng = np.random.default_rng(0)
    wide = CHANNELS * BLOCK**2
    weights = rng.normal(size=(wide, 8 // group, 1, 1)).astype(np.float32)
    bias = rng.normal(size=wide).astype(np.float32)
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["conv"], group=group)]
    if act:
        nodes.append(helper.make_node(act, ["conv"], ["act"]))
    before = "act" if act else "conv"
    nodes.append(helper.make_node("DepthToSpace", [before], ["shuffled"], blocksize=BLOCK, mode=mode))
    outputs = [helper.make_tensor_value_info("shuffled", FLOAT, [None] * 4)]
    for node in more or []:
        nodes.append(node)
        outputs.append(helper.make_tensor_value_info(node.output[0], FLOAT, [None] * 4))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("image", FLOAT, [1, 8, 5, 6])],
            outputs,
            [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    model.ir_version = 9
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model: Any) -> list[NDArray[np.float32]]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    image = np.random.default_rng(1).normal(size=(1, 8, 5, 6)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {"image": image})
    return found


@pytest.mark.parametrize("act", [None, "Relu", "HardSigmoid"])
def test_it_computes_the_same(act: str | None) -> None:
    model = graph(act=act)
    before = run(model)
    assert channels_last_shuffles(model) == (1, 0)
    shuffle = next(node for node in model.graph if node.op_type == "DepthToSpace")
    assert shuffle.attributes.get_string("mode") == "DCR"
    (after,) = run(model)
    np.testing.assert_array_equal(after, before[0])
    assert channels_last_shuffles(model) == (0, 0)
    assert set(model.graph.initializers.values()) == set(model.graph[0].inputs[1:])


@pytest.mark.parametrize("tensor", ["conv", "act"])
def test_what_somebody_else_reads_keeps_its_order(tensor: str) -> None:
    model = graph(more=[helper.make_node("Neg", [tensor], ["more"])])
    before = run(model)
    assert channels_last_shuffles(model) == (0, 1), "by a Gather instead"
    for one, other in zip(run(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_others_read_keep_their_order() -> None:
    model = graph(more=[helper.make_node("Conv", ["image", "w", "b"], ["more"])])
    before = run(model)
    assert channels_last_shuffles(model) == (1, 0)
    for one, other in zip(run(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_others_stay_as_they_are() -> None:
    assert channels_last_shuffles(graph(mode="DCR")) == (0, 0)


@pytest.mark.parametrize("gathers", [True, False])
@pytest.mark.parametrize("options", [{"group": 2}, {"act": "Softmax"}])
def test_without_a_convolution_that_can_do_it_the_channels_are_put_in_order(options: Any, gathers: bool) -> None:
    model = graph(**options)
    before = run(model)
    assert channels_last_shuffles(model, gathers=gathers) == (0, 1)
    np.testing.assert_array_equal(run(model)[0], before[0])
