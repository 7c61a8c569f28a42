"""What artifacts are made of as they run: ONNX Runtime's own account, the operators of TFLite files, and histograms."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from splite_deploy.bench import profile
from splite_deploy.bench.profile import (
    LayerGroup,
    float_layers,
    histogram,
    profile_artifact,
    total_us,
    types_histogram,
)
from splite_deploy.bundle import MANIFEST, REPORT, Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.files import sha256_of

pytest.importorskip("onnxruntime")

import onnxruntime as ort

from splite_deploy.runtime.backends.ort import OrtSession, read_trace

Run = Callable[..., Result]


def words(text: str) -> str:
    """A table's text without its lines and line breaks."""
    return " ".join("".join(" " if char in "│┃┏┓┡┩└┘━─├┤┼" else char for char in text).split())


def counted(layers: tuple[Layer, ...]) -> dict[tuple[str, str], int]:
    return dict(Counter((layer.kind, layer.types) for layer in layers))


# --- ONNX Runtime ---


def test_the_layers_are_the_nodes_that_onnx_runtime_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    bundle = Bundle.open(tiny_bundle)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(tiny_bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph.node

    layers = profile_artifact(bundle, bundle.find("ort"), runs=10)
    assert Counter((layer.name, layer.kind) for layer in layers) == Counter((n.name, n.op_type) for n in optimised)
    assert {layer.types for layer in layers} == {"float32"}
    assert all(layer.time_us is not None and layer.time_us >= 0 for layer in layers)
    heads = [index for index, layer in enumerate(layers) if layer.kind == "Conv"]
    assert len(heads) == 4 and layers[heads[0]].name.startswith("relu"), "the first convolution runs first"


def test_a_dynamic_batch_is_profiled_with_one_crop(tiny_bundle: Path, tiny_dynamic_bundle: Path) -> None:
    kinds = [
        sorted(layer.kind for layer in profile_artifact(bundle, bundle.find("ort"), runs=3))
        for bundle in map(Bundle.open, (tiny_bundle, tiny_dynamic_bundle))
    ]
    assert kinds[0] == kinds[1]


def event(name: str, ts: int, dur: int, op: str, inputs: list[Any], outputs: list[Any], index: str = "0") -> Any:
    facts = {"node_index": index, "op_name": op, "input_type_shape": inputs, "output_type_shape": outputs}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": facts}


def test_a_trace_becomes_layers() -> None:
    image, bytes_, scale, zero = {"float": [1, 3, 8, 8]}, {"uint8": [1, 3, 8, 8]}, {"float": []}, {"uint8": []}
    weights = {"int8": [4, 3, 1, 1]}
    runs = [
        event("q", 10, 9, "QuantizeLinear", [image, scale, zero], [bytes_], "0"),
        event("conv", 20, 30, "QLinearConv", [bytes_, scale, zero, {"float": [4]}, {"int8": [4]}], [bytes_], "2"),
        event("mm", 60, 5, "MatMulIntegerToFloat", [bytes_, weights, scale], [image], "1"),
        event("q", 110, 1, "QuantizeLinear", [image, scale, zero], [bytes_], "0"),
        event("conv", 120, 31, "QLinearConv", [bytes_, scale, zero, {"float": [4]}, {"int8": [4]}], [bytes_], "2"),
        event("mm", 160, 6, "MatMulIntegerToFloat", [bytes_, weights, scale], [image], "1"),
        event("q", 210, 2, "QuantizeLinear", [image, scale, zero], [bytes_], "0"),
    ]
    session = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 99, "args": {}}
    assert read_trace([session, *reversed(runs[1:]), runs[0]][::-1]) == (
        Layer("q", "QuantizeLinear", "float32 -> uint8", 2.0),
        Layer("conv", "QLinearConv", "uint8", 30.5),
        Layer("mm", "MatMulIntegerToFloat", "uint8,int8 -> float32", 5.5),
    )


def test_a_slow_network_is_run_less_often(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = OrtSession.run
    monkeypatch.setattr(OrtSession, "run", lambda self, feeds: calls.append(1) or run(self, feeds))
    monkeypatch.setattr(profile, "LIMIT_S", 0.0)
    bundle = Bundle.open(tiny_bundle)
    for runs, expected in ((50, 3), (2, 2)):
        calls.clear()
        profile_artifact(bundle, bundle.find("ort"), runs=runs)
        assert len(calls) == expected


def test_nothing_is_left_behind(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle)
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    artifact = bundle.find("ort")
    profile_artifact(bundle, artifact, runs=1)
    assert list((tmp_path / "t").iterdir()) == []
    copy = tmp_path / "copy.splite"
    shutil.copytree(tiny_bundle, copy)
    graph = copy / artifact.file
    graph.write_bytes(graph.read_bytes().replace(b"\x04Conv", b"\x04Corn"))  # an operator that there is not
    bundle = dataclasses.replace(bundle, path=copy, _files=None)  # not those that the other bundle keeps open
    no_graph = dataclasses.replace(artifact, sha256=sha256_of(graph))
    with pytest.raises(BackendError, match=r"cannot load model\.onnx"):
        profile_artifact(bundle, no_graph)
    assert list((tmp_path / "t").iterdir()) == []


def test_a_session_that_fails_while_it_is_profiled_is_closed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    closed = []
    close = OrtSession.close

    def fail(self: OrtSession, feeds: Any) -> None:
        raise BackendError("ONNX Runtime failed: out of memory", hint="Free memory.")

    def note(self: OrtSession) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(OrtSession, "run", fail)
    monkeypatch.setattr(OrtSession, "close", note)
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BackendError, match="out of memory"):
        profile_artifact(bundle, bundle.find("ort"))
    assert len(closed) == 1
    assert list(tmp_path.iterdir()) == []


# --- LiteRT ---


def test_the_operators_of_tflite_files(tiny_tflite_bundle: Path) -> None:
    bundle = Bundle.open(tiny_tflite_bundle)
    found = {one.precision: profile_artifact(bundle, one) for one in bundle.manifest.artifacts}
    assert all(layer.time_us is None and layer.name for layers in found.values() for layer in layers)
    assert counted(found["fp32"])["CONV_2D", "float32"] == 4
    assert counted(found["fp16"])["CONV_2D", "float32[float16]"] == 4
    assert "DEQUANTIZE" not in {layer.kind for layer in found["fp16"]}, "weights are unpacked while loading"
    whole = counted(found["int8"])
    assert whole["CONV_2D", "int8"] == 4
    assert whole["QUANTIZE", "float32 -> int8"] == 1 and whole["DEQUANTIZE", "int8 -> float32"] == 2
    assert float_layers(found["int8"]) == ()
    assert len(float_layers(found["fp32"])) == len(found["fp32"])
    assert histogram(found["fp32"])[0] == LayerGroup("CONV_2D", "float32", 4, None, None)


# --- refusals and histograms ---


def test_a_backend_without_a_profile_says_so(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(UsageError, match="The backend 'trt' has no profile") as caught:
        profile_artifact(bundle, dataclasses.replace(bundle.find("ort"), backend="trt"))
    assert caught.value.hint == "These do: ort, tflite, openvino, ncnn."
    with pytest.raises(UsageError, match="0 runs cannot be timed"):
        profile_artifact(bundle, bundle.find("ort"), runs=0)


LAYERS = (
    Layer("a", "Conv", "uint8", 10.0),
    Layer("b", "Conv", "float32", 20.0),
    Layer("c", "Conv", "uint8", 30.0),
    Layer("d", "Quantize", "float32 -> uint8", 40.0),
)


def test_histograms() -> None:
    assert histogram(LAYERS) == [
        LayerGroup("Conv", "uint8", 2, 40.0, 0.4),
        LayerGroup("Quantize", "float32 -> uint8", 1, 40.0, 0.4),
        LayerGroup("Conv", "float32", 1, 20.0, 0.2),
    ]
    assert types_histogram(LAYERS)[0] == LayerGroup("", "uint8", 2, 40.0, 0.4)
    assert total_us(LAYERS) == 100.0
    untimed = [dataclasses.replace(LAYERS[1], time_us=None), *LAYERS[2:], LAYERS[0]]
    assert total_us(untimed) is None
    assert histogram(untimed)[0] == LayerGroup("Conv", "uint8", 2, 40.0, None)
    assert histogram([]) == []


@pytest.mark.parametrize(
    ("types", "floating"),
    [
        ("float32", True),
        ("float32[float16]", True),
        ("float16 -> float32", True),
        ("bfloat16", True),
        ("float32 -> int8", False),
        ("float32[int8]", False),
        ("uint8,int8 -> float32", False),
        ("int64", False),
        ("bool", False),
    ],
)
def test_what_counts_as_float(types: str, floating: bool) -> None:
    assert bool(float_layers([Layer("x", "Op", types, None)])) == floating


# --- what inspect shows ---


def test_inspect_shows_the_histogram_or_every_layer(splite: Run, tiny_bundle: Path) -> None:
    layers = Bundle.open(tiny_bundle).report().layers["ort fp32"]
    groups = histogram(layers)
    shown = splite("inspect", tiny_bundle)
    assert shown.exit_code == 0, shown.stderr
    for group in groups:
        assert f"{group.kind} float32 {group.count} {group.time_us:,.0f}" in words(shown.stdout)
    assert "median times on one thread of the CPU that exported" in words(shown.stdout)
    assert layers[0].name not in shown.stdout

    shown = splite("inspect", tiny_bundle, "--layers")
    assert shown.exit_code == 0, shown.stderr
    text = words(shown.stdout)
    assert f"ort fp32: {len(layers)} layers" in text and "layers by kind" not in text
    places = [text.index(f"{i + 1} {one.name} {one.kind} float32 {one.time_us:,.0f}") for i, one in enumerate(layers)]
    assert places == sorted(places)


def test_float_layers_of_an_int8_file_are_named(
    splite: Run, tiny_tflite_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_tflite_bundle)
    layers = {one.label: profile_artifact(bundle, one) for one in bundle.manifest.artifacts}
    path = tmp_path / "t.splite"
    shutil.copytree(tiny_tflite_bundle, path)
    held = (*bundle.manifest.artifacts, Bundle.open(tiny_bundle).find("ort", "fp32"))

    def shown(found: tuple[Layer, ...]) -> str:
        manifest = dataclasses.replace(bundle.manifest, artifacts=held)
        (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        report = dataclasses.replace(bundle.report(), layers={**layers, "tflite int8": found})
        (path / REPORT).write_text(report.to_json(), encoding="utf-8")
        done = splite("inspect", path)
        assert done.exit_code == 0, done.stderr
        return words(done.stdout)

    whole = layers["tflite int8"]
    text = shown(whole)
    assert f"tflite int8: none of {len(whole)} layers works in float, but for conversions." in text
    assert "its Python package times no operators" in text and "ONNX Runtime: as" not in text
    assert "float32[float16]" in text, "brackets are no markup"
    island = (Layer("head/Softmax", "SOFTMAX", "float32", None), *LAYERS)
    assert "tflite int8: 2 of 5 layers work in float: b (Conv), head/Softmax (SOFTMAX)." in shown(island)
    timed = (dataclasses.replace(island[0], time_us=100.0), *LAYERS)
    assert "2 of 5 layers work in float, 60.0% of the time: head/Softmax (SOFTMAX), b (Conv)." in shown(timed)
    many = tuple(Layer(f"n{index}", "Add", "float32", None) for index in range(8))
    assert "8 of 8 layers work in float: n0 (Add), n1 (Add), n2 (Add)," in shown(many)
    assert "n5 (Add) and 2 more." in shown(many)


def test_a_bundle_without_layers_and_a_checkpoint(
    splite: Run, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "old.splite"
    shutil.copytree(tiny_bundle, path)
    report = dataclasses.replace(Bundle.open(tiny_bundle).report(), layers={})
    (path / REPORT).write_text(report.to_json(), encoding="utf-8")
    done = splite("inspect", path)
    assert done.exit_code == 0, done.stderr
    assert "layers by kind" not in done.stdout
    done = splite("inspect", path, "--layers")
    assert done.exit_code == 1 and done.stdout == ""
    assert "has no record of its layers." in done.stderr and "Export it again." in done.stderr
    done = splite("inspect", tiny_checkpoint, "--layers")
    assert done.exit_code == 1 and done.stdout == ""
    assert "--layers is for a bundle" in done.stderr and "Leave it out." in done.stderr
