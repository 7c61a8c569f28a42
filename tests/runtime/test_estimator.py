"""Image and box to pose: the same keypoints as torch, in pixels of the image."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from splite_deploy.bundle import Bundle
from splite_deploy.decoders import decode
from splite_deploy.errors import BackendError, BundleError, UsageError
from splite_deploy.runtime import Pose, PoseEstimator, open_bytes
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.replay import ReplaySession
from splite_deploy.runtime.estimator import StageTimes
from splite_deploy.runtime.preprocess import Preprocessor, invert, transform_points

CAMERA = [[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]
BOXES = [[20.0, 10, 70, 74], [0, 0, 160, 120], [-10, 30, 50, 130], [100.5, 50.25, 130.75, 90.5]]


@pytest.fixture
def estimator(tiny_bundle: Path) -> Iterator[PoseEstimator]:
    pytest.importorskip("onnxruntime")
    with PoseEstimator.open(tiny_bundle, "ort", color="rgb") as opened:
        yield opened


@pytest.fixture
def dynamic(tiny_dynamic_bundle: Path) -> Iterator[PoseEstimator]:
    pytest.importorskip("onnxruntime")
    with PoseEstimator.open(tiny_dynamic_bundle, "ort") as opened:
        yield opened


def whole_crop(estimator: PoseEstimator) -> list[float]:
    """The box of a golden crop that is padded to just the crop."""
    spec = estimator.spec.input
    centre, half = np.array([spec.width, spec.height]) / 2, np.array([spec.width, spec.height]) / 2 / spec.box_padding
    return [*(centre - half), *(centre + half)]


def same(first: Pose, second: Pose, tolerance: float = 0.0) -> None:
    """Asserts that two poses agree, in pixels."""
    np.testing.assert_allclose(first.keypoints, second.keypoints, rtol=0, atol=tolerance)
    np.testing.assert_allclose(first.scores, second.scores, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(first.box, second.box)
    assert first.unit == second.unit and (first.keypoints_3d is None) == (second.keypoints_3d is None)
    if first.keypoints_3d is not None and second.keypoints_3d is not None:
        np.testing.assert_allclose(first.keypoints_3d, second.keypoints_3d, rtol=0, atol=max(tolerance, 1e-6))


def test_an_estimator_that_two_threads_share_is_an_error(
    estimator: PoseEstimator, dynamic: PoseEstimator, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: a session that is free again may still hold what another thread has yet to decode."""
    expected, began, may_end = estimator(image, BOXES[0]), threading.Event(), threading.Event()
    finish = PoseEstimator.finish

    def slow(self: PoseEstimator, *arguments: Any) -> list[Pose]:
        began.set()
        assert may_end.wait(30)
        return finish(self, *arguments)

    monkeypatch.setattr(PoseEstimator, "finish", slow)
    found: list[Pose] = []
    worker = threading.Thread(target=lambda: found.append(estimator(image, BOXES[0])))
    worker.start()
    assert began.wait(30)
    for call in (lambda: estimator(image), lambda: estimator.batch(image, BOXES), estimator.close):
        with pytest.raises(BackendError, match=r"^The estimator is in use, in another thread") as caught:
            call()
        assert caught.value.hint.startswith("One estimator serves one thread: open one for each")
    may_end.set()
    worker.join()
    same(found[0], expected)
    assert len(dynamic.batch(image, BOXES)) == len(BOXES), "another estimator"
    same(estimator(image, BOXES[0]), expected)


# --- results ---


def test_golden_crops_give_the_keypoints_of_torch(estimator: PoseEstimator, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    expected = decode(golden.outputs, bundle.model)
    assert expected.depth is not None
    spread = expected.keypoints.std(axis=0).max()
    assert spread > 0.05, "the crops would all look alike"
    for index, crop in enumerate(golden.crops):
        pose = estimator(crop, whole_crop(estimator))
        np.testing.assert_allclose(pose.keypoints, expected.keypoints[index], rtol=0, atol=1e-3)
        np.testing.assert_allclose(pose.scores, expected.scores[index], rtol=0, atol=1e-4)
        assert pose.keypoints_3d is not None
        np.testing.assert_allclose(pose.keypoints_3d[:, 2], expected.depth[index], rtol=0, atol=1e-4)


@pytest.mark.parametrize("box", BOXES)
def test_keypoints_equal_torch_anywhere_in_an_image(
    estimator: PoseEstimator, image: NDArray[np.uint8], tiny_checkpoint: Path, tiny_model: Path, box: list[float]
) -> None:
    torch = pytest.importorskip("torch")
    from splite_deploy.export.source.checkpoint import build_network, read_checkpoint
    from splite_deploy.spec import load_model_toml

    spec, host = load_model_toml(tiny_model)
    network = build_network(host, read_checkpoint(tiny_checkpoint))
    preprocessor = Preprocessor(spec.input, "rgb")
    crop, matrix = preprocessor.crop(image, np.array(box))
    with torch.inference_mode():
        heatmap, depth = network(torch.from_numpy(preprocessor.normalise([crop])))
    decoded = decode({"heatmap": heatmap.numpy(), "depth": depth.numpy()}, spec)
    pose = estimator(image, box)
    np.testing.assert_allclose(
        pose.keypoints, transform_points(decoded.keypoints[0], invert(matrix)), rtol=0, atol=1e-3
    )
    np.testing.assert_array_equal(pose.box, np.array(box, np.float32))


def test_shapes_and_types(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    pose = estimator(image, BOXES[0])
    assert pose.keypoints.shape == (5, 2) and pose.scores.shape == (5,) and pose.box.shape == (4,)
    assert pose.keypoints_3d is not None and pose.keypoints_3d.shape == (5, 3)
    assert (pose.unit, pose.origin) == ("palm", "root")
    for array in (pose.keypoints, pose.scores, pose.box, pose.keypoints_3d):
        assert array.dtype == np.float32 and np.isfinite(array).all()
    assert (pose.scores >= 0).all() and (pose.scores <= 1).all()
    np.testing.assert_array_equal(pose.keypoints_3d[0], 0)
    bones = np.array(estimator.spec.decoder.scale_bones)  # type: ignore[union-attr]
    lengths = np.linalg.norm(pose.keypoints_3d[bones[:, 0]] - pose.keypoints_3d[bones[:, 1]], axis=1)
    assert np.sqrt(np.mean(lengths**2)) == pytest.approx(1, abs=1e-3)


def test_a_result_is_plain_data(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    pose = estimator(image, BOXES[0])
    data = pose.to_dict()
    assert set(data) == {"box", "keypoints", "scores", "keypoints_3d", "unit", "origin", "box_score"}
    np.testing.assert_allclose(data["keypoints"], pose.keypoints, atol=5.1e-4)
    assert data["box"] == BOXES[0] and isinstance(data["scores"][0], float)
    assert (data["unit"], data["origin"]) == ("palm", "root")


def test_no_box_is_the_whole_image(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    same(estimator(image), estimator(image, [0, 0, 160, 120]))
    np.testing.assert_array_equal(estimator(image).box, [0, 0, 160, 120])


@pytest.mark.parametrize("box", [tuple(BOXES[0]), np.array(BOXES[0]), np.array(BOXES[0], np.float32), [20, 10, 70, 74]])
def test_a_box_may_be_any_four_numbers(estimator: PoseEstimator, image: NDArray[np.uint8], box: ArrayLike) -> None:
    same(estimator(image, box), estimator(image, BOXES[0]))


def test_results_do_not_change_afterwards(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    before = image.copy()
    first = estimator(image, BOXES[0])
    kept = first.keypoints.copy(), first.scores.copy()
    estimator(image[::-1].copy(), BOXES[1])
    np.testing.assert_array_equal(first.keypoints, kept[0])
    np.testing.assert_array_equal(first.scores, kept[1])
    np.testing.assert_array_equal(image, before)


def test_parts_of_a_larger_image_are_taken_as_they_lie(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    view = image[10:100, 20:150]
    assert not view.flags.c_contiguous
    same(estimator(view, [5, 5, 60, 70]), estimator(view.copy(), [5, 5, 60, 70]))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_batch_equals_single_calls(dynamic: PoseEstimator, image: NDArray[np.uint8], count: int) -> None:
    poses = dynamic.batch(image, BOXES[:count])
    assert len(poses) == count
    for pose, box in zip(poses, BOXES, strict=False):
        same(pose, dynamic(image, box), 1e-3)


def test_an_empty_batch(dynamic: PoseEstimator, estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    assert dynamic.batch(image, []) == [] == estimator.batch(image, [])


def test_boxes_of_a_batch_come_from_anything_that_gives_them(dynamic: PoseEstimator, image: NDArray[np.uint8]) -> None:
    assert dynamic.batch(image, iter(BOXES[:2])) == dynamic.batch(image, BOXES[:2])
    for boxes in (None, 5):
        with pytest.raises(UsageError, match=rf"{boxes} is no list of boxes\.") as caught:
            dynamic.batch(image, boxes)  # type: ignore[arg-type]
        assert caught.value.hint == "Pass a list of boxes; None in it is the whole image."


def test_a_batch_needs_a_dynamic_graph(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    assert len(estimator.batch(image, BOXES[:1])) == 1
    with pytest.raises(BackendError, match=r"of shape \(2, 3, 64, 48\); the network takes float32 1x3x64x48") as caught:
        estimator.batch(image, BOXES[:2])
    assert "--dynamic-batch" in caught.value.hint


def test_the_order_of_the_channels(tiny_bundle: Path, image: NDArray[np.uint8]) -> None:
    pytest.importorskip("onnxruntime")
    swapped: Any = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    with (
        PoseEstimator.open(tiny_bundle) as bgr,
        PoseEstimator.open(tiny_bundle, color="rgb") as rgb,
    ):
        same(bgr(image, BOXES[0]), rgb(swapped, BOXES[0]))
        assert np.abs(bgr(image, BOXES[0]).keypoints - rgb(image, BOXES[0]).keypoints).max() > 1e-3


# --- absolute 3D ---


def test_absolute_3d_projects_onto_the_keypoints(estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    pose = estimator(image, BOXES[0], intrinsics=CAMERA, bone_length_mm=90.0)
    assert (pose.unit, pose.origin) == ("mm", "camera") and pose.keypoints_3d is not None
    assert pose.to_dict()["origin"] == "camera"
    assert pose.keypoints_3d.dtype == np.float32 and (pose.keypoints_3d[:, 2] > 0).all()
    projected = pose.keypoints_3d @ np.array(CAMERA).T
    np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], pose.keypoints, rtol=0, atol=1e-2)
    bones = np.array(estimator.spec.decoder.scale_bones)  # type: ignore[union-attr]
    lengths = np.linalg.norm(pose.keypoints_3d[bones[:, 0]] - pose.keypoints_3d[bones[:, 1]], axis=1)
    assert np.sqrt(np.mean(lengths**2)) == pytest.approx(90, rel=1e-3)
    relative = estimator(image, BOXES[0])
    assert relative.keypoints_3d is not None
    depths = pose.keypoints_3d[:, 2] - pose.keypoints_3d[0, 2]
    np.testing.assert_allclose(depths, 90 * relative.keypoints_3d[:, 2], rtol=1e-3, atol=0.01)
    np.testing.assert_array_equal(pose.keypoints, relative.keypoints)


@pytest.mark.parametrize("given", [{"intrinsics": CAMERA}, {"bone_length_mm": 90.0}])
def test_absolute_3d_needs_both(estimator: PoseEstimator, image: NDArray[np.uint8], given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs both the intrinsics and a bone length") as caught:
        estimator(image, BOXES[0], **given)
    assert "Give both, or neither" in caught.value.hint


@pytest.mark.parametrize(
    ("intrinsics", "length", "message"),
    [
        (np.zeros((3, 3)), 90.0, "intrinsics"),
        (np.eye(2), 90.0, "intrinsics"),
        (CAMERA, 0.0, "bone length"),
        (CAMERA, -1.0, "bone length"),
        (CAMERA, float("nan"), "bone length"),
    ],
)
def test_unusable_3d_arguments(
    estimator: PoseEstimator, image: NDArray[np.uint8], intrinsics: Any, length: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        estimator(image, BOXES[0], intrinsics=intrinsics, bone_length_mm=length)
    with pytest.raises(UsageError, match=message):
        estimator.check_options(intrinsics, length)
    with pytest.raises(UsageError, match=message):
        estimator.batch(image, [], intrinsics=intrinsics, bone_length_mm=length)
    assert caught.value.hint


# --- what is refused ---


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([50, 50, 50, 60], r"The box \(50, 50, 50, 60\) is empty"),
        ([50, 50, 40, 60], "is empty"),
        ([200, 10, 240, 50], "lies outside the 160 x 120 image"),
        ([-50, -50, 0, 0], "lies outside the 160 x 120 image"),
        ([0, 0, float("nan"), 5], "is not four finite numbers"),
        ([0, 0, 10], "is not four finite numbers"),
        ("box", "is not four numbers"),
    ],
)
def test_boxes_that_cannot_be_used(estimator: PoseEstimator, image: NDArray[np.uint8], box: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        estimator(image, box)
    assert caught.value.hint


@pytest.mark.parametrize(
    "picture", [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_images_that_cannot_be_used(estimator: PoseEstimator, picture: Any) -> None:
    with pytest.raises(UsageError, match="The image ") as caught:
        estimator(picture)
    assert "(H, W, 3) uint8" in caught.value.hint


@pytest.mark.parametrize("color", ["BGR", "grey", "", None])
def test_an_unknown_order_of_channels(tiny_bundle: Path, color: Any) -> None:
    with pytest.raises(UsageError, match=f"The channel order is {color!r}") as caught:
        PoseEstimator.open(tiny_bundle, "replay", color=color)
    assert caught.value.hint == "Choose 'bgr' (OpenCV) or 'rgb'."


def test_opening_what_is_not_there(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        PoseEstimator.open(tmp_path / "none.splite")
    with pytest.raises(UsageError, match="There is no backend 'npu'"):
        PoseEstimator.open(tiny_bundle, "npu")
    with pytest.raises(UsageError, match="holds no int8 artifact"):
        PoseEstimator.open(tiny_bundle, "replay", "int8")


# --- closing ---


@pytest.mark.parametrize("backend", ["ort", "replay"])
def test_it_closes_at_the_end_of_its_block(tiny_bundle: Path, image: NDArray[np.uint8], backend: str) -> None:
    if not find_backend(backend).installed:
        pytest.skip(f"{backend} is not installed")
    with PoseEstimator.open(tiny_bundle, backend) as opened:
        opened(image)
    with pytest.raises(BackendError, match="The session is closed"):
        opened(image)
    opened.close()


@pytest.mark.parametrize(
    ("change", "color", "error", "message"),
    [
        ({}, "grey", UsageError, "The channel order is 'grey'"),
        ({"role": "heat"}, "bgr", BackendError, "heat"),
    ],
)
def test_the_session_of_an_estimator_that_does_not_come_about_is_closed(
    tiny_bundle: Path, change: dict[str, str], color: Any, error: type[Exception], message: str
) -> None:
    bundle = Bundle.open(tiny_bundle)
    artifact = bundle.find()
    outputs = tuple(dataclasses.replace(spec, **change) for spec in artifact.outputs)
    session = open_bytes(bundle.read(artifact), dataclasses.replace(artifact, outputs=outputs))
    with pytest.raises(error, match=message):
        PoseEstimator(bundle.model, session, color)
    with pytest.raises(BackendError, match="The session is closed"):
        session.run({})


def test_a_wrong_channel_order_leaves_no_session_open(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(ReplaySession, "_release", lambda session: closed.append(session))
    with pytest.raises(UsageError, match="The channel order is 'grey'"):
        PoseEstimator.open(tiny_bundle, "replay", color="grey")  # type: ignore[arg-type]
    assert len(closed) == 1


def test_an_error_in_the_block_is_let_through(tiny_bundle: Path) -> None:
    with pytest.raises(ZeroDivisionError), PoseEstimator.open(tiny_bundle, "replay"):
        raise ZeroDivisionError


# --- replay ---


def test_replay_gives_the_recorded_pose(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden = bundle.golden()
    expected = decode(golden.outputs, bundle.model)
    with PoseEstimator.open(tiny_bundle, "replay", color="rgb") as opened:
        for index, crop in enumerate(golden.crops):
            pose = opened(crop, whole_crop(opened))
            np.testing.assert_allclose(pose.keypoints, expected.keypoints[index], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(pose.scores, expected.scores[index])


def test_replay_needs_no_framework(tiny_bundle: Path, root: Path) -> None:
    code = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxruntime", "onnxsim", "tensorflow", "safetensors"):
            raise AssertionError("imported " + name)

sys.meta_path.insert(0, Blocked())
import numpy as np
from splite_deploy.runtime import PoseEstimator
with PoseEstimator.open(sys.argv[1], "replay") as estimator:
    print(estimator(np.zeros((50, 60, 3), np.uint8)).keypoints.shape)
"""
    command = [sys.executable, "-c", code, str(tiny_bundle)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(5, 2)\n", "")


def test_the_times_of_the_stages_add_up_until_they_are_taken(
    dynamic: PoseEstimator, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call reads the clock four times."""
    readings = iter([0, 1, 3, 7, 10, 21, 43, 87])
    monkeypatch.setattr("splite_deploy.runtime.estimator.time.perf_counter", lambda: next(readings) / 1000)
    dynamic(image, BOXES[0])
    dynamic.batch(image, BOXES)
    taken = dynamic.take_times()
    times = [taken.preprocess_ms, taken.inference_ms, taken.decode_ms]
    assert times == pytest.approx([1 + 11, 2 + 22, 4 + 44])
    assert dynamic.take_times() == StageTimes(0, 0, 0)
