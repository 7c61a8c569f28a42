"""Networks without heatmaps, from source to poses: bins of two axes, and coordinates with a depth and one presence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from exports import refused
from torch import Tensor, nn  # noqa: TID253

from splite_deploy.bundle import Bundle
from splite_deploy.errors import ExportError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.log_output import quiet
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.verify import verify

SAMPLES = Path(__file__).parents[1] / "tiny" / "samples.py"
MODEL = """
name = "points"
samples = "{samples}:samples"
palm_mm = 90.0
[input]
height = 64
width = 48
color = "rgb"
mean = [120.0, 115.0, 105.0]
std = [58.0, 57.0, 57.0]
box_padding = 1.25
pad_value = 127
{decoder}
[skeleton]
keypoint_names = ["root", "left_near", "right_near", "left_far", "right_far"]
edges = [[0, 1], [0, 2], [1, 3], [2, 4]]
flip_pairs = [[1, 2], [3, 4]]
"""
SIMCC = '[decoder]\ntype = "simcc"\nsplit_ratio = 2.0\n'
LANDMARKS = """
[decoder]
type = "coordinates"
scale = "pixel"
columns = ["x", "y", "z"]
scores = true
root_keypoint = 0
unit = "pixel"
scale_bones = [[0, 1], [0, 2]]
[outputs.coordinates]
source = 0
layout = "N(KC)"
[outputs.scores]
source = 1
"""


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def pooled(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.body(image), 4).flatten(1)


class Bins(Features):
    """RTMPose's two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(192, 5 * 96), nn.Linear(192, 5 * 128)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = 4 * self.pooled(image)
        return self.x(features).reshape(-1, 5, 96), self.y(features).reshape(-1, 5, 128)


class Landmarks(Features):
    """MediaPipe's: flat x, y, z in pixels, whether a hand is there, which hand it is."""

    def __init__(self, squashed: bool = True) -> None:
        super().__init__()
        self.points, self.facts, self.squashed = nn.Linear(192, 15), nn.Linear(192, 2), squashed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.pooled(image)
        facts = 30 * self.facts(features)
        presence, side = (facts.sigmoid() if self.squashed else facts).chunk(2, dim=1)
        return 40 * self.points(features) + 24, presence, side


Made = Callable[..., Bundle]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(network: nn.Module, decoder: str, **options: Any) -> Bundle:
        text = MODEL.format(samples=SAMPLES.as_posix(), decoder=decoder)
        (tmp_path / "model.toml").write_text(text, encoding="utf-8")
        with quiet():
            program = torch.export.export(network.eval(), (torch.zeros(1, 3, 64, 48),))
        torch.export.save(program, tmp_path / "net.pt2")
        return export_bundle(
            tmp_path / "net.pt2", tmp_path / "net.splite", options=ExportOptions(trust=True, crops=6, **options)
        )

    torch.manual_seed(3)
    return make


@pytest.mark.parametrize("fused", [False, True], ids=["bins", "decoded"])
@pytest.mark.parametrize(
    "refine", ['refine = "none"', 'refine = "softargmax"\nbeta = 1.0', 'refine = "dark"\nblur_kernel = 11']
)
def test_bins_of_two_axes(made: Made, image: NDArray[np.uint8], fused: bool, refine: str) -> None:
    network = Bins()
    if "dark" in refine:  # smooth rows, as trained ones are
        network.x.weight.data.zero_(), network.y.weight.data.zero_()
        for layer, bins in ((network.x, 96), (network.y, 128)):
            places = torch.linspace(10, bins - 10, 5)[:, None]
            layer.bias.data.copy_((-((torch.arange(bins) - places - 0.3) ** 2) / 32).exp().flatten())
    bundle = made(network, SIMCC + refine, fuse_decode=fused)
    assert not verify(bundle)[0].violations
    with PoseEstimator.open(bundle.path) as estimator:
        pose = estimator(image, (20, 10, 70, 74))
        assert [one.role for one in estimator.session.outputs] == (
            ["keypoints", "scores"] if fused else ["simcc_x", "simcc_y"]
        )
    assert pose.keypoints.shape == (5, 2) and pose.keypoints_3d is None


def test_landmarks_with_depth_and_one_presence(made: Made, image: NDArray[np.uint8]) -> None:
    bundle = made(Landmarks(), LANDMARKS)
    assert not verify(bundle)[0].violations
    (parity, *_) = bundle.report().parity
    assert parity.depth is not None and parity.depth_unit == "pixel"
    with PoseEstimator.open(bundle.path) as estimator:
        pose = estimator(image, (20, 10, 70, 74))
        tensor, _ = estimator.prepare(image, [(20, 10, 70, 74)])
        outputs = estimator.session.run({estimator.session.inputs[0].name: tensor})
    assert len(set(pose.scores.tolist())) == 1 and 0 <= pose.scores[0] <= 1
    points = outputs["coordinates"][0]
    assert pose.keypoints_3d is not None and (pose.unit, pose.origin) == ("palm", "root")
    bones = points[[0, 0]] - points[[1, 2]]
    palm = np.sqrt(np.square(bones).sum(axis=1).mean())
    np.testing.assert_allclose(pose.keypoints_3d, (points - points[0]) / palm, atol=1e-4)


def test_a_presence_before_its_sigmoid_is_no_score(made: Made) -> None:
    refused(
        ExportError,
        "The output 'scores' lies between ",
        'activation = "sigmoid" in [outputs.scores]',
        made,
        Landmarks(squashed=False),
        LANDMARKS,
    )
