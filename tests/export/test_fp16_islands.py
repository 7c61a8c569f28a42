"""Float16 graphs with nodes that stay in float32: no value between two of them is ever float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import case_nets
import onnx_ir as ir  # noqa: TID253
from graphs import export_net
from torch import nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from splite_deploy.export.graph.walk import after_softmax, from_proto, head, named_nodes, run_graph, to_proto
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest, to_int8_fp16
from splite_deploy.export.quant.precision import to_fp16, to_int8, unsafe_in_fp16
from splite_deploy.export.quant.ranges import calibrate

Array = NDArray[np.float32]


class Chain(nn.Module):
    """Activations of 1e6 through a branch, a pool and a sum, which also leave the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, o, 1) for i, o in ((3, 8), (8, 8), (8, 8), (8, 4)))
        with torch.no_grad():
            self.b.weight.mul_(1e6)
            self.c.weight.mul_(1e-6)

    def forward(self, x: Any) -> Any:
        y = self.b(torch.relu(self.a(x)))
        z = torch.relu(y) + functional.max_pool2d(y, 3, 1, 1)
        return self.d(torch.relu(self.c(z)) + self.c(y).abs()), y


class FirstAndLast(nn.Module):
    """The first node and the last one stay in float32: at the graph's own input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.a.weight.mul_(1e5)
            self.b.weight.mul_(1e-5)
            self.c.weight.mul_(1e5)

    def forward(self, x: Any) -> Any:
        return self.c(torch.tanh(self.b(self.a(x))))


class Shared(nn.Module):
    """A constant of a million for a float32 node, and one of a third for both kinds.

    Between the products stands what keeps onnxsim 0.8 from making one of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("factor", torch.full((1, 8, 1, 1), 0.3333333))

    def forward(self, x: Any) -> Any:
        y = self.a(x)
        huge = torch.relu(torch.relu(y * 1e6) * self.factor - 1)
        return self.c(y * self.factor + torch.tanh(huge * 1e-7))


class SoftArgmax(nn.Module):
    """Coordinates of up to 256 px in the graph, as a product with a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.register_buffer("grid", torch.stack(torch.meshgrid(*[torch.arange(16) * 16.0] * 2, indexing="ij"), -1))

    def forward(self, x: Any) -> Any:
        maps = self.c(torch.relu(self.a(x))).flatten(2)
        return (8 * maps).softmax(-1) @ self.grid.reshape(-1, 2)


def crops(size: int = 16) -> Array:
    return np.random.default_rng(0).standard_normal((8, 3, size, size)).astype(np.float32)


def relative(before: dict[str, Array], after: dict[str, Array]) -> float:
    """The largest difference of any output over its largest value."""
    return max(float(np.abs(after[name] - value).max() / np.abs(value).max()) for name, value in before.items())


def assert_no_float16_between(model: ir.Model) -> None:
    """No cast reads what a cast to float16 gives."""
    for node in model.graph:
        if node.op_type == "Cast":
            assert not [before for before in node.predecessors() if before.op_type == "Cast"], node.name


@pytest.mark.parametrize("kind", [Chain, FirstAndLast, Shared])
def test_activations_of_a_million(kind: type[nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        graph = export_net(kind().eval())
    made, report = to_fp16(graph, crops())
    assert report.excluded and report.float16
    assert_no_float16_between(made)
    assert relative(run_graph(graph, crops()), run_graph(made, crops())) < 0.01
    from_proto(to_proto(made))
    names = [value.name for value in graph.graph.outputs]
    assert [value.name for value in made.graph.outputs] == names


def test_the_huge_case_in_float16_and_strongly_typed_int8() -> None:
    graph, x = export_net(case_nets.seeded(case_nets.Huge), 64), crops(64)
    before, ranges = run_graph(graph, x), calibrate(graph, x)
    made, report = to_fp16(graph, x, ranges=ranges)
    assert_no_float16_between(made)
    assert [node.op for node in report.excluded] == ["Conv", "Relu", "Conv"]
    assert relative(before, run_graph(made, x)) < 0.002
    int8, _ = to_int8(graph, x, "trt", ranges=ranges)
    strong = to_int8_fp16(int8, [node.node for node in unsafe_in_fp16(graph, ranges)])
    assert_no_float16_between(strong)
    assert relative(before, run_graph(rounding_to_nearest(strong), x)) < 0.05


def test_what_decodes_stays_in_float32() -> None:
    """Coordinates in float16 have steps of 0.125 px from 128 px on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        graph = export_net(SoftArgmax().eval())
    decoding, last = after_softmax(graph.graph), head(graph.graph)
    assert {named_nodes(graph.graph)[name].op_type for name in decoding} == {"Softmax", "MatMul"}
    convs = [node.name for node in graph.graph if node.op_type == "Conv"]
    assert [name for name in convs if name in last] == convs[-1:]  # the layer in front of the softmax
    made, report = to_fp16(graph, crops())
    assert {node.op for node in report.excluded if "it decodes" in node.reason} == {"Softmax", "MatMul"}
    before, after = run_graph(graph, crops()), run_graph(made, crops())
    assert max(np.abs(after[name] - value).max() for name, value in before.items()) < 0.1
    for consumer in ("ort", "trt"):
        _, int8 = to_int8(graph, crops(), consumer)  # type: ignore[arg-type]
        assert decoding <= {*int8.excluded}
