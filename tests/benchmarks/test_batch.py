"""What eight crops in one inference cost: what is timed, on the tiny network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from batch import measure
from hands_in_frame import FRAME, frame_and_boxes

from splite_deploy.bundle import Bundle
from splite_deploy.runtime.preprocess import check_box


def test_boxes_lie_in_the_frame() -> None:
    frame, boxes = frame_and_boxes(8)
    assert frame.shape == (*FRAME, 3)
    assert len({tuple(box) for box in boxes}) == 8
    for box in boxes:
        np.testing.assert_array_equal(check_box(box, *FRAME), box)
        assert box.min() >= 0 and box[2] <= FRAME[1] and box[3] <= FRAME[0]


def test_both_ways_are_timed(tiny_dynamic_bundle: Path) -> None:
    found = measure(Bundle.open(tiny_dynamic_bundle), crops=3, frames=10)
    assert set(found) == {"ort fp32"}
    for part in ("estimator", "session"):
        for way in ("single", "batch"):
            figures = found["ort fp32"][part][way]
            assert 0 < figures["minimum_ms"] <= figures["median_ms"]
    whole, alone = found["ort fp32"]["estimator"]["single"], found["ort fp32"]["session"]["single"]
    assert whole["minimum_ms"] > alone["minimum_ms"]
