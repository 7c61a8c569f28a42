"""ONNX Runtime, on the CPU or by one of its other execution providers."""

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
from splite_deploy.bundle.report import NOT_TOLD, Layer
from splite_deploy.errors import BackendError, OutputError, first_line
from splite_deploy.files import TMP_HINT, work_folder
from splite_deploy.runtime.backends.base import (
    FAILED_HINT,
    Backend,
    BackendOptions,
    BaseSession,
    IoSignature,
    ModelFile,
    allow_cpu_option,
    check_signature,
    layer_types,
    option,
)
from splite_deploy.runtime.backends.ort_providers import CPU, PROVIDERS, find_provider, reason_of
from splite_deploy.runtime.backends.placement import Placement, placements_of, refuse_fall_back
from splite_deploy.runtime.backends.precision import precision_of
from splite_deploy.runtime.io.native_output import own_output

if TYPE_CHECKING:
    import onnxruntime as ort

    from splite_deploy.runtime.session import TracedSession

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")},
}
"""numpy's names of the types as ONNX Runtime names them."""
_OWN_OPERATOR = re.compile(r"\b((?!ai\.onnx:|:)[\w.]+:\w+)\(-?\d+\) is not a registered")
_NO_GRAPH = ("Invalid model", "INVALID_GRAPH", "INVALID_PROTOBUF", "No graph was found")
"""What ONNX Runtime says of files that are no graphs."""
_PROVIDER_HINT = "docs/backends.md says what each provider needs. Without --provider the file runs on the CPU."
_TRACE_TYPES = {"float": "float32", "double": "float64"}  # the rest is called as in numpy
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class OrtOptions(BackendOptions):
    """How ONNX Runtime works.

    Attributes:
        threads: CPU threads; None is its default, one per core.
        reference: Runs the graph as it is, without rewriting it: slower, and as close to the file as it can be.
        provider: The execution provider that has to run every node, by its name in
            `splite_deploy.runtime.backends.ort_providers.PROVIDERS`; None is the CPU's.
        allow_cpu: Whether the CPU may run nodes that ``provider`` does not take.
    """

    threads: int | None = option(None, "CPU threads; one per core without it.", type=int)
    reference: bool = option(False, "Run the graph as it is, without optimising it.")
    provider: str | None = option(
        None,
        "run every node by this execution provider, or fail; on the CPU without it.",
        flag="--provider",
        choices=PROVIDERS,
        names_backend=True,
    )
    allow_cpu: bool = allow_cpu_option()

    @property
    def runs_on(self) -> str:
        """See `BackendOptions.runs_on`."""
        return self.provider or ""


def load_graph(
    file: ModelFile, options: OrtOptions, *, trace: Path | None = None, arena: bool = True
) -> ort.InferenceSession:
    """A session of ONNX Runtime.

    Args:
        file: The graph.
        options: How it works.
        trace: Prefix of the file that receives the time of every node; None times none.
        arena: Whether memory is taken in large blocks and kept, which is faster, and takes more of it.

    Raises:
        BackendError: ONNX Runtime cannot load it, or lacks the provider, or cannot start it.
    """
    import onnxruntime as ort

    provider = None if options.provider is None else find_provider(options.provider)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or 0
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what goes wrong is in the exception
    settings.enable_cpu_mem_arena = arena
    if options.reference:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if trace is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(trace)
    said: list[str] = []
    try:
        if provider is None:
            return ort.InferenceSession(file.data, settings, providers=[CPU])
        with own_output() as written:
            try:
                precision = precision_of(file)
                more = provider.add_to(settings, precision, options.threads)
                session = ort.InferenceSession(file.data, settings, **more)
            finally:
                said = written.lines()
    except Exception as err:  # onnxruntime has no common base class of its errors
        by = "" if provider is None else f" by its provider '{options.provider}'"
        reason = reason_of(said) or first_line(err)
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot load {file.name}{by}: {reason}",
            hint=_load_hint(str(err)) if provider is None else _PROVIDER_HINT,
        ) from err
    if provider.name not in session.get_providers():
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot start its provider '{options.provider}', and would run "
            f"{file.name} on the CPU instead{': '[: 2 * bool(said)]}{reason_of(said)}",
            hint=_PROVIDER_HINT,
        )
    return session


def run_graph(session: ort.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of these names.

    Raises:
        BackendError: ONNX Runtime failed.
    """
    try:
        values = session.run(list(outputs), dict(feeds))
    except Exception as err:
        raise BackendError(f"ONNX Runtime failed: {first_line(err)}", hint=FAILED_HINT) from err
    return dict(zip(outputs, values, strict=True))


def signature_of(session: ort.InferenceSession) -> IoSignature:
    """Inputs and outputs as a loaded graph declares them."""
    return IoSignature(_specs(session.get_inputs()), _specs(session.get_outputs()))


def end_trace(session: ort.InferenceSession) -> list[dict[str, Any]]:
    """The events of a session that is traced into a work folder; it is traced no more.

    Raises:
        OutputError: What was written is cut.
    """
    trace = Path(session.end_profiling())
    try:
        events: list[dict[str, Any]] = json.loads(trace.read_text(encoding="utf-8"))
    except ValueError as err:  # ONNX Runtime does not say that it could not write
        place = trace.parent.parent
        message = f"What ONNX Runtime measured of each node is cut: the disk of {place} may be full."
        raise OutputError(message, hint=TMP_HINT) from err
    trace.unlink()
    return events


class OrtSession(BaseSession):
    """A graph loaded into ONNX Runtime.

    What ran each node is read back after the first run, where another provider than the CPU's was asked for.

    Args:
        file: The graph; without an artifact it tells its inputs and outputs itself.
        options: How it works.
        traced: Whether all runs are traced until somebody asks for its layers.

    Raises:
        BackendError: ONNX Runtime cannot load it, or lacks the provider, or cannot start it.
        BundleError: It has other tensors than its artifact says.
    """

    def __init__(self, file: ModelFile, options: OrtOptions, *, traced: bool = False) -> None:
        self._file, self._options, self._traced = file, options, traced
        self._provider = None if options.provider is None else find_provider(options.provider)
        self._layers: tuple[Layer, ...] | None = None
        self._to_place = self._provider is not None and not traced
        with ExitStack() as stack:
            trace = None
            if traced or self._provider is not None:
                trace = stack.enter_context(work_folder("trace")) / "ort"
            self._session = load_graph(file, options, trace=trace)
            own = signature_of(self._session)
            if file.said is not None:
                check_signature(file.name, file.said, own)
            super().__init__(file.artifact or own)
            self._names = [spec.name for spec in self.outputs]
            self._stack = stack.pop_all()

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        values = run_graph(self._session, self._names, feeds)
        if self._to_place:
            self._read_layers()
            self._to_place = False  # not where that refuses: the next run is refused, too
        return values

    def placements(self) -> tuple[Placement, ...]:
        """See `splite_deploy.runtime.session.Placed`."""
        return placements_of(self._layers or (), timed=self._traced)

    def _read_layers(self) -> tuple[Layer, ...]:
        """The layers of all runs until the first call.

        Raises:
            BackendError: Another provider than the one that was asked for ran some.
        """
        if self._layers is None:
            events = end_trace(self._session)
            self._layers = read_trace(events, by_provider=self._provider is not None)
        if self._provider is not None:
            refuse_fall_back(
                self._layers,
                self._provider.name,
                file=self._file.name,
                label=f"The provider '{self._options.provider}'",
                flag="--provider",
                allow_cpu=self._options.allow_cpu,
            )
        return self._layers

    def _release(self) -> None:
        del self._session
        self._stack.close()


class TracedOrtSession(OrtSession):
    """A graph whose nodes, as ONNX Runtime fused and converted them, are timed until `layers` is called."""

    def __init__(self, file: ModelFile, options: OrtOptions) -> None:
        super().__init__(file, options, traced=True)

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        if self._layers is None:
            self._check_open()
        return self._read_layers()


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


def _open(file: ModelFile, options: OrtOptions) -> BaseSession:
    from splite_deploy.runtime.backends.ort_parts import PartsSession

    return OrtSession(file, options) if file.read_part is None else PartsSession(file, options)


def _open_traced(file: ModelFile, options: OrtOptions) -> TracedSession:
    from splite_deploy.runtime.backends.ort_parts import TracedPartsSession

    return TracedOrtSession(file, options) if file.read_part is None else TracedPartsSession(file, options)


def _load() -> None:
    import onnxruntime  # noqa: F401


def read_trace(events: Iterable[Mapping[str, Any]], *, by_provider: bool = False) -> tuple[Layer, ...]:
    """The layers in a trace of ONNX Runtime.

    Args:
        events: Its events; of each node one for every inference, in microseconds.
        by_provider: Whether layers say what ran them.
    """
    nodes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            nodes.setdefault((name.removesuffix(_SUFFIX), event["args"]["node_index"]), []).append(event)
    in_order = sorted(nodes.items(), key=lambda node: node[1][0]["ts"])
    return tuple(
        Layer(
            name,
            taken[0]["args"]["op_name"],
            _trace_types(taken[0]["args"]),
            float(median(event["dur"] for event in taken)),
            taken[0]["args"]["provider"] if by_provider else None,
        )
        for (name, _), taken in in_order
    )


def _trace_types(facts: Mapping[str, Any]) -> str:
    if not facts["op_name"].isalnum():  # what a provider compiled, such as OpenVINO-EP-subgraph_1, is no operator
        return NOT_TOLD
    return layer_types(_widest(facts["input_type_shape"]), _widest(facts["output_type_shape"]))


def _widest(tensors: Sequence[Mapping[str, Sequence[int]]]) -> list[str]:
    """Types of the tensors of highest rank: scales, zero points and shapes are not what a layer works on."""
    found = [(len(shape), kind) for tensor in tensors for kind, shape in tensor.items()]
    rank = max((rank for rank, _ in found), default=0)
    return [_TRACE_TYPES.get(kind, kind) for held, kind in found if held == rank]


BACKEND = Backend(
    name="ort",
    label="ONNX Runtime",
    open=_open,
    formats=("onnx", "onnx-parts"),
    options=OrtOptions,
    suffixes={".onnx": "onnx"},
    modules=("onnxruntime",),
    install="pip install 'splite-deploy[ort]'",
    load=_load,
    open_traced=_open_traced,
    layers_from="as it fused and converted them; median times on one thread of the CPU that exported.",
    export="ort",
    distributions={
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
        "onnxruntime-qnn": ("onnxruntime-qnn",),
    },
    reference="ONNX Runtime, unoptimised",
)
