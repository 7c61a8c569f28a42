"""Graphs in opset 17: the same numbers, or a refusal that names the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import pytest
from exports import refused
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

pytest.importorskip("torch")
import nets

from splite_deploy.bundle import Bundle
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input
from splite_deploy.export.graph.opset import lower_opset
from splite_deploy.export.graph.walk import from_proto, load, make_session, run_graph, to_proto
from splite_deploy.export.log_output import quiet
from splite_deploy.export.quant.precision import to_int8
from splite_deploy.runtime.preprocess import Preprocessor


def opset_of(model: ir.Model) -> int:
    return model.opset_imports[""]


def of_nodes(*nodes: Any, opset: int = 18, **constants: Any) -> ir.Model:
    """image -> y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return from_proto(onnx.shape_inference.infer_shapes(model))


def same(model: ir.Model) -> ir.Model:
    """The lowered graph, whose outputs have been found equal."""
    before, image = to_proto(model), np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    lowered = lower_opset(model)
    assert to_proto(model) == before  # it was a copy
    assert opset_of(lowered) == 17 and lowered.ir_version <= 8
    feeds = {"image": image}
    for expected, found in zip(*(make_session(m).run(None, feeds) for m in (model, lowered)), strict=True):
        np.testing.assert_array_equal(found, expected)
    return lowered


@pytest.mark.parametrize("kind", ["Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(kind: str, keepdims: int) -> None:
    node = helper.make_node(f"Reduce{kind}", ["image", "axes"], ["y"], keepdims=keepdims, noop_with_empty_axes=0)
    lowered = same(of_nodes(node, axes=np.array([2, 3])))
    assert [value.name for value in lowered.graph[0].inputs] == ["image"]


def test_a_reduction_of_everything() -> None:
    same(of_nodes(helper.make_node("ReduceMean", ["image"], ["y"], keepdims=0)))


def test_what_has_not_changed_but_in_name() -> None:
    split = helper.make_node("Split", ["image", "sizes"], ["a", "b"], axis=1)
    add = helper.make_node("Add", ["a", "b"], ["y"])
    same(of_nodes(split, add, sizes=np.array([2, 2])))
    halves = helper.make_node("Split", ["image"], ["a", "b"], axis=1, num_outputs=2)
    assert "num_outputs" not in same(of_nodes(halves, add)).graph[0].attributes
    same(of_nodes(helper.make_node("Pad", ["image", "pads"], ["y"]), pads=np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    resize = helper.make_node("Resize", ["image", "", "scales"], ["y"], mode="linear", antialias=0)
    same(of_nodes(resize, scales=np.array([1, 1, 2, 2], np.float32)))


def test_a_split_into_unequal_parts_has_no_older_form() -> None:
    thirds = helper.make_node("Split", ["image"], ["y", "a", "b"], "thirds", axis=2, num_outputs=3)
    with pytest.raises(ExportError, match=r"In opset 17 the graph is not valid: .*thirds.*not evenly splittable"):
        lower_opset(of_nodes(thirds))


@pytest.mark.parametrize("name", ["mobile", "shuffle", "se", "unet", "fuse", "pixel-shuffle", "grouped"])
def test_networks(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    onnxsim = pytest.importorskip("onnxsim")
    network, example = nets.randomised(nets.NETS[name]()), torch.zeros(1, 3, 16, 16)
    path = str(tmp_path / "net.onnx")
    with quiet():
        torch.onnx.export(network, (example,), path, input_names=["image"], opset_version=18, dynamo=False)
        model, valid = onnxsim.simplify(onnx.load(path))
    assert valid
    model = from_proto(model)
    assert opset_of(model) == 18
    crops = nets.sample((2, 3, 16, 16)).numpy()
    expected, found = run_graph(model, crops), run_graph(lower_opset(model), crops)
    for role, values in expected.items():
        np.testing.assert_allclose(found[role], values, rtol=0, atol=1e-5, err_msg=role)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_export_makes(tiny_bundle: Path, precision: str, fused: bool) -> None:
    bundle = Bundle.open(tiny_bundle)
    crops, spec = bundle.golden().crops, bundle.model
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
    model = load(tiny_bundle / "model.onnx")
    if precision == "int8":
        model, _ = to_int8(model, tensors, "trt")
    if fused:
        model = fuse_decode(fuse_input(model, spec), spec)
    session, lowered = make_session(model), make_session(lower_opset(model))
    for feed in crops[:4, None] if fused else tensors[:4, None]:
        for expected, found in zip(*(s.run(None, {"image": feed}) for s in (session, lowered)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_graph_of_17_stays() -> None:
    model = of_nodes(helper.make_node("ReduceMean", ["image"], ["y"], axes=[2, 3]), opset=17)
    assert to_proto(lower_opset(model)) == to_proto(model)


@pytest.mark.parametrize(
    ("node", "constants", "named"),
    [
        (
            helper.make_node("Resize", ["image", "", "scales"], ["y"], "shrink", mode="linear", antialias=1),
            {"scales": np.array([1, 1, 0.5, 0.5], np.float32)},
            "shrink (Resize)",
        ),
        (
            helper.make_node("Pad", ["image", "pads", "", "axes"], ["y"], "widen"),
            {"pads": np.array([1, 1]), "axes": np.array([3])},
            "widen (Pad)",
        ),
        (
            helper.make_node("ReduceMean", ["image", "axes"], ["y"], "mean", noop_with_empty_axes=1),
            {"axes": np.empty(0, np.int64)},
            "mean (ReduceMean)",
        ),
        (
            helper.make_node("GroupNormalization", ["image", "s", "b"], ["y"], "norm", num_groups=2),
            {"s": np.ones(2, np.float32), "b": np.zeros(2, np.float32)},
            "norm (GroupNormalization)",
        ),
    ],
)
def test_what_has_no_older_form_is_named(node: Any, constants: dict[str, Any], named: str) -> None:
    refused(
        ExportError,
        f"The node {named} does not exist in opset 17.",
        "Build with a later TensorRT",
        lower_opset,
        of_nodes(node, **constants),
    )


def test_another_opset_is_refused() -> None:
    model = of_nodes(helper.make_node("Relu", ["image"], ["y"]), opset=19)
    refused(ExportError, "of opset 19, which cannot be converted to 17", "--opset 18", lower_opset, model)
