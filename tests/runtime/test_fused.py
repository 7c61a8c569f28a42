"""Artifacts that normalise and decode in their graph: the estimator, replay and verify follow."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.decoders import check_shapes, decode
from splite_deploy.errors import BackendError, ParityError
from splite_deploy.files import sha256_of
from splite_deploy.runtime import PoseEstimator, open_session
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import check, verify
from splite_deploy.spec import Color

pytest.importorskip("onnx")
pytest.importorskip("torch")

BOXES = [[20.0, 10, 70, 74], [0, 0, 160, 120], [-10, 30, 50, 130]]
PARTS = pytest.mark.parametrize("parts", ["input", "decode", "input decode"])


def fused_bundle(source: Path, target: Path, parts: str, edit: Callable[[Any], None] = lambda model: None) -> Path:
    """A copy of a bundle whose graph has these parts of pre- and postprocessing."""
    from splite_deploy.export.graph.fuse import fuse_decode, fuse_input, tensor_specs
    from splite_deploy.export.graph.walk import load, save

    bundle = Bundle.open(source)
    shutil.copytree(source, target)
    file = target / bundle.find().file
    model = load(file)
    edit(model)
    for part in parts.split():
        model = {"input": fuse_input, "decode": fuse_decode}[part](model, bundle.model)
    save(model, file)
    inputs, outputs = tensor_specs(model, bundle.model.decoder)
    artifact = dataclasses.replace(bundle.find(), sha256=sha256_of(file), inputs=inputs, outputs=outputs)
    manifest = dataclasses.replace(bundle.manifest, artifacts=(artifact,))
    (target / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return target


@pytest.fixture
def fused(tiny_bundle: Path, tmp_path: Path, parts: str) -> Path:
    """The tiny bundle with these parts in its graph."""
    return fused_bundle(tiny_bundle, tmp_path / "fused.splite", parts)


@PARTS
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_poses_equal_those_of_the_host(tiny_bundle: Path, fused: Path, image: NDArray[np.uint8], color: Color) -> None:
    with PoseEstimator.open(tiny_bundle, "ort", color=color) as host, PoseEstimator.open(fused, color=color) as opened:
        for box in (*BOXES, None):
            expected, pose = host(image, box), opened(image, box)
            np.testing.assert_allclose(pose.keypoints, expected.keypoints, rtol=0, atol=0.02)
            np.testing.assert_allclose(pose.scores, expected.scores, rtol=0, atol=1e-4)
            assert pose.keypoints_3d is not None and expected.keypoints_3d is not None and pose.unit == expected.unit
            np.testing.assert_allclose(pose.keypoints_3d, expected.keypoints_3d, rtol=0, atol=1e-3)


def test_a_batch_equals_single_calls(tiny_dynamic_bundle: Path, tmp_path: Path, image: NDArray[np.uint8]) -> None:
    path = fused_bundle(tiny_dynamic_bundle, tmp_path / "fused.splite", "input decode")
    with PoseEstimator.open(path) as opened:
        for pose, box in zip(opened.batch(image, BOXES), BOXES, strict=True):
            alone = opened(image, box)
            np.testing.assert_allclose(pose.keypoints, alone.keypoints, rtol=0, atol=1e-3)
            np.testing.assert_allclose(pose.scores, alone.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("parts", ["input decode"])
def test_results_do_not_change_afterwards(fused: Path, image: NDArray[np.uint8]) -> None:
    before = image.copy()
    with PoseEstimator.open(fused) as opened:
        first = opened(image, BOXES[0])
        kept = first.keypoints.copy(), first.scores.copy()
        opened(image[::-1].copy(), BOXES[1])
    np.testing.assert_array_equal(first.keypoints, kept[0])
    np.testing.assert_array_equal(first.scores, kept[1])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("parts", ["input decode"])
def test_little_is_done_around_the_network(fused: Path, image: NDArray[np.uint8]) -> None:
    """Our functions are counted, and not timed: what a call takes beyond the network is mostly they."""
    called: list[str] = []

    def note(frame: Any, event: str, argument: object) -> None:
        if event == "call" and "/splite_deploy/" in frame.f_code.co_filename:
            called.append(frame.f_code.co_name)

    with PoseEstimator.open(fused) as opened:
        opened(image, BOXES[0])
        sys.setprofile(note)
        try:
            opened(image, BOXES[0])
        finally:
            sys.setprofile(None)
    assert 20 < len(called) <= 50, called  # 48; 10 of them keep threads apart and refuse what is not finite


@pytest.mark.parametrize("parts", ["input decode"])
def test_feeds_have_the_type_of_the_input(fused: Path) -> None:
    bundle = Bundle.open(fused)
    crops = bundle.golden().crops[:1]
    tensors = Preprocessor(bundle.model.input, "rgb").normalise(crops)
    for backend in ("ort", "replay"):
        session = open_session(bundle, backend)
        outputs = session.run({"image": crops})
        assert list(outputs) == ["keypoints", "scores", "depth"]
        assert all(outputs[tensor.name].shape == tensor.shape for tensor in session.outputs)
        with pytest.raises(BackendError, match=r"is float32 of shape .*; the network takes uint8 1x64x48x3") as caught:
            session.run({"image": tensors})
        assert "Preprocessor" in caught.value.hint
        with pytest.raises(BackendError, match=r"uint8 of shape \(2, 64, 48, 3\)") as caught:
            session.run({"image": np.concatenate([crops, crops])})
        assert "--dynamic-batch" in caught.value.hint


@PARTS
def test_replay_gives_the_recorded_keypoints(fused: Path, parts: str) -> None:
    bundle = Bundle.open(fused)
    golden, expected = bundle.golden(), decode(bundle.golden().outputs, bundle.model)
    session = open_session(bundle, "replay")
    feeds = Preprocessor(bundle.model.input, "rgb").feed(golden.crops, session.inputs[0])
    assert feeds.dtype == (np.uint8 if "input" in parts else np.float32)
    for index in range(len(feeds)):
        found = decode(session.run({"image": feeds[index : index + 1]}), bundle.model)
        for role, values in expected.by_role().items():
            np.testing.assert_allclose(found.by_role()[role][0], values[index], rtol=0, atol=1e-5)


@PARTS
def test_verify_compares_keypoints(fused: Path, parts: str) -> None:
    (result,) = results = verify(Bundle.open(fused))
    check(results)
    assert result.parity.deviation_px.max < 1e-3 and result.parity.depth is not None
    roles = ["keypoints", "scores", "depth"] if "decode" in parts else ["heatmap", "depth"]
    assert list(result.parity.tensor_max_abs) == roles
    assert max(result.parity.tensor_max_abs.values()) < 1e-3


def test_verify_fails_on_another_graph(tiny_bundle: Path, tmp_path: Path) -> None:
    import onnx_ir as ir

    def edit(model: Any) -> None:
        for name, value in model.graph.initializers.items():
            array = value.const_value.numpy()
            if array.ndim == 4:
                value.const_value = ir.tensor(array * np.float32(1.05), name=name)

    path = fused_bundle(tiny_bundle, tmp_path / "fused.splite", "input decode", edit)
    with pytest.raises(
        ParityError, match=r"ort fp32 differs on this machine: keypoint deviation p95 .* depth deviation p95"
    ):
        check(verify(Bundle.open(path)))


@pytest.mark.parametrize("parts", ["decode"])
def test_decoded_outputs_are_checked(fused: Path) -> None:
    bundle = Bundle.open(fused)
    spec, shapes = bundle.model, {tensor.role: tensor.shape for tensor in bundle.find().outputs}
    check_shapes(shapes, spec)
    with pytest.raises(
        BackendError, match="There is no output 'depth', which the decoder 'softargmax-depth' reads"
    ) as caught:
        check_shapes({role: shapes[role] for role in ("keypoints", "scores")}, spec)
    assert "keypoints, scores" in caught.value.hint
    arrays = decode(bundle.golden().outputs, spec).by_role()
    for role, shape in (("keypoints", (8, 4, 2)), ("scores", (8,)), ("depth", (7, 5))):
        with pytest.raises(BackendError, match=f"The output '{role}' has shape") as caught:
            decode({**arrays, role: np.zeros(shape, np.float32)}, spec)
        assert "--fuse-decode" in caught.value.hint
    for role, values in arrays.items():
        broken = values.copy()
        broken.flat[0] = np.nan
        with pytest.raises(BackendError, match=f"The network's output '{role}' is not finite") as caught:
            decode({**arrays, role: broken}, spec)
        assert "-p fp32" in caught.value.hint
