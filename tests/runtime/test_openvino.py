"""OpenVINO: the precision that was requested, read back; layers with times; graphs that it cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends import openvino as backend
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.session import open_bytes, open_file
from splite_deploy.runtime.verify import verify

Run = Callable[..., Result]


def node(name: str, kind: str, order: int, time: str, computes: str, gives: str) -> dict[str, str]:
    facts = {"layerType": kind, "execOrder": str(order), "execTimeMcs": time}
    return {"name": name, **facts, "runtimePrecision": computes, "outputPrecisions": gives}


def test_an_execution_graph_becomes_layers() -> None:
    told = [
        node("heads", "Convolution", 12, "30", "u8", "f32"),
        node("flat", "Reshape", 3, "not_executed", "f32", "f32"),
        node("steps", "FakeQuantize", 2, "0", "f32", "u8"),
        node("parts", "Split", 4, "7", "bf16", "bf16,boolean"),
    ]
    assert backend.read_layers(told) == (
        Layer("steps", "FakeQuantize", "float32 -> uint8", 0.0),
        Layer("parts", "Split", "bfloat16 -> bfloat16,bool", 7.0),
        Layer("heads", "Convolution", "uint8 -> float32", 30.0),
    )


@pytest.mark.parametrize(
    ("requested", "computed", "named"),
    [("f32", ("f32", "bf16", "f16"), "bfloat16, float16"), ("f16", ("f32", "bf16"), "bfloat16")],
)
def test_rougher_numbers_than_requested_are_refused(requested: str, computed: tuple[str, ...], named: str) -> None:
    with pytest.raises(BackendError, match=f"computes layers of a.onnx in {named}, where float") as caught:
        backend.refuse_rougher("a.onnx", requested, computed)
    assert caught.value.hint == "Run the file with ONNX Runtime (-b ort)."
    backend.refuse_rougher("a.onnx", requested, ("f32", "u8", requested))  # finer ones are fine


# --- with OpenVINO ---

HERE = pytest.mark.skipif(not backend.BACKEND.installed, reason="openvino is not installed: pip install openvino")


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What export makes for OpenVINO, in every precision."""
    from splite_deploy.export import ExportOptions, export_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny.splite"
    options = ExportOptions(
        backends=("openvino",),
        precisions=("fp32", "fp16", "int8"),
        crops=8,
        allow_random_calibration=True,
        max_shift_px=20,
    )
    return export_bundle(tiny_checkpoint, path, model=tiny_model, options=options)


@HERE
@pytest.mark.slow
def test_export_measures_every_precision_with_it(exported: Bundle) -> None:
    assert [one.label for one in exported.manifest.artifacts] == [
        *("openvino fp32", "openvino fp16", "openvino int8"), "ort fp32"
    ]  # fmt: skip
    types = {
        label: {layer.types for layer in layers if layer.kind == "Convolution"}
        for label, layers in exported.report().layers.items()
        if label.startswith("openvino")
    }
    assert types["openvino fp32"] == {"float32"}
    assert any("int8" in one for one in types["openvino int8"])
    told = verify(exported, "openvino", ("fp32", "fp16", "int8"))
    assert [(one.label, one.violations) for one in told] == [
        ("openvino fp32", ()), ("openvino fp16", ()), ("openvino int8", ())
    ]  # fmt: skip
    assert 0 < told[0].parity.deviation_px.max < 1e-3


@HERE
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("fp16", "f16"), ("int8", "f32")])
def test_what_is_requested_of_it(exported: Bundle, precision: Any, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core, given = backend._core(), []

    class Listening:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
            given.append((device, settings["INFERENCE_PRECISION_HINT"], settings["INFERENCE_NUM_THREADS"]))
            return core.compile_model(model, device, settings)

    monkeypatch.setattr(backend, "_core", Listening)
    artifact = exported.find("openvino", precision)
    for file in (ModelFile.of(exported, artifact), ModelFile(exported.read(artifact), "a.onnx", "onnx")):
        with backend.OpenvinoSession(file, backend.OpenvinoOptions(threads=1)) as session:
            read_back = session._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
            assert read_back in (hint, "f32"), "a CPU without float16 computes in float32"
    assert given == [("CPU", hint, 1)] * 2


@HERE
def test_bench_tells_layers_and_versions(tiny_bundle: Path, tmp_path: Path, splite: Run) -> None:
    file = tmp_path / "bench.jsonl"
    quick = ("--frames", 10, "--warmup", 1, "--threads", 1, "--json", file)
    result = splite("bench", tiny_bundle, "-b", "ort", "-b", "openvino", *quick)
    assert result.exit_code == 0, result.output
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert (first["backend"], second["backend"], second["precision"]) == ("ort", "openvino", "fp32")
    assert second["environment"]["versions"]["openvino"]
    assert {layer["types"] for layer in second["layers"]} == {"float32"}
    convolutions = [layer for layer in second["layers"] if layer["kind"] == "Convolution"]
    assert len(convolutions) == 4 and all(layer["time_us"] >= 0 for layer in convolutions)


@HERE
def test_timing_ends_where_layers_were_told(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    file = ModelFile.of(bundle, bundle.find("ort"))
    feed = {"image": np.zeros(bundle.find("ort").inputs[0].shape, np.float32)}
    with backend.TracedOpenvinoSession(file, backend.OpenvinoOptions(threads=1)) as session:
        before = session.run(feed)
        assert session._compiled.get_property("PERF_COUNT") == "YES"
        told = session.layers()
        after = session.run(feed)
        assert session._compiled.get_property("PERF_COUNT") == "NO" and session.layers() is told
        for name, values in before.items():
            np.testing.assert_array_equal(after[name], values)


@HERE
def test_a_file_without_a_bundle(tiny_bundle: Path) -> None:
    with open_file(tiny_bundle / "model.onnx", "openvino") as one, open_file(tiny_bundle / "model.onnx") as other:
        assert one.inputs == other.inputs and one.outputs == other.outputs
        feed = {"image": np.zeros(one.inputs[0].shape, np.float32)}
        expected = other.run(feed)
        for name, values in one.run(feed).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-5)


@HERE
@pytest.mark.parametrize(
    ("operator", "domain", "reason"),
    [
        ("Fold", "own.operators", "No conversion rule found for operations: own.operators.Fold"),
        ("Fold", "", "No conversion rule found for operations: Fold-18"),
    ],
)
def test_a_graph_that_it_cannot_run(tiny_bundle: Path, operator: str, domain: str, reason: str) -> None:
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", *zip(ends))
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("own.operators", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    artifact = replace(Bundle.open(tiny_bundle).find("ort"), file="a.onnx")
    with pytest.raises(BackendError, match=r"^OpenVINO [\d.]+ cannot load a\.onnx: ") as caught:
        open_bytes(model.SerializeToString(), artifact, backend="openvino")
    assert reason in caught.value.message and "Exception from" not in caught.value.message
    assert caught.value.hint == "Upgrade openvino, or run the file with ONNX Runtime (-b ort)."
