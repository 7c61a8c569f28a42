"""Ranges of activations, collected once: FP16, both Q/DQ graphs and every trial of the error budget read the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import ExportError, UsageError
from splite_deploy.export.graph.walk import ExposedGraph, activations, check_calibration, constant, readers

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
METHOD: Method = "mse"
"""What an export chooses ranges by."""
PERCENTILE = 99.999
_BINS = 2048
_TINY = float(np.finfo(np.float32).tiny)
_NO_VALUE = 1e30  # what max pools are padded with is larger, and no activation is
_MOVERS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Concat"})
_SHRINK = np.linspace(0.1, 1.0, 91)  # the candidates of "entropy" and "mse", as shares of the observed range

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """What the activations of a graph were on the calibration crops.

    Attributes:
        method: How ``limits`` were chosen.
        crops: Number of calibration crops.
        limits: Tensor to the range (low, high) that 8 bits have to cover; holds zero.
        magnitudes: The same for ranges of -magnitude to magnitude.
        extremes: Tensor to its smallest and largest value.
        means: Tensor of four axes to the mean of each channel.
        shapes: Tensor to its shape for one crop, without the batch.
    """

    method: Method
    crops: int
    limits: Mapping[str, tuple[float, float]]
    magnitudes: Mapping[str, float]
    extremes: Mapping[str, tuple[float, float]]
    means: Mapping[str, Float]
    shapes: Mapping[str, tuple[int, ...]]

    def with_missing(self, other: Ranges) -> Ranges:
        """These, and those of ``other`` for the tensors that are not among them."""
        return replace(
            self,
            limits={**other.limits, **self.limits},
            magnitudes={**other.magnitudes, **self.magnitudes},
            extremes={**other.extremes, **self.extremes},
            means={**other.means, **self.means},
            shapes={**other.shapes, **self.shapes},
        )


def calibrate(model: ir.Model, crops: FloatArray, method: Method = "minmax") -> Ranges:
    """Runs the calibration crops through a float32 graph with all its tensors exposed, in small batches.

    ONNX Runtime's calibrators keep every activation of every crop in memory, and search ranges again for every graph.

    Args:
        model: float32 graph.
        crops: (N, 3, H, W) float32, normalised.
        method: ``minmax``: the observed range. ``percentile``: what holds `PERCENTILE` % of the values, half of the
            rest on either side. ``entropy``: the range with the least Kullback-Leibler divergence of the histogram
            quantised to 8 bits (Migacz, 8-bit inference with TensorRT, GTC 2017). ``mse``: the range with the least
            squared error.

    Raises:
        UsageError: There is no such method.
        ExportError: The crops do not fit the graph, or an activation is not finite in float32.
    """
    if method not in METHODS:
        raise UsageError(f"'{method}' is not a calibration method.", hint=f"Choose one of: {', '.join(METHODS)}.")
    check_calibration(model, crops)
    flowing = activations(model.graph)
    exposed = ExposedGraph(model, flowing)
    seen = _observe(exposed, flowing, crops)
    extremes = seen.extremes
    if method == "minmax":
        return seen
    histograms = _histograms(exposed, crops, extremes, padding_of(flowing))
    return replace(
        seen,
        method=method,
        limits={name: _choose(histograms[name], *extremes[name], method) for name in extremes},
        magnitudes={name: _choose(histograms[name], *extremes[name], method, symmetric=True)[1] for name in extremes},
    )


def _observe(exposed: ExposedGraph, flowing: Mapping[str, ir.Value], crops: FloatArray) -> Ranges:
    """What the float tensors were, with that as their limits."""
    extremes: dict[str, tuple[float, float]] = {}
    means: dict[str, Float] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    padding = padding_of(flowing)
    for values in exposed.run(crops):
        for name, value in values.items():
            if value.dtype != np.float32 or value.size == 0:  # shapes and indices are computed in integers
                continue
            shapes[name] = value.shape[1:]
            if name in padding:
                value = without(value, padding[name])
                if value.size == 0:
                    continue
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                producer = flowing[name].producer()
                made_by = "the preprocessing" if producer is None else producer.name
                raise ExportError(
                    f"'{name}', made by {made_by}, is not finite in float32.",
                    hint="The network itself overflows on these crops: check its weights.",
                )
            before = extremes.get(name, (low, high))
            extremes[name] = (min(low, before[0]), max(high, before[1]))
            if value.ndim == 4:
                share = len(value) / len(crops) * value.mean((0, 2, 3), dtype=np.float64)
                means[name] = means.get(name, np.zeros(())) + share
    limits = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in extremes.items()}
    magnitudes = {name: max(-low, high) for name, (low, high) in limits.items()}
    return Ranges("minmax", len(crops), limits, magnitudes, extremes, means, shapes)


def padding_of(flowing: Mapping[str, ir.Value]) -> dict[str, np.float32]:
    """What tensors are padded with that no range needs to hold, by their names.

    Converters write the padding of a max pool as a Pad with minus infinity, or with the smallest float: a range that
    held it would leave the values one level of 256. Clipped to the smallest value it still loses against every other.
    """
    found: dict[ir.Value, np.float32] = {}
    for value in flowing.values():
        node = value.producer()
        if node is None:
            continue
        if node.op_type == "Pad":
            with_value = constant(node.inputs[2]) if len(node.inputs) > 2 else None
            if with_value is not None and with_value.size == 1 and with_value.dtype == np.float32:
                level = np.float32(with_value.ravel()[0])
                if abs(level) >= _NO_VALUE or (level < 0 and _is_pooled(value)):
                    found[value] = level
        elif node.op_type in _MOVERS:
            found.update((value, found[source]) for source in node.inputs if source is not None and source in found)
    return {name: found[value] for name, value in flowing.items() if value in found}


def without(value: NDArray[Any], padding: np.float32) -> NDArray[Any]:
    """The values in one row, without those of `padding_of`."""
    kept: NDArray[Any] = value[value != padding]
    return kept


def _is_pooled(value: ir.Value) -> bool:
    """Whether nothing but max pools reads a value."""
    reading = readers(value)
    return bool(reading) and not value.is_graph_output() and all(node.op_type == "MaxPool" for node in reading)


def _histograms(
    exposed: ExposedGraph,
    crops: FloatArray,
    extremes: Mapping[str, tuple[float, float]],
    padding: Mapping[str, np.float32],
) -> dict[str, Float]:
    """Counts in `_BINS` equal bins over the observed range of each tensor."""
    counts = {name: np.zeros(_BINS) for name in extremes}
    for values in exposed.run(crops):
        for name, (low, high) in extremes.items():
            value = values[name]
            if name in padding:
                value = without(value, padding[name])
            step = max((high - low) / _BINS, _TINY)
            cells = np.minimum((value.ravel() - np.float32(low)) / np.float32(step), _BINS - 1).astype(np.intp)
            counts[name] += np.bincount(cells, minlength=_BINS)
    return counts


def _choose(counts: Float, low: float, high: float, method: Method, *, symmetric: bool = False) -> tuple[float, float]:
    """The range that a method picks from a histogram over (low, high)."""
    edges = np.linspace(low, high, _BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(low, 0.0), max(high, 0.0)
    if method == "percentile":
        held, tail = np.cumsum(counts), (1 - PERCENTILE / 100) / 2 * counts.sum()
        first, last = np.searchsorted(held, tail, "right"), np.searchsorted(held, counts.sum() - tail)
        # An end at zero, as after a ReLU, loses nothing by being kept
        low, high = min(float(edges[first]), 0.0), max(float(edges[min(last, _BINS - 1) + 1]), 0.0)
        return (-max(-low, high), max(-low, high)) if symmetric else (low, high)
    if high <= low:
        return low, high
    levels = 256
    if symmetric:
        low, high, levels = -max(-low, high), max(-low, high), 255
    cost = _divergence if method == "entropy" else _squared_error
    best = min(_SHRINK[::-1], key=lambda share: cost(counts, centres, share * low, share * high, levels))
    return float(best * low), float(best * high)


def _levels(centres: Float, low: float, high: float, levels: int) -> tuple[Float, float]:
    """The level of each bin, from 0, and the step."""
    step = (high - low) / (levels - 1)
    return np.clip(np.round((centres - low) / step), 0, levels - 1), step


def _squared_error(counts: Float, centres: Float, low: float, high: float, levels: int) -> float:
    level, step = _levels(centres, low, high, levels)
    return float(counts @ np.square(level * step + low - centres))


def _divergence(counts: Float, centres: Float, low: float, high: float, levels: int) -> float:
    """KL divergence between the clipped histogram, whose outliers lie in its last bins, and its quantised form."""
    inside = (centres >= low) & (centres <= high)
    kept, level = counts[inside], _levels(centres[inside], low, high, levels)[0].astype(np.intp)
    if len(kept) < 2:
        return np.inf
    zero = int(np.abs(centres[inside]).argmin())
    kept[zero] = kept[zero + 1 if zero + 1 < len(kept) else zero - 1]  # a ReLU's zeros, which every range holds exactly
    clipped = kept.copy()
    first = int(np.argmax(inside))
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[first + len(kept) :].sum()
    occupied = (kept > 0).astype(np.float64)
    shared = np.bincount(level, kept, levels) / np.maximum(np.bincount(level, occupied, levels), 1)
    quantised = np.where(occupied > 0, shared[level], 0.0)
    if quantised.sum() == 0:
        return np.inf
    p, q = clipped / clipped.sum(), quantised / quantised.sum()
    p, q = np.maximum(p, 1e-9), np.maximum(q, 1e-9)  # a bin that holds outliers alone has no quantised share
    return float((p * np.log(p / q)).sum())
