"""Real conversions of small networks: what comes out computes the same and is what was requested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("ai_edge_quantizer")

from converters import DIRECT, TENSORFLOW, use_any_converter, use_converter
from tiny_tflite import VECTORS, pictures, tflite_artifact

from splite_deploy.bundle import Artifact, Parity
from splite_deploy.compile.tflite.compiler import compile_tflite
from splite_deploy.errors import CompileError
from splite_deploy.export.artifacts import GraphFile
from splite_deploy.export.graph.torch_to_onnx import simplified_graph
from splite_deploy.export.graph.walk import load, save
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.files import sha256_of
from splite_deploy.metrics.parity import compare, limits_of, violations
from splite_deploy.runtime.backends.tflite_file import read_contents
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_bytes
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import ModelSpec, load_model_toml

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class Converted:
    """A graph and what `compile_tflite` made of it."""

    graph: Path
    spec: ModelSpec
    folder: Path
    artifacts: list[Artifact]
    log: Path
    steps: list[str]

    def parity(self, artifact: Artifact, crops: Crops) -> Parity:
        """How far a file lies from the graph."""
        tensors = Preprocessor(self.spec.input, self.spec.input.color).normalise(crops)
        file = GraphFile.of(self.graph.name, load(self.graph), self.spec.decoder)
        artifact_of_graph = file.artifact("fp32", self.spec.limits)
        reference = run_each(open_bytes(file.content, artifact_of_graph, threads=1), tensors, self.spec)
        session = open_bytes((self.folder / artifact.file).read_bytes(), artifact, threads=1)
        return compare(artifact.label, reference, run_each(session, tensors, self.spec), self.spec, "renderer")


@pytest.fixture(scope="module", params=[DIRECT, TENSORFLOW])
def converter(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way to convert in turn, without a network: every download fails, at once."""
    with pytest.MonkeyPatch.context() as patch:
        use_converter(request.param, patch)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.delenv("no_proxy", raising=False)
        yield request.param


@pytest.fixture
def any_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest way to convert that is there."""
    use_any_converter(monkeypatch)


@pytest.fixture(scope="module")
def spec(tiny_model: Path) -> ModelSpec:
    return load_model_toml(tiny_model)[0]


@pytest.fixture(scope="module")
def crops(spec: ModelSpec) -> Crops:
    """(32, h, w, 3), those of tests/vectors/make_tflite.py."""
    return pictures(*spec.input.planes[1:])


def convert(graph: Path, spec: ModelSpec, folder: Path, crops: Crops, *precisions: Any, **options: Any) -> Converted:
    steps: list[str] = []
    made, log = folder / "made", folder / "conversion.log"
    made.mkdir()
    artifacts = compile_tflite(
        graph, spec, made, precisions, calibration=crops, log=log, progress=steps.append, **options
    )
    return Converted(graph, spec, made, artifacts, log, steps)


@pytest.fixture(scope="module")
def tiny(
    tiny_bundle: Path, spec: ModelSpec, crops: Crops, converter: str, tmp_path_factory: pytest.TempPathFactory
) -> Converted:
    """The tiny network in every precision."""
    return convert(tiny_bundle / "model.onnx", spec, tmp_path_factory.mktemp("tiny"), crops, "fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def wide(root: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose weights are many enough for the dynamic range, and whose outputs come in the other order."""
    folder = tmp_path_factory.mktemp("wide")
    network = load_symbol("arch.py:build", root / "tests" / "tiny")(channels=32).eval()
    model = simplified_graph(network, spec)
    model.graph.outputs.reverse()
    save(model, folder / "model.onnx")
    assert [output.name for output in load(folder / "model.onnx").graph.outputs] == ["depth", "heatmap"]
    return folder / "model.onnx"


# --- every precision ---


def test_artifacts_describe_their_files(tiny: Converted) -> None:
    assert sorted(file.name for file in tiny.folder.iterdir()) == [
        "model.fp16.tflite",
        "model.fp32.tflite",
        "model.int8.tflite",
    ]
    for artifact, precision in zip(tiny.artifacts, ("fp32", "fp16", "int8"), strict=True):
        assert (artifact.backend, artifact.precision) == ("tflite", precision)
        assert artifact.sha256 == sha256_of(tiny.folder / artifact.file)
        assert artifact.limits == limits_of(precision, tiny.spec)
        assert artifact.target == ({"recipe": "full-integer"} if precision == "int8" else {})
        shapes = [(tensor.role, tensor.shape, tensor.layout) for tensor in artifact.inputs + artifact.outputs]
        assert shapes == [
            ("image", (1, 64, 48, 3), "NHWC"),
            ("heatmap", (1, 16, 12, 5), "NHWC"),
            ("depth", (1, 16, 12, 5), "NHWC"),
        ]
        assert {tensor.dtype for tensor in artifact.inputs + artifact.outputs} == {"float32"}


def test_every_precision_computes_what_the_graph_computes(tiny: Converted, crops: Crops) -> None:
    for artifact in tiny.artifacts:
        parity = tiny.parity(artifact, crops)
        assert violations(parity, artifact.limits, tiny.spec) == []


def test_precisions_are_different_files(tiny: Converted) -> None:
    sizes = [(tiny.folder / artifact.file).stat().st_size for artifact in tiny.artifacts]
    assert sizes[1] < sizes[0] and len({artifact.sha256 for artifact in tiny.artifacts}) == 3


def test_weights_are_quantised_per_channel(tiny: Converted) -> None:
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(tiny.folder / "model.int8.tflite")).get_tensor_details()
    scales = {len(d["quantization_parameters"]["scales"]) for d in details if d["dtype"] == np.int8}
    assert {1, 5, 8} <= scales, "one for activations, one per channel of the weights"


def test_steps_are_told_and_the_rest_is_log(tiny: Converted, capfd: pytest.CaptureFixture[str]) -> None:
    assert tiny.steps == [
        "loading onnx2tf",
        "ONNX -> TFLite",
        "recognising the outputs",
        "making model.fp32.tflite",
        "making model.fp16.tflite",
        "making model.int8.tflite",
    ]
    log = tiny.log.read_text(errors="replace")
    assert all(f"splite-deploy: {step}: " in log for step in tiny.steps[:2])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_files_of_the_tests_are_what_the_converter_makes(tiny: Converted, crops: Crops, precision: Any) -> None:
    stored = VECTORS / f"tiny.{precision}.tflite"
    assert read_contents(stored).histogram() == read_contents(tiny.folder / f"model.{precision}.tflite").histogram()
    tensors = Preprocessor(tiny.spec.input, tiny.spec.input.color).normalise(crops[:4])
    made = next(artifact for artifact in tiny.artifacts if artifact.precision == precision)
    here = run_each(open_bytes((tiny.folder / made.file).read_bytes(), made, threads=1), tensors, tiny.spec)
    there = run_each(open_bytes(stored.read_bytes(), tflite_artifact(stored, precision), threads=1), tensors, tiny.spec)
    for role, array in here.items():
        np.testing.assert_allclose(array, there[role], atol=1e-4, err_msg="run tests/vectors/make_tflite.py")


# --- recipes, and outputs in another order ---


def test_integer_ends_and_outputs_in_another_order(
    wide: Path, spec: ModelSpec, crops: Crops, converter: str, tmp_path: Path
) -> None:
    converted = convert(wide, spec, tmp_path, crops, "fp32", "int8", integer_io=True)
    plain, integer = converted.artifacts
    assert {tensor.dtype for tensor in plain.inputs + plain.outputs} == {"float32"}
    assert {tensor.dtype for tensor in integer.inputs + integer.outputs} == {"int8"}
    for artifact in converted.artifacts:
        assert [tensor.role for tensor in artifact.outputs] == ["heatmap", "depth"]
        assert violations(converted.parity(artifact, crops), artifact.limits, spec) == []
    assert "DEQUANTIZE" not in read_contents(converted.folder / integer.file).histogram()


def test_dynamic_range(wide: Path, spec: ModelSpec, crops: Crops, converter: str, tmp_path: Path) -> None:
    converted = convert(wide, spec, tmp_path, crops, "int8", recipe="dynamic-range")
    (artifact,) = converted.artifacts
    assert artifact.target == {"recipe": "dynamic-range"}
    assert violations(converted.parity(artifact, crops), artifact.limits, spec) == []
    histogram = read_contents(converted.folder / artifact.file).histogram()
    assert list(histogram["CONV_2D"]) == ["float32,int8,float32->float32"]
    assert "DEQUANTIZE" not in histogram and "QUANTIZE" not in histogram


# --- failures ---


def test_an_operator_that_onnx2tf_does_not_know(
    tiny_bundle: Path, spec: ModelSpec, crops: Crops, any_converter: None, tmp_path: Path
) -> None:
    model = onnx.load(str(tiny_bundle / "model.onnx"))
    first = next(node for node in model.graph.node if "image" in node.input)
    first.input[list(first.input).index("image")] = "other"
    model.graph.node.insert(0, onnx.helper.make_node("QuickGelu", ["image"], ["other"], domain="com.microsoft"))
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(CompileError, match=r"The conversion failed: .*(?i:QuickGelu)"):
        convert(tmp_path / "model.onnx", spec, tmp_path, crops, "fp32")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_conversion_that_takes_too_long(
    tiny_bundle: Path, spec: ModelSpec, crops: Crops, any_converter: None, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=r"took longer than 0\.1 s and was stopped"):
        convert(tiny_bundle / "model.onnx", spec, tmp_path, crops, "fp32", timeout_s=0.1)
    assert list((tmp_path / "made").iterdir()) == []
