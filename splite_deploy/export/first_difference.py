"""Where a conversion went wrong: the first layer whose values are not found again on the other side.

Converters rename, transpose and fuse, but what flows stays the same. A layer is right if the values of its output, in
any order, are among those of the converted network, or if those of a layer behind it are: then it was fused. The first
layer of which neither is true is named. Values that were only put into another order look right, and the layer that
reads them is named.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import CompileError, SpliteError
from splite_deploy.export.graph.walk import ExposedGraph, activations, name_of
from splite_deploy.export.reference import Explain
from splite_deploy.spec import Precision

_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.15}
"""How far values may lie from each other, as a share of their range."""
_FEW = 8  # so few values are equal by chance
_HIDDEN = (SpliteError, RuntimeError, ValueError, TypeError, KeyError)
"""What fails on a way to explain an error must not hide the error."""


@dataclass(frozen=True)
class Layer:
    """One operation of a network.

    Attributes:
        name: As the network or the graph names it.
        kind: Its operator.
        values: Its outputs for one crop, float32.
        readers: Indices of the layers that read them, all of them later ones.
    """

    name: str
    kind: str
    values: tuple[FloatArray, ...]
    readers: tuple[int, ...]

    def __str__(self) -> str:
        return f"'{self.name}' ({self.kind})"


def of_torch(network: nn.Module) -> Explain:
    """Names the first layer of a network that gives NaN or infinity."""
    return _explain(lambda crop: (), lambda crop: torch_layers(network, crop), "fp32")


def of_graph(model: ir.Model) -> Explain:
    """The same of an ONNX graph."""
    return _explain(lambda crop: (), lambda crop: graph_layers(model, crop), "fp32")


def from_torch(network: nn.Module, converted: ir.Model) -> Explain:
    """Explains a graph that torch's exporter made of a network."""
    return _explain(lambda crop: torch_layers(network, crop), lambda crop: graph_layers(converted, crop), "fp32")


def from_graph(original: ir.Model, converted: ir.Model, precision: Precision) -> Explain:
    """Explains a graph that was made from another."""
    return _explain(lambda crop: graph_layers(original, crop), lambda crop: graph_layers(converted, crop), precision)


def from_graph_to_tflite(original: ir.Model, content: bytes, precision: Precision) -> Explain:
    """Explains a TFLite file that was made from a graph."""
    return _explain(lambda crop: graph_layers(original, crop), lambda crop: tflite_layers(content, crop), precision)


@contextmanager
def explained(original: ir.Model, crop: FloatArray) -> Iterator[None]:
    """Adds to the error of a wrong conversion to TFLite where it begins.

    Args:
        original: The graph that is converted.
        crop: (1, 3, h, w) float32, normalised.
    """
    from splite_deploy.compile.tflite.match import WrongConversionError

    try:
        yield
    except WrongConversionError as err:
        said = from_graph_to_tflite(original, err.content, "fp32")(crop) if err.content else ""
        raise CompileError(f"{err.message} {said}".strip(), hint=err.hint) from err


def _explain(
    original: Callable[[FloatArray], Sequence[Layer]],
    converted: Callable[[FloatArray], Sequence[Layer]],
    precision: Precision,
) -> Explain:
    def explain(crop: FloatArray) -> str:
        try:
            made = converted(crop)
            if (bad := first_not_finite(made)) is not None:
                return f"The first layer that gives NaN or infinity is {bad}."
            found = first_difference(original(crop), made, _TOLERANCE[precision])
        except _HIDDEN:
            return ""
        if found is None:
            return ""
        layer, nearest = found
        near = "" if not np.isfinite(nearest) else f", which lie {nearest:.2g} of their range from the nearest"
        return f"The first layer that differs is {layer}: nothing has its values{near}."

    return explain


def first_not_finite(layers: Iterable[Layer]) -> Layer | None:
    """The first layer with NaN or infinity."""
    return next((one for one in layers if not all(np.isfinite(values).all() for values in one.values)), None)


def first_difference(
    original: Sequence[Layer], converted: Sequence[Layer], tolerance: float
) -> tuple[Layer, float] | None:
    """The first layer of a network whose values a converted one does not have, nor those of any layer behind it.

    Args:
        original: Its layers in the order in which they run.
        converted: The layers of the converted one.
        tolerance: How far values may lie from each other, as a share of their range.

    Returns:
        The layer, and how far the nearest values are from its own, as a share of their range (infinity where none are
        as many). None if there is no such layer.
    """
    by_count: dict[int, list[NDArray[np.float32]]] = {}
    for layer in converted:
        for values in layer.values:
            by_count.setdefault(values.size, []).append(np.sort(values, axis=None))
    distances = [_distance(layer, by_count) for layer in original]
    right = [distance is not None and distance <= tolerance for distance in distances]
    for index in reversed(range(len(original))):
        right[index] = right[index] or any(right[reader] for reader in original[index].readers)
    for layer, distance, sound in zip(original, distances, right, strict=True):
        if not sound and distance is not None:
            return layer, distance
    return None


def _distance(layer: Layer, by_count: dict[int, list[NDArray[np.float32]]]) -> float | None:
    """How far the nearest values are from a layer's; None where it has none that tell anything."""
    found = None
    for values in layer.values:
        own = np.sort(values, axis=None)
        span = float(own[-1] - own[0]) if own.size >= _FEW else 0.0
        if span == 0.0:
            continue
        nearest = min((float(np.abs(other - own).max()) for other in by_count.get(own.size, ())), default=np.inf)
        found = max(found or 0.0, nearest / span)
    return found


def graph_layers(model: ir.Model, crop: FloatArray) -> list[Layer]:
    """The layers of an ONNX graph that depend on its input, each run as it is written.

    Args:
        model: The graph; its input takes the crop.
        crop: (1, 3, h, w) float32, normalised.
    """
    flowing = activations(model.graph)
    values = next(iter(ExposedGraph(model, flowing).run(crop)))
    nodes = [node for node in model.graph if any(name_of(value) in values for value in node.outputs if value.name)]
    place = {node: index for index, node in enumerate(nodes)}
    return [
        Layer(
            name_of(node),
            node.op_type,
            _floats(values[name_of(value)] for value in node.outputs if value.name and name_of(value) in values),
            tuple(place[reader] for reader in dict.fromkeys(node.successors()) if reader in place),
        )
        for node in nodes
    ]


def torch_layers(network: nn.Module, crop: FloatArray) -> list[Layer]:
    """The operations of a network as torch.export sees them.

    Args:
        network: In evaluation mode.
        crop: (1, 3, h, w) float32, normalised.
    """
    example = torch.from_numpy(crop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph: Any = torch.export.export(network, (example,), strict=False).module()
    recorder = _Recorder(graph)
    with torch.inference_mode():
        recorder.run(example)
    nodes = [node for node in graph.graph.nodes if node in recorder.seen]
    place = {node: index for index, node in enumerate(nodes)}
    return [
        Layer(
            _module_of(node) or node.name,
            str(node.target).removeprefix("aten.").partition(".")[0],
            _floats(recorder.seen[node]),
            tuple(place[reader] for reader in node.users if reader in place),
        )
        for node in nodes
    ]


class _Recorder(torch.fx.Interpreter):
    """Runs a traced network and keeps what every operation gave."""

    def __init__(self, graph: Any) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.seen: dict[torch.fx.Node, list[NDArray[Any]]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Runs one operation."""
        result = super().run_node(n)
        if n.op == "call_function":
            several = result if isinstance(result, (tuple, list)) else (result,)
            self.seen[n] = [one.numpy().copy() for one in several if isinstance(one, torch.Tensor)]
        return result


def _module_of(node: torch.fx.Node) -> str:
    """The path of the module that an operation belongs to; empty for the network's own."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def tflite_layers(content: bytes, crop: FloatArray) -> list[Layer]:
    """The operators of a TFLite file, run by LiteRT's own kernels; integers as the numbers that they stand for.

    Args:
        content: The file; its input is float32, NHWC.
        crop: (1, 3, h, w) float32, normalised.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], np.ascontiguousarray(crop.transpose(0, 2, 3, 1))
    )
    interpreter.invoke()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    read_by: dict[int, list[int]] = {}
    for index, operator in enumerate(operators):
        for tensor in operator["inputs"]:
            read_by.setdefault(int(tensor), []).append(index)

    def values_of(tensor: int) -> NDArray[Any]:
        values, scales = interpreter.get_tensor(tensor), details[tensor]["quantization_parameters"]
        if len(scales["scales"]) != 1:
            return np.asarray(values)
        real: NDArray[Any] = (values.astype(np.float32) - scales["zero_points"][0]) * scales["scales"][0]
        return real

    return [
        Layer(
            str(details[int(operator["outputs"][0])]["name"]),
            str(operator["op_name"]),
            _floats(values_of(int(tensor)) for tensor in operator["outputs"]),
            tuple(reader for tensor in operator["outputs"] for reader in read_by.get(int(tensor), ())),
        )
        for operator in operators
    ]


def _floats(several: Iterable[NDArray[Any]]) -> tuple[FloatArray, ...]:
    return tuple(values.astype(np.float32) for values in several if values.dtype.kind == "f")
