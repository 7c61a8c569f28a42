"""ncnn on the CPU: networks that pnnx made of the ONNX graph, for phones and boards with ARM processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError
from splite_deploy.files import work_folder
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
from splite_deploy.runtime.backends.ncnn_file import PARAM, WEIGHTS, NcnnLayer, read_param, unpack
from splite_deploy.runtime.io.native_output import native_output

_INPUT = "Input"
_WIDTH, _HEIGHT, _CHANNELS = "0", "1", "2"  # numbers of the settings of an input
_WEIGHTED = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "InnerProduct", "Gemm")


@dataclass(frozen=True)
class NcnnOptions(BackendOptions):
    """How ncnn works.

    Attributes:
        threads: CPU threads; None is its default, one for each fast core.
    """

    threads: int | None = option(None, "CPU threads; one per fast core without it.", type=int)


class NcnnSession(BaseSession):
    """A network loaded into ncnn.

    ncnn has no axis of the batch: the session takes and gives one crop at a time. float16 is used for fp16 artifacts
    alone, where the CPU has it; by default ncnn would store and compute everything so.

    Args:
        file: The archive; without an artifact it tells its inputs, and the names of its outputs.
        options: How it works.

    Raises:
        BackendError: It is damaged, or ncnn cannot load it.
        BundleError: It has other tensors than its artifact says.
    """

    def __init__(self, file: ModelFile, options: NcnnOptions) -> None:
        import ncnn

        param, weights = unpack(file.data, file.name)
        self._described = read_param(param, file.name)
        own = IoSignature(*_ends(self._described, file.name))
        if file.said is not None:
            check_signature(file.name, file.said, own, names_alone=True)
        self._half = file.artifact is not None and file.artifact.precision == "fp16"
        self._mat = ncnn.Mat
        self._net = ncnn.Net()
        settings = self._net.opt
        settings.use_vulkan_compute = False
        settings.use_bf16_storage = settings.use_bf16_packed = False
        settings.use_fp16_storage = settings.use_fp16_packed = settings.use_fp16_arithmetic = self._half
        if options.threads is not None:
            settings.num_threads = options.threads
        # From files: from memory ncnn neither copies weights, nor notices where they end.
        with work_folder("ncnn") as folder:
            (folder / PARAM).write_text(param, encoding="ascii")
            (folder / WEIGHTS).write_bytes(weights)
            with native_output() as said:
                loaded = self._net.load_param(str(folder / PARAM)) or self._net.load_model(str(folder / WEIGHTS))
                reason = said.lines()
        if loaded != 0:
            raise BackendError(
                f"ncnn {ncnn.__version__} cannot load {file.name}: {'; '.join(reason)[:300] or 'it does not say why'}.",
                hint="Upgrade ncnn, or export the network again; -b ort and -b tflite run more operators.",
            )
        super().__init__(file.artifact or own)

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        extractor = self._net.create_extractor()
        for name, array in feeds.items():
            whole = np.ascontiguousarray(array[0])  # named: a Mat does not keep alive what it was made of
            extractor.input(name, self._mat(whole).clone())  # a copy, which layers that work in place may change
        given = {}
        for spec in self.outputs:
            status, values = extractor.extract(spec.name)
            found = np.array(values)
            shape = tuple(size or 1 for size in spec.shape) or (1, *found.shape)
            if status != 0 or found.size != prod(shape):
                raise BackendError(
                    f"ncnn failed at '{spec.name}': status {status}, {found.size} values.", hint=FAILED_HINT
                )
            given[spec.name] = found.reshape(shape)
        return given

    def _release(self) -> None:
        self._net.clear()
        del self._net


class TracedNcnnSession(NcnnSession):
    """A network that tells its layers, without times."""

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        self._check_open()
        pairs = zip(self._net.layers(), self._described, strict=True)
        return tuple(self._layer(loaded, one) for loaded, one in pairs if one.kind != _INPUT)

    def _layer(self, loaded: Any, described: NcnnLayer) -> Layer:
        """A layer with what it computes in: float16 where that is requested and its kernel for this CPU has it."""
        computed = "float16" if self._half and loaded.support_fp16_storage else "float32"
        stored = "float16" if self._half and described.kind in _WEIGHTED else ""
        return Layer(described.name, described.kind, layer_types([computed], [computed], stored), None)


def _ends(layers: Sequence[NcnnLayer], file: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a network: of the inputs the file tells the sizes, of the outputs the names alone.

    Raises:
        BackendError: It does not tell the sizes of an input.
    """
    read = {name for one in layers for name in one.inputs}
    inputs = []
    for one in layers:
        if one.kind != _INPUT:
            continue
        sizes = dict(setting.split("=", 1) for setting in one.settings if "=" in setting)
        try:
            shape = tuple(int(sizes[number]) for number in (_CHANNELS, _HEIGHT, _WIDTH))
        except (KeyError, ValueError) as err:
            raise BackendError(
                f"{file} does not tell the size of its input {one.name}.", hint="Export it again with -b ncnn."
            ) from err
        inputs += [TensorSpec(name, (1, *shape), "float32", "NCHW", "") for name in one.outputs]
    outputs = [TensorSpec(name, (), "float32", "", "") for one in layers for name in one.outputs if name not in read]
    return tuple(inputs), tuple(outputs)


def _load() -> None:
    import ncnn  # noqa: F401


BACKEND = Backend(
    name="ncnn",
    label="ncnn",
    open=NcnnSession,
    formats=("ncnn",),
    options=NcnnOptions,
    modules=("ncnn",),
    install="pip install 'splite-deploy[ncnn]'",
    load=_load,
    open_traced=TracedNcnnSession,
    layers_from="as they lie in the file; its Python package times no layers.",
    export="ncnn",
    distributions={"ncnn": ("ncnn",)},
)
