"""Whether a ``.tflite`` file computes in the requested precision; the converter does not promise it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal, get_args

from splite_deploy.errors import CompileError
from splite_deploy.spec import Precision

if TYPE_CHECKING:  # reading a file needs LiteRT, naming a recipe does not
    from splite_deploy.runtime.backends.tflite_file import Contents, Operator

Int8Recipe = Literal["full-integer", "dynamic-range"]
INT8_RECIPES: tuple[Int8Recipe, ...] = get_args(Int8Recipe)

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_CHECKS: Mapping[str, Callable[[Operator], bool]] = {
    "fp32": lambda op: op.weights in ("", "float32"),
    "fp16": lambda op: op.weights in ("", "float16"),
    "full-integer": lambda op: op.weights in ("", "int8") and "float32" not in (*op.inputs, *op.outputs),
    "dynamic-range": lambda op: op.weights in ("", "int8"),
}


def check_precision(
    contents: Contents, precision: Precision, recipe: Int8Recipe, file: str, floats: Collection[str] = ()
) -> None:
    """Compares the operators of a file with what was requested.

    fp32 and fp16: every operator with weights has them in that type. int8, full-integer: every operator but conversions
    works on integers, and those with weights have them in int8. int8, dynamic-range: all weights are int8.

    Args:
        contents: The file.
        precision: The requested precision.
        recipe: The recipe of int8.
        file: Its name, for the message.
        floats: Operators of an int8 file that are known to stay in float, by their first result; the report names them.

    Raises:
        CompileError: The message names the operators that differ.
    """
    fits = _CHECKS[recipe if precision == "int8" else precision]
    computing = [op for op in contents.operators if op.name not in _CONVERSIONS and op.result not in floats]
    wrong = [op for op in computing if not fits(op)]
    weighted = [op for op in contents.operators if op.weights]
    if precision == "int8" and not wrong and not any(op.weights == "int8" for op in weighted):
        wrong = weighted
    if wrong:
        shown = ", ".join(f"{op.name} '{op.result}' ({op.types})" for op in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CompileError(
            f"{file} was to be {recipe + ' int8' if precision == 'int8' else precision}, but {len(wrong)} of its "
            f"{len(contents.operators)} operators work in another type: {shown}{more}.",
            hint="Report this with the graph, or choose another precision.",
        )
