"""What layers cost on a device, each shape measured once there: latencies are predicted before anything is trained.

A prediction is the sum of a network's layers, times what the dense network takes over the sum of its own: that factor
stands for all that is no layer with weights, and for what layers cost when they follow each other. Imports onnx.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from splite_deploy.bench.result import BenchResult
from splite_deploy.export.graph.walk import WEIGHTED, add_constant, attributes, save, sizes, with_shapes

_NAME = re.compile(r"layer(\d+)(?:\D|$)")


def shapes_of(model: ir.Model) -> list[str]:
    """The layers of a graph with a batch of 1 that have stored weights, in the order in which they run.

    Returns:
        Each as JSON of all that its time depends on: equal texts cost the same. A layer whose sizes are not known
        is left out.
    """
    shaped = with_shapes(model.clone())
    found = []
    for node in shaped.graph:
        if node.op_type not in WEIGHTED:
            continue
        source, weight, *rest = node.inputs
        stored = () if weight is None or not weight.is_initializer() else sizes(weight)
        size = () if source is None else sizes(source)
        if stored and size and all(stored) and all(size):
            told = {
                "op": node.op_type,
                "input": size,
                "weight": stored,
                "bias": bool(rest and rest[0] is not None),
                "attributes": attributes(node),
            }
            found.append(json.dumps(told, sort_keys=True, default=_plain))
    return found


def _plain(value: Any) -> Any:
    """Attributes of ONNX as JSON has them."""
    return value.decode() if isinstance(value, bytes) else [*value]


def table_graph(shapes: Sequence[str], file: Path) -> None:
    """Writes a graph of layers beside each other, with noise for weights, of which a profile tells the times.

    Layers with one size of input read the same one, so that few values have to be made.

    Args:
        shapes: See `shapes_of`.
        file: What to write.

    Raises:
        OutputError: It cannot be written.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="layers")
    noise, sources = np.random.default_rng(0), dict[tuple[int, ...], ir.Value]()

    def value(name: str, size: Sequence[int | None]) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(size))

    for number, text in enumerate(shapes):
        told = json.loads(text)
        size = tuple(told["input"])
        if size not in sources:
            sources[size] = value(f"x{len(sources)}", size)
            graph.inputs.append(sources[size])
        stored = {"w": told["weight"]}
        if told["bias"]:
            groups = told["attributes"].get("group", 1)
            outputs = told["weight"][1] * groups if told["op"] == "ConvTranspose" else told["weight"][0]
            if told["op"] == "Gemm" and not told["attributes"].get("transB"):
                outputs = told["weight"][1]
            stored["b"] = [outputs]
        constants = [
            add_constant(graph, f"{name}{number}", noise.standard_normal(shape, np.float32))
            for name, shape in stored.items()
        ]
        node = ir.node(told["op"], [sources[size], *constants], told["attributes"], name=f"layer{number}")
        (result,) = node.outputs
        result.name, result.type = node.name, ir.TensorType(ir.DataType.FLOAT)
        result.shape = ir.Shape([None] * len(size))
        graph.append(node)
        graph.outputs.append(result)
    save(ir.Model(graph, ir_version=10), file)


def times_of(shapes: Sequence[str], result: BenchResult) -> dict[str, float]:
    """What each shape takes, microseconds, as a benchmark of `table_graph` measured it, without those that it lost.

    Args:
        shapes: As the graph was made of.
        result: Of the graph.
    """
    found: dict[str, float] = {}
    for layer in result.layers or ():
        name = _NAME.match(layer.name)
        if name is not None and layer.time_us is not None and int(name[1]) < len(shapes):
            shape = shapes[int(name[1])]
            found[shape] = found.get(shape, 0.0) + layer.time_us
    return found


class LatencyTable:
    """What is known of one device.

    Args:
        times_us: Of each shape.
    """

    def __init__(self, times_us: Mapping[str, float]) -> None:
        self._times_us = dict(times_us)

    def lacks(self, shapes: Iterable[str]) -> list[str]:
        """The shapes that were not measured there yet, each once."""
        return sorted(set(shapes) - set(self._times_us))

    def sum_ms(self, shapes: Sequence[str]) -> float | None:
        """The layers of a network together, milliseconds; None where one was not measured, or there is none."""
        if not shapes or self.lacks(shapes):
            return None
        return sum(self._times_us[one] for one in shapes) / 1e3

    def predict_ms(self, shapes: Sequence[str], dense: Sequence[str], dense_ms: float) -> float | None:
        """The latency of a network, milliseconds; None where the table does not know all of it.

        Args:
            shapes: Its layers.
            dense: Those of the dense network.
            dense_ms: Its measured latency.
        """
        one, other = self.sum_ms(shapes), self.sum_ms(dense)
        return None if one is None or not other else dense_ms * one / other
