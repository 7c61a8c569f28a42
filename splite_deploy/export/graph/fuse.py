"""The ends of a network inside its graph: uint8 crop in, keypoints out. Applied to a finished graph of any precision.

Input: Cast, Transpose and one BatchNormalization before the first layer, which stays as it is. Folded into a
convolution's bias the mean would be wrong along its border: there zero padding stands for pixels of the mean.

Output: the formulas of `splite_deploy.decoders` in float32, on maps that are float32 in every precision. The
score's square around the keypoint is the product of a mask over columns and one over rows, so that its mass is two
small products of matrices; both masks come from one vector of distances, since on small maps it is the number of
nodes that takes the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import (
    Coordinates,
    HeatmapDecoder,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
)
from splite_deploy.decoders.heatmap import cell_centres, edges_and_steps
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.torch_to_onnx import MIN_OPSET, first_line
from splite_deploy.spec import ModelSpec

_LAYOUTS = {2: "NK", 3: "NKC", 4: "NCHW"}


class _Graph:
    """A copy of a graph to which nodes and constants are added under names that nothing else has."""

    def __init__(self, model: onnx.ModelProto, prefix: str) -> None:
        opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
        if opset < MIN_OPSET:
            raise ExportError(
                f"The ends of a network are written in opset {MIN_OPSET} or later; this graph has {opset}.",
                hint=f"Export with --opset {MIN_OPSET}.",
            )
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node; returns the name of its result."""
        name = f"{self._prefix}/{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output or name], name=name, **attributes))
        return output or name

    def split(self, tensor: str, sizes: ArrayLike) -> tuple[str, str]:
        """Splits the last axis in two."""
        name = f"{self._prefix}/Split{len(self.nodes)}"
        first, second = f"{name}.0", f"{name}.1"
        inputs = [tensor, self.constant(sizes, np.int64)]
        self.nodes.append(helper.make_node("Split", inputs, [first, second], name=name, axis=-1))
        return first, second

    def constant(self, values: ArrayLike, kind: type[np.generic] = np.float32) -> str:
        """Adds a constant; returns its name."""
        name = f"{self._prefix}/constant{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def rename(self, old: str, new: str) -> None:
        """Renames a tensor where it is made and read."""
        for node in self.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new

    def checked(self) -> onnx.ModelProto:
        """The graph, complete.

        Raises:
            ExportError: It is not valid.
        """
        del self.graph.value_info[:]  # names and types have changed
        try:
            onnx.checker.check_model(self.model)
        except onnx.checker.ValidationError as err:
            raise ExportError(
                f"With its ends the graph would not be valid ONNX: {first_line(err)}", hint="Report this."
            ) from err
        return self.model


def fuse_input(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """A copy that takes uint8 crops (N, h, w, 3) and normalises them itself: (pixel - mean) / std by channel.

    Args:
        model: Any graph with one float32 input (N, 3, h, w).
        spec: The model.

    Raises:
        ExportError: The input is another, or the opset is too old.
    """
    made = _Graph(model, "fused_input")
    inputs = _inputs(made.model)
    wanted = (3, spec.input.height, spec.input.width)
    if len(inputs) != 1 or _dtype(inputs[0]) != "float32" or _shape(inputs[0])[1:] != wanted:
        raise ExportError(
            f"The graph's inputs are {_describe(inputs)}, not one float32 (N, {', '.join(map(str, wanted))}).",
            hint="Fuse the input once, into the graph that export made of this model.toml.",
        )
    image = inputs[0]
    made.rename(image.name, "fused_input/normalised")
    pixels = made.add("Cast", image.name, to=TensorProto.FLOAT)  # first: TensorRT does nothing else with uint8
    planes = made.add("Transpose", pixels, perm=[0, 3, 1, 2])
    gain, offset, mean, variance = 1 / np.array(spec.input.std), np.zeros(3), spec.input.mean, np.ones(3)
    parameters = [made.constant(values) for values in (gain, offset, mean, variance)]
    made.add("BatchNormalization", planes, *parameters, output="fused_input/normalised", epsilon=0.0)
    batch = image.type.tensor_type.shape.dim[0]
    image.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.UINT8, (None, *wanted[1:], wanted[0])))
    image.type.tensor_type.shape.dim[0].CopyFrom(batch)
    nodes = [*made.nodes, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made.checked()


def fuse_decode(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """A copy that decodes: ``keypoints`` (N, K, 2) in input pixels, ``scores`` (N, K), and ``depth`` (N, K) if any.

    Args:
        model: Any graph whose outputs are float32 and named by their roles.
        spec: The model; its decoder says what is computed.

    Raises:
        ExportError: An output is missing, of another type or shape, or the opset is too old.
    """
    made = _Graph(model, "fused_decode")
    outputs = {value.name: value for value in made.graph.output}
    roles, count = spec.decoder.roles, spec.keypoint_count
    shapes = {name: _shape(value) for name, value in outputs.items()}
    fits = set(outputs) == set(roles) and all(
        _dtype(outputs[role]) == "float32"
        and len(shape) == (3 if role == "coordinates" else 4)
        and shape[1] == count
        and min(shape[1:]) > 0
        for role, shape in shapes.items()
    )
    if not fits:
        raise ExportError(
            f"The graph's outputs are {_describe(outputs.values())}; the decoder '{spec.decoder.type}' reads float32 "
            f"{', '.join(roles)} of {count} keypoints.",
            hint="Fuse the decoder once, into the graph that export made of this model.toml.",
        )
    for name in {name for node in made.graph.node for name in node.output} & {*roles, *spec.decoder.decoded_roles}:
        made.rename(name, f"fused_decode/{name}")  # "depth" is a map before, and K numbers afterwards
    batch = outputs[roles[0]].type.tensor_type.shape.dim[0]
    decoder = spec.decoder
    if isinstance(decoder, Coordinates):
        _coordinates(made, decoder, spec, columns=shapes["coordinates"][2])
    elif isinstance(decoder, SoftArgmaxWindow):
        _softargmax_window(made, decoder, count, *shapes["heatmap"][2:])
    elif isinstance(decoder, SoftArgmax):
        _softargmax(made, decoder, count, *shapes["heatmap"][2:])
    made.graph.node.extend(made.nodes)
    del made.graph.output[:]
    for role in decoder.decoded_roles:
        shape = (None, count, 2) if role == "keypoints" else (None, count)
        value = helper.make_tensor_value_info(role, TensorProto.FLOAT, shape)
        value.type.tensor_type.shape.dim[0].CopyFrom(batch)
        made.graph.output.append(value)
    return made.checked()


def _softargmax(made: _Graph, decoder: SoftArgmax, count: int, height: int, width: int) -> None:
    """See `splite_deploy.decoders.softargmax`."""
    flat = made.constant([0, count, height * width], np.int64)
    weights = _softmax(made, made.add("Reshape", "fused_decode/heatmap", flat), decoder)
    keypoints = _expected_centre(made, weights, decoder, height, width)

    edges, steps = edges_and_steps(decoder, height, width)
    begun = made.add("Sub", keypoints, made.constant(edges)) if edges.any() else keypoints
    cells = made.add("Floor", made.add("Div", begun, made.constant(steps)))
    near = made.add("Cast", _near(made, cells, decoder.score_window, height, width), to=TensorProto.FLOAT)
    columns, rows = made.split(near, [width, height])
    maps = made.add("Reshape", weights, made.constant([0, count, height, width], np.int64))
    by_row = made.add("MatMul", maps, made.add("Unsqueeze", columns, made.constant([3], np.int64)))
    mass = made.add("MatMul", made.add("Unsqueeze", rows, made.constant([2], np.int64)), by_row)
    _unit_range(made, made.add("Reshape", mass, made.constant([0, count], np.int64)))

    if isinstance(decoder, SoftArgmaxDepth):
        weighted = made.add("Mul", weights, made.add("Reshape", "fused_decode/depth", flat))
        absolute = made.add("ReduceSum", weighted, made.constant([-1], np.int64), keepdims=0)
        root = made.add("Gather", absolute, made.constant([decoder.root_keypoint], np.int64), axis=1)
        made.add("Sub", absolute, root, output="depth")


def _softargmax_window(made: _Graph, decoder: SoftArgmaxWindow, count: int, height: int, width: int) -> None:
    """See `splite_deploy.decoders.softargmax_window`."""
    flat = made.constant([0, count, height * width], np.int64)
    logits = made.add("Reshape", "fused_decode/heatmap", flat)
    peak = made.add("ArgMax", logits, axis=-1, keepdims=1)
    side = made.constant(width, np.int64)
    cell = made.add("Concat", made.add("Mod", peak, side), made.add("Div", peak, side), axis=-1)
    near = _near(made, made.add("Cast", cell, to=TensorProto.FLOAT), decoder.window, height, width)
    columns, rows = made.split(near, [width, height])
    inside = made.add(
        "And",
        made.add("Unsqueeze", rows, made.constant([3], np.int64)),
        made.add("Unsqueeze", columns, made.constant([2], np.int64)),
    )
    masked = made.add("Where", made.add("Reshape", inside, flat), logits, made.constant(-np.inf))
    _expected_centre(made, _softmax(made, masked, decoder), decoder, height, width)
    _unit_range(made, made.add("ReduceMax", logits, made.constant([-1], np.int64), keepdims=0))


def _coordinates(made: _Graph, decoder: Coordinates, spec: ModelSpec, columns: int) -> None:
    """Coordinates (N, K, 2), or (N, K, 3) with a score; without one the score is 1."""
    values = "fused_decode/coordinates"
    points = made.split(values, [2, 1])[0] if columns == 3 else values
    size = (spec.input.width, spec.input.height) if decoder.scale == "unit" else (1, 1)
    made.add("Mul", points, made.constant(size), output="keypoints")
    if columns == 3:
        _unit_range(made, made.add("Gather", values, made.constant(2, np.int64), axis=2))
    else:
        one = numpy_helper.from_array(np.ones(1, np.float32))
        made.add("ConstantOfShape", made.add("Shape", values, end=2), output="scores", value=one)


def _softmax(made: _Graph, logits: str, decoder: HeatmapDecoder) -> str:
    """Softmax of beta * logits (N, K, H * W)."""
    scaled = logits if decoder.beta == 1 else made.add("Mul", logits, made.constant(decoder.beta))
    return made.add("Softmax", scaled, axis=-1)


def _expected_centre(made: _Graph, weights: str, decoder: HeatmapDecoder, height: int, width: int) -> str:
    """The keypoints: expected cell centres in input pixels."""
    centres = made.constant(cell_centres(decoder, height, width))
    return made.add("MatMul", weights, centres, output="keypoints")


def _near(made: _Graph, cells: str, window: int, height: int, width: int) -> str:
    """(N, K, W + H) bool: which columns, then which rows, lie within ``window // 2`` of cells (N, K, 2) as (x, y)."""
    axis = made.constant(np.repeat(np.eye(2), (width, height), axis=1))  # x for every column, y for every row
    index = made.constant(np.concatenate([np.arange(width), np.arange(height)]))
    distance = made.add("Abs", made.add("Sub", made.add("MatMul", cells, axis), index))
    return made.add("LessOrEqual", distance, made.constant(window // 2))


def _unit_range(made: _Graph, scores: str) -> None:
    """The scores, clipped to [0, 1]."""
    made.add("Clip", scores, made.constant(0), made.constant(1), output="scores")


def tensor_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph of `export`, with or without its ends, as the manifest describes them.

    A uint8 input is NHWC; outputs are named by their roles.
    """
    return (
        tuple(_spec(v, "NHWC" if _dtype(v) == "uint8" else "NCHW", "image") for v in _inputs(model)),
        tuple(_spec(v, _LAYOUTS[len(_shape(v))], v.name) for v in model.graph.output),
    )


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs; old graphs list their weights among them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _spec(value: onnx.ValueInfoProto, layout: str, role: str) -> TensorSpec:
    return TensorSpec(value.name, tuple(size or None for size in _shape(value)), _dtype(value), layout, role)


def _describe(values: Iterable[onnx.ValueInfoProto]) -> str:
    """Tensors in words, for messages."""
    shown = [f"{v.name} {_dtype(v)} ({', '.join(str(size or '?') for size in _shape(v))})" for v in values]
    return "; ".join(shown) or "none"


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes; 0 where one is open."""
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
