"""int8 TFLite files of which any layers can stay in float, with the ranges of the ONNX graph that they come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from splite_deploy.arrays import FloatArray
from splite_deploy.compile.tflite.converter import Converted
from splite_deploy.compile.tflite.match import axes
from splite_deploy.compile.tflite.quantise import Int8Quantiser, QuantisationReport
from splite_deploy.compile.tflite.ranges import KnownRange, find_ranges, fingerprint, with_known_names
from splite_deploy.export.graph.walk import ExposedGraph
from splite_deploy.export.quant.ranges import Ranges
from splite_deploy.metrics.parity import Outputs
from splite_deploy.runtime.io.native_output import own_output

_COMPARED = 2  # crops by whose values tensors are recognised
_NAMED = 4  # operators that a note names


class TfliteCandidates:
    """The int8 form of one TFLite file; all run in LiteRT.

    Args:
        converted: The float32 file.
        model: The graph that it was made from.
        ranges: Of the activations of that graph.
        tensors: (N, 3, h, w) float32 crops, normalised: tensors are recognised on the first, and those that the graph
            does not have are measured on all.
    """

    def __init__(self, converted: Converted, model: ir.Model, ranges: Ranges, tensors: FloatArray) -> None:
        self._layouts = converted.layouts
        known, crops = known_ranges(model, ranges, tensors[:_COMPARED]), self._turned(tensors)
        content = with_known_names(converted.content, crops, known)  # for reports
        self._quantiser = Int8Quantiser(content, find_ranges(content, crops, known))

    @property
    def layers(self) -> Mapping[str, str]:
        """The operators of the layers that run in int8, by the layer's name."""
        return {layer.name: layer.kind for layer in self._quantiser.layers}

    @contextmanager
    def open(self, floats: Collection[str]) -> Iterator[Callable[[FloatArray], Outputs]]:
        """The network with these layers in float: from crops (N, 3, h, w) to outputs by role, N first."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self.make(floats)[0], num_threads=1)
        with own_output():
            interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()
        (image,) = run.get_input_details()

        def network(tensors: FloatArray) -> Outputs:
            rows = [run(**{image: crop[None]}) for crop in self._turned(tensors)]
            return {role: self._by_role(role, np.concatenate([row[role] for row in rows])) for role in rows[0]}

        yield network

    def make(self, floats: Collection[str] = ()) -> tuple[bytes, QuantisationReport]:
        """The file with these layers in float, and what it computes in.

        Raises:
            CompileError: The quantiser fails.
        """
        return self._quantiser.quantise(floats)

    def _turned(self, tensors: FloatArray) -> FloatArray:
        """Crops in the layout of the file."""
        return np.ascontiguousarray(tensors.transpose(axes("NCHW", self._layouts["image"])))

    def _by_role(self, role: str, values: FloatArray) -> FloatArray:
        """An output in the layout of sessions."""
        layout = self._layouts[role]
        target = next((one for one in ("NCHW", "NKC") if sorted(one) == sorted(layout)), layout)
        return np.ascontiguousarray(values.transpose(axes(layout, target)))


def known_ranges(model: ir.Model, ranges: Ranges, tensors: FloatArray) -> list[KnownRange]:
    """The ranges of a graph's activations with what to recognise them by.

    Args:
        model: The graph.
        ranges: Of its activations.
        tensors: (N, 3, h, w) float32 crops, normalised.
    """
    exposed = ExposedGraph(model, ranges.limits)
    rows = [values for crop in tensors for values in exposed.run(crop[None])]
    return [
        KnownRange(name, fingerprint([row[name] for row in rows]), limits) for name, limits in ranges.limits.items()
    ]


def int8_note(file: str, report: QuantisationReport) -> str:
    """What a file computes in, as text: what stays in float is named by its reason."""
    reasons: dict[str, list[str]] = {}
    for one in (*report.islands, *report.excluded):
        reasons.setdefault(one.reason, []).append(f"{one.name} ({one.kind})")
    floats = [f"{_listed(names)}: {reason}" for reason, names in reasons.items()]
    return "; ".join(
        [f"{file}: {len(report.int8)} operators in int8; in float: {floats[0] if floats else 'none'}", *floats[1:]]
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
