"""``export --fuse-input --fuse-decode -b tflite``: a bundle whose TFLite files take crops and give keypoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("ai_edge_quantizer")

from converters import use_any_converter

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError
from splite_deploy.runtime import PoseEstimator, open_session
from splite_deploy.runtime.backends.tflite_file import read_contents
from splite_deploy.runtime.verify import check, verify

pytestmark = pytest.mark.slow
Run = Callable[..., Result]
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture
def make(
    splite: Run, tiny_bundle: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Bundle]:
    """Exports the tiny network to TFLite files of every precision."""
    use_any_converter(monkeypatch)
    monkeypatch.setenv("SPLITE_CACHE", str(tmp_path / "cache"))

    def run(name: str, *arguments: Any) -> Bundle:
        precisions = [word for one in PRECISIONS for word in ("-p", one)]
        where = "export", tiny_bundle / "model.onnx", "--model", tiny_model, "-o", tmp_path / name, "--crops", 16
        result = splite(*where, "-b", "tflite", *precisions, *arguments)
        assert result.exit_code == 0, result.stderr
        return Bundle.open(tmp_path / name)

    return run


def test_poses_equal_those_of_the_host(make: Callable[..., Bundle], splite: Run, image: NDArray[np.uint8]) -> None:
    plain = make("plain.splite")
    fused = make("fused.splite", "--fuse-input", "--fuse-decode")
    check(verify(fused))
    for precision in PRECISIONS:
        artifact = fused.find("tflite", precision)
        assert [(one.role, one.dtype, one.layout) for one in artifact.inputs + artifact.outputs] == [
            ("image", "uint8", "NHWC"),
            ("keypoints", "float32", "NKC"),
            ("scores", "float32", "NK"),
            ("depth", "float32", "NK"),
        ]
        with (
            PoseEstimator.open(plain.path, "tflite", precision, threads=1) as host,
            PoseEstimator.open(fused.path, "tflite", precision, threads=1) as opened,
        ):
            for box in ([20.0, 10, 70, 74], [-10, 30, 150, 120], None):
                expected, pose = host(image, box), opened(image, box)
                np.testing.assert_allclose(pose.keypoints, expected.keypoints, rtol=0, atol=0.06)  # up to 3 px a pixel
                np.testing.assert_allclose(pose.scores, expected.scores, rtol=0, atol=1e-3)
                assert pose.keypoints_3d is not None and expected.keypoints_3d is not None
                np.testing.assert_allclose(pose.keypoints_3d, expected.keypoints_3d, rtol=0, atol=1e-2)
                kept = pose.keypoints.copy(), pose.scores.copy()
                opened(image[::-1].copy(), [0, 0, 50, 50])
                np.testing.assert_array_equal(pose.keypoints, kept[0])
                np.testing.assert_array_equal(pose.scores, kept[1])
    report = fused.report()
    assert {"tflite fp32", "tflite fp16", "tflite int8"} <= {one.stage for one in report.parity}
    kinds = {layer.kind: layer.types for layer in report.layers["tflite int8"]}
    assert kinds["SOFTMAX"] == "float32" and kinds["CONV_2D"] == "int8" and kinds["DEQUANTIZE"]
    shown = json.loads(splite("inspect", fused.path, "--json", "-").stdout)
    described = next(one for one in shown["artifacts"] if one["precision"] == "int8" and one["backend"] == "tflite")
    assert [one["role"] for one in described["outputs"]] == ["keypoints", "scores", "depth"]


def test_one_end_alone(make: Callable[..., Bundle]) -> None:
    crops = make("input.splite", "--fuse-input")
    contents = read_contents(crops.path / crops.find("tflite", "int8").file)
    assert [one.dtype for one in contents.inputs.values()] == ["uint8"]
    assert sorted(contents.outputs) == ["depth", "heatmap"]
    golden = crops.golden().crops[:1]
    with open_session(crops, "tflite", "int8", threads=1) as session:
        assert session.run({"image": golden})["heatmap"].dtype == np.float32
        with pytest.raises(BackendError, match=r"'image' is float32 of shape .*; the network takes uint8 1x64x48x3"):
            session.run({"image": golden.astype(np.float32)})
    keypoints = make("decode.splite", "--fuse-decode")
    contents = read_contents(keypoints.path / keypoints.find("tflite", "int8").file)
    assert [one.dtype for one in contents.inputs.values()] == ["float32"]
    assert list(contents.outputs) == ["keypoints", "scores", "depth"]
    check(verify(keypoints))
