"""The inspector's output, as TensorRT 8 and 10 write it, compared with what was requested.

Without a GPU no engine can be looked into, so that the JSON here is written after NVIDIA's documentation of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from splite_deploy.compile.tensorrt.inspect_engine import check_achieved, read_layers
from splite_deploy.errors import CompileError

VEC32 = "Thirty-two wide channel vectorized row major Int8 format"
FP16_8 = "Channel major FP16 format where channel % 8 == 0"


def entry(name: str, inputs: list[str], outputs: list[str], kind: str = "CaskConvolution", **more: Any) -> Any:
    def tensors(formats: list[str]) -> list[dict[str, Any]]:
        return [{"Name": "t", "Dimensions": [1, 8, 4, 4], "Format/Datatype": text} for text in formats]

    return {"Name": name, "LayerType": kind, "Inputs": tensors(inputs), "Outputs": tensors(outputs), **more}


def engine(*entries: Any) -> str:
    return json.dumps({"Layers": list(entries), "Bindings": ["image", "heatmap"]})


TRT8 = engine(
    entry("Reformatting CopyNode for Input Tensor 0 to conv_1", ["Row major linear FP32"], [FP16_8], "Reformat"),
    entry("conv_1 + relu_1", [FP16_8], [VEC32]),
    entry("weight + conv_10 + PWN(add_3)", [VEC32, FP16_8], [VEC32]),
    entry("conv_2", ["Row major linear FP32"], ["Row major linear FP32"]),
    entry("resize", ["N/A due to dynamic shapes"], ["N/A due to dynamic shapes"], "Resize"),
)
TRT10 = engine(
    entry("__mye_1", ["Half"], ["Int8"], "kgen", Metadata="[ONNX Layer: quantise]\x1e[ONNX Layer: relu_1]"),
    entry("__myl_2", ["Int8"], ["Half"], "CaskGemmConvolution", Metadata="[ONNX Layer: conv_1]"),
    entry("__myl_3", ["Float"], ["Float"], "CaskGemmConvolution", Metadata="[ONNX Layer: /head/conv_2]"),
)


def test_layers_in_the_order_in_which_they_run() -> None:
    layers = [found.layer for found in read_layers(TRT8)]
    assert [(layer.kind, layer.types) for layer in layers] == [
        ("Reformat", "float32 -> float16"),
        ("CaskConvolution", "float16 -> int8"),
        ("CaskConvolution", "int8+float16 -> int8"),
        ("CaskConvolution", "float32"),
        ("Resize", "unknown"),
    ]
    assert layers[1].name == "conv_1 + relu_1" and layers[1].time_us is None
    assert [found.layer.types for found in read_layers(TRT10)] == ["float16 -> int8", "int8 -> float16", "float32"]


@pytest.mark.parametrize(
    ("text", "types"),
    [("BFloat16", "bfloat16"), ("FP8", "fp8"), ("Int32", "int32"), ("Bool", "bool"), ("UInt8", "uint8")],
)
def test_other_types(text: str, types: str) -> None:
    assert read_layers(engine(entry("x", [text], [text])))[0].layer.types == types


@pytest.mark.parametrize("text", ["", "no JSON", "{}", '{"Layers": ["conv_1"]}', '{"Layers": 3}'])
def test_what_says_nothing_of_types_is_refused(text: str) -> None:
    with pytest.raises(CompileError, match="cannot be checked"):
        read_layers(text)


@pytest.mark.parametrize("typing", ["weak", "strong"])
def test_what_was_asked_for(typing: Any) -> None:
    check_achieved(read_layers(TRT8), {"conv_1": "float16"}, "fp16", typing, "model.fp16.engine")
    check_achieved(read_layers(TRT8), {"conv_10": "int8"}, "int8", typing, "model.int8.engine")
    check_achieved(read_layers(TRT10), {"conv_1": "int8"}, "int8", typing, "model.int8.engine")
    check_achieved(read_layers(TRT8), {}, "fp32", typing, "model.fp32.engine")


def test_a_layer_that_the_graph_wants_in_another_type_is_named() -> None:
    with pytest.raises(CompileError) as caught:
        check_achieved(
            read_layers(TRT10), {"conv_1": "int8", "/head/conv_2": "int8"}, "int8", "weak", "model.int8.engine"
        )
    assert caught.value.message == (
        "model.int8.engine was to be int8, but 1 of its 2 requested layers are not: /head/conv_2 (float32)."
    )
    assert "multiple of 8 (fp16) or 32 (int8)" in caught.value.hint
    with pytest.raises(CompileError, match=r"conv_1 \(float16 -> int8\)"):  # and not conv_10, whose name begins so
        check_achieved(read_layers(TRT8), {"conv_1": "int8"}, "int8", "weak", "model.int8.engine")


def test_flags_leave_the_builder_a_choice_but_not_of_everything() -> None:
    layers = read_layers(TRT8)
    check_achieved(layers, {"conv_1": "float16", "conv_2": "float16"}, "fp16", "weak", "model.fp16.engine")
    with pytest.raises(CompileError, match=r"1 of its 2 requested layers are not: conv_2 \(float32\)"):
        check_achieved(layers, {"conv_1": "float16", "conv_2": "float16"}, "fp16", "strong", "model.fp16.engine")
    with pytest.raises(CompileError, match=r"was to be fp16, but 1 of its 1 requested layers"):
        check_achieved(layers, {"conv_2": "float16"}, "fp16", "weak", "model.fp16.engine")


def test_a_calibrator_leaves_the_builder_a_choice_too() -> None:
    """Of the graph no layer is marked for int8 then, and the builder takes it where it is faster."""
    layers, requested = read_layers(TRT10), {"conv_1": "int8", "/head/conv_2": "int8"}
    check_achieved(layers, requested, "int8", "weak", "model.int8.engine", calibrated=True)
    with pytest.raises(CompileError, match=r"int8, but 1 of its 1 requested layers are not: /head/conv_2 \(float32\)"):
        check_achieved(layers, {"/head/conv_2": "int8"}, "int8", "weak", "model.int8.engine", calibrated=True)


def test_many_missing_layers_are_counted() -> None:
    layers = read_layers(engine(*(entry(f"c{index}", ["Float"], ["Float"]) for index in range(9))))
    with pytest.raises(CompileError, match=r"9 of its 9 .*c4 \(float32\) and 4 more"):
        check_achieved(layers, {f"c{index}": "float16" for index in range(9)}, "fp16", "weak", "model.fp16.engine")


def test_layers_fused_beyond_recognition_are_judged_by_their_types() -> None:
    blob = read_layers(engine(entry("{ForeignNode[a...z]}", ["Half"], ["Float"], "Myelin")))
    check_achieved(blob, {"conv_1": "float16"}, "fp16", "strong", "model.fp16.engine")
    with pytest.raises(CompileError, match=r"conv_1 \(fused\)"):
        check_achieved(blob, {"conv_1": "int8"}, "int8", "strong", "model.int8.engine")
