"""Accuracy of the artifact that is timed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bench.evaluation import AREA_OF_BOX, evaluate
from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import Coordinates, SoftArgmaxDepth
from splite_deploy.metrics.accuracy import oks
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec
from splite_deploy.spec.presets import COCO17

SIZE = 64
TRUTH = np.array([[10.0, 10.0], [50.0, 10.0], [10.0, 42.0]])


class Pointer:
    """A network that reads keypoints off the first red pixels: point i lies (value of image i) pixels to the right."""

    def __init__(self, points: NDArray[np.float64]) -> None:
        count = len(points)
        self.points = points
        self.inputs = (TensorSpec("image", (1, 3, SIZE, SIZE), "float32", "NCHW", "image"),)
        self.outputs = (TensorSpec("points", (1, count, 3), "float32", "NKC", "coordinates"),)

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        shift = float(feeds["image"][0, 0, SIZE // 2, SIZE // 2])
        scores = np.full((len(self.points), 1), 0.5)
        return {"points": np.concatenate([self.points + np.array([shift, 0]), scores], axis=1)[None].astype(np.float32)}

    def close(self) -> None:
        pass


def estimator(points: NDArray[np.float64], names: tuple[str, ...]) -> PoseEstimator:
    spec = ModelSpec(
        name="pointer",
        input=InputSpec(SIZE, SIZE, "rgb", (0.0, 0.0, 0.0), (1.01, 1.01, 1.01), 1.0, 0),
        decoder=Coordinates(scale="pixel"),
        skeleton=SkeletonSpec(names, ((0, 1),)),
    )
    return PoseEstimator(spec, Pointer(points), "rgb")


def write(folder: Path, reds: list[int], keypoints: NDArray[np.float64], **more: Any) -> Path:
    """An image for each value of red; the box is the whole of it, so that input pixels are image pixels."""
    samples = []
    (folder / "images").mkdir()
    for index, red in enumerate(reds):
        cv2.imwrite(str(folder / "images" / f"{index}.png"), np.full((SIZE, SIZE, 3), (0, 0, red), np.uint8))
        sample = {"image": f"images/{index}.png", "keypoints": keypoints.tolist(), "box": [0, 0, SIZE, SIZE]}
        samples.append({**sample, **more})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder


def test_figures_and_images(tmp_path: Path) -> None:
    folder = write(tmp_path, [0, 1, 2, 3, 4, 5, 6], TRUTH)
    found = evaluate(estimator(TRUTH, ("a", "b", "c")), read_labels(folder), "seven squares", folder)
    # The mean of 1.01 px for each step of red, over a tight box of 40 px; the network takes red / 1.01.
    assert found.epe_px == pytest.approx(3 / 1.01, abs=1e-3)
    assert found.epe_box_pct == pytest.approx(100 * 3 / 1.01 / 40, abs=1e-3)
    assert found.pck_05 == pytest.approx(3 / 7)  # 0, 1 and 2 of at most 2 px
    assert found.pck_auc == pytest.approx(np.mean([1 - red / 1.01 / 8 for red in range(7)]), abs=1e-4)
    assert (found.labels_from, found.images) == ("seven squares", 7)
    assert (found.mpjpe_mm, found.pa_mpjpe_mm, found.oks_ap) == (None, None, None)
    assert [image.image for image in found.worst] == [f"images/{i}.png" for i in (6, 5, 4, 3)]
    assert found.worst[0].error_box_pct == pytest.approx(100 * 6 / 1.01 / 40, abs=1e-3)
    assert found.worst[0].box == (0.0, 0.0, SIZE, SIZE)
    assert [image.image for image in found.median] == [f"images/{i}.png" for i in (5, 4, 3, 2)]


def test_coco_bodies_have_an_average_precision(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).uniform(5, 50, (17, 2)).round(1)
    folder = write(tmp_path, [0, 200], truth)  # one right, one far off
    labels = read_labels(folder)
    found = evaluate(estimator(truth, COCO17.keypoint_names), labels, "two bodies", folder)
    far = oks(
        (truth + np.array([200 / 1.01, 0]))[None], truth[None], np.array([AREA_OF_BOX * SIZE * SIZE]), COCO17.oks_sigmas
    )
    assert far[0] < 0.5
    assert found.oks_ap == pytest.approx(51 / 101)
    other = tuple(f"k{i}" for i in range(17))
    assert evaluate(estimator(truth, other), labels, "", folder).oks_ap is None


def test_a_single_image_is_worst_and_median(tmp_path: Path) -> None:
    folder = write(tmp_path, [3], TRUTH)
    found = evaluate(estimator(TRUTH, ("a", "b", "c")), read_labels(folder), "one", folder)
    assert found.worst == found.median and len(found.worst) == 1


class Estimate3D:
    """What `evaluate` needs of an estimator, with given 3D points in palms."""

    finds_people = False

    def __init__(self, points_3d: NDArray[np.float64] | None, unit: Any) -> None:
        decoder = SoftArgmaxDepth(
            stride=4,
            beta=1.0,
            alignment="corner",
            score_window=5,
            root_keypoint=0,
            unit=unit,
            scale_bones=((0, 1), (0, 2)),
        )
        names = ("a", "b", "c")
        self.spec = ModelSpec(
            name="given",
            input=InputSpec(SIZE, SIZE, "rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 1.0, 0),
            decoder=decoder,
            skeleton=SkeletonSpec(names, ((0, 1),)),
            palm_mm=88.0 if unit == "mm" else None,
        )
        self.points_3d = points_3d

    def __call__(self, image: object, box: object) -> Any:
        from splite_deploy.runtime.pose import Pose

        scores = np.ones(3, np.float32)
        decoder = self.spec.decoder
        assert isinstance(decoder, SoftArgmaxDepth)
        return Pose(TRUTH.astype(np.float32), scores, np.zeros(4, np.float32), self.points_3d, decoder.unit, "root")


@pytest.mark.parametrize("unit", ["mm", "palm"])
def test_3d_errors_are_millimetres(tmp_path: Path, unit: str) -> None:
    world = np.array([[5.0, 5.0, 5.0], [65.0, 5.0, 5.0], [5.0, 85.0, 5.0]])  # bones of 60 and 80 mm
    palm = np.sqrt((60**2 + 80**2) / 2) if unit == "palm" else 1.0
    off = (world - world[0] + [[0, 0, 0], [0, 0, 9.0], [0, 0, 0]]) / palm
    folder = write(tmp_path, [0, 0], TRUTH, world_mm=world.tolist())
    labels = read_labels(folder)
    given: Any = Estimate3D(off, unit)
    found = evaluate(given, labels, "", folder)
    assert found.mpjpe_mm == pytest.approx(9 / 3)
    assert found.pa_mpjpe_mm is not None and found.pa_mpjpe_mm < found.mpjpe_mm
    flat: Any = Estimate3D(None, unit)
    assert evaluate(flat, labels, "", folder).mpjpe_mm is None
