"""The ONNX files of a bundle beside its fp32 graph: float16 and int8, for ONNX Runtime and for TensorRT's two kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from splite_deploy.bundle import Typing
from splite_deploy.bundle.report import BudgetSearch
from splite_deploy.export.graph.walk import Array, load, save
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.quant.engine_graphs import to_int8_fp16
from splite_deploy.export.quant.precision import Fp16Report, Int8Report, to_fp16, to_int8, unsafe_in_fp16
from splite_deploy.export.quant.qdq import Consumer
from splite_deploy.export.quant.ranges import Method, calibrate
from splite_deploy.export.quant.search import within_budget
from splite_deploy.export.reference import Reference
from splite_deploy.spec import Precision

METHOD: Method = "mse"
FP16 = "model.fp16.onnx"
INT8: Mapping[Consumer, str] = {"ort": "model.int8.onnx", "trt": "model.int8.trt.onnx"}
INT8_FP16 = "model.int8-fp16.trt.onnx"
WEAK = "model.trt.onnx"
_NAMED = 6  # nodes that a note names
Progress = Callable[[str], None]


@dataclass
class OnnxFiles:
    """What `make_onnx_files` made.

    Attributes:
        names: Files beside the fp32 graph.
        notes: What is worth knowing about them, in words.
        methods: How the ranges of activations were chosen, by what they were chosen for.
        search: The search under an error budget; None without one.
    """

    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    methods: dict[str, str] = field(default_factory=dict)
    search: BudgetSearch | None = None


def engine_file(precision: Precision, typing: Typing, fp32: str) -> str:
    """The file that an engine of this precision is built of; ``fp32`` is the name of the fp32 graph.

    A builder that is weakly typed makes fp16 of the fp32 graph, by a flag; it has a copy of that, in an older opset.
    """
    if precision == "int8":
        return INT8["trt"] if typing == "weak" else INT8_FP16
    if typing == "weak":
        return WEAK
    return FP16 if precision == "fp16" else fp32


def make_onnx_files(
    graph: Path, reference: Reference, tensors: Array, options: ExportOptions, progress: Progress
) -> OnnxFiles:
    """Makes what was asked for below fp32, from one calibration.

    Args:
        graph: The fp32 graph; the files lie beside it.
        reference: What the error budget is measured against.
        tensors: (N, 3, h, w) normalised crops to calibrate on.
        options: What was asked for.
        progress: Told each step as it begins.

    Raises:
        SpliteError: A file cannot be made as it was asked for.
    """
    made = OnnxFiles()
    consumers: list[Consumer] = [name for name in ("ort", "trt") if options.asks_for(name, "int8")]
    fp16 = [name for name in ("ort", "trt") if options.asks_for(name, "fp16")]
    if not consumers and not fp16:
        return made
    progress(f"measuring the ranges of activations on {len(tensors)} crops")
    model = load(graph)
    ranges = calibrate(model, tensors, METHOD)
    if fp16:
        progress("float16 graph")
        float16, fp16_report = to_fp16(model, tensors, ranges=ranges)
        save(float16, graph.with_name(FP16))
        made.notes.append(_fp16_note(fp16_report))
        made.methods.update({f"{name} fp16": "extremes" for name in fp16})
        made.names.append(FP16)
    floating: tuple[str, ...] = ()
    for consumer in consumers:
        name = INT8[consumer]
        progress("int8 graph" if consumer == "ort" else "int8 graph for TensorRT")
        if options.budget is not None and made.search is None:
            quantised, found = within_budget(
                model,
                reference.tensors,
                reference.outputs,
                reference.spec,
                options.budget,
                consumer,
                ranges=ranges,
                progress=progress,
            )
            report, plain = found.int8, found.plain.parity.deviation_px.p95
            asked = options.budget.shift_px, options.budget.depth_mm
            made.search = BudgetSearch(*asked, plain, found.plain_latency_ms, found.rows)
            floating = report.floating
        else:
            quantised, report = to_int8(model, tensors, consumer, float_nodes=floating, ranges=ranges)
        save(quantised, graph.with_name(name))
        made.notes.append(_int8_note(name, report))
        made.methods[f"{consumer} int8"] = str(report.method)
        made.names.append(name)
        if consumer == "trt":
            unsafe = [kept.node for kept in unsafe_in_fp16(model, ranges)]
            save(to_int8_fp16(quantised, unsafe), graph.with_name(INT8_FP16))
            made.names.append(INT8_FP16)
    return made


def keep_quantisation(graph: Path, reference: Reference, options: ExportOptions) -> OnnxFiles:
    """The int8 files of a graph that was trained for int8 and brings its scales; see `make_onnx_files`."""
    made, model = OnnxFiles(), load(graph)
    for consumer in INT8:
        if options.asks_for(consumer, "int8"):
            name = INT8[consumer]
            quantised, report = to_int8(model, reference.tensors, consumer)
            save(quantised, graph.with_name(name))
            made.notes.append(_int8_note(name, report))
            made.names.append(name)
            if consumer == "trt":
                save(to_int8_fp16(quantised, ()), graph.with_name(INT8_FP16))
                made.names.append(INT8_FP16)
    return made


def _fp16_note(report: Fp16Report) -> str:
    kept = [f"{one.node} ({one.reason})" for one in report.kept]
    return f"{FP16}: {sum(report.float16.values())} nodes in float16; kept in float32: {_listed(kept)}"


def _int8_note(file: str, report: Int8Report) -> str:
    islands = [f"{name} ({op})" for name, op in report.float_islands.items()]
    text = f"{file}: {len(report.quantised)} nodes in int8; float by choice: {_listed(report.floating)}"
    return "; ".join([f"{text}; float for want of a kernel: {_listed(islands)}", *report.notes])


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "none"
