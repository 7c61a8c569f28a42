"""Networks with one construct each that conversions stumbled over: both converters compute what the graph computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

import case_nets
from converters import DIRECT, TENSORFLOW, use_converter

from splite_deploy.compile.tflite.converter import convert
from splite_deploy.compile.tflite.rewrite import with_half_weights
from splite_deploy.runtime.backends.tflite_file import read_operators

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the exporter

KINDS = [
    case_nets.Stem,
    case_nets.Grouped,
    case_nets.Shuffle,
    case_nets.ScaleNorm,
    case_nets.Gelu,
    case_nets.ResidualShuffle,
    case_nets.AlignCorners,
    case_nets.ScalarTimes,
    case_nets.PaddedChannels,
    case_nets.GroupNormed,
    case_nets.MixedBatch,
    case_nets.Huge,
]
SLOW_KINDS = [case_nets.Grouped, case_nets.Gelu, case_nets.ScaleNorm, case_nets.ResidualShuffle]
"""Those that onnx2tf 1 fails on as they are; it takes several seconds for each."""


@pytest.mark.parametrize(
    ("way", "kind"), [*((DIRECT, kind) for kind in KINDS), *((TENSORFLOW, kind) for kind in SLOW_KINDS)]
)
def test_it_computes_the_same(way: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the graph that the TorchScript exporter writes, unsimplified, with its names."""
    from ai_edge_litert.interpreter import Interpreter

    use_converter(way, monkeypatch)
    graph = case_nets.write_onnx(kind, tmp_path)
    crop = np.random.default_rng(0).normal(size=(1, 3, case_nets.SIDE, case_nets.SIDE)).astype(np.float32)
    session = ort.InferenceSession(str(graph))
    names = session.get_inputs()[0].name, session.get_outputs()[0].name
    (expected,) = session.run(None, {names[0]: crop})
    made = convert(graph.read_bytes(), crop, log=tmp_path / "log")
    assert made.layouts[names[0]] == "NHWC"
    assert not {operator.name for operator in read_operators(made.content)} & {"ERF", "SIGN"}
    for content, tolerance in ((made.content, 1e-4), (with_half_weights(made.content), 3e-2)):
        interpreter = Interpreter(model_content=content)
        (heatmap,) = interpreter.get_signature_runner()(**{names[0]: crop.transpose(0, 2, 3, 1)}).values()
        found = heatmap.transpose(0, 3, 1, 2) if made.layouts[names[1]] == "NHWC" else heatmap
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
