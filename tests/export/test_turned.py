"""A network whose crops are turned, from labels to a bundle that is verified, run and evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from click.testing import Result
from torch import Tensor, nn  # noqa: TID253

from splite_deploy.bundle import Bundle
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.log_output import quiet
from splite_deploy.export.quant.calibration import load_calibration
from splite_deploy.metrics.turned_boxes import turned_box
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.crops import crops_from_images
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import verify
from splite_deploy.spec import HostSpec

MODEL = """
name = "turned"
[input]
height = 64
width = 48
color = "bgr"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.25
pad_value = 0
rotate_by = ["wrist", "middle"]
[decoder]
type = "coordinates"
scale = "unit"
[skeleton]
keypoint_names = ["wrist", "middle", "thumb"]
edges = [[0, 1]]
"""


class Points(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.points = nn.Linear(192, 6)

    def forward(self, image: Tensor) -> Tensor:
        features = nn.functional.avg_pool2d(self.body(image), 4).flatten(1)
        points: Tensor = self.points(4 * features).sigmoid().reshape(-1, 3, 2)
        return points


def keypoints(index: int) -> Any:
    """Three keypoints of picture ``index``, turned by 35 degrees for each."""
    turn = np.radians(35 * index + 10)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.array([[0.0, 40.0], [0.0, -40.0], [-25.0, 5.0]]) @ matrix.T + (120, 110)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    samples = []
    for index in range(8):
        noise = np.random.default_rng(index).integers(0, 256, (220, 240, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.GaussianBlur(noise, (0, 0), 3))
        samples.append({"image": f"{index}.png", "keypoints": keypoints(index).tolist(), "handedness": "Left"})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder


@pytest.fixture
def bundle(tmp_path: Path, labels: Path) -> Bundle:
    torch.manual_seed(5)
    (tmp_path / "model.toml").write_text(MODEL, encoding="utf-8")
    with quiet():
        program = torch.export.export(Points().eval(), (torch.zeros(1, 3, 64, 48),))
    torch.export.save(program, tmp_path / "net.pt2")
    options = ExportOptions(trust=True, images=labels, crops=8, precisions=("fp32",), evaluation=labels)
    return export_bundle(tmp_path / "net.pt2", tmp_path / "net.splite", options=options)


def test_crops_of_labels_have_their_angles(bundle: Bundle, labels: Path) -> None:
    spec = bundle.model.input
    crops = crops_from_images(labels, 8, spec).pixels
    of_calibration = load_calibration(labels, bundle.model, HostSpec(labels, "", {}), count=8).pixels
    for index in range(8):
        image = cv2.imread(str(labels / f"{index}.png"))
        assert image is not None
        expected, _ = Preprocessor(spec, "bgr").crop(image, turned_box(keypoints(index), 35.0 * index + 10))
        assert np.abs(crops[index].astype(int) - expected).max() <= 1
        np.testing.assert_array_equal(of_calibration[index], crops[index])


def test_the_golden_image_has_its_angle_and_is_verified(bundle: Bundle) -> None:
    assert bundle.manifest.golden.image.angle_deg == pytest.approx(10)
    assert bundle.model.input.rotate_by == (0, 1)
    (result,) = verify(bundle)
    assert result.violations == () and result.crop.max_levels == 0
    golden = bundle.golden().image
    with PoseEstimator.open(bundle.path, color=golden.color) as estimator:
        pose = estimator(golden.pixels, golden.box)
    np.testing.assert_allclose(pose.keypoints, golden.keypoints, rtol=0, atol=1e-2)
    report = bundle.report().recommendation
    assert report is not None and "at the angles that the network finds" in report.measured


def test_a_box_is_given_with_its_angle(
    bundle: Bundle, labels: Path, splite: Callable[..., Result], tmp_path: Path
) -> None:
    image = cv2.imread(str(labels / "3.png"))
    assert image is not None
    box = turned_box(keypoints(3), 115.0).round(2).tolist()
    done = splite("run", bundle.path, labels / "3.png", "--box", ",".join(map(str, box)), "--save", tmp_path / "a.png")
    assert done.exit_code == 0, done.output
    (pose,) = json.loads(done.stdout)["poses"]
    with PoseEstimator.open(bundle.path) as estimator:
        assert pose == estimator(image, box).to_dict() and pose["angle_deg"] == 115.0
        two = splite("run", bundle.path, labels / "3.png", "--box", "60,50,180,170")
        assert json.loads(two.stdout)["poses"] == [estimator.at_any_angle(image, (60, 50, 180, 170)).to_dict()]


def test_cocos_results_have_the_box_around_a_turned_one(
    bundle: Bundle, labels: Path, splite: Callable[..., Result]
) -> None:
    done = splite("run", bundle.path, labels / "3.png", "--box", "100,80,140,180,90", "--format", "coco")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["annotations"]
    assert found["bbox"] == [70, 110, 100, 40]


def test_inspect_says_how_crops_are_turned(bundle: Bundle, splite: Callable[..., Result]) -> None:
    done = splite("inspect", bundle.path)
    assert "turned so that middle lies above wrist" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--angles", "labels"), "--angles belongs to the evaluation."),
        (("--hands", "mirrored"), "--hands belongs to the evaluation."),
        (("--angles", "labels", "--eval", "LABELS"), "it has no use for the angles of labels."),
    ],
)
def test_what_an_evaluation_has_no_use_for_is_refused(
    tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result], options: tuple[str, ...], said: str
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((90, 90, 3), np.uint8))
    points = [[10, 20], [30, 40], [50, 60], [70, 80], [20, 70]]
    samples = {"samples": [{"image": "a.png", "keypoints": points}]}
    (tmp_path / "labels.json").write_text(json.dumps(samples), encoding="utf-8")
    done = splite("bench", tiny_bundle, *(part.replace("LABELS", str(tmp_path)) for part in options))
    assert done.exit_code == (1 if "--eval" in options else 2) and said in " ".join(done.output.split())


@pytest.mark.parametrize("text", ["1,2,30,40,x", "1,2,30,40,5,6", "1,2,30"])
def test_a_box_that_is_none_is_told(tiny_bundle: Path, splite: Callable[..., Result], root: Path, text: str) -> None:
    done = splite("run", tiny_bundle, root / "README.md", "--box", text)
    assert done.exit_code == 2 and f"The box '{text}' is not four numbers" in done.output


def test_bench_says_whose_angles_it_took(
    bundle: Bundle, labels: Path, splite: Callable[..., Result], tmp_path: Path
) -> None:
    options = ("--frames", "10", "--warmup", "1", "--eval", labels)
    for angles, more in (("found", ()), ("labels", ("--angles", "labels"))):
        file = tmp_path / f"{angles}.jsonl"
        done = splite("bench", bundle.path, *options, *more, "--json", file)
        assert done.exit_code == 0, done.output
        assert json.loads(file.read_text(encoding="utf-8"))["accuracy"]["angles"] == angles
