"""Fused pre- and postprocessing: as the host's, on every vector and in every precision and opset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import pytest
from decode_vectors import (
    CASES,
    PEOPLE,
    PEOPLE_CASES,
    assert_expected,
    case_named,
    outputs_of,
    people_outputs,
    people_spec,
    spec_of,
)
from exports import refused
from numpy.typing import NDArray
from onnx import version_converter  # noqa: TID253
from through import run, run_through, through

from splite_deploy.bundle import Bundle, TensorSpec
from splite_deploy.decoders import Decoded, decode
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input, tensor_specs
from splite_deploy.export.graph.walk import from_proto, load, name_of, named_nodes, readers, to_proto
from splite_deploy.export.quant.precision import to_fp16, to_int8
from splite_deploy.runtime.preprocess import Preprocessor

Array = NDArray[np.float32]
BATCHES = pytest.mark.parametrize("batch", ["fixed", "dynamic"])


@pytest.fixture
def bundle(batch: str, request: pytest.FixtureRequest) -> Bundle:
    """The tiny bundle with a batch of one, or a dynamic one."""
    return Bundle.open(request.getfixturevalue("tiny_bundle" if batch == "fixed" else "tiny_dynamic_bundle"))


def same(found: dict[str, Array], expected: Decoded, stride: float) -> None:
    """Asserts that a graph decodes as the host does; at the edge of a cell rounding decides about the score."""
    np.testing.assert_allclose(found["keypoints"], expected.keypoints, rtol=0, atol=0.02)
    cells = expected.keypoints / stride
    clear = (abs(cells - cells.round()) > 1e-3).all(axis=-1)
    np.testing.assert_allclose(found["scores"][clear], expected.scores[clear], rtol=0, atol=1e-4)
    assert set(found) == set(expected.by_role())
    if expected.depth is not None:
        np.testing.assert_allclose(found["depth"], expected.depth, rtol=0, atol=1e-3)


def crops_of(bundle: Bundle) -> NDArray[np.uint8]:
    """Golden crops, and a black and a white one, whose borders are far from the mean."""
    golden = bundle.golden().crops
    return np.concatenate([golden, np.zeros_like(golden[:1]), np.full_like(golden[:1], 255)])


# --- decoding ---


@pytest.mark.parametrize("batch", ["fixed", "dynamic"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_vector(case: dict[str, Any], batch: str) -> None:
    arrays = outputs_of(case)
    crops = case["shape"][0] if batch == "fixed" else "batch"
    model = through({role: (crops, *array.shape[1:]) for role, array in arrays.items()})
    found = run_through(fuse_decode(model, spec_of(case)), arrays)
    assert_expected(found, case)


@pytest.mark.parametrize("batch", ["fixed", "dynamic"])
@pytest.mark.parametrize("case", PEOPLE_CASES, ids=lambda case: str(case["name"]))
def test_people_vector(case: dict[str, Any], batch: str) -> None:
    arrays, spec = people_outputs(case), people_spec(case)
    crops = len(next(iter(arrays.values()))) if batch == "fixed" else "batch"
    model = through({role: (crops, *array.shape[1:]) for role, array in arrays.items()})
    fused = fuse_decode(model, spec)
    count = len(case["expected"]["candidates"][0])
    (told,) = tensor_specs(fused, spec.decoder)[1]
    assert (told.role, told.layout, told.shape[1:]) == ("candidates", "NAC", (count, 5 + 3 * spec.keypoint_count))
    found = run_through(fused, arrays)
    np.testing.assert_allclose(found["candidates"], case["expected"]["candidates"], rtol=0, atol=PEOPLE["tolerance"])


@BATCHES
def test_real_outputs_decode_as_on_the_host(bundle: Bundle) -> None:
    spec = bundle.model
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops_of(bundle))
    plain = load(bundle.path / "model.onnx")
    fused = fuse_decode(plain, spec)
    for size in (1,) if tensor_specs(plain, spec.decoder)[0][0].shape[0] == 1 else (1, 3):
        for start in range(0, len(tensors) - size + 1, size):
            batch = tensors[start : start + size]
            same(run(fused, image=batch), decode(run(plain, image=batch), spec), spec.decoder.stride)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    case = case_named("depth, palm")
    maps = np.zeros((1, 2, 5, 5), np.float32)
    maps[0, 1, 2, 2] = value
    found = run(
        fuse_decode(through({"heatmap": (1, 2, 5, 5), "depth": (1, 2, 5, 5)}), spec_of(case)),
        in_heatmap=maps,
        in_depth=np.zeros_like(maps),
    )
    assert np.isfinite(found["keypoints"][0, 0]).all() and np.isnan(found["keypoints"][0, 1]).all()


# --- the input ---


@BATCHES
def test_crops_are_normalised_as_on_the_host(bundle: Bundle) -> None:
    spec = bundle.model
    crops = crops_of(bundle)
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
    plain = load(bundle.path / "model.onnx")
    fused = fuse_input(plain, spec)
    for start in range(len(crops)):
        found, expected = run(fused, image=crops[start : start + 1]), run(plain, image=tensors[start : start + 1])
        for role, values in expected.items():
            np.testing.assert_allclose(found[role], values, rtol=0, atol=1e-4, err_msg=role)


# --- both, in every precision ---


def fp16(graph: ir.Model, tensors: Array) -> ir.Model:
    return to_fp16(graph, tensors)[0]


def int8(graph: ir.Model, tensors: Array) -> ir.Model:
    return to_int8(graph, tensors, "ort")[0]


@BATCHES
@pytest.mark.parametrize("convert", [None, fp16, int8], ids=["fp32", "fp16", "int8"])
@pytest.mark.parametrize("order", [(fuse_input, fuse_decode), (fuse_decode, fuse_input)], ids=["input", "decode"])
def test_both_in_every_precision(
    bundle: Bundle, convert: Callable[..., ir.Model] | None, order: tuple[Callable[..., Any], ...]
) -> None:
    spec, plain = bundle.model, load(bundle.path / "model.onnx")
    crops = crops_of(bundle)
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
    if convert is not None:
        plain = convert(plain, tensors)
    before = to_proto(plain)
    fused = order[1](order[0](plain, spec), spec)
    assert to_proto(plain) == before
    for start in range(len(crops)):
        expected = decode(run(plain, image=tensors[start : start + 1]), spec)
        same(run(fused, image=crops[start : start + 1]), expected, spec.decoder.stride)  # type: ignore[union-attr]


@pytest.mark.parametrize("opset", range(18, 24))
def test_both_in_every_opset(opset: int, tiny_bundle: Path) -> None:
    """Pre- and postprocessing follow the network's opset and IR version."""
    bundle = Bundle.open(tiny_bundle)
    spec, crops = bundle.model, crops_of(bundle)[:1]
    plain = from_proto(version_converter.convert_version(to_proto(load(bundle.path / "model.onnx")), opset))
    fused = fuse_decode(fuse_input(plain, spec), spec)
    assert fused.opset_imports == {"": opset}
    assert fused.ir_version == plain.ir_version
    onnx.checker.check_model(to_proto(fused), full_check=True)
    expected = decode(run(plain, image=Preprocessor(spec.input, spec.input.color).normalise(crops)), spec)
    same(run(fused, image=crops), expected, spec.decoder.stride)  # type: ignore[union-attr]


@pytest.mark.parametrize("batch", ["fixed"])
def test_names_and_metadata_of_the_network_stay(bundle: Bundle) -> None:
    """Tensors inside of a network may have the names of decoded roles; its nodes keep theirs."""
    spec, plain = bundle.model, load(bundle.path / "model.onnx")
    inner = [node.outputs[0] for node in plain.graph if node.outputs[0].name not in spec.decoder.roles][-2:]
    for value, name in zip(inner, ("keypoints", "scores"), strict=True):
        value.name = name
    crops = crops_of(bundle)[:1]
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
    fused = fuse_decode(fuse_input(plain, spec), spec)
    same(run(fused, image=crops), decode(run(plain, image=tensors), spec), spec.decoder.stride)  # type: ignore[union-attr]
    kept = [name for name in named_nodes(fused.graph) if not name.startswith("fused_")]
    assert kept == list(named_nodes(plain.graph))
    assert fused.metadata_props == plain.metadata_props


# --- what TensorRT and small maps need ---


@pytest.mark.parametrize("batch", ["fixed"])
def test_uint8_is_cast_first_and_the_mean_stays_out_of_the_convolution(bundle: Bundle) -> None:
    """TensorRT does nothing else with uint8, and zero padding stands for pixels of the mean."""
    plain = load(bundle.path / "model.onnx")
    fused = fuse_input(plain, bundle.model)
    assert [node.op_type for node in fused.graph[:3]] == ["Cast", "Transpose", "BatchNormalization"]
    assert name_of(fused.graph.inputs[0]) == "image" and readers(fused.graph.inputs[0]) == [fused.graph[0]]
    assert len(fused.graph) == 3 + len(plain.graph)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("global noise", 18),
        ("window noise", 19),
        ("depth, palm", 23),
        ("udp, depth", 24),
        ("argmax, quarter, noise", 26),
        ("argmax, none, noise", 7),
        ("dark, noise", 42),
        ("udp, noise", 43),
        ("udp, combined, noise", 23),
        ("expectation, noise", 10),
        ("offset, yyxx, pixel", 19),
    ],
)
def test_few_nodes_decode(name: str, most: int) -> None:
    """On small maps it is the number of nodes that takes the time."""
    case = case_named(name)
    plain = through({role: array.shape for role, array in outputs_of(case).items()})
    fused = fuse_decode(plain, spec_of(case))
    assert len(fused.graph) - len(plain.graph) <= most
    assert not [node for node in fused.graph if node.op_type == "Constant"]


@BATCHES
def test_the_manifest_says_so(bundle: Bundle, batch: str) -> None:
    plain = load(bundle.path / "model.onnx")
    size = 1 if batch == "fixed" else None
    artifact = bundle.find()
    assert tensor_specs(plain, bundle.model.decoder) == (artifact.inputs, artifact.outputs)
    inputs, outputs = tensor_specs(fuse_decode(fuse_input(plain, bundle.model), bundle.model), bundle.model.decoder)
    assert inputs == (TensorSpec("image", (size, 64, 48, 3), "uint8", "NHWC", "image"),)
    assert outputs == (
        TensorSpec("keypoints", (size, 5, 2), "float32", "NKC", "keypoints"),
        TensorSpec("scores", (size, 5), "float32", "NK", "scores"),
        TensorSpec("depth", (size, 5), "float32", "NK", "depth"),
    )


# --- what is refused ---


@pytest.mark.parametrize("batch", ["fixed"])
def test_each_is_fused_once(bundle: Bundle) -> None:
    plain, spec = load(bundle.path / "model.onnx"), bundle.model
    once = "Fuse the input once"
    refused(
        ExportError, "inputs are image uint8 (1, 64, 48, 3), not one", once, fuse_input, fuse_input(plain, spec), spec
    )
    message, hint = (
        "outputs are keypoints float32 (1, 5, 2); scores float32 (1, 5); depth float32 (1, 5); the",
        "Fuse the decoder once",
    )
    refused(ExportError, message, hint, fuse_decode, fuse_decode(plain, spec), spec)


def test_graphs_that_do_not_fit() -> None:
    case = case_named("depth, palm")
    spec, maps = spec_of(case), {"heatmap": (1, 2, 5, 5), "depth": (1, 2, 5, 5)}
    hint = "Export with --opset 18."
    for fuse in (fuse_input, fuse_decode):
        refused(ExportError, "this graph has 17", hint, fuse, through(maps, opset=17), spec)
    message = (
        "inputs are in_heatmap float32 (1, 2, 5, 5); in_depth float32 (1, 2, 5, 5), not one float32 (N, 3, 20, 20)"
    )
    refused(ExportError, message, "this model.toml", fuse_input, through(maps), spec)
    for shapes in ({"heatmap": (1, 2, 5, 5)}, {**maps, "mask": (1, 1, 5, 5)}):
        message = "reads float32 heatmap, depth of 2 keypoints"
        refused(ExportError, message, "this model.toml", fuse_decode, through(shapes), spec)
    for shapes, found in (
        ({"heatmap": (1, 3, 5, 5), "depth": (1, 3, 5, 5)}, "(1, 3, 5, 5)"),
        ({"heatmap": (1, 2, 5, "w"), "depth": (1, 2, 5, 5)}, "(1, 2, 5, None)"),
    ):
        message = f"The output 'heatmap' has shape {found}; the spec says (1, 2, 5, 5)"
        refused(ExportError, message, "keypoint_names", fuse_decode, through(shapes), spec)
