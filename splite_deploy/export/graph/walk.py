"""Walks and runs ONNX graphs: who makes and who reads a tensor, which nodes are the head, what flows through."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from splite_deploy.errors import ExportError
from splite_deploy.export.graph.torch_to_onnx import first_line, quiet
from splite_deploy.files import whole_file, writing

Array = NDArray[np.float32]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_BATCH = 8  # crops that go through a dynamic graph at once: bounds the memory that its activations take
_RAISE_HINT = "Check the graph with onnx.checker.check_model; export it again."


class Walk:
    """A graph with its tensors' makers and readers. Nodes without a name get one, since nodes are named in reports.

    Attributes:
        model: The graph; changed by no method.
        nodes: Its nodes by name, in topological order.
        constants: Initializers by name.
        producer: Tensor to the node that makes it.
        consumers: Tensor to the nodes that read it.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: dict[str, onnx.NodeProto] = {}
        for node in model.graph.node:
            if not node.name or node.name in self.nodes:
                node.name = f"{node.op_type}:{node.output[0]}"
            self.nodes[node.name] = node
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producer = {tensor: node for node in self.nodes.values() for tensor in node.output if tensor}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes.values():
            for tensor in dict.fromkeys(node.input):
                self.consumers.setdefault(tensor, []).append(node)
        self.outputs = tuple(output.name for output in model.graph.output)

    def head(self) -> frozenset[str]:
        """Names of the nodes from the last weighted ones to the graph's outputs, found by walking back from these."""
        found: set[str] = set()
        pending = [self.producer[name] for name in self.outputs if name in self.producer]
        while pending:
            node = pending.pop()
            if node.name in found:
                continue
            found.add(node.name)
            if node.op_type not in WEIGHTED:
                pending += [self.producer[name] for name in node.input if name in self.producer]
        return frozenset(found)

    def groups(self) -> dict[str, list[str]]:
        """Layers: each weighted node with what is computed from it before the next one. First node's name to all names.

        A node that joins several layers (a residual sum, a gate) belongs to the last of them.
        """
        order = {name: index for index, name in enumerate(self.nodes)}
        owner: dict[str, str] = {}
        for name, node in self.nodes.items():
            above = [owner[self.producer[tensor].name] for tensor in node.input if tensor in self.producer]
            owner[name] = name if node.op_type in WEIGHTED or not above else max(above, key=order.__getitem__)
        found: dict[str, list[str]] = {}
        for name, first in owner.items():
            found.setdefault(first, []).append(name)
        return found

    def activations(self) -> list[str]:
        """Tensors that depend on the input, the graph's inputs first, in topological order; types are not looked at."""
        found = dict.fromkeys(value.name for value in self.model.graph.input if value.name not in self.constants)
        for node in self.nodes.values():
            if any(name in found for name in node.input):
                found.update(dict.fromkeys(name for name in node.output if name))
        return list(found)


def load(path: Path) -> onnx.ModelProto:
    """Reads a graph.

    Raises:
        ExportError: The file is no ONNX graph.
    """
    try:
        return onnx.load(str(path))
    except Exception as err:  # protobuf and onnx raise many kinds
        raise ExportError(f"{path} is not an ONNX graph: {first_line(err)}", hint=_RAISE_HINT) from err


def save(model: onnx.ModelProto, path: Path) -> None:
    """Checks a graph and writes it whole or not at all.

    Raises:
        ExportError: The graph is invalid.
        OutputError: It cannot be written.
    """
    content = serialised(model, path.name)
    with whole_file(path) as partial, writing(path):
        partial.write_bytes(content)


def serialised(model: onnx.ModelProto, name: str) -> bytes:
    """Checks a graph; returns the bytes of the file of this name.

    Raises:
        ExportError: The graph is invalid.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as err:
        raise ExportError(f"{name} would not be valid ONNX: {first_line(err)}", hint="Report this.") from err
    content: bytes = model.SerializeToString()
    return content


def make_session(
    model: onnx.ModelProto, *, optimise: bool = True, optimised: Path | None = None
) -> ort.InferenceSession:
    """A graph in ONNX Runtime on one CPU thread.

    Args:
        model: The graph.
        optimise: Fuses nodes; without it every node runs as it is written.
        optimised: Where ONNX Runtime writes the graph that it really runs.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    # "Extended" holds every fusion; "all" adds layouts that differ from one CPU to the next
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if optimise else level.ORT_DISABLE_ALL
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        with quiet():
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime has no common base class of its errors
        raise ExportError(
            f"ONNX Runtime {ort.__version__} refuses the graph: {first_line(err)}", hint=_RAISE_HINT
        ) from err


def optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime really runs on a CPU, after its own fusions."""
    with tempfile.TemporaryDirectory() as folder:
        make_session(model, optimised=Path(folder) / "o.onnx")
        return onnx.load(str(Path(folder) / "o.onnx"))


def run_batches(session: ort.InferenceSession, crops: Array) -> Iterator[dict[str, NDArray[Any]]]:
    """Outputs by name, in small batches, or one crop at a time where the batch of the graph is fixed."""
    source = session.get_inputs()[0]
    size = source.shape[0] if isinstance(source.shape[0], int) else _BATCH
    names = [output.name for output in session.get_outputs()]
    if size > 1 and isinstance(source.shape[0], int) and len(crops) % size:
        raise ExportError(
            f"The graph takes {size} crops at once; {len(crops)} is no multiple of it.", hint="Give a multiple."
        )
    for start in range(0, len(crops), size):
        try:
            values = session.run(names, {source.name: crops[start : start + size]})
        except Exception as err:
            raise ExportError(f"ONNX Runtime failed on a crop: {first_line(err)}", hint=_RAISE_HINT) from err
        yield dict(zip(names, values, strict=True))


def run_graph(model: onnx.ModelProto, crops: Array) -> dict[str, Array]:
    """Outputs by name, N first, of a graph as ONNX Runtime runs it on a CPU."""
    rows = list(run_batches(make_session(model), crops))
    return {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]}


def run_exposed(model: onnx.ModelProto, crops: Array, names: Iterable[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """What flows through a graph: these tensors by name, batch after batch, each node run as it is written."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    wanted, present = list(names), {output.name for output in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present | inputs)
    session = make_session(exposed, optimise=False)
    source = session.get_inputs()[0].name
    start = 0
    for values in run_batches(session, crops):
        size = len(next(iter(values.values())))
        values[source] = crops[start : start + size]
        start += size
        yield {name: values[name] for name in wanted}


def check_calibration(model: onnx.ModelProto, crops: Array) -> None:
    """Compares calibration crops with the graph's input.

    Raises:
        ExportError: There are none, their shape is another, or they hold NaN or infinity.
    """
    shape = [d.dim_value if d.HasField("dim_value") else None for d in model.graph.input[0].type.tensor_type.shape.dim]
    wanted = tuple(shape[1:])
    if crops.ndim != 4 or len(crops) == 0 or crops.dtype != np.float32 or tuple(crops.shape[1:]) != wanted:
        raise ExportError(
            f"Calibration takes float32 crops (N, {', '.join(map(str, wanted))}), not {crops.dtype} {crops.shape}.",
            hint="Give the crops of make_crops, normalised by Preprocessor.normalise.",
        )
    if not np.isfinite(crops).all():
        raise ExportError("The calibration crops hold NaN or infinity.", hint="Check mean and std in model.toml.")


def constant(walk: Walk, name: str) -> NDArray[Any] | None:
    """The value of an initializer, or None."""
    tensor = walk.constants.get(name)
    return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
