"""Mixed precision under an error budget: the layers that move keypoints most go back to float until it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle.report import ExcludedLayer
from splite_deploy.errors import ExportError, ParityError, UsageError
from splite_deploy.export.graph.walk import (
    WEIGHTED,
    check_calibration,
    layers,
    make_session,
    named_nodes,
    run_graph,
)
from splite_deploy.export.quant.precision import Int8Report, excluded_nodes, quantise
from splite_deploy.export.quant.qdq import Consumer, has_qdq, insert_qdq, prepare, quantised_nodes
from splite_deploy.export.quant.ranges import Method, Ranges, calibrate
from splite_deploy.metrics.parity import Deviation, Outputs, measure_deviation
from splite_deploy.spec import ModelSpec

MAX_FACTOR = 6.0
"""The largest deviation may be this many times the budget of the 95th percentile: one ambiguous keypoint in a thousand
must not send a whole network back to float."""
_LATENCY_RUNS = 15
_SAFE = 0.95  # of the budget: kernels of the device sum in another order


@dataclass(frozen=True)
class Budget:
    """What int8 may cost: the 95th percentile may reach the budget, the maximum `MAX_FACTOR` times as much.

    Attributes:
        deviation_px: Keypoint deviation, input pixels; None does not look at it.
        depth_mm: Depth deviation, millimetres; None does not look at it.
    """

    deviation_px: float | None = None
    depth_mm: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.deviation_px, self.depth_mm) if value is not None]
        if not given or not all(0 < value < np.inf for value in given):
            raise UsageError("An error budget is a positive number.", hint="Give pixels, millimetres, or both.")

    def used(self, deviation: Deviation) -> float:
        """The share of the budget that is used; over 1 it is broken.

        Raises:
            UsageError: Millimetres were given for a model whose depth has none.
        """
        parity, shares = deviation.parity, []
        if self.deviation_px is not None:
            shares += [
                parity.deviation_px.p95 / self.deviation_px,
                parity.deviation_px.max / self.deviation_px / MAX_FACTOR,
            ]
        if self.depth_mm is not None:
            if parity.depth is None or parity.depth_unit != "mm":
                raise UsageError(
                    "The model has no depth in millimetres, which this budget is for.",
                    hint="Give a budget in pixels, or palm_mm in model.toml.",
                )
            shares += [parity.depth.p95 / self.depth_mm, parity.depth.max / self.depth_mm / MAX_FACTOR]
        return max(shares)


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        int8: What the graph that was found computes in.
        plain: Deviation with every layer in int8.
        final: Deviation of the graph that was found.
        plain_latency_ms: Median latency with every layer in int8; see `ExcludedLayer.latency_ms`.
        excluded: The layers excluded from quantisation; empty where the budget was kept without.
    """

    int8: Int8Report
    plain: Deviation
    final: Deviation
    plain_latency_ms: float
    excluded: tuple[ExcludedLayer, ...]


def search_within_budget(
    model: ir.Model,
    crops: FloatArray,
    reference: Outputs,
    spec: ModelSpec,
    budget: Budget,
    consumer: Consumer,
    *,
    method: Method = "mse",
    quantise_head: bool = False,
    reduce_range: bool = False,
    ranges: Ranges | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[ir.Model, SearchResult]:
    """Makes the int8 graph with the fewest float layers that a greedy search finds within the budget.

    Each layer is first quantised alone; the layers then return to float in the order of what that cost. Both
    consumers' graphs are measured in ONNX Runtime, whose int8 arithmetic is that of TensorRT but for rounding.

    Args:
        model: float32 graph whose outputs are named by their role.
        crops: (N, 3, H, W) float32, normalised; the deviation is measured on them.
        reference: float32 outputs on ``crops`` by role, N first.
        spec: The model; its decoder turns outputs into keypoints.
        budget: What may be lost.
        consumer: Who will run the graph.
        method: See `splite_deploy.export.quant.ranges.calibrate`.
        quantise_head: Starts with the head in int8, too.
        reduce_range: See `splite_deploy.export.quant.qdq.insert_qdq`.
        ranges: Of `calibrate` on the same graph; by custom from other crops than ``crops``.
        progress: Called with each step as it begins.

    Returns:
        The graph, and what the search found.

    Raises:
        UsageError: The model gives nothing that the budget is for.
        ExportError: The graph is quantised already, or cannot be.
        ParityError: The budget breaks even where a single layer is left in int8.
    """
    check_calibration(model, crops)
    if has_qdq(model):
        raise ExportError(
            "The graph brings its own quantisation, which no search can undo.",
            hint="Search on the float32 graph, or leave the budget out.",
        )
    ranges = ranges or calibrate(model, crops, method)
    search = _Search(prepare(model), ranges, consumer, reduce_range, crops, reference, spec)
    excluded = set(excluded_nodes(search.prepared.graph, (), quantise_head))
    progress("every layer in int8")
    plain, plain_ms = search.deviation(excluded), search.latency_ms(excluded)
    final, rows = plain, []
    if budget.used(plain) > _SAFE:
        quantised = search.layers(excluded)
        alone = {}
        for index, layer in enumerate(quantised, 1):
            progress(f"layer {index} of {len(quantised)} in int8 alone: {layer}")
            alone[layer] = search.deviation(set(search.nodes).difference(quantised[layer]))
        for layer in sorted(quantised, key=lambda name: -budget.used(alone[name])):
            excluded |= set(quantised[layer])
            if not search.layers(excluded):
                raise _hopeless(final, budget)
            progress(f"excluded from quantisation: {layer}")
            final = search.deviation(excluded)
            rows.append(
                ExcludedLayer(
                    layer=layer,
                    op=search.nodes[layer].op_type,
                    isolated_p95_px=alone[layer].parity.deviation_px.p95,
                    accumulated_p95_px=final.parity.deviation_px.p95,
                    latency_ms=search.latency_ms(excluded),
                )
            )
            if budget.used(final) <= _SAFE:
                break
    made, report = quantise(search.prepared, ranges, consumer, excluded, reduce_range)
    return made, SearchResult(report, plain, final, plain_ms, tuple(rows))


@dataclass(frozen=True)
class _Search:
    prepared: ir.Model
    ranges: Ranges
    consumer: Consumer
    reduce_range: bool
    crops: FloatArray
    reference: Outputs
    spec: ModelSpec

    @cached_property
    def nodes(self) -> dict[str, ir.Node]:
        return named_nodes(self.prepared.graph)

    @cached_property
    def all_layers(self) -> dict[str, list[str]]:
        return layers(self.prepared.graph)

    def layers(self, excluded: set[str]) -> dict[str, list[str]]:
        """Layers whose weights are in int8."""
        requested = quantised_nodes(self.prepared.graph, self.ranges, self.consumer, excluded)
        weighted = {name for name in requested if self.nodes[name].op_type in WEIGHTED}
        return {first: names for first, names in self.all_layers.items() if first in weighted}

    def deviation(self, excluded: set[str]) -> Deviation:
        made = insert_qdq(self.prepared, self.ranges, self.consumer, excluded, reduce_range=self.reduce_range)
        return measure_deviation(self.reference, run_graph(made, self.crops), self.spec)

    def latency_ms(self, excluded: set[str]) -> float:
        made = insert_qdq(self.prepared, self.ranges, "ort", excluded, reduce_range=self.reduce_range)
        session = make_session(made)
        feeds = {session.get_inputs()[0].name: self.crops[:1]}
        times = []
        for _ in range(_LATENCY_RUNS + 3):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
        return 1000 * float(np.median(times[3:]))


def _hopeless(deviation: Deviation, budget: Budget) -> ParityError:
    parity, wanted = deviation.parity, []
    if budget.deviation_px is not None:
        wanted.append(f"keypoint deviation p95 {parity.deviation_px.p95:.3g} px (budget {budget.deviation_px:g})")
    if budget.depth_mm is not None and parity.depth is not None:
        wanted.append(f"depth deviation p95 {parity.depth.p95:.3g} mm (budget {budget.depth_mm:g})")
    return ParityError(
        f"With only one layer in int8 the budget is still exceeded: {', '.join(wanted)}.",
        hint="Allow a larger deviation, calibrate with more crops, train with fake quantisation, or export fp16.",
    )
