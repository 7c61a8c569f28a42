"""Timing of the way from a picture to its keypoints."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from splite_deploy.bench import Options
from splite_deploy.bench.whole_pictures import WHOLE_PICTURE, time_pictures
from splite_deploy.bundle.packaged import HAND, PALM, PICTURE, packaged
from splite_deploy.errors import UsageError
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.topdown import TopDown


def test_pictures_in_turn_are_timed_one_by_one() -> None:
    picture = read_image(packaged(PICTURE))
    nothing = np.full_like(picture, 90)
    options = Options(frames=9, warmup_frames=2, warmup_min_s=0.0, max_windows=3)
    seen: list[int] = []
    with TopDown(
        PoseEstimator.open(packaged(PALM), threads=1), PoseEstimator.open(packaged(HAND), threads=1)
    ) as network:
        timed = time_pictures(network, [picture, nothing], options, lambda done, total: seen.append(done))
        with pytest.raises(UsageError, match="There are no pictures to measure with") as caught:
            time_pictures(network, [], options)
    assert caught.value.hint == "Give at least one."
    samples = timed.samples_ns[WHOLE_PICTURE]
    assert list(timed.stages()) == [WHOLE_PICTURE] and samples.shape == (9,) and seen[-1] == 9
    assert samples[::2].min() > 0 and np.median(samples[::2]) > np.median(
        samples[1::2]
    )  # hands cost the second network
