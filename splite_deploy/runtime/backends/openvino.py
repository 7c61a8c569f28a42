"""OpenVINO on the CPU: the graphs of ONNX Runtime, with Intel's kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, first_line
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
from splite_deploy.runtime.backends.precision import precision_of

_FLOATS = {"fp32": "f32", "fp16": "f16", "int8": "f32"}
"""What the float numbers of an artifact are computed in, by its precision, as OpenVINO calls it.

Left to itself it takes bfloat16 where the CPU has it, which moves keypoints by 0.3 px.
"""
_TYPES = {
    **{"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool"},
    **{f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (4, 8, 16, 32, 64)},
}
"""numpy's names of the types as OpenVINO names them."""
_ROUGHER = {"f32": ("f16", "bf16"), "f16": ("bf16",)}
"""Types that lose more than the one that was requested."""
_NOT_RUN = ("Const", "Input", "Output")
_NOISE = (
    "Exception from ",
    "Check '",
    "FrontEnd API failed",
    "Model wasn't fully",
    "Summary:",
    "Errors during",
    "To fac",
)
"""What lines begin with that OpenVINO puts around what it says."""


@dataclass(frozen=True)
class OpenvinoOptions(BackendOptions):
    """How OpenVINO works.

    Attributes:
        threads: CPU threads; None is its default, one for each physical core.
    """

    threads: int | None = option(None, "CPU threads; one per physical core without it.", type=int)


class OpenvinoSession(BaseSession):
    """A graph compiled for OpenVINO's CPU plug-in.

    It computes in what the artifact's precision says, or in something finer where the CPU has no float16; a graph that
    would be computed in something rougher is refused. Without an artifact the graph's own constants say its precision.

    Args:
        file: The graph; without an artifact it tells its inputs and outputs itself.
        options: How it works.
        timed: Whether every layer is timed.

    Raises:
        BackendError: OpenVINO cannot load it, or would compute it in rougher numbers than it was made for.
        BundleError: It has other tensors than its artifact says.
    """

    def __init__(self, file: ModelFile, options: OpenvinoOptions, *, timed: bool = False) -> None:
        import openvino

        self._file, self._threads = file, options.threads
        try:
            self._model = _core().read_model(file.data)
            self._compile(timed=timed)
        except RuntimeError as err:  # also of openvino's own classes
            raise BackendError(
                f"OpenVINO {openvino.__version__.partition('-')[0]} cannot load {file.name}: {_reason(err)}",
                hint="Upgrade openvino, or run the file with ONNX Runtime (-b ort).",
            ) from err
        said = file.artifact
        own = IoSignature(
            _specs(self._model.inputs, said.inputs if said else ()),
            _specs(self._model.outputs, said.outputs if said else ()),
        )
        if file.said is not None:
            check_signature(file.name, file.said, own)
        super().__init__(said or own)
        number = {spec.name: index for index, spec in enumerate(own.outputs)}
        self._outputs = {spec.name: number[spec.name] for spec in self.outputs}

    def _compile(self, *, timed: bool) -> None:
        """Compiles the graph.

        Raises:
            RuntimeError: OpenVINO cannot.
            BackendError: It would compute in rougher numbers than requested.
        """
        requested = _FLOATS[precision_of(self._file)]
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": requested,
            "EXECUTION_MODE_HINT": "ACCURACY",  # nothing is quantised that the graph does not quantise
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # where other work runs, a pinned thread waits for its core
            "PERF_COUNT": timed,
        }
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        self._compiled = _core().compile_model(self._model, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        refuse_rougher(
            self._file.name, requested, (_fact(node, "runtimePrecision") for node in _executed(self._compiled))
        )

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        try:
            values = self._request.infer(arrays, share_inputs=True)
        except RuntimeError as err:
            raise BackendError(f"OpenVINO failed: {_reason(err)}", hint=FAILED_HINT) from err
        return {name: values[index] for name, index in self._outputs.items()}

    def _release(self) -> None:
        del self._request, self._compiled, self._model


class TracedOpenvinoSession(OpenvinoSession):
    """A graph whose layers, as OpenVINO fused and converted them, are timed until `layers` is called."""

    def __init__(self, file: ModelFile, options: OpenvinoOptions) -> None:
        self._layers: tuple[Layer, ...] | None = None
        self._timed = True
        super().__init__(file, options, timed=True)

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        if self._layers is None:
            self._check_open()
            self._layers = read_layers(_facts(node) for node in _executed(self._compiled))
        return self._layers

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        if self._layers is not None and self._timed:  # timing costs a little: whoever goes on gets a session without
            self._compile(timed=False)
            self._timed = False
        return super()._infer(feeds)


def refuse_rougher(name: str, requested: str, computed: Iterable[str]) -> None:
    """Compares what layers compute in with what was requested, all as OpenVINO calls it.

    Args:
        name: Of the file, for the message.
        requested: ``f32`` or ``f16``.
        computed: What each layer computes in.

    Raises:
        BackendError: Some lose more than requested.
    """
    if rougher := sorted(set(computed).intersection(_ROUGHER[requested])):
        raise BackendError(
            f"OpenVINO computes layers of {name} in {', '.join(map(_type, rougher))}, where {_type(requested)} was "
            "requested.",
            hint="Run the file with ONNX Runtime (-b ort).",
        )


def read_layers(nodes: Iterable[Mapping[str, str]]) -> tuple[Layer, ...]:
    """The layers among the nodes of a compiled graph that ran, in that order.

    Args:
        nodes: What OpenVINO tells of each: ``name``, and the entries of its execution graph, all as text.
    """
    ran = [node for node in nodes if node["execTimeMcs"].isdecimal()]
    return tuple(
        Layer(
            name=node["name"],
            kind=node["layerType"],
            types=layer_types(
                [_type(node["runtimePrecision"])], [_type(one) for one in node["outputPrecisions"].split(",")]
            ),
            time_us=float(node["execTimeMcs"]),
        )
        for node in sorted(ran, key=lambda node: int(node["execOrder"]))
    )


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _executed(compiled: Any) -> list[Any]:
    """The nodes of a compiled graph, without constants and its ends."""
    return [node for node in compiled.get_runtime_model().get_ops() if _fact(node, "layerType") not in _NOT_RUN]


def _fact(node: Any, name: str) -> str:
    return str(node.get_rt_info()[name].astype(str))


def _facts(node: Any) -> dict[str, str]:
    told = ("layerType", "runtimePrecision", "outputPrecisions", "execTimeMcs", "execOrder")
    return {"name": str(node.get_friendly_name()), **{name: _fact(node, name) for name in told}}


def _type(name: str) -> str:
    return _TYPES.get(name, name)


def _specs(ports: Sequence[Any], said: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Tensors as the graph declares them; sizes that it leaves open are None.

    Args:
        ports: Of the graph.
        said: What a manifest says of them: of several names that one tensor has, that one counts.
    """
    wanted = {spec.name for spec in said}
    return tuple(
        TensorSpec(
            name=min(wanted.intersection(port.get_names()) or port.get_names()),
            shape=tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape()),
            dtype=port.get_element_type().to_dtype().name,
            layout="",
            role="",
        )
        for port in ports
    )


def _reason(err: Exception) -> str:
    """What OpenVINO says, without the places in its source."""
    lines = [line for line in str(err).splitlines() if line.strip() and not line.startswith(_NOISE)]
    begins = next((number for number, line in enumerate(lines) if line.startswith("-- ")), 0)
    said = " ".join(lines[begins : begins + 2]).removeprefix("-- ")
    return said[:300] or first_line(err)


def _load() -> None:
    import openvino  # noqa: F401


BACKEND = Backend(
    name="openvino",
    label="OpenVINO",
    open=OpenvinoSession,
    formats=("onnx",),
    options=OpenvinoOptions,
    suffixes={".onnx": "onnx"},
    modules=("openvino",),
    install="pip install 'splite-deploy[openvino]'",
    load=_load,
    open_traced=TracedOpenvinoSession,
    layers_from="as it fused and converted them; mean times on one thread of the CPU that exported.",
    export="ort",
    distributions={"openvino": ("openvino",)},
)
