"""The first layer that differs is found in graphs that were spoilt on purpose, and none where nothing is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import case_nets
import onnx_ir as ir  # noqa: TID253
from torch import nn  # noqa: TID253

from splite_deploy.export.first_difference import (
    first_difference,
    first_not_finite,
    from_graph,
    from_graph_to_tflite,
    from_torch,
    graph_layers,
    tflite_layers,
    torch_layers,
)
from splite_deploy.export.graph.torch_to_onnx import onnx_from_network, simplify
from splite_deploy.export.quant.precision import to_fp16
from splite_deploy.export.quant.ranges import calibrate
from splite_deploy.spec import ModelSpec, load_model_toml

CROP = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("case")
    case_nets.write(case_nets.Stem, folder)
    return load_model_toml(folder / "model.toml")[0]


def graph_of(kind: type[nn.Module], spec: ModelSpec) -> ir.Model:
    return onnx_from_network(case_nets.seeded(kind), spec, opset=18, dynamic_batch=False)


def spoilt(model: ir.Model, op_type: str, attribute: str, value: Any) -> ir.Model:
    """A copy with one attribute of the first such node changed."""
    changed = model.clone()
    node = next(node for node in changed.graph if node.op_type == op_type)
    node.attributes[attribute] = (
        ir.AttrString(attribute, value) if isinstance(value, str) else ir.AttrFloat32(attribute, value)
    )
    return changed


@pytest.mark.parametrize("kind", [case_nets.Stem, case_nets.AlignCorners, case_nets.ResidualShuffle, case_nets.Gelu])
def test_nothing_is_named_where_nothing_is_wrong(kind: type[nn.Module], spec: ModelSpec) -> None:
    raw = graph_of(kind, spec)
    simplified = simplify(raw, metadata={})
    assert first_difference(torch_layers(case_nets.seeded(kind), CROP), graph_layers(raw, CROP), 1e-3) is None
    assert from_torch(case_nets.seeded(kind), raw)(CROP) == ""
    assert from_graph(raw, simplified, "fp32")(CROP) == ""
    half, _ = to_fp16(simplified, CROP, ranges=calibrate(simplified, CROP))
    assert from_graph(simplified, half, "fp16")(CROP) == ""


def test_the_layer_that_was_spoilt_is_named(spec: ModelSpec) -> None:
    raw = graph_of(case_nets.AlignCorners, spec)
    wrong = spoilt(raw, "Resize", "coordinate_transformation_mode", "half_pixel")
    resize = next(node.name for node in raw.graph if node.op_type == "Resize")
    said = from_graph(raw, wrong, "fp32")(CROP)
    assert said.startswith(f"The first layer that differs is '{resize}' (Resize): nothing has its values, which lie 0.")
    said = from_torch(case_nets.seeded(case_nets.AlignCorners), wrong)(CROP)
    assert said.startswith("The first layer that differs is 'upsample_bilinear2d' (upsample_bilinear2d):")


def test_a_wrong_branch_is_named_though_the_other_is_right(spec: ModelSpec) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            left = nn.functional.leaky_relu(x, 0.2)
            maps: torch.Tensor = self.c(torch.cat([left, torch.tanh(self.b(x))], 1))
            return maps

    raw = onnx_from_network(Branches().eval(), spec, opset=18, dynamic_batch=False)
    wrong = spoilt(raw, "LeakyRelu", "alpha", 0.7)
    assert "'node_leaky_relu' (LeakyRelu)" in from_graph(raw, wrong, "fp32")(CROP)


def test_the_first_layer_that_is_not_finite(spec: ModelSpec) -> None:
    raw = graph_of(case_nets.LogSigmoid, spec)
    bad = first_not_finite(graph_layers(raw, 40 * CROP))
    assert bad is not None
    assert bad.kind == "Log"
    assert first_not_finite(torch_layers(case_nets.seeded(case_nets.LogSigmoid), 40 * CROP)) is None
    said = from_torch(case_nets.seeded(case_nets.LogSigmoid), raw)(40 * CROP)
    assert said == f"The first layer that gives NaN or infinity is {bad}."


def test_the_layers_of_a_tflite_file(tiny_tflite_bundle: Path, tiny_bundle: Path) -> None:
    graph = ir.load(tiny_bundle / "model.onnx")
    crop = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 48)).astype(np.float32)
    for precision in ("fp32", "int8"):
        content = (tiny_tflite_bundle / f"model.{precision}.tflite").read_bytes()
        assert "CONV_2D" in {layer.kind for layer in tflite_layers(content, crop)}
        assert from_graph_to_tflite(graph, content, precision)(crop) == ""
    changed = graph.clone()
    bias = next(value for value in changed.graph.initializers.values() if "backbone.3" in (value.name or ""))
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() * 1.5 + 1, name=bias.name)
    content = (tiny_tflite_bundle / "model.fp32.tflite").read_bytes()
    assert "(Conv): nothing has its values" in from_graph_to_tflite(changed, content, "fp32")(crop)
