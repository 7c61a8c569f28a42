"""How graphs are readied for TFLite's converters: they compute the same, with plain names and forms that TFLite has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxsim")

from splite_deploy.compile.tflite.operators import join_gelus
from splite_deploy.compile.tflite.prepare import prepare

helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
IMAGE = np.random.default_rng(0).normal(size=(1, 3, 4, 6)).astype(np.float32)


def graph(nodes: list[Any], constants: Mapping[str, Any], *, batch: int | str = 1, opset: int = 18) -> bytes:
    """An ONNX file from ``image`` to ``out``."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "given/graph",
            [helper.make_tensor_value_info("image", FLOAT, [batch, 3, 4, 6])],
            [helper.make_tensor_value_info("out", FLOAT, [batch, None, None, None])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    model.ir_version = 9
    content: bytes = model.SerializeToString()
    return content


def run(content: bytes) -> NDArray[np.float32]:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (name,) = [given.name for given in session.get_inputs()]
    values: NDArray[np.float32] = session.run(None, {name: IMAGE})[0]
    return values


def test_no_given_name_is_left() -> None:
    given = graph(
        [
            helper.make_node("Relu", ["image"], ["/block/act:0"], name="/block/Relu"),
            helper.make_node("Mul", ["/block/act:0", "/scale"], ["out"], name="/block/Mul"),
        ],
        {"/scale": np.float32(2)},
    )
    made = prepare(given)
    model = onnx.load_model_from_string(made.content)
    names = [model.graph.name, *(item.name for item in (*model.graph.node, *model.graph.initializer))]
    names += [name for node in model.graph.node for name in (*node.input, *node.output)]
    assert not [name for name in names if "/" in name or ":" in name]
    assert made.with_given_names("ERROR in node_1, not node_12") == "ERROR in /block/Mul, not node_12"
    assert made.kinds == {"RELU": ("/block/Relu",), "MUL": ("/block/Mul",)}
    np.testing.assert_array_equal(run(made.content), run(given))


def test_a_dynamic_batch_becomes_one() -> None:
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["image", "wanted"], ["out"]),
    ]
    given = graph(nodes, {"first": np.array([0]), "rest": np.array([6, 4, 3])}, batch="batch")
    made = onnx.load_model_from_string(prepare(given).content)
    assert [size.dim_value for size in made.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 4, 6]
    assert [node.op_type for node in made.graph.node] == ["Reshape"]
    np.testing.assert_array_equal(run(made.SerializeToString()), run(given))


def test_what_constants_give_is_computed() -> None:
    """onnx2tf converts a Pad wrongly whose amounts are computed, as in the TorchScript exporter's graphs."""
    nodes = [
        helper.make_node("Constant", [], ["some"], value=numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 2]))),
        helper.make_node("Concat", ["some", "more"], ["amounts"], axis=0),
        helper.make_node("Pad", ["image", "amounts"], ["out"]),
    ]
    given = graph(nodes, {"more": np.array([0, 1])})
    made = onnx.load_model_from_string(prepare(given).content)
    assert [node.op_type for node in made.graph.node] == ["Pad"]
    np.testing.assert_array_equal(run(made.SerializeToString()), run(given))


@pytest.mark.parametrize("opset", [17, 18])
def test_norms_are_spelled_out(opset: int) -> None:
    norm = helper.make_node("ReduceL2", ["image", "axes"], ["out"], keepdims=1)
    if opset == 17:
        norm = helper.make_node("ReduceL2", ["image"], ["out"], keepdims=1, axes=[2, 3])
    given = graph([norm], {"axes": np.array([2, 3])}, opset=opset)
    content = prepare(given).content
    kinds = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert kinds == ["Mul", "ReduceSum", "Sqrt"]
    np.testing.assert_allclose(run(content), run(given), rtol=1e-6)


GELU = {
    "as the TorchScript exporter writes it": [("Mul", "image", "plus", "more"), ("Mul", "more", "half", "out")],
    "as torch's exporter writes it": [("Mul", "image", "half", "less"), ("Mul", "less", "plus", "out")],
    "half first": [("Mul", "plus", "half", "more"), ("Mul", "image", "more", "out")],
}


@pytest.mark.parametrize("way", GELU)
@pytest.mark.parametrize("scale", [("Div", np.float32(np.sqrt(2))), ("Mul", np.float32(np.sqrt(0.5)))])
def test_the_exact_gelu_is_one_node(way: str, scale: tuple[str, Any]) -> None:
    nodes = [("Erf", "scaled", "erf"), ("Add", "erf", "one", "plus"), *GELU[way]]
    made = [helper.make_node(scale[0], ["image", "scale"], ["scaled"])]
    made += [helper.make_node(kind, list(values[:-1]), [values[-1]]) for kind, *values in nodes]
    given = graph(made, {"scale": scale[1], "one": np.float32(1), "half": np.array([0.5], np.float32)})
    content = prepare(given).content
    assert [node.op_type for node in onnx.load_model_from_string(content).graph.node] == ["Gelu"]
    np.testing.assert_allclose(run(content), run(given), atol=1e-6)


@pytest.mark.parametrize("change", ["scale", "one", "half"])
def test_what_is_no_gelu_stays(change: str) -> None:
    constants = {"scale": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    constants[change] *= np.float32(1.01)
    nodes = [
        helper.make_node("Div", ["image", "scale"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["plus"]),
        helper.make_node("Mul", ["image", "plus"], ["more"]),
        helper.make_node("Mul", ["more", "half"], ["out"]),
    ]
    assert join_gelus(ir.from_proto(onnx.load_model_from_string(graph(nodes, constants)))) == 0
