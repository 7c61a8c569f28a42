"""Walks and runs ONNX graphs: reads and writes them, finds their head and layers, and shows what flows through.

In memory a graph is an ``onnx_ir.Model``: values know who makes and who reads them, and a copy shares its constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders import HEADS
from splite_deploy.errors import BackendError, ExportError, first_line
from splite_deploy.export.log_output import quiet
from splite_deploy.files import whole_file, work_folder, writing
from splite_deploy.runtime.backends.onnx_file import check_onnx

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_HUGE = 1e30  # larger than any activation
_BATCH = 8  # crops that go through a dynamic graph at once: bounds the memory that its activations take
_RAISE_HINT = "Check the graph with onnx.checker.check_model; export it again."


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """A graph to walk and to change. Nodes without a name of their own get one, since nodes are named in reports."""
    model, known = ir.from_proto(proto), set()
    if "ai.onnx" in model.opset_imports:  # another name of the same domain, which nodes never have
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    for node in model.graph:
        if not node.name or node.name in known:
            node.name = f"{node.op_type}:{node.outputs[0].name}"
        known.add(node.name)
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """A graph as onnx and ONNX Runtime's converters take it."""
    proto = ir.to_proto(model)
    constants = model.graph.initializers
    described = [value for value in proto.graph.value_info if value.name not in constants]
    del proto.graph.value_info[:]  # of constants they would repeat what the file says beside their values
    proto.graph.value_info.extend(described)
    return proto


def load(path: Path, content: bytes | None = None) -> ir.Model:
    """Reads a graph that is valid by itself: every node reads what is there, and is of an operator set.

    Args:
        path: The file.
        content: Its bytes, where they have been read and checked before.

    Raises:
        BackendError: The file is damaged.
        ExportError: It is no ONNX graph.
    """
    try:
        content = path.read_bytes() if content is None else content
        check_onnx(content, fspath(path))
        proto = onnx.load_model_from_string(content)
        onnx.checker.check_model(proto)
        return from_proto(proto)
    except BackendError:
        raise
    except Exception as err:  # protobuf and onnx raise many kinds
        raise ExportError(f"{path} is not an ONNX graph: {first_line(err, named=True)}", hint=_RAISE_HINT) from err


def with_shapes(model: ir.Model) -> ir.Model:
    """The graph with all sizes that follow from its inputs and weights.

    Raises:
        ExportError: They contradict each other.
    """
    try:
        return from_proto(onnx.shape_inference.infer_shapes(to_proto(model), data_prop=True))
    except Exception as err:  # of sizes, types and attributes that do not go together; onnx raises many kinds
        raise ExportError(
            f"The sizes in the ONNX graph contradict each other: {first_line(err, named=True)}", hint=_RAISE_HINT
        ) from err


def save(model: ir.Model, path: Path) -> None:
    """Checks a graph and writes it whole or not at all.

    Raises:
        ExportError: The graph is invalid.
        OutputError: It cannot be written.
    """
    content = serialised(model, path.name)
    with whole_file(path) as partial, writing(path):
        partial.write_bytes(content)


def serialised(model: ir.Model, name: str) -> bytes:
    """Checks a graph; returns the bytes of the file of this name.

    Raises:
        ExportError: The graph is invalid.
    """
    proto = to_proto(model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as err:
        raise ExportError(
            f"{name} would not be valid ONNX: {first_line(err, named=True)}", hint="Report this."
        ) from err
    content: bytes = proto.SerializeToString()
    return content


def name_of(item: ir.Node | ir.Value) -> str:
    """The name of a node or value; empty where it has none, as an optional output that nothing makes."""
    return item.name or ""


def named_nodes(graph: ir.Graph) -> dict[str, ir.Node]:
    """The nodes of a graph by name, in topological order."""
    return {name_of(node): node for node in graph}


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def head(graph: ir.Graph) -> frozenset[str]:
    """Names of the nodes from the last weighted ones to the graph's outputs, and of all that serve heads alone.

    Heads, such as ``presence``, say of crops without a hand or person what they said of no calibration crop: a range of
    any value on the way to them may have no room for it.

    A weighted node that takes the mean of coordinates under a softmax is no layer of its own: the head begins with the
    layer in front of that softmax.
    """
    found: dict[str, ir.Node] = {}
    pending = [value.producer() for value in graph.outputs]
    while pending:
        node = pending.pop()
        if node is None or node.name in found:
            continue
        found[name_of(node)] = node
        if node.op_type not in WEIGHTED or _reads_softmax(node):
            pending += node.predecessors()
    alone: set[ir.Node] = set()
    for node in reversed(graph):
        given = [value for value in node.outputs if value.is_graph_output() or value.uses()]
        if given and all(
            alone.issuperset(readers(value)) and (not value.is_graph_output() or value.name in HEADS) for value in given
        ):
            alone.add(node)
    return frozenset(found).union(map(name_of, alone))


def _reads_softmax(node: ir.Node | None) -> bool:
    """Whether a node reads a softmax, by way of nodes alone that read one activation: shapes, factors, sums."""
    while node is not None:
        made = {value.producer() for value in node.inputs if value is not None} - {None}
        node = made.pop() if len(made) == 1 else None
        if node is not None and node.op_type in WEIGHTED:
            return False
        if node is not None and node.op_type == "Softmax":
            return True
    return False


def after_softmax(graph: ir.Graph) -> frozenset[str]:
    """Names of the nodes of the head that decode: a softmax, and what is computed from it to the graph's outputs."""
    last, found = head(graph), set[ir.Node]()
    for node in graph:
        if node.name in last and (node.op_type == "Softmax" or found.intersection(node.predecessors())):
            found.add(node)
    return frozenset(map(name_of, found))


def layers(graph: ir.Graph) -> dict[str, list[str]]:
    """Each weighted node with what is computed from it before the next one. First node's name to all names.

    A node that joins several layers (a residual sum, a gate) belongs to the last of them.
    """
    order = {node: index for index, node in enumerate(graph)}
    owner: dict[ir.Node, ir.Node] = {}
    for node in order:
        above = [owner[maker] for maker in node.predecessors()]
        owner[node] = node if node.op_type in WEIGHTED or not above else max(above, key=order.__getitem__)
    found: dict[str, list[str]] = {}
    for node, first in owner.items():
        found.setdefault(name_of(first), []).append(name_of(node))
    return found


def activations(graph: ir.Graph) -> dict[str, ir.Value]:
    """Values that depend on the input, by name, the graph's inputs first, in topological order; of any type."""
    found = dict.fromkeys(value for value in graph.inputs if not value.is_initializer())
    for node in graph:
        if any(value in found for value in node.inputs):
            found.update(dict.fromkeys(value for value in node.outputs if value.name))
    return {name_of(value): value for value in found}


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What the file says of an initializer, or None."""
    tensor = value.const_value if value is not None and value.is_initializer() else None
    return None if tensor is None else tensor.numpy()


def attributes(node: ir.Node) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def add_constant(graph: ir.Graph, name: str, value: ArrayLike) -> ir.Value:
    """Adds an initializer of the type of ``value``; its name must be new."""
    array = np.asarray(value)
    tensor = ir.tensor(array, name=name)
    added = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(added)
    return added


def replace_input(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Makes a node read another value, wherever it reads the old one."""
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)


def set_inputs(node: ir.Node, *values: ir.Value) -> None:
    """Makes a node read exactly these values."""
    node.resize_inputs(len(values))
    for index, value in enumerate(values):
        node.replace_input_with(index, value)


def fold_pool_padding(graph: ir.Graph) -> None:
    """Lets max pools pad themselves where a node in front of them pads with -inf or the lowest number.

    Such numbers leave float16, and would ruin the range of an activation.
    """
    for pool in list(graph):
        pad = None if pool.op_type != "MaxPool" or pool.inputs[0] is None else pool.inputs[0].producer()
        added = None if pad is None or pad.op_type != "Pad" else _lowest_padding(pad)
        given = attributes(pool)
        if pad is None or added is None or len(readers(pad.outputs[0])) > 1 or pad.outputs[0].is_graph_output():
            continue
        kernel = given["kernel_shape"]
        pads = np.add(given.get("pads", [0] * 2 * len(kernel)), added)
        if given.get("auto_pad", "NOTSET") == "NOTSET" and (pads < np.tile(kernel, 2)).all():
            pool.attributes.add(ir.AttrInt64s("pads", pads.tolist()))
            pool.replace_input_with(0, pad.inputs[0])
            graph.remove(pad, safe=True)
    drop_unused(graph)


def _lowest_padding(pad: ir.Node) -> NDArray[Any] | None:
    """How much a node pads height and width with -inf or so, at the beginning and the end; None if it does not."""
    amounts, value = constant(pad.inputs[1]), constant(pad.inputs[2]) if len(pad.inputs) > 2 else None
    if len(pad.inputs) > 3 or amounts is None or value is None or value.item() > -_HUGE:
        return None
    begins, ends = np.split(amounts, 2)
    outer = [*begins[:2], *ends[:2]]
    usual = attributes(pad).get("mode", "constant") == "constant" and not any(outer) and (amounts >= 0).all()
    return np.concatenate([begins[2:], ends[2:]]) if usual else None


def drop_unused(graph: ir.Graph) -> None:
    """Drops the constants that nothing reads."""
    for value in list(graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name_of(value)]


def forget_types(graph: ir.Graph) -> None:
    """Drops the types and shapes of activations, which a change may have made wrong."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None


def sizes(value: ir.Value) -> tuple[int | None, ...]:
    """The shape of a value; None where a size is open."""
    return tuple(size if isinstance(size, int) else None for size in value.shape or ())


def make_session(model: ir.Model, *, optimise: bool = True, optimised: Path | None = None) -> ort.InferenceSession:
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
    content = to_proto(model).SerializeToString()
    try:
        with quiet():
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime has no common base class of its errors
        unknown = "NOT_IMPLEMENTED" in str(err) or "opset" in str(err).lower()
        raise ExportError(
            f"ONNX Runtime {ort.__version__} refuses the graph: {first_line(err, named=True)}",
            hint="Export with --opset 18, or upgrade onnxruntime." if unknown else _RAISE_HINT,
        ) from err


def optimised(model: ir.Model) -> ir.Model:
    """The graph that ONNX Runtime really runs on a CPU, after its own fusions."""
    with work_folder("optimised") as folder:
        make_session(model, optimised=folder / "o.onnx")
        return load(folder / "o.onnx")


def run_batches(session: ort.InferenceSession, crops: FloatArray) -> Iterator[dict[str, NDArray[Any]]]:
    """Outputs by name, in small batches, or one crop at a time where the batch of the graph is fixed."""
    source = session.get_inputs()[0]
    size = source.shape[0] if isinstance(source.shape[0], int) else _BATCH
    names = [output.name for output in session.get_outputs()]
    if size > 1 and isinstance(source.shape[0], int) and len(crops) % size:
        raise ExportError(
            f"The graph takes {size} crops at once; {len(crops)} is not a multiple of that.",
            hint="Export the graph for a batch of 1, or for any.",
        )
    for start in range(0, len(crops), size):
        try:
            values = session.run(names, {source.name: crops[start : start + size]})
        except Exception as err:
            raise ExportError(
                f"ONNX Runtime failed on a crop: {first_line(err, named=True)}", hint=_RAISE_HINT
            ) from err
        yield dict(zip(names, values, strict=True))


def run_graph(model: ir.Model, crops: FloatArray, *, optimise: bool = True) -> dict[str, FloatArray]:
    """Outputs by name, N first, of a graph as ONNX Runtime runs it on a CPU."""
    return run_session(make_session(model, optimise=optimise), crops)


def run_session(session: ort.InferenceSession, crops: FloatArray) -> dict[str, FloatArray]:
    """Outputs by name, N first."""
    rows = list(run_batches(session, crops))
    return {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]}


class ExposedGraph:
    """A graph in ONNX Runtime, each node run as it is written, whose activations can be looked at.

    Args:
        model: The graph; it stays as it is.
        names: Of the activations.
    """

    def __init__(self, model: ir.Model, names: Iterable[str]) -> None:
        exposed, self._names = model.clone(), list(names)
        found = activations(exposed.graph)
        given = {*exposed.graph.inputs, *exposed.graph.outputs}
        exposed.graph.outputs.extend(found[name] for name in self._names if found[name] not in given)
        self._session = make_session(exposed, optimise=False)

    def run(self, crops: FloatArray) -> Iterator[dict[str, NDArray[Any]]]:
        """The activations by name, batch after batch."""
        source = self._session.get_inputs()[0].name
        start = 0
        for values in run_batches(self._session, crops):
            size = len(next(iter(values.values())))
            values[source] = crops[start : start + size]
            start += size
            yield {name: values[name] for name in self._names}


def check_calibration(model: ir.Model, crops: FloatArray) -> None:
    """Compares calibration crops with the graph's input.

    Raises:
        ExportError: There are none, their shape is another, or they hold NaN or infinity.
    """
    wanted = tuple(sizes(model.graph.inputs[0]))[1:]
    if crops.ndim != 4 or len(crops) == 0 or crops.dtype != np.float32 or tuple(crops.shape[1:]) != wanted:
        raise ExportError(
            f"Calibration takes float32 crops (N, {', '.join(map(str, wanted))}), not {crops.dtype} {crops.shape}.",
            hint="Give the crops of make_crops, normalised by Preprocessor.normalise.",
        )
    if not np.isfinite(crops).all():
        raise ExportError("The calibration crops hold NaN or infinity.", hint="Check mean and std in model.toml.")
