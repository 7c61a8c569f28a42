"""Cuts a graph into parts that run one after the other, where few and small tensors are alive.

A place to cut lies between two nodes of the order in which they run. What is alive there, made before and read behind,
is what one part gives and a later one takes. Constants belong to the parts that read them.

Tensors in float16 cross as float32: where ONNX Runtime has no kernels in float16 it computes in float32, and rounds no
more between two such nodes than the graph makes it. A part that gave float16 would round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import onnx
import onnx_ir as ir

from splite_deploy.errors import ExportError
from splite_deploy.export.graph.walk import name_of, sizes, to_proto, with_shapes

_MOST_PLACES = 2_000
"""Places that a plan chooses among; of more, those where the least is alive."""
_SAME, _WIDE = ".same", ".float32"
_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
Kind = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Place:
    """Where a graph may be cut.

    Attributes:
        index: How many nodes lie before it.
        alive: The tensors that cross it.
        alive_bytes: Their size, of one crop.
        kind: Which operators make and read them: places of a kind are alike.
    """

    index: int
    alive: tuple[ir.Value, ...]
    alive_bytes: int
    kind: Kind


@dataclass(frozen=True)
class GraphPart:
    """One part of a graph.

    Attributes:
        content: Its file.
        inputs: Names of the tensors that it takes.
        outputs: Names of those that it gives.
    """

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Splitter:
    """A graph that is to be cut.

    Attributes:
        places: Where it may be cut, in the order of the nodes.

    Args:
        model: The graph; it stays as it is.

    Raises:
        ExportError: Its sizes contradict each other.
    """

    def __init__(self, model: ir.Model) -> None:
        known = with_shapes(model)
        graph = known.graph
        self._order = _in_order(graph)
        self._reads = [_reads(node) for node in self._order]
        self._given = {name_of(value) for value in graph.inputs if not value.is_initializer()}
        self._outputs = [name_of(value) for value in graph.outputs]
        self._proto = to_proto(known)
        self._nodes = {node.name: node for node in self._proto.graph.node}
        self._constants = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        ends = (self._proto.graph.input, self._proto.graph.value_info, self._proto.graph.output)
        self._described = {value.name: value for values in ends for value in values}
        self._weights = np.cumsum([0, *self._weight_bytes()])
        self.places = tuple(self._find_places())

    def plan(self, parts: int, without: Collection[Kind] = ()) -> tuple[Place, ...]:
        """Where to cut so that the largest part, with what is alive at its ends, is as small as it can be.

        Args:
            parts: Their number, 2 or more.
            without: Kinds of places that are not taken.

        Raises:
            ExportError: There are not so many places.
        """
        fitting = sorted((one for one in self.places if one.kind not in without), key=lambda one: one.alive_bytes)
        places = sorted(fitting[:_MOST_PLACES], key=lambda one: one.index)
        if len(places) < parts - 1:
            raise ExportError(
                f"The graph can be cut into {len(places) + 1} parts at most that give the same to the bit, not {parts}."
                if places
                else "The graph cannot be cut into parts that give the same to the bit.",
                hint="Give a smaller number to --parts." if places else "Leave out --parts.",
            )
        before = self._weights[[0, *(one.index for one in places), len(self._order)]]
        alive = np.array([0, *(one.alive_bytes for one in places), 0])
        largest = (before + alive).astype(np.float64)  # of the parts before each place, if there is one
        largest[0] = np.inf
        chosen: list[list[int]] = []
        for _ in range(parts - 1):
            costs = [
                np.maximum(largest[:last], before[last] - before[:last] + alive[:last] + alive[last])
                for last in range(1, len(alive))
            ]
            chosen.append([0, *(int(cost.argmin()) for cost in costs)])
            largest = np.array([np.inf, *(cost.min() for cost in costs)])
        found, last = list[Place](), len(alive) - 1
        for from_ in reversed(chosen):
            last = from_[last]
            found.append(places[last - 1])
        return tuple(reversed(found))

    def cut(self, places: Sequence[Place]) -> tuple[GraphPart, ...]:
        """The parts between these places, in the order in which they run."""
        ends = [0, *(one.index for one in places), len(self._order)]
        read_behind = [{name for reads in self._reads[end:] for name in reads} for end in ends[1:]]
        return tuple(self._part(*pair, later) for pair, later in zip(pairwise(ends), read_behind, strict=True))

    def _part(self, first: int, last: int, read_behind: Collection[str]) -> GraphPart:
        nodes = self._order[first:last]
        made = [name for node in nodes for name in map(name_of, node.outputs)]
        read = dict.fromkeys(name for reads in self._reads[first:last] for name in reads)
        inputs = {name: self._crossing(name) for name in read if name not in self._constants and name not in made}
        outputs = {name: self._crossing(name) for name in made if name in read_behind or name in self._outputs}
        body = [onnx.NodeProto.FromString(self._nodes[name_of(node)].SerializeToString()) for node in nodes]
        before = [node for name, value in inputs.items() for node in self._taken(name, value.name, body)]
        wide = [(name, value.name) for name, value in outputs.items() if value.name != name]
        behind = [node for pair in wide for node in self._widened(*pair)]
        graph = onnx.helper.make_graph(
            [*before, *body, *behind],
            self._proto.graph.name or "part",
            list(inputs.values()),
            list(outputs.values()),
            [self._constants[name] for name in read if name in self._constants],
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=self._proto.opset_import,
            ir_version=self._proto.ir_version,
            functions=self._proto.functions,
        )
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return GraphPart(content, *(tuple(value.name for value in ends.values()) for ends in (inputs, outputs)))

    def _crossing(self, name: str) -> onnx.ValueInfoProto:
        """A tensor as it crosses from part to part; the graph's own inputs and outputs stay as they are."""
        value: onnx.ValueInfoProto = onnx.ValueInfoProto.FromString(self._described[name].SerializeToString())
        if value.type.tensor_type.elem_type == _HALF and name not in self._given and name not in self._outputs:
            value.name = name + _WIDE
            value.type.tensor_type.elem_type = _FLOAT
        return value

    def _taken(self, name: str, crossing: str, body: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """What stands in front of a part for a tensor that it takes.

        Of a feature map that is a pool of one cell, which changes no number: ONNX Runtime computes x86's convolutions
        in a layout of its own, and adds what such nodes alone have made as it computes the next; what a part is given
        it would add behind, in another order, which rounds in another way.
        """
        pooled = self._is_feature_map(name)
        if crossing != name:
            yield _cast(crossing, name + _SAME if pooled else name, _HALF)
            if pooled:
                yield _pool(name + _SAME, name)
        elif pooled:
            for node in body:
                for index, read in enumerate(node.input):
                    if read == name:
                        node.input[index] = name + _SAME
            yield _pool(name, name + _SAME)

    def _widened(self, name: str, crossing: str) -> Iterator[onnx.NodeProto]:
        """What stands behind a part for a tensor in float16 that it gives.

        Here and in front of the next part a pool, which has no kernel in float16 on most processors, leaves a node
        between two others that are computed in float32, as it was in the whole graph: it is then, too.
        """
        if pooled := self._is_feature_map(name):
            yield _pool(name, name + _SAME)
        yield _cast(name + _SAME if pooled else name, crossing, _FLOAT)

    def _is_feature_map(self, name: str) -> bool:
        kind = self._described[name].type.tensor_type
        return name not in self._given and kind.elem_type in (_FLOAT, _HALF) and len(kind.shape.dim) == 4

    def _weight_bytes(self) -> Iterator[int]:
        """Size of the constants that each node is the first to read."""
        counted = set[str]()
        for reads in self._reads:
            new = [name for name in reads if name in self._constants and name not in counted]
            counted.update(new)
            yield sum(self._constants[name].ByteSize() for name in new)

    def _find_places(self) -> Iterator[Place]:
        last_read = {name: index for index, reads in enumerate(self._reads) for name in reads}
        made: dict[str, ir.Value] = {}
        for index, node in enumerate(self._order):
            if index > 0:
                made = {name: value for name, value in made.items() if last_read.get(name, 0) >= index}
                size = [_bytes(value) for value in made.values()]
                usual = all(name in self._described for name in made)
                given = any(index <= last_read.get(name, 0) for name in self._given)
                if made and usual and None not in size:
                    kind = tuple(sorted(self._kind(value, index) for value in made.values()))
                    kind = (*kind, ("the image",)) if given else kind
                    yield Place(index, tuple(made.values()), sum(filter(None, size)), kind)
            made.update({name_of(value): value for value in node.outputs})

    def _kind(self, value: ir.Value, index: int) -> tuple[str, ...]:
        maker = value.producer()
        behind = [
            node.op_type
            for node, reads in zip(self._order[index:], self._reads[index:], strict=True)
            if value.name in reads
        ]
        return (maker.op_type if maker is not None else "", *behind)


def _in_order(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that outputs are computed by, each as late as it can run."""
    makers = {name_of(value): node for node in graph for value in node.outputs}
    found: dict[ir.Node, None] = {}
    waiting = [makers[name] for name in reversed([name_of(value) for value in graph.outputs]) if name in makers]
    entered = set[ir.Node]()
    while waiting:
        node = waiting[-1]
        if node in entered:
            waiting.pop()
            found.setdefault(node)
            continue
        entered.add(node)
        needed = [makers[name] for name in _reads(node) if name in makers]
        waiting += [maker for maker in reversed(needed) if maker not in entered]
    return list(found)


def _reads(node: ir.Node) -> list[str]:
    """Names of all that a node reads, and that the graphs within it read from outside."""
    names = [name_of(value) for value in node.inputs if value is not None and value.name]
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        graphs += list(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else []
        for graph in graphs:
            own = {*map(name_of, graph.inputs), *graph.initializers}
            for inner in graph:
                names += [name for name in _reads(inner) if name not in own]
                own.update(map(name_of, inner.outputs))
            names += [name for name in map(name_of, graph.outputs) if name not in own]
    return list(dict.fromkeys(names))


def _pool(source: str, target: str) -> onnx.NodeProto:
    return onnx.helper.make_node("MaxPool", [source], [target], f"{target}.pool", kernel_shape=[1, 1])


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], f"{target}.cast", to=kind)


def _bytes(value: ir.Value) -> int | None:
    """The size of a tensor of one crop as it crosses from part to part; None where it is not known."""
    if value.shape is None or value.dtype is None:
        return None
    itemsize = 4 if value.dtype == ir.DataType.FLOAT16 else value.dtype.itemsize
    return int(prod(size or 1 for size in sizes(value)) * itemsize)
