"""The twelve topologies are written as a user's models are, seeded, and with keypoints that differ between pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "networks"))
from zoo import TOPOLOGIES, VARIANTS, write

from splite_deploy.export.crops import crops_from_renderer
from splite_deploy.export.source.load import load_model
from splite_deploy.runtime.preprocess import Preprocessor

HEATMAPS = ("unet", "splite-hand")
OTHERS = ("blaze", "integral3d-volume", "rtmpose", "rtmpose-argmax", "vitpose-plain")


@pytest.mark.parametrize("name", [*HEATMAPS, *OTHERS])
def test_keypoints_differ_between_pictures(name: str, tmp_path: Path) -> None:
    loaded = load_model(write(name, tmp_path), None, None)
    spec, topology = loaded.spec, {**TOPOLOGIES, **VARIANTS}[name]
    crops = crops_from_renderer(loaded.host, 4, spec.input)
    outputs = loaded.run(Preprocessor(spec.input, spec.input.color).normalise(crops.pixels))
    keypoints = spec.decoder.decode(outputs, spec.input).keypoints
    assert keypoints.shape == (4, topology.keypoints, 2)
    assert keypoints.std(axis=0).mean() > 1.0


def test_weights_are_always_the_same(tmp_path: Path) -> None:
    first, second = (load_model(write("blaze", tmp_path / name), None, None).network for name in ("first", "second"))
    for name, tensor in first.state_dict().items():
        np.testing.assert_array_equal(tensor, second.state_dict()[name])


def test_there_are_twelve() -> None:
    assert len(TOPOLOGIES) == 12
