"""The ends of a network inside its graph: as the host's preprocessing and decoding, on every vector and precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import pytest
from decode_vectors import CASES, assert_expected, case_named, outputs_of, spec_of
from exports import refused
from numpy.typing import NDArray
from onnx import TensorProto, helper  # noqa: TID253

from splite_deploy.bundle import Bundle, TensorSpec
from splite_deploy.decoders import Decoded, decode
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input, tensor_specs
from splite_deploy.export.graph.walk import load, make_session
from splite_deploy.export.quant.precision import to_fp16, to_int8
from splite_deploy.runtime.preprocess import Preprocessor

Array = NDArray[np.float32]
BATCHES = pytest.mark.parametrize("batch", ["fixed", "dynamic"])


@pytest.fixture
def bundle(batch: str, request: pytest.FixtureRequest) -> Bundle:
    """The tiny bundle with a batch of one, or a dynamic one."""
    return Bundle.open(request.getfixturevalue("tiny_bundle" if batch == "fixed" else "tiny_dynamic_bundle"))


def through(shapes: dict[str, Any], batch: int | str, *, opset: int = 18) -> onnx.ModelProto:
    """A graph that gives what it takes, under the names of the roles."""
    values = {role: (batch, *shape) for role, shape in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{role}"], [role]) for role in values],
        "through",
        [helper.make_tensor_value_info(f"in_{role}", TensorProto.FLOAT, shape) for role, shape in values.items()],
        [helper.make_tensor_value_info(role, TensorProto.FLOAT, shape) for role, shape in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(model: onnx.ModelProto, **feeds: NDArray[Any]) -> dict[str, Array]:
    session = make_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


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
    model = through({role: array.shape[1:] for role, array in arrays.items()}, crops)
    found = run(fuse_decode(model, spec_of(case)), **{f"in_{role}": array for role, array in arrays.items()})
    assert_expected(found, case)


@BATCHES
def test_real_outputs_decode_as_on_the_host(bundle: Bundle) -> None:
    spec = bundle.model
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops_of(bundle))
    plain = load(bundle.path / "model.onnx")
    fused = fuse_decode(plain, spec)
    for size in (1,) if tensor_specs(plain)[0][0].shape[0] == 1 else (1, 3):
        for start in range(0, len(tensors) - size + 1, size):
            batch = tensors[start : start + size]
            same(run(fused, image=batch), decode(run(plain, image=batch), spec), spec.decoder.stride)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    case = case_named("depth, palm")
    maps = np.zeros((1, 2, 5, 5), np.float32)
    maps[0, 1, 2, 2] = value
    found = run(
        fuse_decode(through({"heatmap": (2, 5, 5), "depth": (2, 5, 5)}, 1), spec_of(case)),
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


def fp16(graph: onnx.ModelProto, tensors: Array) -> onnx.ModelProto:
    return to_fp16(graph, tensors)[0]


def int8(graph: onnx.ModelProto, tensors: Array) -> onnx.ModelProto:
    return to_int8(graph, tensors, "ort")[0]


@BATCHES
@pytest.mark.parametrize("convert", [None, fp16, int8], ids=["fp32", "fp16", "int8"])
@pytest.mark.parametrize("order", [(fuse_input, fuse_decode), (fuse_decode, fuse_input)], ids=["input", "decode"])
def test_both_ends_in_every_precision(
    bundle: Bundle, convert: Callable[..., onnx.ModelProto] | None, order: tuple[Callable[..., Any], ...]
) -> None:
    spec, plain = bundle.model, load(bundle.path / "model.onnx")
    crops = crops_of(bundle)
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
    if convert is not None:
        plain = convert(plain, tensors)
    before = plain.SerializeToString()
    fused = order[1](order[0](plain, spec), spec)
    assert plain.SerializeToString() == before
    for start in range(len(crops)):
        expected = decode(run(plain, image=tensors[start : start + 1]), spec)
        same(run(fused, image=crops[start : start + 1]), expected, spec.decoder.stride)  # type: ignore[union-attr]


@BATCHES
def test_the_manifest_says_so(bundle: Bundle, batch: str) -> None:
    plain = load(bundle.path / "model.onnx")
    size = 1 if batch == "fixed" else None
    artifact = bundle.find()
    assert tensor_specs(plain) == (artifact.inputs, artifact.outputs)
    inputs, outputs = tensor_specs(fuse_decode(fuse_input(plain, bundle.model), bundle.model))
    assert inputs == (TensorSpec("image", (size, 64, 48, 3), "uint8", "NHWC", "image"),)
    assert outputs == (
        TensorSpec("keypoints", (size, 5, 2), "float32", "NKC", "keypoints"),
        TensorSpec("scores", (size, 5), "float32", "NK", "scores"),
        TensorSpec("depth", (size, 5), "float32", "NK", "depth"),
    )


# --- what is refused ---


@pytest.mark.parametrize("batch", ["fixed"])
def test_ends_are_fused_once(bundle: Bundle) -> None:
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
    spec, maps = spec_of(case), {"heatmap": (2, 5, 5), "depth": (2, 5, 5)}
    hint = "Export with --opset 18."
    for fuse in (fuse_input, fuse_decode):
        refused(ExportError, "this graph has 17", hint, fuse, through(maps, 1, opset=17), spec)
    message = (
        "inputs are in_heatmap float32 (1, 2, 5, 5); in_depth float32 (1, 2, 5, 5), not one float32 (N, 3, 20, 20)"
    )
    refused(ExportError, message, "this model.toml", fuse_input, through(maps, 1), spec)
    for shapes in (
        {"heatmap": (2, 5, 5)},
        {"heatmap": (3, 5, 5), "depth": (3, 5, 5)},
        {"heatmap": (2, 5, "w"), "depth": (2, 5, 5)},
        {**maps, "mask": (1, 5, 5)},
    ):
        message = "reads float32 heatmap, depth of 2 keypoints"
        refused(ExportError, message, "this model.toml", fuse_decode, through(shapes, 1), spec)
