"""The profile of LiteRT by beginnings of a network, on a small one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from ai_edge_litert.interpreter import Interpreter
from litert_profile import Timed, beginnings, profile, summed
from tiny_tflite import VECTORS

from splite_deploy.runtime.backends.tflite_file import read_contents

FILE = VECTORS / "tiny.int8.tflite"


def outputs_of(content: bytes) -> list[np.ndarray]:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    ramp = np.linspace(-1, 1, int(np.prod(image["shape"]))).reshape(image["shape"])
    interpreter.set_tensor(image["index"], ramp.astype(image["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def test_the_last_beginning_is_the_network() -> None:
    parts = list(beginnings(FILE.read_bytes()))
    assert len(parts) == sum(one.name != "PAD" for one in read_contents(FILE).operators)
    whole, last = outputs_of(FILE.read_bytes()), outputs_of(parts[-1])
    found = {output.shape: output for output in last}
    assert any(np.array_equal(output, found[output.shape]) for output in whole)
    assert len(last) == len(whole)


def test_every_operator_is_listed_with_its_work() -> None:
    told: list[int] = []
    layers = profile(FILE.read_bytes(), 10, lambda done, total: told.append(done))
    assert told
    operators = [one for one in read_contents(FILE).operators if one.name != "PAD"]
    assert [layer.kind for layer in layers] == [one.name for one in operators]
    assert sum(layer.time_us for layer in layers) > 0
    for layer, operator in zip(layers, operators, strict=True):
        pixels = int(np.prod(layer.shape[1:3]))
        assert layer.macs == pixels * operator.weight_count  # dense and depthwise alike: each weight once per pixel


def test_unpacking_weights_is_no_operator() -> None:
    half = VECTORS / "tiny.fp16.tflite"
    unpacked = [one for one in read_contents(half).operators if one.name == "DEQUANTIZE" and not one.computed]
    assert unpacked
    kinds = [layer.kind for layer in profile(half.read_bytes(), 10, lambda done, total: None)]
    assert "DEQUANTIZE" not in kinds and "CONV_2D" in kinds


def test_operators_are_summed_by_kind() -> None:
    layers = [Timed("ADD", (1, 2), 0, 1.0), Timed("CONV_2D", (1, 2), 10, 5.0), Timed("CONV_2D", (1, 2), 20, 2.0)]
    assert summed(layers) == [
        {"kind": "CONV_2D", "count": 2, "time_us": 7.0, "share": 7 / 8, "macs": 30},
        {"kind": "ADD", "count": 1, "time_us": 1.0, "share": 1 / 8, "macs": 0},
    ]
