"""TFLite files that take several crops at once: what is opened in the file, and bundles of such files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert")

from converters import use_any_converter

from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.compile.tflite.batch import with_open_batch
from splite_deploy.errors import BackendError
from splite_deploy.export.reference import Reference
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.session import open_bytes
from splite_deploy.runtime.verify import check, verify
from splite_deploy.spec import LimitSpec, Precision
from tests.shared.tiny_tflite import VECTORS, tflite_artifact


def opened(artifact: Artifact) -> Artifact:
    """What is said of the file with an open batch."""
    inputs, outputs = (
        tuple(replace(one, shape=(None, *one.shape[1:])) for one in ends)
        for ends in (artifact.inputs, artifact.outputs)
    )
    return replace(artifact, inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int8-ends"])
def test_any_number_of_crops_gives_what_each_alone_gives(name: str) -> None:
    precision: Precision = name.partition("-")[0]  # type: ignore[assignment]
    file = VECTORS / f"tiny.{name}.tflite"
    artifact, content = tflite_artifact(file, precision), file.read_bytes()
    images = np.random.default_rng(0).standard_normal((5, 3, 64, 48)).astype(np.float32)
    with (
        open_bytes(content, artifact) as alone,
        open_bytes(with_open_batch(content), opened(artifact)) as together,
    ):
        assert together.inputs[0].shape == (None, 3, 64, 48)
        rows = [alone.run({"image": images[i : i + 1]}) for i in range(5)]
        for chosen in (range(5), range(1), range(2, 4)):  # and back to one
            found = together.run({"image": images[chosen.start : chosen.stop]})
            for role, values in found.items():
                np.testing.assert_array_equal(values, np.concatenate([rows[i][role] for i in chosen]))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--fuse-input", "--fuse-decode")], ids=["plain", "fused"])
def test_a_bundle_of_files_that_take_several_crops(
    splite: Callable[..., Result],
    tiny_dynamic_bundle: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: NDArray[np.uint8],
    arguments: tuple[str, ...],
) -> None:
    use_any_converter(monkeypatch)
    where = tiny_dynamic_bundle / "model.onnx", "--model", tiny_model, "-o", tmp_path / "t.splite", "--crops", 16
    done = splite("export", *where, "-b", "tflite", "-p", "fp32", "-p", "int8", "--dynamic-batch", *arguments)
    assert done.exit_code == 0, done.stderr
    bundle = Bundle.open(tmp_path / "t.splite")
    check(verify(bundle))
    boxes = [[20.0, 10, 70, 74], [-10.0, 30, 150, 120], [5.0, 5, 60, 90]]
    for artifact in bundle.manifest.artifacts:
        assert artifact.inputs[0].shape[0] is None
        with PoseEstimator.open(bundle.path, "tflite", artifact.precision) as estimator:
            for pose, box in zip(estimator.batch(image, boxes), boxes, strict=True):
                np.testing.assert_allclose(pose.keypoints, estimator(image, box).keypoints, rtol=0, atol=1e-3)


def test_what_fails_on_several_crops_is_told(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    reference = Reference("torch", bundle.model, golden.crops, dict(golden.outputs), "")

    class Failing:
        inputs = (replace(bundle.find().inputs[0], shape=(None, 3, 64, 48)),)
        outputs = bundle.find().outputs

        def run(self, feeds: Any) -> dict[str, Any]:
            if len(feeds["image"]) > 1:
                raise BackendError("LiteRT failed: reshape.")
            return {one.name: golden.outputs[one.role][:1] for one in self.outputs}

    with pytest.raises(BackendError) as caught:
        reference.check_session("tflite fp32", Failing(), LimitSpec())  # type: ignore[arg-type]
    said = "torch -> tflite fp32 runs one crop and fails on several at once: LiteRT failed: reshape."
    assert caught.value.message == said
    assert "or leave out --dynamic-batch." in caught.value.hint
