"""Weights that an ONNX graph keeps beside its file: read once, checked, and put into the graph.

Their place is what the graph says, https://onnx.ai/onnx/repo-docs/ExternalData.html: a path relative to the graph's
folder, an offset and a length. A graph may say any path; only what lies in its own folder is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from splite_deploy.errors import CheckpointError, first_line
from splite_deploy.spec.reading import ReadError, check_file, read_bytes

_DEEPEST = 100
_COPY = "Copy that file too, to the same folder and under the name it was written with."
_WHOLE = "Put the weights into the graph where it was made: onnx.save(onnx.load('GRAPH.onnx'), 'WHOLE.onnx')."


def embed_external_data(model: onnx.ModelProto, path: Path, content: bytes) -> str:
    """Puts weights of other files into a graph.

    Args:
        model: The graph; changed.
        path: Its file, for its folder and for messages.
        content: The bytes of that file.

    Returns:
        Hex SHA-256 of the source: of its file, followed by the files with its weights, in the order of their names.

    Raises:
        CheckpointError: A file lies elsewhere, is missing or none, or is shorter than the graph says.
    """
    files: dict[str, bytes] = {}
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = _values(tensor, path, files)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    digest = hashlib.sha256(content)
    for name in sorted(files):
        digest.update(files[name])
    return digest.hexdigest()


def _values(tensor: TensorProto, path: Path, files: dict[str, bytes]) -> bytes:
    """The values of a tensor, out of a file that is read once."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    location = told.get("location", "")
    if location not in files:
        files[location] = _read(_inside(location, path), path)
    data = files[location]
    try:
        offset = int(told.get("offset") or 0)
        length = int(told["length"]) if told.get("length") else len(data) - offset
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length < 0 or offset + length > len(data):
        raise CheckpointError(
            f"{path} keeps the tensor '{tensor.name}' in {location!r}, which ends before it: the file has "
            f"{len(data):,} bytes.",
            hint=_COPY,
        )
    return data[offset : offset + length]


def _inside(location: str, path: Path) -> Path:
    """The file in the graph's folder.

    Raises:
        CheckpointError: It lies elsewhere.
    """
    parts = PurePosixPath(location).parts
    plain = bool(parts) and not location.startswith("/") and ".." not in parts and "\0" not in location
    windows = PureWindowsPath(location)
    if not plain or windows.drive or windows.root or ".." in windows.parts:
        raise CheckpointError(
            f"{path} keeps weights in {location!r}, which is no file beside it.", hint=f"{_WHOLE} It was not read."
        )
    folder = path.parent.resolve()
    try:
        found = (folder / location).resolve()
    except (OSError, RuntimeError) as err:
        raise CheckpointError(
            f"{path} keeps weights in {location!r}, which cannot be read: {first_line(err)}.", hint=_COPY
        ) from err
    if not found.is_relative_to(folder):
        raise CheckpointError(
            f"{path} keeps weights in {location!r}, a link to {found}, outside of its folder.",
            hint="Copy the file itself there, with its links followed: cp -L.",
        )
    return found


def _read(found: Path, path: Path) -> bytes:
    try:
        check_file(found)
        return read_bytes(found, most_bytes=found.stat().st_size)
    except (ReadError, OSError) as err:
        reason = err.reason if isinstance(err, ReadError) else err.strerror
        raise CheckpointError(
            f"{path} keeps weights in another file, which cannot be read: {found.name}: {reason}.", hint=_COPY
        ) from err


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a graph, wherever it lies."""
    yield from _of_graph(model.graph, 0)
    for function in model.functions:
        yield from _of_nodes(function.node, 0)
        yield from _of_attributes(function.attribute_proto, 0)
    for training in model.training_info:
        yield from _of_graph(training.initialization, 0)
        yield from _of_graph(training.algorithm, 0)


def _of_graph(graph: GraphProto, depth: int) -> Iterator[TensorProto]:
    if depth > _DEEPEST:
        raise CheckpointError("The graph is nested too deeply.", hint="Export it again from its framework.")
    yield from graph.initializer
    yield from _of_sparse(graph.sparse_initializer)
    yield from _of_nodes(graph.node, depth)


def _of_nodes(nodes: Iterable[NodeProto], depth: int) -> Iterator[TensorProto]:
    for node in nodes:
        yield from _of_attributes(node.attribute, depth)


def _of_attributes(attributes: Iterable[AttributeProto], depth: int) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse([attribute.sparse_tensor])
        yield from _of_sparse(attribute.sparse_tensors)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g, depth + 1)
        for graph in attribute.graphs:
            yield from _of_graph(graph, depth + 1)


def _of_sparse(tensors: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices
