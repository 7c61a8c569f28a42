"""Bundles in C++: the golden tensors of those that come with the package, poses as in Python, and spoilt manifests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cpp_driver import sign

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.packaged import HAND, PALM, PICTURE, packaged
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.tracker import BoxTracker

Answers = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
SAME_PX = 0.02
"""How far keypoints in C++ may lie from those in Python, in pixels of the image."""
FED_BACK_PX = 0.5
"""The same where the keypoints of one look say where the next one is: rounding grows from look to look."""
PALM_BOX = [36.0, 30.0, 260.0, 300.0]
HAND_BOX = [80.0, 110.0, 370.0, 500.0]
"""Of the left one of the two hands in `picture`."""


def picture() -> Any:
    image = cv2.imread(str(packaged(PICTURE)))
    assert image is not None
    return image


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object], name: str = HAND) -> Path:
    """A copy of a packaged bundle with another manifest."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}.splite"
    shutil.copytree(packaged(name), folder)
    sign(folder, change)
    return folder


def assert_poses(found: dict[str, Any], poses: Sequence[Pose], *, px: float = SAME_PX) -> None:
    """Compares poses of the driver with those of the Python runtime."""
    assert "error" not in found, found
    assert len(found["poses"]) == len(poses)
    for one, pose in zip(found["poses"], poses, strict=True):
        wanted = pose.to_dict()
        assert list(one) == list(wanted)
        for name, value in wanted.items():
            if value is None or isinstance(value, str):
                assert one[name] == value, name
            else:
                wide = {"keypoints": px, "box": px, "angle_deg": 0.05, "scores": max(2e-3, px / 50)}
                atol = wide.get(name, max(2e-3, px / 100))
                np.testing.assert_allclose(
                    one[name], value, rtol=2e-3 if pose.origin == "camera" else 0, atol=atol, err_msg=name
                )


@pytest.mark.parametrize("name", [HAND, PALM])
def test_the_golden_outputs_of_a_bundle_decode(name: str, answers: Answers) -> None:
    golden = Bundle.open(packaged(name)).golden()
    (answer,) = answers([{"do": "open", "bundle": str(packaged(name))}])
    found = answer["golden"]
    np.testing.assert_allclose(found["keypoints"], golden.decoded.keypoints.ravel(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["scores"], golden.decoded.scores.ravel(), rtol=0, atol=1e-4)
    if golden.decoded.depth is not None:
        np.testing.assert_allclose(found["depth"], golden.decoded.depth.ravel(), rtol=0, atol=1e-4)
    if golden.decoded.people is not None:
        assert found["crops"] == golden.decoded.people.crops.tolist()
        np.testing.assert_allclose(found["boxes"], golden.decoded.people.boxes.ravel(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", [HAND, PALM])
def test_every_artifact_keeps_its_limits_on_the_golden_crops(name: str, answers: Answers) -> None:
    bundle = Bundle.open(packaged(name))
    golden = bundle.golden()
    asks = [
        {"do": "crops", "bundle": str(bundle.path), "precision": one.precision, "crops": crop[None]}
        for one in bundle.manifest.artifacts
        for crop in golden.crops
    ]
    found = iter(answers(asks))
    for artifact in bundle.manifest.artifacts:
        for index in range(len(golden.crops)):
            one = next(found)
            people = golden.decoded.people
            of_crop = [index] if people is None else np.flatnonzero(people.crops == index)
            wanted = golden.decoded.keypoints[of_crop]
            assert one["count"] == len(wanted)
            off_px = np.linalg.norm(np.reshape(one["keypoints"], wanted.shape) - wanted, axis=-1)
            assert off_px.max(initial=0) <= artifact.limits.shift_max_px, artifact.label
            if golden.decoded.depth is not None:
                assert artifact.limits.depth_p95 is not None
                off = np.abs(np.reshape(one["depth"], wanted.shape[:2]) - golden.decoded.depth[of_crop])
                assert off.max() <= 6 * artifact.limits.depth_p95


@pytest.mark.parametrize("name", [HAND, PALM])
def test_the_golden_image_the_whole_way(name: str, answers: Answers) -> None:
    bundle = Bundle.open(packaged(name))
    image = bundle.golden().image
    facts = {"bundle": str(bundle.path), "precision": "fp32", "color": image.color}
    found, crop = answers(
        [
            {"do": "estimate", **facts, "image": image.pixels, "box": image.box.tolist()},
            {"do": "crop", **facts, "model": bundle.model.to_dict(), "image": image.pixels, "box": image.box.tolist()},
        ]
    )
    off_px = np.linalg.norm(found["poses"][0]["keypoints"] - image.keypoints, axis=-1)
    assert off_px.max() <= bundle.manifest.artifacts[0].limits.shift_max_px
    assert np.array_equal(crop["crop"], image.crop.ravel())  # which OpenCV 4 has cut


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_poses_are_those_of_python(precision: Any, answers: Answers) -> None:
    image = picture()
    boxes = [None, [300.3, 100.2, 620.7, 480.9], [-40.0, -30.0, 300.0, 420.0], [10.0, 20.0, 90.0, 75.5]]
    camera = np.array([[900.0, 0, 320], [0, 900.0, 240], [0, 0, 1]])
    facts = {"do": "estimate", "precision": precision, "color": "bgr", "image": image}
    hand, palm = str(packaged(HAND)), str(packaged(PALM))
    asks = [{**facts, "bundle": hand, "box": box} for box in boxes]
    asks += [{**facts, "bundle": hand, "box": boxes[1], "camera": camera.ravel().tolist(), "palm_mm": 85.0}]
    asks += [{**facts, "bundle": palm, "how": "detect"}, {**facts, "bundle": palm, "box": boxes[1]}]
    found = answers(asks)
    with PoseEstimator.open(hand, "ort", precision, threads=1) as estimate:
        for one, box in zip(found, boxes, strict=False):
            assert_poses(one, [estimate(image, box)])
        assert_poses(found[4], [estimate(image, boxes[1], intrinsics=camera, bone_length_mm=85.0)])
    with PoseEstimator.open(palm, "ort", precision, threads=1) as estimate:
        assert len(found[5]["poses"]) > 0
        assert_poses(found[5], estimate.detect(image))
        assert_poses(found[6], [estimate(image, boxes[1])])


def test_turned_crops_at_any_angle_and_followed(answers: Answers) -> None:
    whole = picture()
    frames = [np.ascontiguousarray(np.roll(whole, shift, axis=1)) for shift in (0, 4, 9)]
    facts = {"bundle": str(packaged(HAND)), "precision": "fp32", "color": "bgr", "box": HAND_BOX}
    sideways = np.ascontiguousarray(np.rot90(whole))
    aside = [110.0, 590.0, 500.0, 880.0]
    found, found_aside, turned, tracked = answers(
        [
            {"do": "estimate", **facts, "how": "any angle", "image": whole},
            {"do": "estimate", **facts, "how": "any angle", "image": sideways, "box": aside},
            {"do": "estimate", **facts, "image": whole, "box": [*HAND_BOX, 117.5]},
            {"do": "track", **facts, "frames": frames},
        ]
    )
    with PoseEstimator.open(packaged(HAND), "ort", "fp32", threads=1) as estimate:
        assert_poses(found, [estimate.at_any_angle(whole, HAND_BOX)], px=FED_BACK_PX)
        assert_poses(found_aside, [estimate.at_any_angle(sideways, aside)], px=FED_BACK_PX)
        assert abs(estimate(sideways, aside).keypoints - estimate.at_any_angle(sideways, aside).keypoints).max() > 5
        assert_poses(turned, [estimate(whole, [*HAND_BOX, 117.5])])
        tracker, poses, followed = BoxTracker(estimate, HAND_BOX), [], []
        for frame in frames:
            poses.append(tracker(frame))
            followed.append(tracker.found)
        assert_poses(tracked, poses, px=FED_BACK_PX)
        assert tracked["found"] == followed


def test_a_person_is_followed_and_lost(answers: Answers) -> None:
    whole = picture()
    nobody = [np.zeros_like(whole)] * 4  # lost, sought at all angles, and at two quarters
    frames = [whole, np.ascontiguousarray(np.roll(whole, 5, axis=0)), *nobody, whole]
    facts = {"bundle": str(packaged(HAND)), "precision": "fp32", "color": "bgr", "box": HAND_BOX}
    (tracked,) = answers([{"do": "track", **facts, "frames": frames}])
    with PoseEstimator.open(packaged(HAND), "ort", "fp32", threads=1) as estimate:
        tracker, poses, followed = BoxTracker(estimate, HAND_BOX), [], []
        for frame in frames:
            poses.append(tracker(frame))
            followed.append(tracker.found)
    assert_poses(tracked, poses, px=FED_BACK_PX)
    assert tracked["found"] == followed and True in followed and False in followed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(format_version=3), "manifest.json has another format version; this runtime reads 2."),
        (
            lambda data: data["model"]["input"].update(std=[0.2] * 3),
            "manifest.json is malformed: input.std looks like the 0-1 scale.",
        ),
        (
            lambda data: data["model"]["decoder"].pop("beta"),
            "manifest.json is malformed: the field model.decoder.beta is missing.",
        ),
        (
            lambda data: data["model"]["decoder"].update(alignment="é手😀"),  # written as escapes
            "manifest.json is malformed: model.decoder.alignment is 'é手😀', which it cannot be.",
        ),
        (
            lambda data: data["artifacts"][0].update(file="../model.onnx"),
            "manifest.json is malformed: '../model.onnx' is no name of a file in a bundle.",
        ),
        (
            lambda data: data["artifacts"][0].update(sha256="0" * 64),
            "is not the file that the manifest describes (its SHA-256 differs).",
        ),
        (
            lambda data: data["artifacts"][0].update(precision="int8"),
            "manifest.json is malformed: it has the artifact 'ort int8' twice.",
        ),
        (
            lambda data: data["artifacts"][0]["outputs"][0]["shape"].__setitem__(1, 20),
            "The output 'heatmap' has shape (-1, 20, 32, 32)",
        ),
    ],
)
def test_wrong_manifests_are_refused(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path, answers: Answers
) -> None:
    (tmp_path / "bundles").mkdir()
    (found,) = answers([{"do": "open", "bundle": str(changed(tmp_path / "bundles", change))}])
    assert said in found["error"] and found["hint"]


def test_a_changed_manifest_and_links_out_are_refused(tmp_path: Path, answers: Answers) -> None:
    (tmp_path / "bundles").mkdir()
    spoilt, linked = (changed(tmp_path / "bundles", lambda data: None) for _ in range(2))
    manifest = spoilt / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"splite-hand", b"splite-hanD"))
    (linked / "golden.bin").unlink()
    (linked / "golden.bin").symlink_to(packaged(HAND) / "golden.bin")
    found = answers([{"do": "open", "bundle": str(one)} for one in (spoilt, linked, tmp_path / "none.splite")])
    assert found[0]["error"] == "manifest.json was changed after it was written (its checksum differs)."
    assert found[1]["error"].endswith("is a link that leads out of the bundle.")
    assert found[2]["error"].endswith("lacks its file manifest.json.")
    assert all(one["hint"] for one in found)
