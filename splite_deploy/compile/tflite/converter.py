"""ONNX graph to the float32 ``.tflite`` file that everything else is made from.

`onnx2tf_child` converts, by the Python of an environment of its own. What comes out is called and ordered as onnx2tf
likes: here its tensors are recognised by their values and get the names of the graph's inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.compile.child_process import Child, ChildFailed
from splite_deploy.compile.tflite.environment import SETTING, SETUP, find_environment
from splite_deploy.compile.tflite.match import WrongConversionError, axes, match_outputs
from splite_deploy.compile.tflite.prepare import Prepared, prepare
from splite_deploy.compile.tflite.rewrite import with_signature
from splite_deploy.errors import CompileError, first_line
from splite_deploy.files import work_folder, writing
from splite_deploy.runtime.backends.tflite_file import read_operators
from splite_deploy.runtime.io.native_output import own_output

TIMEOUT_S = 3600.0
SCRIPT = Path(__file__).with_name("onnx2tf_child.py")
_ENVIRONMENT = {  # the conversion runs on the CPU, and its progress bars are no log
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TQDM_DISABLE": "1",
}
_UNKNOWN = "ONNX_"
_PLANES_FIRST, _PIXELS_FIRST = "NCHW", "NHWC"


@dataclass(frozen=True)
class Converted:
    """A network as TFLite.

    Attributes:
        content: The file. Its signature has the names of the graph's inputs and outputs.
        layouts: The order of axes of each input and output, by name, for example ``NHWC``.
    """

    content: bytes
    layouts: Mapping[str, str]


class TfliteConverter:
    """A process that loads onnx2tf while the caller does something else; for one conversion.

    Args:
        log: Receives the converter's log output.

    Raises:
        MissingDependencyError: There is no environment that converts.
        CompileError: The one that is named cannot.
        OutputError: The log cannot be written.
    """

    def __init__(self, log: Path) -> None:
        self._environment = find_environment()
        with ExitStack() as stack:
            self._work = stack.enter_context(work_folder("tflite"))
            command = [str(self._environment.python), "-E", str(SCRIPT)]
            # what the converter's packages leave there goes with our folder, however they end
            environment = {**_ENVIRONMENT, "TMPDIR": str(self._work)}
            self._child = stack.enter_context(Child(command, self._work, log=log, environment=environment))
            self._stack = stack.pop_all()

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that convert, by their name."""
        found = {"onnx2tf": self._environment.onnx2tf, "tensorflow": self._environment.tensorflow}
        return {name: version for name, version in found.items() if version}

    def __enter__(self) -> TfliteConverter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, graph: bytes, example: NDArray[Any], *, in_order: bool = False) -> None:
        """Starts the conversion of a graph; `finish` waits for it.

        Args:
            graph: A simplified ONNX file with one input; a dynamic batch becomes 1.
            example: What goes into that input, as ONNX Runtime takes it, one after the other: outputs are recognised by
                the values that it gives.
            in_order: Of outputs with equal values those that come first in the graph are computed first.
        """
        self._in_order = in_order
        self._prepared: Prepared = prepare(graph, direct=self._environment.direct)
        with writing(self._work / "model.onnx"):
            (self._work / "model.onnx").write_bytes(self._prepared.content)
        self._child.begin()
        self._example, (self._input, self._expected) = example, _run_onnx(graph, example)

    def finish(
        self, *, timeout_s: float = TIMEOUT_S, progress: Callable[[str], None] = lambda message: None
    ) -> Converted:
        """Waits for the conversion that `begin` started.

        Args:
            timeout_s: After this many seconds it is stopped.
            progress: Called with each step as it begins.

        Raises:
            CompileError: It failed, or the file does not compute what the graph computes.
        """
        try:
            self._child.finish(timeout_s=timeout_s, progress=progress)
        except ChildFailed as err:
            err.message = self._prepared.with_given_names(err.message)
            if err.status > 0:
                err.hint += f" {self._other_way()}"
            raise
        content = (self._work / "model.tflite").read_bytes()
        _check_operators(content, self._prepared)
        progress("recognising the outputs")
        try:
            return recognise(content, self._input, self._example, self._expected, in_order=self._in_order)
        except CompileError as err:
            err.hint += f" {self._other_way()}"
            raise

    def _other_way(self) -> str:
        """How to try the other converter."""
        option, other = (
            ("--tensorflow ", "through TensorFlow") if self._environment.direct else ("", "with Python 3.12")
        )
        return (
            f"onnx2tf {self._environment.onnx2tf} made it; another one converts {other}: {SETUP} {option}--folder DIR, "
            f"then {SETTING}=DIR/bin/python."
        )


def convert(
    graph: bytes,
    example: NDArray[Any],
    *,
    log: Path,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[str], None] = lambda message: None,
) -> Converted:
    """Converts a graph to a float32 ``.tflite`` file, see `TfliteConverter`.

    Raises:
        MissingDependencyError: There is no environment that converts.
        CompileError: The conversion failed, or the file does not compute what the graph computes.
        OutputError: The log cannot be written.
    """
    with TfliteConverter(log) as converter:
        converter.begin(graph, example)
        return converter.finish(timeout_s=timeout_s, progress=progress)


def recognise(
    content: bytes, name: str, example: NDArray[Any], expected: Mapping[str, FloatArray], *, in_order: bool = False
) -> Converted:
    """Gives a file a signature with the names of a graph's input and outputs.

    Args:
        content: A ``.tflite`` file as the converter made it.
        name: Of the graph's input.
        example: What goes into it.
        expected: The graph's outputs for that, by name.
        in_order: See `TfliteConverter.begin`.

    Raises:
        CompileError: LiteRT does not run the file, or no output computes what one of the graph's computes.
    """
    try:
        interpreter = Interpreter(model_content=content)
        with own_output():
            interpreter.allocate_tensors()
        (found,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
        layout = _input_layout((1, *example.shape[1:]), tuple(found["shape"]))
        rows = []
        for row in np.split(example, len(example)):
            interpreter.set_tensor(found["index"], np.ascontiguousarray(row.transpose(axes(_PLANES_FIRST, layout))))
            interpreter.invoke()
            rows.append([interpreter.get_tensor(output["index"]) for output in outputs])
        values = [np.concatenate(each) for each in zip(*rows, strict=True)]
    except (RuntimeError, ValueError) as err:
        raise CompileError(
            f"LiteRT cannot run what onnx2tf made: {first_line(err)}",
            hint="Report it to the authors of onnx2tf, with the graph; the other backends are not concerned.",
        ) from err
    try:
        order = _computed_at(content, [int(output["index"]) for output in outputs]) if in_order else ()
        matches = match_outputs(values, expected, order)
    except WrongConversionError as err:
        err.content = content
        raise
    tensors = {role: int(outputs[match.index]["index"]) for role, match in matches.items()}
    signed = with_signature(content, {name: int(found["index"])}, tensors)
    return Converted(signed, {name: layout, **{role: match.layout for role, match in matches.items()}})


def _computed_at(content: bytes, tensors: Sequence[int]) -> list[int]:
    """The places of the operators that compute tensors; -1 for a constant."""
    (graph,) = read_model_from_bytearray(content).subgraphs
    places = {int(tensor): place for place, made in enumerate(graph.operators) for tensor in made.outputs}
    return [places.get(tensor, -1) for tensor in tensors]


def _check_operators(content: bytes, prepared: Prepared) -> None:
    """Refuses operators that no TFLite runtime has; onnx2tf writes them under a name of its own.

    Raises:
        CompileError: There is one; the message names its layers.
    """
    for operator in read_operators(content):
        if operator.name.startswith(_UNKNOWN):
            kind = operator.name.removeprefix(_UNKNOWN)
            layers = ", ".join(prepared.kinds.get(kind, ()))
            raise CompileError(
                f"The conversion failed: TFLite has no operator for {kind} ({layers}).",
                hint="Write that layer with other operators, or leave out -b tflite.",
            )


def _run_onnx(graph: bytes, example: NDArray[Any]) -> tuple[str, dict[str, FloatArray]]:
    """The name of a graph's input, and its outputs by name."""
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {given.name: row}) for row in np.split(example, len(example))]
    return given.name, dict(zip(names, map(np.concatenate, zip(*rows, strict=True)), strict=True))


def _input_layout(given: tuple[int, ...], found: tuple[int, ...]) -> str:
    """How a file orders the axes of an image, (1, 3, h, w) in the graph."""
    turned = tuple(given[axis] for axis in axes(_PLANES_FIRST, _PIXELS_FIRST))
    return _PIXELS_FIRST if found == turned else _PLANES_FIRST
