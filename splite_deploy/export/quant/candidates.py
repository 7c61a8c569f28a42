"""int8 networks of which any layers can stay in float, for the search in `splite_deploy.export.quant.search`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial

import onnx_ir as ir

from splite_deploy.export.graph.walk import WEIGHTED, layers, make_session, named_nodes, run_session, with_shapes
from splite_deploy.export.quant.precision import Int8Report, excluded_nodes, quantise
from splite_deploy.export.quant.qdq import Consumer, insert_qdq, output_channels, prepare, quantised_nodes
from splite_deploy.export.quant.ranges import Ranges
from splite_deploy.export.quant.search import Network


class OnnxCandidates:
    """The int8 graph for one consumer.

    All run in ONNX Runtime. What TensorRT will run is not optimised there, so that its sums are exact as TensorRT's
    are: on CPUs without VNNI or AMX ONNX Runtime's own sums of int8 products saturate.

    Args:
        model: float32 graph.
        ranges: Of its activations.
        consumer: Who will run it.
        reduce_range: See `splite_deploy.export.quant.qdq.insert_qdq`.
        finish: What becomes of an int8 graph before it is run.
    """

    def __init__(
        self,
        model: ir.Model,
        ranges: Ranges,
        consumer: Consumer,
        *,
        reduce_range: bool = False,
        finish: Callable[[ir.Model], ir.Model] = lambda graph: graph,
    ) -> None:
        self._prepared, self._ranges, self._consumer = prepare(model), ranges, consumer
        self._reduce_range, self._finish = reduce_range, finish
        self._head = excluded_nodes(self._prepared.graph, (), quantise_head=False)

    @cached_property
    def layers(self) -> Mapping[str, str]:
        """The operators of the layers whose weights are in int8, by the name of their first node."""
        nodes = named_nodes(self._prepared.graph)
        int8 = quantised_nodes(self._prepared.graph, self._ranges, self._consumer, self._head)
        return {name: nodes[name].op_type for name in int8 if nodes[name].op_type in WEIGHTED}

    @cached_property
    def widths(self) -> list[int]:
        """The output channels of these layers, of one group each."""
        nodes = named_nodes(with_shapes(self._prepared).graph)
        return [output_channels(nodes[name]) for name in self.layers]

    @cached_property
    def _nodes_of(self) -> Mapping[str, list[str]]:
        return layers(self._prepared.graph)

    def _excluded(self, floats: Collection[str]) -> frozenset[str]:
        return self._head.union(*(self._nodes_of[layer] for layer in floats))

    @contextmanager
    def open(self, floats: Collection[str]) -> Iterator[Network]:
        """The graph with these layers in float."""
        made = insert_qdq(
            self._prepared, self._ranges, self._consumer, self._excluded(floats), reduce_range=self._reduce_range
        )
        yield partial(run_session, make_session(self._finish(made), optimise=self._consumer == "ort"))

    def make(self, floats: Collection[str]) -> tuple[ir.Model, Int8Report]:
        """The graph with these layers in float, and what it computes in.

        Raises:
            ExportError: A node that was to run in int8 does not.
        """
        return quantise(self._prepared, self._ranges, self._consumer, self._excluded(floats), self._reduce_range)
