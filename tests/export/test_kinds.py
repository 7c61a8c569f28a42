"""Every kind of operator in every graph: float16 and int8, for ONNX Runtime and both kinds of TensorRT's builders."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from int8_cpu import EXACT_INT8, SATURATES
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import case_nets
import kind_nets
import onnx_ir as ir  # noqa: TID253
from graphs import export_net
from trt_graphs import needs_rtx

from splite_deploy.errors import ExportError
from splite_deploy.export.graph.opset import lower_opset, quantisable_opset
from splite_deploy.export.graph.walk import from_proto, optimised, run_graph, save
from splite_deploy.export.log_output import quiet
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest, to_int8_fp16
from splite_deploy.export.quant.precision import to_fp16, to_int8, unsafe_in_fp16
from splite_deploy.export.quant.ranges import calibrate

Array = NDArray[np.float32]

CASES = ("Stem", "Grouped", "Shuffle", "ScaleNorm", "Gelu", "ResidualShuffle", "AlignCorners", "ScalarTimes")
CASES += ("PaddedChannels", "GroupNormed", "Huge")
NAMES = (*CASES, *kind_nets.KINDS)
GROUPS = {", ".join(NAMES[i : i + 6]): NAMES[i : i + 6] for i in range(0, len(NAMES), 6)}
FLOAT16, INT8 = 0.005, 0.06  # root mean square of the error over the standard deviation of the maps
BUILD = """
import sys, tensorrt_rtx_bindings as trt
logger = trt.Logger(trt.Logger.ERROR)
for path in sys.argv[1:]:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(path)
    assert parsed, (path, [parser.get_error(i).desc() for i in range(parser.num_errors)])
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None, path
"""


def crops(count: int = 8) -> Array:
    """Smooth, as pictures are."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    return np.kron(coarse, np.ones((8, 8), np.float32)) + 0.1 * rng.standard_normal((count, 3, 64, 64), np.float32)


def graph_of(name: str, opset: int = 18) -> ir.Model:
    network = case_nets.seeded(getattr(case_nets, name)) if name in CASES else kind_nets.seeded(name)
    return export_net(network, kind_nets.SIDE, opset)


def error(before: dict[str, Array], model: ir.Model, *, consumer: str = "ort") -> float:
    """Root mean square error of the worst output, over its standard deviation."""
    after = run_graph(rounding_to_nearest(model), crops(), optimise=consumer == "ort")
    return max(float(np.sqrt(np.square(after[k] - v).mean()) / v.std()) for k, v in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
def test_every_graph_of_every_kind(names: tuple[str, ...], tmp_path: Path) -> None:
    """TensorRT-RTX, where it is installed, builds them in a process of its own: it would end this one."""
    files = []
    for name in names:
        graph, x = graph_of(name), crops()
        before, ranges = run_graph(graph, x), calibrate(graph, x)
        made = {"fp16": to_fp16(graph, x, ranges=ranges)[0]}
        assert error(before, made["fp16"]) < FLOAT16, name
        softmaxes = {node.name for node in graph.graph if node.op_type == "Softmax"}
        for consumer in ("ort", "trt"):
            seven_bits = consumer == "ort" and SATURATES
            made[consumer], report = to_int8(graph, x, consumer, ranges=ranges, reduce_range=seven_bits)  # type: ignore[arg-type]
            assert error(before, made[consumer], consumer=consumer) < INT8, (name, consumer)
            assert any("Conv" in node for node in report.quantised), (name, consumer)
            assert softmaxes <= {*report.float_islands, *report.excluded}, (name, consumer)
            assert not {*report.quantised} & {*report.float_islands, *report.excluded}, (name, consumer)
        run = optimised(made["ort"])
        assert not [node for node in run.graph if node.op_type == "QLinearSoftmax"], name
        made["strong"] = to_int8_fp16(made["trt"], [node.node for node in unsafe_in_fp16(graph, ranges)])
        assert error(before, made["strong"], consumer="trt") < INT8, name
        made["old"] = lower_opset(made["trt"])
        for kind in ("strong", "old", *(["fp16"] if name in CASES else [])):
            files.append(tmp_path / f"{name}.{kind}.onnx")
            save(made[kind], files[-1])
    if not needs_rtx.args[0]:
        done = subprocess.run([sys.executable, "-c", BUILD, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


ISLANDS = {
    "ScaleNorm": ["Clip", "Div", "Mul", "ReduceL2", "Reshape"],
    "GroupNormed": ["InstanceNormalization", "Relu", "Reshape"],
    "attention": ["Mul", "Softmax"],
    "mlp": ["Add", "Div", "Erf", "LayerNormalization", "Mul", "Mul"],
    "bicubic": ["Resize"],
    "prelu": ["PRelu"],
    "gather": [],
    "padded-channels": [],
    "partial": [],
    "roll": [],
    "shuffle-relu": [],
    "strided-split": [],
}
GELU = ["Add", "Div", "Erf", "Mul", "Mul"]  # spelled out; ONNX Runtime joins them where onnxsim 0.8 made rows before it


@pytest.mark.parametrize("name", ISLANDS)
def test_what_stays_in_float_for_onnx_runtime(name: str) -> None:
    """Movers stay in int8; what stands in a float island is not quantised for nothing."""
    made, report = to_int8(graph_of(name), crops(), "ort")
    islands = [op for found in report.float_islands.values() for op in (GELU if found == "Gelu" else [found])]
    assert sorted(islands) == ISLANDS[name]
    run = optimised(made)
    pairs = [node for node in run.graph if node.op_type == "QuantizeLinear"]
    assert len(pairs) <= 1 + len(islands)  # the image, and at most one behind each


def newer_graph(network: torch.nn.Module, opset: int) -> ir.Model:
    """The graph of torch's newer exporter, the only one that writes these opsets."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (torch.zeros(1, 3, 64, 64),), input_names=["image"], opset_version=opset, dynamo=True
        )
    assert program is not None
    return from_proto(program.model_proto)


@EXACT_INT8
def test_the_newest_opset_in_int8() -> None:
    """ONNX Runtime 1.23 has no QuantizeLinear of opset 23, and onnx does not know what GroupNormalization gives."""
    graph, x = newer_graph(case_nets.seeded(case_nets.GroupNormed), 23), crops()
    assert "GroupNormalization" in [node.op_type for node in graph.graph]
    before = run_graph(graph, x)
    for consumer in ("ort", "trt"):
        made, report = to_int8(graph, x, consumer)  # type: ignore[arg-type]
        assert made.opset_imports[""] == 21 and graph.opset_imports[""] == 23
        assert "GroupNormalization" in {node.op_type for node in made.graph}
        assert error(before, made) < INT8 and len(report.quantised) == 1
    strong = to_int8_fp16(made, ())
    assert error(before, strong) < INT8
    assert error(before, to_fp16(graph, x)[0]) < FLOAT16


def test_a_node_of_the_newest_opset_stays_in_it() -> None:
    graph = newer_graph(kind_nets.seeded("heads"), 23)
    assert "Attention" in [node.op_type for node in graph.graph]
    assert quantisable_opset(graph).opset_imports[""] == 23


def test_an_opset_that_onnx_runtime_does_not_know() -> None:
    graph = graph_of("Stem")
    graph.opset_imports[""] = 99
    with pytest.raises(ExportError, match="refuses the graph: Fail") as raised:
        calibrate(graph, crops())
    assert raised.value.hint == "Export with --opset 18, or upgrade onnxruntime."


@EXACT_INT8
def test_gelu_as_one_operator() -> None:
    """As a given graph of opset 20 may have it."""
    graph, x = export_net(case_nets.seeded(case_nets.Gelu), 64, 20), crops()
    assert "Gelu" in [node.op_type for node in graph.graph]
    before = run_graph(graph, x)
    for consumer in ("ort", "trt"):
        made, report = to_int8(graph, x, consumer)  # type: ignore[arg-type]
        assert error(before, made) < INT8 and list(report.float_islands.values()) == ["Gelu"]
    assert error(before, to_fp16(graph, x)[0]) < FLOAT16
