"""Small networks that conversions stumbled over: each works now, or is refused with what a user can do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import case_nets
from converters import use_any_converter
from torch import nn  # noqa: TID253
from trt_graphs import needs_rtx

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.errors import ParityError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.artifacts import GraphFile
from splite_deploy.export.graph.torch_to_onnx import onnx_from_network, simplify
from splite_deploy.export.graph.walk import constant, load
from splite_deploy.runtime.verify import check, largest_batch, verify

Run = Callable[..., Result]


@pytest.fixture
def export(splite: Run, tmp_path: Path) -> Run:
    """Exports a case; the bundle is tmp_path / "net.splite"."""

    def run(kind: type[nn.Module], *arguments: Any, crops: int = 12) -> Result:
        checkpoint = case_nets.write(kind, tmp_path)
        return splite("export", checkpoint, "-o", tmp_path / "net.splite", "--crops", crops, *arguments)

    return run


WORKS = (
    case_nets.Stem,
    case_nets.Shuffle,
    case_nets.ResidualShuffle,
    case_nets.AlignCorners,
    case_nets.ScalarTimes,
    case_nets.PaddedChannels,
    case_nets.Huge,
    case_nets.ScaleNorm,
    case_nets.Gelu,
    case_nets.GroupNormed,
    case_nets.Bicubic,
    case_nets.Coordinates,
    case_nets.Attention,
)
ALL = ("-p", "fp32", "-p", "fp16", "-p", "int8")


@pytest.mark.parametrize("kind", WORKS)
def test_every_precision_of_onnx_runtime_and_tensorrt(export: Run, tmp_path: Path, kind: type[nn.Module]) -> None:
    done = export(kind, "-b", "ort", "-b", "trt", *ALL)
    assert done.exit_code == 0, done.output
    manifest = Bundle.open(tmp_path / "net.splite").manifest
    assert [artifact.label for artifact in manifest.artifacts] == ["ort fp32", "ort fp16", "ort int8"]
    assert {graph.precision for graph in manifest.graphs} == {"fp32", "fp16", "int8"}


@pytest.mark.parametrize("kind", WORKS)
def test_every_precision_of_tflite(
    export: Run, tmp_path: Path, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_any_converter(monkeypatch)
    done = export(kind, "-b", "tflite", *ALL)
    assert done.exit_code == 0, done.output
    labels = {artifact.label for artifact in Bundle.open(tmp_path / "net.splite").manifest.artifacts}
    assert labels >= {"tflite fp32", "tflite fp16", "tflite int8"}


def test_names_of_a_given_graph_do_not_matter(splite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_any_converter(monkeypatch)
    graph = case_nets.write_onnx(case_nets.Grouped, tmp_path)
    done = splite("export", graph, "-o", tmp_path / "net.splite", "-b", "tflite", *ALL, "--crops", 12)
    assert done.exit_code == 0, done.output


def test_padding_is_no_value(export: Run, tmp_path: Path) -> None:
    """Behind a ReLU nothing is negative, and the smallest float that pads a max pool least of all."""
    assert export(case_nets.Stem, "-p", "int8").exit_code == 0
    graph = load(tmp_path / "net.splite" / "model.int8.onnx").graph
    scales = [constant(node.inputs[1]) for node in graph if node.op_type == "QuantizeLinear"]
    assert scales
    assert max(float(scale.max()) for scale in scales if scale is not None) < 0.1


def test_what_float16_cannot_hold_stays_in_float32(export: Run, tmp_path: Path) -> None:
    """No float16 lies between nodes that stay in float32."""
    done = export(case_nets.Huge, "-p", "fp16")
    assert done.exit_code == 0, done.output
    assert "in float32: node_conv2d ('a.weight' reaches " in done.output
    graph = load(tmp_path / "net.splite" / "model.fp16.onnx").graph
    kinds = [node.op_type for node in graph]
    assert kinds.index("Relu") - kinds.index("Conv") == 1
    assert kinds.count("Cast") == 2


@pytest.mark.parametrize(
    ("kind", "islands"),
    [
        (case_nets.ScaleNorm, ("node_linalg_vector_norm (ReduceL2)", "node_div (Div)")),
        (case_nets.Gelu, ("node_Erf_2 (Erf)",)),
        (case_nets.GroupNormed, ("node_InstanceNormalization_12 (InstanceNormalization)",)),
    ],
)
def test_what_has_no_int8_kernel_is_a_float_island(
    export: Run, kind: type[nn.Module], islands: tuple[str, ...]
) -> None:
    """The report names it, for ONNX Runtime and for TensorRT."""
    done = export(kind, "-b", "ort", "-b", "trt", "-p", "int8")
    assert done.exit_code == 0, done.output
    for file in ("model.int8.onnx", "model.int8.trt.onnx"):
        note = next(line for line in done.output.splitlines() if line.startswith(f"note: {file}: "))
        _, _, named = note.partition("float for want of a kernel: ")
        assert all(island in named for island in islands)


@needs_rtx
@pytest.mark.parametrize("kind", [case_nets.ScalarTimes, case_nets.Huge, case_nets.GroupNormed])
def test_engines_are_built(export: Run, splite: Run, tmp_path: Path, kind: type[nn.Module]) -> None:
    """Of a product with a scalar, of what stays in float32, of islands."""
    assert export(kind, "-b", "trt", "-p", "fp16", "-p", "int8").exit_code == 0
    done = splite("compile", tmp_path / "net.splite", "-p", "fp16", "-p", "int8")
    assert done.exit_code == 0, done.output


def test_crops_that_mix_in_a_batch_are_refused(export: Run, tmp_path: Path) -> None:
    done = export(case_nets.MixedBatch, "--dynamic-batch")
    assert done.exit_code == 1
    assert "torch -> onnx is right for one crop and wrong for several at once: keypoint deviation p95" in done.output
    assert "or leave out --dynamic-batch." in done.output
    assert not (tmp_path / "net.splite").exists()
    assert export(case_nets.MixedBatch).exit_code == 0


def test_one_crop_is_compared_with_its_mirror_image(export: Run) -> None:
    done = export(case_nets.MixedBatch, "--dynamic-batch", crops=1)
    assert "wrong for several at once" in done.output


def test_verify_compares_several_crops_at_once(tmp_path: Path) -> None:
    """With a graph as earlier versions put it into a bundle."""
    checkpoint = case_nets.write(case_nets.MixedBatch, tmp_path)
    bundle = export_bundle(checkpoint, tmp_path / "net.splite", options=ExportOptions(crops=4))
    check(verify(bundle))
    network = case_nets.seeded(case_nets.MixedBatch)
    graph = simplify(onnx_from_network(network, bundle.model, opset=18, dynamic_batch=True), metadata={})
    file = GraphFile.of("model.onnx", graph, bundle.model.decoder)
    (bundle.path / file.name).write_bytes(file.content)
    artifact = file.artifact("fp32", bundle.manifest.artifacts[0].limits)
    manifest = replace(bundle.manifest, artifacts=(artifact,))
    (bundle.path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    with pytest.raises(ParityError, match="ort fp32 differs on this machine: several crops at once: keypoint"):
        check(verify(Bundle.open(bundle.path)))


def test_an_engine_is_given_no_more_crops_than_it_takes(tmp_path: Path) -> None:
    checkpoint = case_nets.write(case_nets.Stem, tmp_path)
    options = ExportOptions(crops=4, dynamic_batch=True)
    artifact = export_bundle(checkpoint, tmp_path / "net.splite", options=options).manifest.artifacts[0]
    assert largest_batch(artifact) == 3
    assert largest_batch(replace(artifact, target={"batch": "1,1,2"})) == 2
    assert largest_batch(replace(artifact, target={"batch": "1,2,8"})) == 3


def test_a_stage_that_is_not_finite_is_named_with_its_layer(export: Run, tmp_path: Path) -> None:
    done = export(case_nets.LogSigmoid)
    assert done.exit_code == 1
    assert "torch -> onnx gives NaN or infinity in 'heatmap' on " in done.output
    assert re.search(r"The first layer that gives NaN or infinity is '\w+' \(Log\)\.", done.output)
    assert "logsigmoid(x), which stays finite as -softplus(-x)" in done.output
    assert "verify" not in done.output


def test_the_advised_form_of_logsigmoid_works(export: Run) -> None:
    done = export(case_nets.MinusSoftplus)
    assert done.exit_code == 0, done.output


def test_a_network_that_is_not_finite_itself(export: Run) -> None:
    done = export(case_nets.Overflowing)
    assert done.exit_code == 1
    assert "The network itself gives NaN or infinity in 'heatmap' on 12 of 12 crops." in done.output
    assert "The first layer that gives NaN or infinity is 'exp' (exp)." in done.output
    assert "Check its weights, and mean and std in model.toml" in done.output
