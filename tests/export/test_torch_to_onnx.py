"""Networks to graphs: what comes out, and what is said where nothing does."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

import case_nets
from graphs import export_net

from splite_deploy.bundle import Bundle
from splite_deploy.decoders import Coordinates, SoftArgmax
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.torch_to_onnx import (
    MAX_OPSET,
    MIN_OPSET,
    check_output_names,
    check_outputs,
    onnx_from_network,
    settle_format,
    simplify,
)
from splite_deploy.export.graph.walk import from_proto, load, optimised, run_graph, to_proto
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.spec import ModelSpec, load_model_toml

MAPS = (1, 5, 16, 12)


class Function(torch.nn.Module):
    """A network of one function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: torch.Tensor) -> Any:
        return self.function(image)


@pytest.fixture(scope="module")
def spec(tiny_model: Path) -> ModelSpec:
    return load_model_toml(tiny_model)[0]


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> torch.nn.Module:
    """The tiny network with the weights of the tiny checkpoint, which are always the same."""
    return load_symbol("arch.py:build", tiny_model.parent)().eval()


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


# --- the graphs of the bundles ---


@pytest.mark.parametrize("count", [1, 3])
def test_a_dynamic_batch_runs_and_equals_torch(tiny_dynamic_bundle: Path, network: torch.nn.Module, count: int) -> None:
    images = np.random.default_rng(count).normal(size=(count, 3, 64, 48)).astype(np.float32)
    results = session(tiny_dynamic_bundle / "model.onnx").run(["heatmap", "depth"], {"image": images})
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == (count, *MAPS[1:]) and result.dtype == np.float32
        np.testing.assert_allclose(result, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_static_batch_is_one(tiny_bundle: Path) -> None:
    loaded = session(tiny_bundle / "model.onnx")
    assert [tensor.shape for tensor in loaded.get_inputs()] == [[1, 3, 64, 48]]
    assert [tensor.shape for tensor in loaded.get_outputs()] == [list(MAPS), list(MAPS)]
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        loaded.run(None, {"image": np.zeros((2, 3, 64, 48), np.float32)})


@pytest.mark.parametrize(("bundle", "batch"), [("tiny_bundle", 1), ("tiny_dynamic_bundle", None)])
def test_inputs_and_outputs_are_named_by_role(request: pytest.FixtureRequest, bundle: str, batch: int | None) -> None:
    path = request.getfixturevalue(bundle)
    artifact = Bundle.open(path).find()
    (image,) = artifact.inputs
    assert (image.name, image.shape, image.dtype, image.layout) == ("image", (batch, 3, 64, 48), "float32", "NCHW")
    found = [(tensor.name, tensor.role, tensor.shape, tensor.dtype) for tensor in artifact.outputs]
    assert found == [(role, role, (batch, *MAPS[1:]), "float32") for role in ("heatmap", "depth")]
    loaded = session(path / "model.onnx")
    assert [tensor.name for tensor in loaded.get_inputs()] == ["image"]
    assert [tensor.name for tensor in loaded.get_outputs()] == ["heatmap", "depth"]


def test_normalisation_layers_are_folded(tiny_bundle: Path, network: torch.nn.Module) -> None:
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    found = nodes(tiny_bundle / "model.onnx")
    assert found.count("Conv") == 4 and set(found) == {"Conv", "Relu"}


def test_the_graph_says_nothing_about_this_machine(tiny_bundle: Path, tiny_model: Path) -> None:
    data = (tiny_bundle / "model.onnx").read_bytes()
    tells = [os.fspath(Path.home()), os.fspath(tiny_model.parent), os.fspath(tiny_bundle.parent), socket.gethostname()]
    for tell in (*tells, "/site-packages/", ".py", "Traceback", "/tmp/", "pkg.torch"):
        assert tell.encode() not in data, tell
    model = onnx.load(str(tiny_bundle / "model.onnx"))
    graph = model.graph
    parts = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    assert not any(part.doc_string for part in parts)
    assert not any(part.metadata_props for part in parts[1:])


def test_the_graph_carries_its_model_spec(tiny_bundle: Path, spec: ModelSpec) -> None:
    from splite_deploy import __version__

    metadata = {item.key: item.value for item in onnx.load(str(tiny_bundle / "model.onnx")).metadata_props}
    assert set(metadata) == {"splite_model", "splite_version"}
    assert ModelSpec.from_dict(json.loads(metadata["splite_model"])) == spec
    assert metadata["splite_version"] == __version__


# --- making graphs ---


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, MAX_OPSET + 1, 0, -1])
def test_an_opset_that_is_not_supported(network: torch.nn.Module, spec: ModelSpec, opset: int) -> None:
    with pytest.raises(ExportError, match=f"Opset {opset} is not supported") as caught:
        onnx_from_network(network, spec, opset=opset, dynamic_batch=False)
    assert caught.value.hint == f"Choose {MIN_OPSET} to {MAX_OPSET}."


def test_the_format_is_the_oldest_that_has_the_opset(tiny_bundle: Path) -> None:
    """ONNX Runtime reads IR version 9 up to 1.17, and torch's exporter writes 10."""
    model = to_proto(load(tiny_bundle / Bundle.open(tiny_bundle).find("ort", "fp32").file))
    assert model.ir_version == 8
    for written, opset, settled in ((10, 18, 8), (10, 19, 9), (11, 21, 10), (8, 21, 8), (10, 13, 8), (7, 13, 7)):
        model.ir_version, model.opset_import[0].version = written, opset
        settle_format(model)
        assert model.ir_version == settled


@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_the_opset_is_the_one_asked_for(network: torch.nn.Module, spec: ModelSpec, opset: int) -> None:
    raw = onnx_from_network(network, spec, opset=opset, dynamic_batch=False)
    before = to_proto(raw)
    simple = simplify(raw, metadata={"key": "value"})
    assert to_proto(raw) == before  # it was a copy
    assert simple.metadata_props == {"key": "value"}
    for model in (raw, simple):
        assert model.opset_imports[""] == opset
        assert model.ir_version == (8 if opset == 18 else 10)
    check_output_names(simple, spec)
    assert [output.name for output in simple.graph.outputs] == ["heatmap", "depth"]
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 48)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image))[0].numpy()
    loaded = ort.InferenceSession(to_proto(simple).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(loaded.run(["heatmap"], {"image": image})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_control_flow_that_depends_on_data(network: torch.nn.Module, spec: ModelSpec, dynamic_batch: bool) -> None:
    def forward(image: torch.Tensor) -> Any:
        heatmap, depth = network(image)
        return (heatmap, depth) if heatmap.sum() > 0 else (heatmap + 1, depth)

    with pytest.raises(ExportError) as caught:
        onnx_from_network(Function(forward).eval(), spec, opset=18, dynamic_batch=dynamic_batch)
    message = caught.value.message
    assert message.startswith("torch cannot export this network: ")
    assert "data-dependent" in message and len(message) < 400
    assert "\x1b" not in message and "\n" not in message
    assert "Data-dependent control flow is the usual cause" in caught.value.hint
    assert ("--dynamic-batch" in caught.value.hint) == dynamic_batch


def test_the_exporter_keeps_quiet(network: torch.nn.Module, spec: ModelSpec, capfd: pytest.CaptureFixture[str]) -> None:
    simplify(onnx_from_network(network, spec, opset=18, dynamic_batch=True), metadata={})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["raises", "invalid"])
def test_a_simplifier_that_fails(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def failing(model: Any, **options: Any) -> tuple[Any, bool]:
        if fault == "raises":
            raise RuntimeError("\nno luck\nat all")
        return model, False

    monkeypatch.setattr("onnxsim.simplify", failing)
    with pytest.raises(ExportError) as caught:
        simplify(load(tiny_bundle / "model.onnx"), metadata={})
    wanted = "onnxsim failed: RuntimeError: no luck" if fault == "raises" else "could not validate the simplified graph"
    assert wanted in caught.value.message and caught.value.hint


def test_constants_in_every_form_become_initializers() -> None:
    """onnxsim 0.4 fails where they are numbers, and 0.8 leaves them as they are."""
    low = onnx.helper.make_node("Constant", [], ["low"], value_float=-1.0)
    high = onnx.helper.make_node("Constant", [], ["high"], value=onnx.helper.make_tensor("one", 1, [], [1.0]))
    clip = onnx.helper.make_node("Clip", ["image", "low", "high"], ["heatmap"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("image", "heatmap")]
    graph = onnx.helper.make_graph([low, high, clip], "g", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    given = from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))
    made = simplify(given, metadata={})
    assert [node.op_type for node in made.graph] == ["Clip"]
    assert [node.op_type for node in given.graph] == ["Constant", "Constant", "Clip"]
    x = np.array([[-2, 0.5, 2]], np.float32)
    np.testing.assert_array_equal(run_graph(made, x)["heatmap"], [[-1, 0.5, 1]])


def test_a_gelu_before_a_convolution_stays_one() -> None:
    """Its half belongs to it: ONNX Runtime joins it to one operator."""
    graph = export_net(case_nets.seeded(case_nets.Gelu), case_nets.SIDE)
    assert [node.op_type for node in optimised(graph).graph] == ["Conv", "Gelu", "Conv"]


# --- what a network gives ---


def maps(image: Any, keypoints: int = 5, rows: int = 16) -> Any:
    return torch.zeros(len(image), keypoints, rows, 12)


@pytest.mark.parametrize(
    ("function", "message", "hint"),
    [
        (maps, "The network gives 1 outputs; the decoder 'softargmax-depth' reads 2: heatmap, depth.", "decoder"),
        (lambda x: (maps(x),) * 3, "The network gives 3 outputs", "with source = -1 for the last"),
        (lambda x: (maps(x), maps(x, 4)), "output 'depth' has shape (1, 4, 16, 12); the spec says (1, 5, 16, 12)", ""),
        (lambda x: (maps(x, 5, 8), maps(x)), "output 'heatmap' has shape (1, 5, 8, 12); the spec says", "stride"),
        (lambda x: (maps(x)[0], maps(x)), "output 'heatmap' has shape (5, 16, 12); the spec says", "keypoint_names"),
        (lambda x: {"heatmap": maps(x), "depth": maps(x)}, "The network gives a dict, not float32 tensors.", "tuple"),
        (lambda x: None, "The network gives a NoneType, not float32 tensors.", "heatmap, depth"),
        (lambda x: (maps(x), None), "gives a tuple of float32, a NoneType, not float32 tensors.", "heatmap, depth"),
        (lambda x: (maps(x), maps(x).double()), "gives a tuple of float32, float64, not float32", "heatmap, depth"),
        (lambda x: [maps(x).half()] * 2, "gives a list of float16, float16, not float32 tensors.", "heatmap, depth"),
        (lambda x: x @ x, "The network fails on an input of (1, 3, 64, 48): RuntimeError: ", "input size"),
        (lambda x: {}["no"], "The network fails on an input of (1, 3, 64, 48): KeyError: 'no'", "input size"),
    ],
)
def test_outputs_that_do_not_fit(spec: ModelSpec, function: Callable[[Any], Any], message: str, hint: str) -> None:
    with pytest.raises(ExportError) as caught:
        check_outputs(Function(function), spec)
    assert message in caught.value.message and hint in caught.value.hint


def test_outputs_that_fit(spec: ModelSpec) -> None:
    check_outputs(Function(lambda x: (maps(x), maps(x))), spec)
    check_outputs(Function(lambda x: [maps(x), maps(x)]), spec)
    check_outputs(Function(maps), dataclasses.replace(spec, decoder=SoftArgmax(4.0, "corner", 1.0, 3)))


@pytest.mark.parametrize(("columns", "fits"), [(2, True), (3, True), (1, False), (4, False)])
def test_coordinates(spec: ModelSpec, columns: int, fits: bool) -> None:
    network = Function(lambda x: torch.zeros(len(x), 5, columns))
    spec = dataclasses.replace(spec, decoder=Coordinates("unit"))
    if fits:
        check_outputs(network, spec)
        return
    with pytest.raises(
        ExportError, match=rf"'coordinates' has shape \(1, 5, {columns}\); the spec says \(1, 5, 2 or 3\)"
    ):
        check_outputs(network, spec)


def test_outputs_whose_names_are_wrong(tiny_bundle: Path, spec: ModelSpec) -> None:
    with pytest.raises(ExportError, match=r"outputs are \['heatmap', 'depth'\], not \['coordinates'\]") as caught:
        check_output_names(load(tiny_bundle / "model.onnx"), dataclasses.replace(spec, decoder=Coordinates("unit")))
    assert caught.value.hint


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_attention_without_a_head_axis(spec: ModelSpec, dynamic_batch: bool) -> None:
    """The exporter knows attention of four axes alone; decomposed it takes every other."""

    def forward(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n, _, h, w = image.shape
        tokens = torch.nn.functional.avg_pool2d(image, 4).flatten(2).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).sum(-1, keepdim=True)
        maps = mixed.transpose(1, 2).reshape(n, 1, h // 4, w // 4).expand(-1, spec.keypoint_count, -1, -1)
        return maps + 0.0, maps * 2.0

    network = Function(forward).eval()
    model = onnx_from_network(network, spec, opset=18, dynamic_batch=dynamic_batch)
    crops = np.random.default_rng(0).normal(0, 1, (1, 3, spec.input.height, spec.input.width)).astype(np.float32)
    found = run_graph(simplify(model, metadata={}), crops)
    wanted, _ = network(torch.from_numpy(crops))
    np.testing.assert_allclose(found["heatmap"], wanted.detach().numpy(), atol=1e-4)
