"""The precision of a file is read back from the file, and one that is not what was requested is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("ai_edge_litert")

from tiny_tflite import VECTORS

from splite_deploy.compile.precision import Int8Recipe, check_precision
from splite_deploy.errors import CompileError
from splite_deploy.runtime.backends.tflite_file import Contents, FileTensor, Operator, read_contents
from splite_deploy.spec import Precision

File = Literal["fp32", "fp16", "int8", "int8-ends"]


def contents_of(file: File) -> Contents:
    return read_contents(VECTORS / f"tiny.{file}.tflite")


@pytest.mark.parametrize(
    ("file", "types"),
    [
        ("fp32", "float32,float32,float32->float32"),
        ("fp16", "float32,float32,float32[float16]->float32"),
        ("int8", "int8,int8,int32->int8"),
        ("int8-ends", "int8,int8,int32->int8"),
    ],
)
def test_the_histogram(file: File, types: str) -> None:
    histogram = contents_of(file).histogram()
    assert histogram["CONV_2D"] == {types: 4}
    assert histogram.get("QUANTIZE") == ({"float32->int8": 1} if file == "int8" else None)
    conversions = {"fp16": {"float16->float32": 4}, "int8": {"int8->float32": 2}}
    assert histogram.get("DEQUANTIZE") == conversions.get(file)
    assert list(histogram) == sorted(histogram)


def test_the_ends() -> None:
    contents = contents_of("int8-ends")
    assert contents.inputs == {"image": FileTensor((1, 64, 48, 3), "int8")}
    assert contents.outputs == {role: FileTensor((1, 16, 12, 5), "int8") for role in ("heatmap", "depth")}
    assert set(contents_of("int8").outputs.values()) == {FileTensor((1, 16, 12, 5), "float32")}


def test_weights_are_counted_and_their_operators_named() -> None:
    convolutions = [op for op in contents_of("fp16").operators if op.name == "CONV_2D"]
    assert sorted(op.weight_count for op in convolutions) == [40, 40, 216, 576]
    assert all(op.weights == "float16" and op.result for op in convolutions)


@pytest.mark.parametrize("requested", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("file", ["fp32", "fp16", "int8", "int8-ends"])
def test_a_file_passes_as_what_it_is_alone(file: File, requested: Precision) -> None:
    if file.startswith(requested):
        check_precision(contents_of(file), requested, "full-integer", "a.tflite")
        return
    with pytest.raises(CompileError, match="CONV_2D '") as caught:
        check_precision(contents_of(file), requested, "full-integer", "a.tflite")
    named = "full-integer int8" if requested == "int8" else requested
    assert caught.value.message.startswith(f"a.tflite was to be {named}, but ")
    assert "or choose another precision" in caught.value.hint


@pytest.mark.parametrize("recipe", ["full-integer", "dynamic-range"])
def test_int8_that_has_no_int8_at_all(recipe: Int8Recipe) -> None:
    with pytest.raises(CompileError, match=f"a.tflite was to be {recipe} int8"):
        check_precision(contents_of("fp32"), "int8", recipe, "a.tflite")


def convolution(types: str, weights: str, count: int) -> Operator:
    return Operator("CONV_2D", (types, weights, types), (types,), f"of {count}", weights, count)


def test_one_operator_that_stayed_float_is_named() -> None:
    operators = (convolution("int8", "int8", 2000), Operator("ELU", ("float32",), ("float32",), "neck"))
    with pytest.raises(
        CompileError, match=r"1 of its 2 operators work in another type: ELU 'neck' \(float32->float32\)\."
    ):
        check_precision(Contents({}, {}, operators), "int8", "full-integer", "a.tflite")


def test_dynamic_range_has_all_its_weights_in_int8() -> None:
    int8, floating = convolution("float32", "int8", 2000), convolution("float32", "float32", 10)
    check_precision(Contents({}, {}, (int8,)), "int8", "dynamic-range", "a.tflite")
    with pytest.raises(CompileError, match="CONV_2D 'of 10'"):
        check_precision(Contents({}, {}, (int8, floating)), "int8", "dynamic-range", "a.tflite")


@pytest.mark.parametrize("recipe", ["full-integer", "dynamic-range"])
def test_operators_that_are_known_to_stay_in_float_may(recipe: Int8Recipe) -> None:
    int8, floating = (
        convolution("int8" if recipe == "full-integer" else "float32", "int8", 2000),
        convolution("float32", "float32", 10),
    )
    contents = Contents({}, {}, (int8, floating))
    check_precision(contents, "int8", recipe, "a.tflite", {"of 10"})
    with pytest.raises(CompileError, match="1 of its 2 operators work in another type: CONV_2D 'of 10'"):
        check_precision(contents, "int8", recipe, "a.tflite", {"of 2000"})
    with pytest.raises(CompileError, match="work in another type"):
        check_precision(Contents({}, {}, (floating,)), "int8", recipe, "a.tflite", {"of 10"})


def test_many_operators_are_counted() -> None:
    operators = tuple(convolution("float32", "float32", 10 + i) for i in range(5))
    with pytest.raises(
        CompileError, match=r"5 of its 5 operators work in another type: .*'of 10'.*'of 12' \(.*\) and 2 more\."
    ):
        check_precision(Contents({}, {}, operators), "fp16", "full-integer", "a.tflite")


@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_what_is_no_tflite_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(CompileError, match=r"a\.tflite is not a TFLite file"):
        read_contents(tmp_path / "a.tflite")
