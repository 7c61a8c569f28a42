"""The graphs of an export, in memory: every precision for every consumer, made once from the fp32 graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import get_args

import onnx_ir as ir
import onnxruntime

from splite_deploy.bundle import Typing
from splite_deploy.bundle.report import LayerSearch
from splite_deploy.device.int8 import RIGHT_ONNXRUNTIME, Int8Instructions, miscounted
from splite_deploy.errors import ExportError, OutputError, SpliteError, UsageError
from splite_deploy.export.graph.fuse import fuse
from splite_deploy.export.graph.opset import lower_opset
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.quant.candidates import OnnxCandidates
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest, to_int8_fp16
from splite_deploy.export.quant.precision import Fp16Report, Int8Report, to_fp16, to_int8, unsafe_in_fp16
from splite_deploy.export.quant.qdq import INT8_OPS, Consumer
from splite_deploy.export.quant.ranges import Ranges
from splite_deploy.export.quant.search import Found, Goal, keep_limits, keeps_limits
from splite_deploy.export.quant.trained_graph import TrainedGraph
from splite_deploy.export.reference import Reference
from splite_deploy.spec import ModelSpec, Precision

FP32 = "model.onnx"
FP16 = "model.fp16.onnx"
INT8: Mapping[Consumer, str] = {"ort": "model.int8.onnx", "trt": "model.int8.trt.onnx"}
INT8_FP16 = "model.int8-fp16.trt.onnx"
OLD_OPSET = "model.trt.onnx"
"""The fp32 graph for builders that are weakly typed: these know no opset after 17."""
TYPINGS: tuple[Typing, ...] = ("weak", "strong")
_NAMED = 6  # nodes that a note names


@dataclass
class Variants:
    """The graphs of an export and what is worth knowing about them.

    Attributes:
        graphs: By the name of their file; networks as they were converted, without fused pre- and postprocessing.
        notes: What is worth knowing about them, as text.
        methods: How the ranges of activations were chosen, by what they were chosen for.
        searches: The searches for layers that int8 must leave in float.
        reduced: Whether the int8 weights for ONNX Runtime have 7 bits.
        failed: Why a graph could not be made, by the name of its file.
    """

    graphs: dict[str, ir.Model] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    methods: dict[str, str] = field(default_factory=dict)
    searches: list[LayerSearch] = field(default_factory=list)
    reduced: bool = False
    failed: dict[str, SpliteError] = field(default_factory=dict)

    @contextmanager
    def making(self, *files: str) -> Iterator[None]:
        """Records an expected error of the block as the reason why these files are not there."""
        try:
            yield
        except OutputError:
            raise
        except SpliteError as err:
            self.failed.update(dict.fromkeys(files, err))

    def keep(self, found: Found) -> tuple[str, ...]:
        """Records what a search found; returns the layers that stay in float."""
        self.searches += [] if found.record is None else [found.record]
        return found.floats


def artifact_file(precision: Precision) -> str:
    """The file that ONNX Runtime runs in this precision."""
    return {"fp32": FP32, "fp16": FP16, "int8": INT8["ort"]}[precision]


def engine_file(precision: Precision, typing: Typing) -> str:
    """The file that a TensorRT engine of this precision is built from.

    A weakly typed builder makes fp16 of the fp32 graph, by a flag.
    """
    if precision == "int8":
        return INT8["trt"] if typing == "weak" else INT8_FP16
    if typing == "weak":
        return OLD_OPSET
    return FP16 if precision == "fp16" else FP32


def graph_label(precision: Precision, typing: Typing) -> str:
    """What a graph for engines is called in tables and messages."""
    return f"trt {precision} graph ({typing}ly typed)"


def make_variants(
    fp32: ir.Model,
    ranges: Ranges | None,
    goal: Goal,
    options: ExportOptions,
    cpu: Int8Instructions,
    trained: TrainedGraph | None = None,
) -> Variants:
    """Makes every graph that was requested, from one calibration.

    Args:
        fp32: The simplified fp32 graph.
        ranges: Of the activations of ``fp32``; None where nothing below fp32 is made of it.
        goal: What int8 has to keep; float16 nodes are watched on its crops.
        options: The requested options.
        cpu: Of this machine: where its sums of int8 saturate so much that limits break, weights get 7 bits.
        trained: Where the network was trained for int8: ``fp32`` is its float form then, ``ranges`` the trained ones.

    Returns:
        The graphs, and for each that could not be made the reason.
    """
    made, progress = Variants({FP32: fp32}, reduced=options.reduce_range), goal.progress
    if options.makes("trt", "fp32", "fp16"):
        made.graphs[OLD_OPSET] = fp32
    consumers: tuple[Consumer, ...] = get_args(Consumer)
    fp16_for = [name for name in consumers if options.makes(name, "fp16")]
    int8_for = [name for name in consumers if options.makes(name, "int8")]
    if ranges is None:
        return made
    if fp16_for:
        progress("float16 graph")
        with made.making(FP16):
            made.graphs[FP16], fp16 = to_fp16(fp32, goal.reference.tensors, ranges=ranges)
            made.notes.append(_fp16_note(fp16))
            made.methods.update({f"{name} fp16": "extremes" for name in fp16_for})
    for consumer in int8_for:
        progress("int8 graph" if consumer == "ort" else "int8 graph for TensorRT")
        with made.making(*_int8_files(consumer)):
            floats: tuple[str, ...] = ()
            if consumer == "ort" and cpu.miscounts(onnxruntime.__version__):
                _refuse_wrong_sums(OnnxCandidates(fp32, ranges, consumer).widths)
            if trained is not None:
                made.graphs[INT8[consumer]], int8 = _trained_int8(trained, goal.reference, ranges, consumer)
            else:
                label = "ort int8" if consumer == "ort" else graph_label("int8", "weak")
                candidates = OnnxCandidates(fp32, ranges, consumer, reduce_range=made.reduced and consumer == "ort")
                if consumer == "ort" and cpu.saturates and not made.reduced and not keeps_limits(candidates, goal):
                    progress(f"{label} breaks its limits on this CPU, where sums of 8 bits saturate: weights of 7 bits")
                    made.reduced = True
                    candidates = OnnxCandidates(fp32, ranges, consumer, reduce_range=True)
                floats = made.keep(keep_limits(candidates, goal, label))
                made.graphs[INT8[consumer]], int8 = candidates.make(floats)
            made.notes.append(_int8_note(INT8[consumer], int8))
            if int8.method is not None:
                made.methods[f"{consumer} int8"] = int8.method
            if consumer == "trt":
                with made.making(INT8_FP16):
                    if trained is not None:
                        unsafe = [one.node for one in unsafe_in_fp16(fp32, ranges)]
                        made.graphs[INT8_FP16] = to_int8_fp16(made.graphs[INT8[consumer]], unsafe)
                    else:
                        made.graphs[INT8_FP16] = _int8_fp16(fp32, ranges, goal, floats, made)
    return made


def _refuse_wrong_sums(widths: Sequence[int]) -> None:
    """Refuses to compare an int8 graph by an ONNX Runtime that computes some of its layers wrongly on this CPU.

    The search would blame layers that are right, and keep them in float.

    Args:
        widths: Output channels of the layers in int8.

    Raises:
        ExportError: There are such layers.
    """
    wrong = miscounted(widths)
    if wrong:
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} computes int8 layers of {', '.join(map(str, wrong))} channels "
            "wrongly on this CPU, which has AMX: its results prove nothing.",
            hint=f"{RIGHT_ONNXRUNTIME}, and export again.",
        )


def _trained_int8(
    trained: TrainedGraph, reference: Reference, ranges: Ranges, consumer: Consumer
) -> tuple[ir.Model, Int8Report]:
    """The int8 graph of a network that was trained for int8: its own, or one with its scales where that cannot run."""
    try:
        return to_int8(trained.quantised, reference.tensors, consumer)
    except ExportError as err:
        graph, report = to_int8(
            trained.floating, reference.tensors, consumer, exclude=sorted(trained.untrained), ranges=ranges
        )
        note = f"made anew with the trained scales, since the graph's own quantisation did not do: {err.message}"
        return graph, replace(report, method=None, crops=0, notes=(*report.notes, note))


def _int8_fp16(fp32: ir.Model, ranges: Ranges, goal: Goal, floats: Collection[str], made: Variants) -> ir.Model:
    """The strongly typed graph, which has float16 around int8 and may need more layers in float than the other."""
    unsafe = [one.node for one in unsafe_in_fp16(fp32, ranges)]

    def halved(graph: ir.Model) -> ir.Model:
        return rounding_to_nearest(to_int8_fp16(graph, unsafe))

    candidates = OnnxCandidates(fp32, ranges, "trt", finish=halved)
    floats = made.keep(keep_limits(candidates, goal, graph_label("int8", "strong"), start=floats))
    return to_int8_fp16(candidates.make(floats)[0], unsafe)


def deployed(file: str, graph: ir.Model, spec: ModelSpec, options: ExportOptions) -> tuple[ir.Model, str]:
    """The graph as it is written: with fused pre- and postprocessing, in the opset that its builders read.

    Returns:
        The graph, and what is worth knowing about it in words, or nothing.

    Raises:
        ExportError: The pre- or postprocessing cannot be fused.
    """
    if options.fuses:
        graph = fuse(graph, spec, preprocessing=options.fuse_input, postprocessing=options.fuse_decode)
    if file not in (OLD_OPSET, INT8["trt"]):
        return graph, ""
    try:
        return lower_opset(graph), ""
    except ExportError as err:
        return graph, f"{file} is not for TensorRT 8: {err.message}"


def _int8_files(consumer: Consumer) -> list[str]:
    """The files that are made for a consumer in int8."""
    return [INT8[consumer], INT8_FP16] if consumer == "trt" else [INT8[consumer]]


def check_trained(options: ExportOptions) -> None:
    """Raises `UsageError` for options that a network does not take which was trained for int8."""
    if options.has_budget or options.calibration is not None or options.reduce_range:
        raise UsageError(
            "This network was trained for int8 and brings its own scales: nothing is calibrated or searched, and its "
            "weights keep their 8 bits.",
            hint="Leave out --calibration, --max-shift-* and --reduce-range.",
        )


def _fp16_note(report: Fp16Report) -> str:
    excluded = [f"{one.node} ({one.reason})" for one in report.excluded]
    return f"{FP16}: {_nodes(sum(report.float16.values()))} in float16; in float32: {_listed(excluded)}"


def _int8_note(file: str, report: Int8Report) -> str:
    kernels, islands = INT8_OPS[report.consumer], report.float_islands.items()
    lacking = [f"{name} ({op})" for name, op in islands if op not in kernels]
    beside = [f"{name} ({op})" for name, op in islands if op in kernels]
    text = f"{file}: {_nodes(len(report.quantised))} in int8; excluded: {_listed(report.excluded)}"
    text = f"{text}; float for want of a kernel: {_listed(lacking)}"
    also = [f"in float beside them: {_listed(beside)}"] if beside else []
    return "; ".join([text, *also, *report.notes])


def _nodes(count: int) -> str:
    return f"{count} node{'s'[: count != 1]}"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "none"
