"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK, or by a delegate."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.manifest import REEXPORT
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, BundleError, SpliteError, first_line
from splite_deploy.files import is_file, is_folder
from splite_deploy.runtime.backends.base import (
    FAILED_HINT,
    Backend,
    BackendOptions,
    BaseSession,
    IoSignature,
    ModelFile,
    allow_cpu_option,
    layer_types,
    option,
)
from splite_deploy.runtime.backends.placement import Placement, placements_of, refuse_fall_back
from splite_deploy.runtime.io.native_output import own_output, without_banner
from splite_deploy.runtime.io.notes import are_collected
from splite_deploy.runtime.layout import PLANES_FIRST, to_pixels, to_planes

_SESSION_LAYOUTS = ("NCHW", "NKC")
"""Layouts of a session's tensors; the file's are the same axes in any order."""
CPU = "CPU"
"""What `Layer.provider` calls all that no delegate runs: XNNPACK and LiteRT's own kernels."""
_DELEGATED = "DELEGATE"
_ENTRIES = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
_CUSTOM_HINT = (
    "Export the network from its checkpoint or ONNX graph with -b tflite, or convert it again with operators that "
    "TensorFlow Lite defines (tf.lite.OpsSet.TFLITE_BUILTINS alone)."
)


@dataclass(frozen=True)
class TfliteOptions(BackendOptions):
    """How LiteRT works.

    Attributes:
        threads: CPU threads; None is its default, one.
        reference: Computes with LiteRT's reference kernels, without XNNPACK: many times slower, and what a file means.
        delegate: Path of a shared library with an external delegate, which has to run every operator; None is the CPU.
            It is native code of its maker, loaded into this process.
        allow_cpu: Whether the CPU may run operators that ``delegate`` does not take.
    """

    threads: int | None = option(None, "CPU threads; one without it.", type=int)
    reference: bool = option(False, "Compute with the reference kernels.")
    delegate: str | None = option(
        None,
        "run every operator by this delegate, a shared library, or fail; on the CPU without it.",
        flag="--delegate",
        names_backend=True,
    )
    allow_cpu: bool = allow_cpu_option()

    @property
    def runs_on(self) -> str:
        """See `BackendOptions.runs_on`."""
        return PurePath(self.delegate or "").name


class TfliteSession(BaseSession):
    """A file loaded into LiteRT's interpreter.

    The file is NHWC and may have integer inputs and outputs; the session takes and gives NCHW float32, and `inputs` and
    `outputs` say so. Integers are rounded half to even, as XNNPACK does, and clipped. A file whose artifact says that
    it takes uint8 normalises by itself: the session takes the crops as they are.

    A file without an artifact tells its tensors itself, in its own layout, by their names in its signature where it has
    one. Integers that stand for float numbers by a scale are float32 in the session, and so are float16; integers
    without a scale, and those that a view calls so, are taken as they are. A size that the file leaves open is None,
    and what is fed settles it.

    Args:
        file: The file; the names in its artifact are those of its signature.
        options: How it works.

    Raises:
        BackendError: LiteRT cannot load it, or its delegate; or the CPU would run what the delegate should.
        BundleError: It is not what its artifact says.
    """

    def __init__(self, file: ModelFile, options: TfliteOptions) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._file = file
        self._placed: tuple[Layer, ...] = ()
        self._shapes: dict[str, tuple[int, ...]] = {}
        kernels = OpResolverType.BUILTIN_REF if options.reference else OpResolverType.AUTO
        delegates = [] if options.delegate is None else [_delegate(options.delegate)]
        with _loading(file, options.runs_on):
            self._interpreter = Interpreter(
                model_content=file.data,
                num_threads=options.threads,
                experimental_op_resolver_type=kernels,
                experimental_delegates=delegates,
            )
            if delegates:  # before XNNPACK takes the rest, which is called a delegate, too
                self._placed = self._read_placed(options.runs_on)
            called = _called(self._interpreter)
            inputs = _by_name(self._interpreter.get_input_details(), called)
            outputs = _by_name(self._interpreter.get_output_details(), called)
        if delegates:
            refuse_fall_back(
                self._placed,
                options.runs_on,
                file=file.name,
                label=f"The delegate {options.runs_on}",
                flag="--delegate",
                allow_cpu=options.allow_cpu,
            )
        in_file = file.artifact or IoSignature(_specs(inputs, file.name), _specs(outputs, file.name))
        levels = file.view is not None and np.dtype(file.view.input.dtype).kind in "iu"
        self._inputs = {spec.name: self._bind(spec, inputs, file.name, levels) for spec in in_file.inputs}
        self._outputs = {spec.name: self._bind(spec, outputs, file.name) for spec in in_file.outputs}
        super().__init__(
            replace(
                in_file,
                inputs=tuple(_in_session(spec, self._inputs[spec.name].as_it_is) for spec in in_file.inputs),
                outputs=tuple(_in_session(spec) for spec in in_file.outputs),
            )
        )
        self._open = any(None in _sizes(details) for details in inputs.values())
        if not self._open:
            with _loading(file):
                self._interpreter.allocate_tensors()

    def _infer(self, feeds: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        if self._open:
            self._resize({name: binding.in_file(feeds[name]) for name, binding in self._inputs.items()})
        try:
            for name, binding in self._inputs.items():
                binding.write(feeds[name])
            self._interpreter.invoke()
            return {name: binding.read() for name, binding in self._outputs.items()}
        except (RuntimeError, ValueError) as err:  # of tensors that are not what the file's signature says, too
            raise BackendError(f"LiteRT failed: {first_line(err)}", hint=FAILED_HINT) from err

    def placements(self) -> tuple[Placement, ...]:
        """See `splite_deploy.runtime.session.Placed`."""
        return placements_of(self._placed)

    def _read_placed(self, delegate: str) -> tuple[Layer, ...]:
        """The operators of the file with what runs each: the delegate, or the CPU.

        LiteRT adds a node for every part of the graph that a delegate takes, and keeps the nodes of that part.
        """
        layers = _operators(self._file)
        nodes = self._interpreter._get_ops_details()
        count = next((node["index"] for node in nodes if node["op_name"] == _DELEGATED), len(nodes))
        makes = {int(tensor): node for node in nodes[:count] for tensor in node["outputs"]}
        taken: set[int] = set()
        for part in nodes[count:]:
            given, wanted = set(map(int, part["inputs"])), list(map(int, part["outputs"]))
            while wanted:
                node = makes.get(wanted.pop())
                if node is not None and node["index"] not in taken:
                    taken.add(node["index"])
                    wanted += [int(tensor) for tensor in node["inputs"] if int(tensor) not in given]
        return tuple(replace(layer, provider=delegate if index in taken else CPU) for index, layer in layers.items())

    def _resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Gives the inputs these sizes and allocates all tensors anew, unless they are the last ones."""
        if shapes == self._shapes:
            return
        with _loading(self._file):
            for name, shape in shapes.items():
                self._interpreter.resize_tensor_input(self._inputs[name].index, shape, strict=True)
            self._interpreter.allocate_tensors()
        self._shapes = dict(shapes)

    def _release(self) -> None:
        self._inputs.clear()  # they hold the interpreter too
        self._outputs.clear()
        del self._interpreter

    def _bind(self, spec: TensorSpec, details: Mapping[str, Any], file: str, levels: bool = False) -> _Binding:
        """What reads and writes a tensor.

        Args:
            spec: The tensor in the file.
            details: The file's tensors by name.
            file: Its name, for messages.
            levels: Whether integers are given as the file holds them, whatever they stand for.

        Raises:
            BundleError: The file has no such tensor.
            BackendError: It has two shapes of it.
        """
        found = details.get(spec.name)
        if found is None or not _fits(spec, found) or found["dtype"] != np.dtype(spec.dtype):
            held = ", ".join(f"{name} {d['dtype'].__name__} {_sizes(d)}" for name, d in details.items())
            raise BundleError(
                f"{file} has the tensors {held}; the manifest says {spec.name} {spec.dtype} {spec.shape}.",
                hint=REEXPORT,
            )
        sizes, held_sizes = _sizes(found), tuple(map(int, found["shape"]))
        if any(size not in (None, held) for size, held in zip(sizes, held_sizes, strict=True)):
            raise BackendError(
                f"{file} gives '{spec.name}' the shape {held_sizes}, and {sizes} as its signature.",
                hint="It is damaged: copy or convert it again.",
            )
        scale, zero = found["quantization"]
        layout = _session_layout(spec)
        return _Binding(
            interpreter=self._interpreter,
            index=found["index"],
            memory=self._interpreter.tensor(found["index"]),
            axes=None if layout == spec.layout else tuple(map(spec.layout.index, layout)),
            dtype=np.dtype(spec.dtype),
            quantised=_is_quantised(found) and not _is_crop(spec) and not levels,
            scale=np.float32(scale),
            zero=np.float32(zero),
        )


class TracedTfliteSession(TfliteSession):
    """A file that tells its operators, without times; those that unpack weights while it is loaded are left out."""

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        return self._placed or tuple(_operators(self._file).values())


def _operators(file: ModelFile) -> dict[int, Layer]:
    """The operators of a file by their number in it, without those that unpack weights while it is loaded."""
    from splite_deploy.runtime.backends.tflite_file import read_foreign

    return {
        index: Layer(op.result, op.name, layer_types(op.computed or op.inputs, op.outputs, op.weights), None)
        for index, op in enumerate(read_foreign(file.data, file.name).operators)
        if not op.unpacks_weights
    }


def _delegate(path: str) -> Any:
    """An external delegate.

    Raises:
        BackendError: It cannot be loaded, is none, or does not start here.
    """
    from ai_edge_litert.interpreter import load_delegate

    name = PurePath(path).name
    hint = "Name the shared library that the maker of the device offers for TensorFlow Lite, of this machine's kind."
    if is_folder(file := Path(path)):
        raise BackendError(f"The delegate '{path}' is a folder.", hint=hint)
    if is_file(file):  # a name without a folder is looked for among the system's libraries alone
        path = str(file.absolute())
    try:
        library = ctypes.CDLL(path)  # before LiteRT does, whose own object complains when it is half made
    except OSError as err:
        raise BackendError(f"The delegate {name} cannot be loaded: {err}", hint=hint) from err
    if missing := [entry for entry in _ENTRIES if not hasattr(library, entry)]:
        raise BackendError(f"{name} is no delegate of TensorFlow Lite: it lacks {missing[0]}.", hint=hint)
    try:
        with own_output():
            return load_delegate(path)
    except ValueError as err:
        said = str(err).partition("\n")[2].strip() or "it does not say why"
        raise BackendError(
            f"The delegate {name} does not start here: {said}",
            hint="Its device, driver or permission may be missing. Without --delegate the file runs on the CPU.",
        ) from err


@dataclass(frozen=True)
class _Binding:
    """One tensor of an interpreter.

    Attributes:
        interpreter: Which one.
        index: The tensor's number there.
        memory: Gives a view of its memory. Each is short-lived: the interpreter does not run while one is held.
        axes: Transposes the file's layout to the session's; None where both are the same.
        dtype: Its type in the file.
        quantised: Whether its integers stand for the session's float32.
        scale: Of one integer step, where it is quantised.
        zero: The integer that stands for 0, where it is quantised.
    """

    interpreter: Any
    index: int
    memory: Callable[[], NDArray[Any]]
    axes: tuple[int, ...] | None
    dtype: np.dtype[Any]
    quantised: bool
    scale: np.float32
    zero: np.float32

    @property
    def as_it_is(self) -> bool:
        """Whether an array of the session has the tensor's own type: a crop, and whatever stands for itself."""
        return self.dtype.kind in "iub" and not self.quantised

    def in_file(self, values: NDArray[Any]) -> tuple[int, ...]:
        """The shape that an array of the session has in the file."""
        return (
            values.shape if self.axes is None else tuple(values.shape[self.axes.index(i)] for i in range(values.ndim))
        )

    def write(self, values: NDArray[Any]) -> None:
        """Copies an array of the session into the tensor."""
        if self.quantised:
            limits = np.iinfo(self.dtype)
            values = values / self.scale
            np.rint(values, out=values)
            values += self.zero
            np.clip(values, limits.min, limits.max, out=values)
            values = values.astype(self.dtype)
        if self.axes is None:
            self.interpreter.set_tensor(self.index, values.astype(self.dtype, copy=False))
        else:
            to_pixels(values, self.memory())

    def read(self) -> FloatArray:
        """The tensor as a new array of the session."""
        values: FloatArray
        if self.axes is None:
            values = self.interpreter.get_tensor(self.index).astype(np.float32, copy=False)
        elif self.axes == PLANES_FIRST:
            values = to_planes(self.memory()).astype(np.float32, copy=False)
        else:
            values = self.memory().transpose(self.axes).astype(np.float32, order="C")
        if self.quantised:
            values -= self.zero
            values *= self.scale
        return values


@contextmanager
def _loading(file: ModelFile, delegate: str = "") -> Iterator[None]:
    """Tells what LiteRT trips over while it loads a file, and keeps from the terminal what it writes there.

    In another program that is its banner alone.

    Raises:
        BackendError: It does.
    """
    try:
        with own_output() if are_collected() else without_banner():
            yield
    except SpliteError:
        raise
    except Exception as err:  # LiteRT raises ValueError and RuntimeError, and what its own code trips over
        import ai_edge_litert

        from splite_deploy.runtime.backends.tflite_file import read_foreign

        what = f"LiteRT {ai_edge_litert.__version__} cannot load {file.name}: {first_line(err)}"
        hint = "Upgrade ai-edge-litert, or compile the bundle again."
        if delegate:
            what = f"LiteRT {ai_edge_litert.__version__} cannot load {file.name} by {delegate}: {first_line(err)}"
            hint = "Try it without --delegate: if it loads then, the delegate does not take this file."
        with suppress(BackendError):
            if custom := [name for name in read_foreign(file.data, file.name).custom if name in what + str(err)]:
                version = ai_edge_litert.__version__
                what = (
                    f"{file.name} has operators of its maker's own, which LiteRT {version} lacks: {', '.join(custom)}."
                )
                hint = _CUSTOM_HINT
        raise BackendError(what, hint=hint) from err


def _called(interpreter: Any) -> dict[int, str]:
    """Names in the signature by the number of their tensor; none where the file has no signature, or several."""
    if len(interpreter.get_signature_list()) != 1:
        return {}
    signature = interpreter.get_signature_runner()
    found = {**signature.get_input_details(), **signature.get_output_details()}
    return {details["index"]: name for name, details in found.items()}


def _by_name(details: Sequence[Mapping[str, Any]], called: Mapping[int, str]) -> dict[str, Mapping[str, Any]]:
    """Tensors by their name, in the file's order."""
    names = unique([called.get(one["index"], one["name"]) for one in details])
    return dict(zip(names, details, strict=True))


def unique(names: Sequence[str]) -> list[str]:
    """Names of which none is there twice, and none empty: a file may have such, and a session tells tensors by them."""
    found: list[str] = []
    for number, name in enumerate(names):
        found.append(f"{name}[{number}]" if not name or name in found else name)
    return found


def _sizes(details: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Sizes of a tensor; None where the file leaves one open."""
    shape, signature = details["shape"], details["shape_signature"]
    known = signature if len(signature) == len(shape) else shape
    return tuple(None if size < 0 else int(size) for size in known)


def _fits(spec: TensorSpec, details: Mapping[str, Any]) -> bool:
    """Whether a tensor of the file has, or can be given, the sizes of a manifest."""
    sizes = _sizes(details)
    return len(sizes) == len(spec.shape) and all(
        have in (None, want) for have, want in zip(sizes, spec.shape, strict=True)
    )


def _is_quantised(details: Mapping[str, Any]) -> bool:
    return bool(np.dtype(details["dtype"]).kind in "iu" and details["quantization"][0])


def _specs(details: Mapping[str, Any], file: str) -> tuple[TensorSpec, ...]:
    """Tensors as the interpreter tells them; their axes have no meaning here and are lettered in the file's order.

    Raises:
        BackendError: One holds no numbers.
    """
    for name, found in details.items():
        if np.dtype(found["dtype"]).kind not in "fiub":
            raise BackendError(
                f"{file} has the tensor {name} of {found['dtype'].__name__}, which holds no numbers.",
                hint="Time it with LiteRT's own benchmark_model.",
            )
    return tuple(
        TensorSpec(
            name=name,
            shape=_sizes(found),
            dtype=found["dtype"].__name__,
            layout=ascii_lowercase[: len(found["shape"])],
            role="",
        )
        for name, found in details.items()
    )


def _is_crop(spec: TensorSpec) -> bool:
    """Whether an input takes crops as they are. Only a manifest tells roles: without one integers are numbers."""
    return spec.role == "image" and spec.dtype == "uint8"


def _session_layout(spec: TensorSpec) -> str:
    if _is_crop(spec):
        return spec.layout
    return next((layout for layout in _SESSION_LAYOUTS if sorted(layout) == sorted(spec.layout)), spec.layout)


def _in_session(spec: TensorSpec, as_it_is: bool = False) -> TensorSpec:
    """The tensor as the session takes or gives it.

    Args:
        spec: The tensor in the file.
        as_it_is: Whether the session takes the file's type.
    """
    layout = _session_layout(spec)
    shape = tuple(spec.shape[spec.layout.index(axis)] for axis in layout)
    return replace(spec, shape=shape, dtype=spec.dtype if as_it_is else "float32", layout=layout)


def _load() -> None:
    import cv2  # noqa: F401


BACKEND = Backend(
    name="tflite",
    label="LiteRT",
    open=TfliteSession,
    formats=("tflite",),
    options=TfliteOptions,
    aliases=("litert",),
    suffixes={".tflite": "tflite"},
    modules=("ai_edge_litert",),
    install="pip install 'splite-deploy[litert]'",
    load=_load,
    open_traced=TracedTfliteSession,
    layers_from="as they lie in the file; its Python package times no operators.",
    export="tflite",
    reference="LiteRT's reference kernels",
    distributions={"tflite": ("ai-edge-litert", "tflite-runtime", "tensorflow")},
)
