"""What TensorRT refuses, planted, and reported in our words by the real parser and builder of TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253
from trt_graphs import needs_rtx, with_graphs

from splite_deploy.compile.tensorrt.errors import build_error, load_error, parser_error

Node = onnx.NodeProto
SCALE = 0.1


def graph(path: Path, nodes: Sequence[Node]) -> Path:
    """A graph image -> heatmap of these nodes, with the constants that they name."""
    rng = np.random.default_rng(0)
    constants = {
        "scale": np.float32(SCALE),
        "zero": np.int8(0),
        "three": np.int8(3),
        "zero32": np.int32(0),
        "weight": rng.integers(-127, 128, (5, 3, 1, 1), np.int8),
        "bias": rng.integers(-1000, 1000, 5, np.int32),
        "boxes": rng.random((1, 6, 4), np.float32),
        "scores": rng.random((1, 1, 6), np.float32),
    }
    used = {name for node in nodes for name in node.input}
    made = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, (1, 5, 8, 8))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), path)
    return path


def node(op: str, inputs: str, output: str, name: str, **attributes: Any) -> Node:
    return helper.make_node(op, inputs.split(), [output], name, **attributes)


def quantised(zero_point: str, bias: bool) -> list[Node]:
    """A quantised convolution."""
    nodes = [
        node("QuantizeLinear", f"image scale {zero_point}", "q", "quantise"),
        node("DequantizeLinear", f"q scale {zero_point}", "x", "dequantise"),
        node("DequantizeLinear", "weight scale zero", "w", "dequantise_weight"),
    ]
    if bias:
        nodes.append(node("DequantizeLinear", "bias scale zero32", "b", "dequantise_bias"))
    return [*nodes, node("Conv", "x w b" if bias else "x w", "heatmap", "conv")]


PLANTED: dict[str, tuple[list[Node], str, str]] = {
    "operator": (
        [node("Det", "image", "heatmap", "my_det")],
        "TensorRT does not support the operator Det of the node my_det in planted.onnx.",
        "Build that layer of the network from other operators, or run the bundle with -b ort.",
    ),
    "custom operator": (
        [node("Swirl", "image", "heatmap", "my_swirl", domain="mine")],
        "TensorRT does not support the operator Swirl of the node my_swirl in planted.onnx.",
        "from other operators",
    ),
    "int32 bias": (
        quantised("zero", True),
        "planted.onnx has an int32 bias (DequantizeLinear dequantise_bias), which TensorRT does not support.",
        "Export with -b trt, which makes graphs for TensorRT",
    ),
    "zero point": (
        quantised("three", False),
        "planted.onnx has a zero point that is not 0 (QuantizeLinear quantise); TensorRT's int8 is symmetric.",
        "Export with -b trt",
    ),
    "shape": (
        [node("MatMul", "image boxes", "heatmap", "my_matmul")],
        "TensorRT cannot read the node my_matmul (MatMul) of planted.onnx: ",
        "from other operators",
    ),
    "builder": (
        [
            node("NonMaxSuppression", "boxes scores", "kept", "my_nms"),
            node("Cast", "kept", "heatmap", "cast", to=TensorProto.FLOAT),
        ],
        " while building planted.onnx: ",
        "Give it more --workspace-mib, or compile another precision.",
    ),
}


@needs_rtx
@pytest.mark.parametrize("fault", list(PLANTED))
def test_a_planted_fault(
    fault: str, tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result], logs: Path
) -> None:
    nodes, message, hint = PLANTED[fault]
    file = graph(tmp_path / "planted.onnx", nodes)
    bundle = with_graphs(tiny_bundle, tmp_path / "t.splite", [("fp32", ["weak", "strong"], file)], planted=True)
    before = sorted(bundle.path.iterdir()), (bundle.path / "manifest.json").read_bytes()
    result = splite("compile", bundle.path, "-p", "fp32")
    assert result.exit_code == 1
    assert message in result.stderr
    assert hint in result.stderr
    assert "cudaError" not in result.stderr and ".cpp" not in result.stderr
    (log,) = logs.iterdir()  # and nothing else is left of the build
    assert f"TensorRT's log is {log}." in result.stderr and "TensorRT ERROR: " in log.read_text()
    assert (sorted(bundle.path.iterdir()), (bundle.path / "manifest.json").read_bytes()) == before


@needs_rtx
def test_a_file_that_is_no_graph(tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result]) -> None:
    bundle = with_graphs(tiny_bundle, tmp_path / "t.splite", [("fp32", ["strong"], tiny_bundle / "model.onnx")])
    (bundle.path / "model.onnx").write_bytes(b"junk")
    result = splite("compile", bundle.path, "-p", "fp32")
    assert result.exit_code == 1
    assert "model.onnx is not the file that the manifest describes" in result.stderr


class OldParser:
    """The parser of 8.5, whose errors name no node; there is no GPU to have the real one here."""

    num_errors = 1

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: self.text, code=lambda: "ErrorCode.UNSUPPORTED_NODE")

    def __init__(self, text: str) -> None:
        self.text = text


def test_the_node_is_found_in_the_log_of_old_parsers() -> None:
    logged = ['ModelImporter.cpp:773: While parsing node number 7 [Det -> "y"]:', "ModelImporter.cpp:774: --- Begin --"]
    err = parser_error("model.onnx", OldParser("No importer registered for op: Det"), logged)
    assert err.message == "TensorRT does not support the operator Det of the node y in model.onnx."


def test_a_graph_without_a_node_to_blame() -> None:
    err = parser_error("model.onnx", OldParser("Failed to parse the ONNX model."), [])
    assert err.message == "TensorRT cannot read model.onnx: Failed to parse the ONNX model."


@pytest.mark.parametrize(
    ("logged", "message", "hint"),
    [
        (
            ["Error Code 1: Cuda Runtime (out of memory)"],
            "There was not enough memory to build model.onnx: Cuda Runtime (out of memory).",
            "Add --low-memory or a smaller --workspace-mib",
        ),
        (
            ["Error Code 10: Internal Error (Could not find any implementation for node node_conv2d_3.)"],
            "TensorRT found no kernel for node_conv2d_3 while building model.onnx: "
            "Internal Error (Could not find any implementation for node node_conv2d_3.).",
            "Give it more --workspace-mib",
        ),
        ([], "TensorRT built no engine of model.onnx: it gave no reason.", "Compile another precision"),
    ],
)
def test_what_the_builder_logs(logged: list[str], message: str, hint: str) -> None:
    err = build_error("model.onnx", logged)
    assert err.message == message and hint in err.hint


def test_a_builder_without_its_libraries() -> None:
    """As TensorRT 8.5.3 logged it on an H200 with a cuBLAS that did not answer."""
    logged = [
        "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any implementation for "
        "node {ForeignNode[fused_decode/Constant_5_output_0...fused_decode/Reshape_2]}.)",
    ]
    skipped = ["Skipping tactic 0x0000000000000000 due to exception cuBLASLt error 1 querying major version."]
    err = build_error("model.onnx", logged, skipped)
    assert err.message == (
        "TensorRT built no engine of model.onnx since cuBLAS or cuDNN does not work here: Skipping tactic "
        "0x0000000000000000 due to exception cuBLASLt error 1 querying major version."
    )
    assert "Install cuBLAS and cuDNN of the versions that this TensorRT was made for" in err.hint
    assert "found no kernel for ForeignNode[fused_decode/Constant_5_output_0...fused_decode/Reshape_2] while" in (
        build_error("model.onnx", logged).message
    )


def test_an_engine_for_gpus_that_are_not_here() -> None:
    """As TensorRT-RTX 1.7.1 logged it on an H200."""
    logged = [
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
        "compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. TensorRT-RTX does not "
        "support this compute capability, so the engine cannot be rebuilt for it. In throwUnlessComputeCapSupported at "
        "/_src/runtime/dispatch/runtime.cpp:84)"
    ]
    err = load_error(logged)
    assert err.message == (
        "This TensorRT builds engines for compute capability 8.0 8.6 8.9 12.0 12.1 >12.0; the GPU here has 9.0."
    )
    assert "install the TensorRT that serves this one" in err.hint
    other = load_error(["IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag mismatch)"])
    assert other.message == (
        "TensorRT cannot load the engine that it has just built: Serialization (magic tag mismatch)."
    )
    assert "see 'splite-deploy doctor'" in other.hint
