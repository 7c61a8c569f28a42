"""MediaPipe's public detectors by their files alone: people are really found, as labels say.

``SPLITE_MEDIAPIPE`` names a folder with ``palm_detection_full.tflite`` and ``face_detection_short_range.tflite``, which
the package mediapipe 0.10.21 (Apache-2.0) holds in its modules; ``SPLITE_HANDS_VARIED`` one of labelled photographs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from splite_deploy.runtime import PoseEstimator

_FILES, _PHOTOGRAPHS = (os.environ.get(name, "") for name in ("SPLITE_MEDIAPIPE", "SPLITE_HANDS_VARIED"))
pytestmark = [
    pytest.mark.skipif(not _FILES, reason="SPLITE_MEDIAPIPE names no folder"),
    pytest.mark.skipif(not _PHOTOGRAPHS, reason="SPLITE_HANDS_VARIED names no folder"),
]

_PALM_OF_HAND = (0, 5, 9, 13, 17, 1, 2)
"""Which of the 21 keypoints of a hand those of the palm detector are."""
_TOML = """name = "{name}"
[input]
height = {side}
width = {side}
color = "rgb"
mean = {mean}
std = {std}
box_padding = 1.0
pad_value = 0
letterbox = "centre"
[inputs.image]
layout = "NHWC"
[outputs.boxes]
source = 0
[outputs.logits]
source = 1
[decoder]
type = "anchors"
min_score = 0.5
overlap = 0.3
max_people = 10
strides = [8, 16, 16, 16]
aspect_ratios = [1.0]
interpolated_scale_aspect_ratio = 1.0
anchor_offset = 0.5
fixed_anchor_size = true
scale = {side}.0
score_clipping = 100.0
nms = "weighted"
[skeleton]
keypoint_names = {names}
edges = []
"""


def opened(folder: Path, file: str, side: int, low: float, names: list[str]) -> PoseEstimator:
    """The estimator of a file; pixels become ``low`` to 1."""
    scale = 255.0 if low == 0 else 127.5
    mean, std = [255.0 - scale] * 3, [scale] * 3
    text = _TOML.format(name=folder.name, side=side, mean=mean, std=std, names=json.dumps(names))
    (folder / "model.toml").write_text(text, encoding="utf-8")
    (path,) = Path(_FILES).rglob(file)
    return PoseEstimator.open_file(path, folder / "model.toml")


def test_palms_are_found_where_labels_have_hands(tmp_path: Path) -> None:
    scenes = json.loads((Path(_PHOTOGRAPHS) / "scenes.json").read_text(encoding="utf-8"))["scenes"]
    names = ["wrist", "index", "middle", "ring", "little", "thumb_base", "thumb"]
    shown, errors, surplus = 0, [], 0
    with opened(tmp_path, "palm_detection_full.tflite", 192, 0, names) as estimator:
        for scene in [one for one in scenes if one["split"] == "val"][::12]:
            poses = estimator.detect(cv2.imread(str(Path(_PHOTOGRAPHS) / scene["image"])))
            for hand in (one for one in scene["hands"] if one["usable"]):
                shown += 1
                points = np.array(hand["keypoints"])[list(_PALM_OF_HAND)]
                size = float(np.linalg.norm(points[0] - points[2]))
                away = [float(np.linalg.norm(pose.keypoints - points, axis=1).mean()) / size for pose in poses]
                if away and min(away) < 0.5:
                    errors.append(min(away))
                    poses.pop(int(np.argmin(away)))
            surplus += len(poses)
    assert shown > 20 and len(errors) >= 0.95 * shown and surplus <= 0.15 * shown
    assert np.median(errors) < 0.15  # of the way from the wrist to the middle finger


def test_a_face_lies_where_its_keypoints_say(tmp_path: Path) -> None:
    files = sorted((Path(_PHOTOGRAPHS) / "images" / "hagrid380").iterdir())[:40]
    names = ["right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear"]
    with opened(tmp_path, "face_detection_short_range.tflite", 128, -1, names) as estimator:
        poses = [pose for file in files for pose in estimator.detect(cv2.imread(str(file)))]
    assert len(poses) >= 20  # nearly every one shows a person, some of them from afar
    for pose in poses:
        x0, y0, x1, y1 = pose.box
        eyes, mouth = pose.keypoints[:2].mean(axis=0), pose.keypoints[3]
        assert abs((x1 - x0) - (y1 - y0)) < 0.1 * (x1 - x0)
        assert (pose.keypoints[:4] > [x0, y0]).all() and (pose.keypoints[:4] < [x1, y1]).all()
        assert np.linalg.norm(mouth - eyes) > 0.15 * (x1 - x0) and mouth[1] > eyes[1]
