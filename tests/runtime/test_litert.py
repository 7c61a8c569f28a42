"""LiteRT: layouts, integer inputs and outputs, and files that it cannot use."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import Bundle
from splite_deploy.bundle.manifest import REEXPORT
from splite_deploy.errors import BackendError, BundleError
from splite_deploy.metrics.parity import compare
from splite_deploy.runtime import PoseEstimator, open_session
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import check, run_each, verify
from splite_deploy.spec import Precision

pytest.importorskip("ai_edge_litert")

from ai_edge_litert.interpreter import Interpreter
from tiny_tflite import VECTORS, tflite_artifact

from splite_deploy.runtime.session import open_artifact, open_bytes

ENDS = VECTORS / "tiny.int8-ends.tflite"


@pytest.fixture
def bundle(tiny_tflite_bundle: Path) -> Bundle:
    return Bundle.open(tiny_tflite_bundle)


@pytest.fixture
def tensors(bundle: Bundle) -> FloatArray:
    """The golden crops as inputs, (N, 3, h, w)."""
    spec = bundle.model.input
    return Preprocessor(spec, spec.color).normalise(bundle.golden().crops)


def test_every_precision_lies_within_its_limits(bundle: Bundle) -> None:
    results = verify(bundle)
    check(results)
    assert [result.artifact.label for result in results] == ["tflite fp32", "tflite fp16", "tflite int8"]
    shifts = [result.parity.deviation_px.p95 for result in results]
    assert shifts[0] < shifts[1] < shifts[2] < 0.5, "each precision is another file"


def test_an_image_gives_the_pose_of_the_other_backend(
    bundle: Bundle, tiny_bundle: Path, image: NDArray[np.uint8]
) -> None:
    poses = []
    for path, backend in ((bundle.path, "tflite"), (tiny_bundle, "ort")):
        with PoseEstimator.open(path, backend=backend, threads=1) as estimator:
            poses.append(estimator(image, (20, 10, 120, 100)))
    np.testing.assert_allclose(poses[0].keypoints, poses[1].keypoints, atol=1e-3)
    np.testing.assert_allclose(poses[0].scores, poses[1].scores, atol=1e-4)


def test_it_is_the_bare_interpreter_in_another_layout(bundle: Bundle, tensors: FloatArray) -> None:
    artifact = bundle.find("tflite", "fp32")
    outputs = open_session(bundle, "tflite", "fp32", threads=1).run({"image": tensors[:1]})
    runner = Interpreter(model_path=str(bundle.path / artifact.file), num_threads=1).get_signature_runner()
    bare = runner(image=np.ascontiguousarray(tensors[:1].transpose(0, 2, 3, 1)))
    for name, array in outputs.items():
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, bare[name].transpose(0, 3, 1, 2))


def test_integer_ends_are_quantised_as_the_file_says(bundle: Bundle, tensors: FloatArray) -> None:
    artifact = tflite_artifact(ENDS, "int8")
    assert {tensor.dtype for tensor in artifact.inputs + artifact.outputs} == {"int8"}
    session = open_bytes(ENDS.read_bytes(), artifact, threads=1)
    outputs = session.run({"image": tensors[:1]})
    runner = Interpreter(model_path=str(ENDS), num_threads=1).get_signature_runner()
    scale, zero = runner.get_input_details()["image"]["quantization"]
    exact = tensors[:1].transpose(0, 2, 3, 1).astype(np.float64) / scale + zero
    bare = runner(image=np.clip(np.rint(exact), -128, 127).astype(np.int8))
    for name, array in outputs.items():
        scale, zero = runner.get_output_details()[name]["quantization"]
        expected = (bare[name].transpose(0, 3, 1, 2).astype(np.float64) - zero) * scale
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6)


def test_integer_ends_give_what_float_ends_give(bundle: Bundle, tensors: FloatArray) -> None:
    inside = run_each(open_session(bundle, "tflite", "int8", threads=1), tensors, bundle.model)
    outside = run_each(open_bytes(ENDS.read_bytes(), tflite_artifact(ENDS, "int8"), threads=1), tensors, bundle.model)
    parity = compare("float ends -> integer ends", inside, outside, bundle.model, "golden crops")
    assert parity.deviation_px.max < 0.05


def test_values_beyond_the_range_are_clipped_and_do_not_wrap(tensors: FloatArray) -> None:
    session = open_bytes(ENDS.read_bytes(), tflite_artifact(ENDS, "int8"), threads=1)
    far, farther = np.full_like(tensors[:1], 1e3), np.full_like(tensors[:1], 1e9)
    for sign in (1, -1):
        near = session.run({"image": sign * far})
        for name, array in session.run({"image": sign * farther}).items():
            np.testing.assert_array_equal(array, near[name])
    high, low = session.run({"image": far})["heatmap"], session.run({"image": -far})["heatmap"]
    assert not np.array_equal(high, low)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x1c\x00\x00\x00TFL3" + bytes(40)])
def test_a_file_that_it_cannot_load(bundle: Bundle, content: bytes) -> None:
    artifact = dataclasses.replace(bundle.find(), file="a.tflite")
    with pytest.raises(BackendError, match=r"^a\.tflite is (not a|a damaged) TFLite file") as caught:
        open_bytes(content, artifact)
    assert caught.value.hint and "\n" not in caught.value.message


def test_it_is_called_litert_too(bundle: Bundle, splite: Callable[..., Result]) -> None:
    with open_session(bundle, "litert", "fp32") as session:
        assert type(session).__name__ == "TfliteSession"
    done = splite("verify", bundle.path, "-b", "litert", "-p", "fp32", "--json", "-")
    assert done.exit_code == 0, done.stderr
    assert [result["backend"] for result in json.loads(done.stdout)] == ["tflite"]


APPLICATION = """
import os, sys
from splite_deploy import PoseEstimator
from splite_deploy.runtime.io.native_output import without_banner

with without_banner():
    os.write(2, b"ERROR: of native code\\n")
    print("of Python", file=sys.stderr)
for _ in range(2):
    PoseEstimator.open(sys.argv[1], backend="tflite").close()
os.write(2, b"the end\\n")
"""


def test_an_application_does_not_see_the_banner_and_all_else(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION, bundle.path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stderr.splitlines()) == ["ERROR: of native code", "of Python", "the end"]
    assert done.stderr.endswith("the end\n")


def test_the_banner_is_what_litert_logs() -> None:
    """Without us it is there: where another release words it otherwise, `without_banner` has to follow."""
    load = "from ai_edge_litert.interpreter import Interpreter; import sys; Interpreter(sys.argv[1]).allocate_tensors()"
    command = [sys.executable, "-c", load, VECTORS / "tiny.fp32.tflite"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=60).stderr
    assert [line for line in said.splitlines() if line.startswith(b"INFO")] == [
        b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
    ]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_that_is_not_what_the_manifest_says(bundle: Bundle, precision: Precision) -> None:
    artifact = bundle.find("tflite", precision)
    output = dataclasses.replace(artifact.outputs[0], name="heat")
    with pytest.raises(BundleError, match=r"has the tensors .*heatmap float32 \(1, 16, 12, 5\).* says heat float32"):
        open_artifact(bundle, dataclasses.replace(artifact, outputs=(output,)), find_backend("tflite"))
    with pytest.raises(BundleError, match=r"has the tensors .* says image int8") as caught:
        open_bytes((bundle.path / artifact.file).read_bytes(), tflite_artifact(ENDS, precision))
    assert caught.value.hint == REEXPORT


def test_a_tensor_of_another_size_than_the_file_says_beside_it(bundle: Bundle) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf((VECTORS / "tiny.fp32.tflite").read_bytes(), 0)
    image = model.subgraphs[0].tensors[0]
    image.shape = np.array([1, 3, 48, 3], np.int32)  # shapeSignature still says 64
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    said = r"^a\.tflite gives 'image' the shape \(1, 3, 48, 3\), and \(1, 64, 48, 3\) as its signature\."
    with pytest.raises(BackendError, match=said) as caught:
        open_bytes(bytes(builder.Output()), dataclasses.replace(bundle.find(), file="a.tflite"))
    assert caught.value.hint == "It is damaged: copy or convert it again."
