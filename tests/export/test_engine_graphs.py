"""What TensorRT's engines are built of, and fused pre- and postprocessing in every graph, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.version_converter")
pytest.importorskip("onnxruntime")

import onnx_ir as ir  # noqa: TID253
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

from splite_deploy.bundle import Bundle
from splite_deploy.export import artifacts
from splite_deploy.export.graph.walk import from_proto, load, make_session
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest
from splite_deploy.files import sha256_of
from splite_deploy.runtime import PoseEstimator

Run = Callable[..., Result]
ALL = ("-p", "fp32", "-p", "fp16", "-p", "int8")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "tiny.splite"


@pytest.fixture
def export(splite: Run, tiny_bundle: Path, tiny_model: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SPLITE_CACHE", str(output.parent.parent / "cache"))

    def run(*arguments: Any) -> Result:
        graph = tiny_bundle / "model.onnx"
        return splite("export", graph, "--model", tiny_model, "-o", output, "--crops", 8, *arguments)

    return run


def test_every_precision_has_a_graph_for_both_kinds_of_builders(export: Run, output: Path) -> None:
    result = export("-b", "ort", "-b", "trt", *ALL)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    graphs = {(graph.precision, graph.typing): graph for graph in bundle.manifest.graphs}
    assert {key: graph.file for key, graph in graphs.items()} == {
        ("fp32", "weak"): "model.trt.onnx",
        ("fp32", "strong"): "model.onnx",
        ("fp16", "weak"): "model.trt.onnx",
        ("fp16", "strong"): "model.fp16.onnx",
        ("int8", "weak"): "model.int8.trt.onnx",
        ("int8", "strong"): "model.int8-fp16.trt.onnx",
    }
    limits = {artifact.precision: artifact.limits for artifact in bundle.manifest.artifacts}
    for graph in graphs.values():
        assert graph.sha256 == sha256_of(output / graph.file) and graph.limits == limits[graph.precision]
        assert graph.inputs == bundle.manifest.artifacts[0].inputs
    opsets = {name: load(output / name).opset_imports[""] for name in {graph.file for graph in graphs.values()}}
    assert opsets == {
        "model.onnx": 18,
        "model.trt.onnx": 17,
        "model.fp16.onnx": 18,
        "model.int8.trt.onnx": 17,
        "model.int8-fp16.trt.onnx": 19,
    }
    hops = [hop.label for hop in bundle.report().parity]
    assert hops[-3:] == [
        f"onnx -> trt {one}"
        for one in (
            "fp32 graph (weakly typed)",
            "int8 graph (weakly typed)",
            "int8 graph (strongly typed)",
        )
    ]
    assert [artifact.backend for artifact in bundle.manifest.artifacts] == ["ort"] * 3


def test_int8_alone_leaves_no_other_graph_behind(export: Run, output: Path) -> None:
    result = export("-b", "trt", "-p", "int8")
    assert result.exit_code == 0, result.stderr
    manifest = Bundle.open(output).manifest
    assert {graph.precision for graph in manifest.graphs} == {"int8"}
    named = {held.file for held in (*manifest.artifacts, *manifest.graphs)}
    assert {file.name for file in output.glob("*.onnx")} == named


def test_types_of_the_int8_graphs(export: Run, output: Path) -> None:
    """Weak: float32 around int8. Strong: float16 around int8, scales too, and no cast beside a quantisation."""
    assert export("-b", "trt", "-p", "int8").exit_code == 0
    scales = {}
    for name in ("model.int8.trt.onnx", "model.int8-fp16.trt.onnx"):
        model = load(output / name)
        pairs = [node for node in model.graph if node.op_type.endswith("quantizeLinear") or "Quant" in node.op_type]
        scales[name] = {node.inputs[1].dtype for node in pairs}
        casts = [node for node in model.graph if node.op_type == "Cast"]
        quantised = {value for node in pairs for value in node.outputs}
        assert not [cast for cast in casts if cast.inputs[0] in quantised]
        assert all(value.dtype == ir.DataType.FLOAT for value in model.graph.outputs)
    assert scales == {"model.int8.trt.onnx": {ir.DataType.FLOAT}, "model.int8-fp16.trt.onnx": {ir.DataType.FLOAT16}}


def test_engines_alone_leave_the_graph_for_onnx_runtime(export: Run, output: Path) -> None:
    """Whoever copies the bundle to a device can still check it there without TensorRT."""
    assert export("-b", "trt", "-p", "int8", "--max-shift-px", 0.01, "--json", "-").exit_code == 0
    assert [artifact.label for artifact in Bundle.open(output).manifest.artifacts] == ["ort fp32"]
    report = Bundle.open(output).report()
    assert report.searches and report.recommendation is None
    returned = {row.layer for row in report.searches[0].excluded}
    note = next(note for note in report.notes if note.startswith("model.int8.trt.onnx"))
    assert returned and all(layer in note.partition("excluded: ")[2] for layer in returned)


def test_a_graph_that_an_older_builder_cannot_read_says_so(
    splite: Run, tiny_bundle: Path, tiny_model: Path, output: Path
) -> None:
    newer = onnx.version_converter.convert_version(onnx.load(str(tiny_bundle / "model.onnx")), 20)
    onnx.save(newer, str(output.parent / "newer.onnx"))
    result = splite(
        "export", output.parent / "newer.onnx", "--model", tiny_model, "-b", "trt", "--crops", 4, "-o", output
    )
    assert result.exit_code == 0, result.stderr
    assert "note: model.trt.onnx is not for TensorRT 8: The graph is of opset 20" in result.stderr


def test_a_bundle_without_engines_has_no_graphs(tiny_bundle: Path) -> None:
    assert Bundle.open(tiny_bundle).manifest.graphs == ()


def test_float16_is_rounded_half_to_even() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.9, -0.9, 126.9], np.float16)
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], "q")
    graph = helper.make_graph(
        [node],
        "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [8])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [8])],
        [numpy_helper.from_array(np.float16(1), "scale"), numpy_helper.from_array(np.int8(0), "zero")],
    )
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))
    (found,) = make_session(rounding_to_nearest(model), optimise=False).run(None, {"x": values})
    assert found.tolist() == [0, 2, 2, 0, -2, 1, -1, 127]


# --- fused pre- and postprocessing ---


def test_what_to_type_next_begins_with_compile(export: Run, output: Path) -> None:
    lines = export("-b", "trt", "-p", "fp16").stdout.partition("Next:\n")[2].splitlines()
    assert lines == [
        f"  splite-deploy compile {output} -p fp16  (on the device)",
        f"  splite-deploy bench {output}  (then)",
        f"  splite-deploy run {output} IMAGE --save overlay.png  (then)",
    ]


@pytest.mark.parametrize("options", [("--fuse-input",), ("--fuse-decode",), ("--fuse-input", "--fuse-decode")])
def test_fused_pre_and_postprocessing_in_every_file(
    export: Run, splite: Run, tiny_bundle: Path, output: Path, options: tuple[str, ...], image: NDArray[np.uint8]
) -> None:
    result = export("-b", "ort", "-b", "trt", *ALL, *options)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    manifest, report, size = bundle.manifest, bundle.report(), bundle.model.input
    for held in (*manifest.artifacts, *manifest.graphs):
        (taken,) = held.inputs
        fused = (1, size.height, size.width, 3), "uint8", "NHWC"
        plain = (1, 3, size.height, size.width), "float32", "NCHW"
        assert (taken.shape, taken.dtype, taken.layout) == (fused if "--fuse-input" in options else plain)
        roles = {"keypoints", "scores", "depth"} if "--fuse-decode" in options else {"heatmap", "depth"}
        assert {tensor.role for tensor in held.outputs} == roles
    hops = {hop.label: hop.deviation_px.max for hop in report.parity}
    assert hops["onnx -> ort fp32"] < 0.01 and "onnx -> trt int8 graph (strongly typed)" in hops
    assert report.recommendation is not None
    assert report.recommendation.rows[2].peak_switches > 0  # of the heatmaps, which the files may no longer show
    box = (10, 10, 110, 90)
    with PoseEstimator.open(output, precision="fp32") as fused_one, PoseEstimator.open(tiny_bundle) as plain_one:
        np.testing.assert_allclose(
            fused_one(image, box).keypoints, plain_one(image, box).keypoints, rtol=0, atol=artifacts.FUSED_PX
        )
    assert splite("verify", output).exit_code == 0
    assert splite("inspect", output).exit_code == 0


def test_fused_parts_that_compute_something_else_are_refused(
    export: Run, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "FUSED_PX", -1.0)
    result = export("--fuse-decode")
    assert result.exit_code == 1 and "With fused pre- and postprocessing ort fp32 moves keypoints by" in result.stderr
    assert "Leave out --fuse-input and --fuse-decode" in result.stderr
    assert list(output.parent.iterdir()) == []
