"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, OutputError, first_line
from splite_deploy.files import TMP_HINT, work_folder
from splite_deploy.runtime.backends.base import (
    FAILED_HINT,
    Backend,
    BackendOptions,
    BaseSession,
    IoSignature,
    ModelFile,
    check_signature,
    layer_types,
    option,
)

if TYPE_CHECKING:
    import onnxruntime as ort

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")},
}
"""numpy's names of the types as ONNX Runtime names them."""
_OWN_OPERATOR = re.compile(r"\b((?!ai\.onnx:|:)[\w.]+:\w+)\(-?\d+\) is not a registered")
_NO_GRAPH = ("Invalid model", "INVALID_GRAPH", "INVALID_PROTOBUF", "No graph was found")
"""What ONNX Runtime says of files that are no graphs."""
_TRACE_TYPES = {"float": "float32", "double": "float64"}  # the rest is called as in numpy
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class OrtOptions(BackendOptions):
    """How ONNX Runtime works.

    Attributes:
        threads: CPU threads; None is its default, one per core.
        reference: Runs the graph as it is, without rewriting it: slower, and as close to the file as it can be.
    """

    threads: int | None = option(None, "CPU threads; one per core without it.", type=int)
    reference: bool = option(False, "Run the graph as it is, without optimising it.")


class OrtSession(BaseSession):
    """A graph loaded into ONNX Runtime's CPU provider.

    Args:
        file: The graph; without an artifact it tells its inputs and outputs itself.
        options: How it works.
        trace: Prefix of the file that receives the time of every node; None times none.

    Raises:
        BackendError: ONNX Runtime cannot load it.
        BundleError: It has other tensors than its artifact says.
    """

    def __init__(self, file: ModelFile, options: OrtOptions, *, trace: Path | None = None) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads or 0
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # what goes wrong is in the exception
        if options.reference:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if trace is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(trace)
        try:
            self._session = ort.InferenceSession(file.data, settings, providers=["CPUExecutionProvider"])
        except Exception as err:  # onnxruntime has no common base class of its errors
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load {file.name}: {first_line(err)}",
                hint=_load_hint(str(err)),
            ) from err
        own = IoSignature(_specs(self._session.get_inputs()), _specs(self._session.get_outputs()))
        if file.said is not None:
            check_signature(file.name, file.said, own)
        super().__init__(file.artifact or own)
        self._names = [spec.name for spec in self.outputs]

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        try:
            values = self._session.run(self._names, feeds)
        except Exception as err:
            raise BackendError(f"ONNX Runtime failed: {first_line(err)}", hint=FAILED_HINT) from err
        return dict(zip(self._names, values, strict=True))

    def _release(self) -> None:
        del self._session


class TracedOrtSession(OrtSession):
    """A graph whose nodes, as ONNX Runtime fused and converted them, are timed until `layers` is called."""

    def __init__(self, file: ModelFile, options: OrtOptions) -> None:
        self._layers: tuple[Layer, ...] | None = None
        with ExitStack() as stack:
            super().__init__(file, options, trace=stack.enter_context(work_folder("trace")) / "ort")
            self._stack = stack.pop_all()

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        if self._layers is None:
            self._check_open()
            trace = Path(self._session.end_profiling())
            try:
                self._layers = read_trace(json.loads(trace.read_text(encoding="utf-8")))
            except ValueError as err:  # ONNX Runtime does not say that it could not write
                place = trace.parent.parent
                message = f"What ONNX Runtime measured of each node is cut: the disk of {place} may be full."
                raise OutputError(message, hint=TMP_HINT) from err
        return self._layers

    def _release(self) -> None:
        super()._release()
        self._stack.close()


def _load_hint(reason: str) -> str:
    """What to do where ONNX Runtime cannot load a graph, by what it says."""
    if own := _OWN_OPERATOR.search(reason):
        return (
            f"The operator {own[1]} is not of ONNX: give the graph as its framework exports it without operators of "
            "its own."
        )
    if any(mark in reason for mark in _NO_GRAPH):
        return "The graph is not valid ONNX, which no version loads: export it again, and try onnx.checker on it."
    return "Upgrade onnxruntime, or export the graph again with a lower opset (--opset)."


def _specs(values: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    """Tensors as the graph declares them; sizes that it leaves open, or that none can be, are None."""
    return tuple(
        TensorSpec(
            name=value.name,
            shape=tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape),
            dtype=_DTYPES.get(value.type, value.type),
            layout="",
            role="",
        )
        for value in values
    )


def _load() -> None:
    import onnxruntime  # noqa: F401


def read_trace(events: Iterable[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers in a trace of ONNX Runtime.

    Args:
        events: Its events; of each node one for every inference, in microseconds.
    """
    nodes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            nodes.setdefault((name.removesuffix(_SUFFIX), event["args"]["node_index"]), []).append(event)
    in_order = sorted(nodes.items(), key=lambda node: node[1][0]["ts"])
    return tuple(
        Layer(name, taken[0]["args"]["op_name"], _trace_types(taken[0]["args"]), float(median(e["dur"] for e in taken)))
        for (name, _), taken in in_order
    )


def _trace_types(facts: Mapping[str, Any]) -> str:
    return layer_types(_widest(facts["input_type_shape"]), _widest(facts["output_type_shape"]))


def _widest(tensors: Sequence[Mapping[str, Sequence[int]]]) -> list[str]:
    """Types of the tensors of highest rank: scales, zero points and shapes are not what a layer works on."""
    found = [(len(shape), kind) for tensor in tensors for kind, shape in tensor.items()]
    rank = max((rank for rank, _ in found), default=0)
    return [_TRACE_TYPES.get(kind, kind) for held, kind in found if held == rank]


BACKEND = Backend(
    name="ort",
    label="ONNX Runtime",
    open=OrtSession,
    formats=("onnx",),
    options=OrtOptions,
    suffixes={".onnx": "onnx"},
    modules=("onnxruntime",),
    install="pip install 'splite-deploy[ort]'",
    load=_load,
    open_traced=TracedOrtSession,
    layers_from="as it fused and converted them; median times on one thread of the CPU that exported.",
    export="ort",
    distributions={"onnxruntime": ("onnxruntime", "onnxruntime-gpu")},
    reference="ONNX Runtime, unoptimised",
)
